/// Finds what somebody meant who mistyped a word.
enum EditDistance {
    /// The word that `word` differs from by the fewest letters that are missing, too many, wrong or swapped with the next;
    /// `nil` if all are too far. Capitals do not count.
    static func nearest(to word: [UInt8], among words: [String]) -> String? {
        let typed = word.prefix(64).map(lowered)
        let found = words.map { (word: $0, distance: distance(typed, $0.utf8.map(lowered))) }
        guard let best = found.min(by: { $0.distance < $1.distance }) else { return nil }
        return best.distance <= max(1, min(3, best.word.utf8.count / 2)) ? best.word : nil
    }

    private static func lowered(_ byte: UInt8) -> UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
            ? byte | 0x20 : byte == UInt8(ascii: "_") ? UInt8(ascii: "-") : byte
    }

    /// Optimal string alignment.
    private static func distance(_ left: [UInt8], _ right: [UInt8]) -> Int {
        var before: [Int] = []
        var last = Array(0...right.count)
        for (row, byte) in left.enumerated() {
            var next = [row + 1]
            for (column, other) in right.enumerated() {
                var least = min(last[column] + (byte == other ? 0 : 1), last[column + 1] + 1, next[column] + 1)
                if row > 0, column > 0, byte == right[column - 1], left[row - 1] == other {
                    least = min(least, before[column - 1] + 1)
                }
                next.append(least)
            }
            (before, last) = (last, next)
        }
        return last[right.count]
    }
}
