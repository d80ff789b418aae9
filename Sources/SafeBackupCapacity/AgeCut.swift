/// Where the selection ends.
struct AgeCut: Sendable, Hashable {
    /// Everything up to here goes; `nil`: nothing is that old.
    var before: AgeKey?
    /// Of what lies behind `before`, the first key and
    var first: AgeKey
    /// the last one of the last stretch. Its oldest go until it is enough.
    var through: AgeKey
    var bytesBefore: Int64
    /// Names, also of what frees nothing.
    var filesBefore: Int
    /// In the last stretch.
    var bytes: Int64
    /// Names of what frees something.
    var files: Int
    /// All of it together is enough.
    var isEnough: Bool
}

/// What lies in a stretch of the order.
struct AgeAmount: Sendable, Hashable {
    var bytes: Int64 = 0
    /// Names of what frees something.
    var files = 0
    /// Names of links and empty files.
    var empty = 0

    init() {}

    init(bytes: Int64, names: Int) {
        self.bytes = bytes
        if bytes > 0 { files = names } else { empty = names }
    }

    var names: Int { files + empty }

    mutating func add(_ other: AgeAmount) {
        bytes = bytes.addingClamped(other.bytes)
        files += other.files
        empty += other.empty
    }
}

/// Is told files, and knows where to cut.
protocol AgeCounting: Sendable {
    /// A file, or an inode with all its `names`, that frees `bytes`.
    mutating func add(_ key: AgeKey, bytes: Int64, names: Int)
    /// What is newer cannot be selected any more.
    var bound: AgeKey { get }
    /// Where the oldest end that hold `need` together; `nil` if nothing was found.
    mutating func cut(need: Int64) -> AgeCut?
}

/// Divides the last stretch of a cut into equal parts, by time or, where that is one, by inode. Each round over its
/// files makes the stretch thousands of times shorter, however they lie. Pure.
struct AgeHistogram: AgeCounting {
    private struct Bin {
        var first: AgeKey
        var last: AgeKey
        var amount = AgeAmount()
    }

    let bound: AgeKey
    private let outer: AgeCut
    private let width: UInt64
    private var bins: [Bin?]

    init(refining cut: AgeCut, bins count: Int = AgeSelection.standardCapacity) {
        outer = cut
        bound = cut.through
        bins = Array(repeating: nil, count: count)
        width = Self.distance(cut.first, cut.through, cut) / UInt64(count) + 1
    }

    /// How far `key` is behind `first`, in what tells the keys of the stretch apart.
    private static func distance(_ first: AgeKey, _ key: AgeKey, _ cut: AgeCut) -> UInt64 {
        if cut.first.time == cut.through.time { return key.inode - first.inode }
        return UInt64(bitPattern: key.time &- first.time)
    }

    mutating func add(_ key: AgeKey, bytes: Int64, names: Int) {
        if bound < key { return }
        if let before = outer.before, key <= before { return }
        // Older than all of the round before: it came meanwhile.
        let distance = key < outer.first ? 0 : Self.distance(outer.first, key, outer)
        let index = Int(distance / width)
        var bin = bins[index] ?? Bin(first: key, last: key)
        bin.first = min(bin.first, key)
        bin.last = max(bin.last, key)
        bin.amount.add(AgeAmount(bytes: bytes, names: names))
        bins[index] = bin
    }

    func cut(need: Int64) -> AgeCut? {
        var cut: AgeCut?
        var (bytes, files, before) = (outer.bytesBefore, outer.filesBefore, outer.before)
        for case let bin? in bins {
            let sum = bytes.addingClamped(bin.amount.bytes)
            cut = AgeCut(
                before: before, first: bin.first, through: bin.last, bytesBefore: bytes, filesBefore: files,
                bytes: bin.amount.bytes, files: bin.amount.files, isEnough: sum >= need)
            if sum >= need { return cut }
            (bytes, files, before) = (sum, files + bin.amount.names, bin.last)
        }
        return cut
    }
}
