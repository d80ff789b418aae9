/// Finds where to cut so that what is older holds just as many bytes as are needed, among any number of files that are
/// told in any order, in bounded memory. Pure.
///
/// It keeps bins, each a stretch of the order with the bytes and files that lie in it, at first one a file. When there
/// are too many, neighbours become one, so that all hold about as much; what is newer than the bytes that are needed is
/// forgotten at once. A cut that falls into a bin of many files is found by an `AgeHistogram` of that bin alone.
struct AgeSelection: AgeCounting {
    private struct Bin {
        var first: AgeKey
        var last: AgeKey
        var amount: AgeAmount
    }

    private struct Found {
        var key: AgeKey
        var amount: AgeAmount
    }

    static let standardCapacity = 1 << 14

    /// What the oldest must hold together; `nil` if that is known only at the end.
    private let need: Int64?
    private let capacity: Int
    private var bins: [Bin] = []
    private var merged: [Bin] = []
    private var found: [Found] = []
    /// What is as old or older is left out.
    private let floor: AgeKey?
    /// What is newer cannot be selected any more.
    private(set) var bound: AgeKey

    /// - Parameters:
    ///   - floor: what is as old or older is left out.
    ///   - capacity: bins at most, of 56 bytes; at a time up to four times that memory is used.
    init(need: Int64?, after floor: AgeKey? = nil, capacity: Int = standardCapacity) {
        self.need = need
        self.capacity = capacity
        self.floor = floor
        bound = AgeKey(time: .max, inode: .max)
    }

    mutating func add(_ key: AgeKey, bytes: Int64, names: Int = 1) {
        if bound < key { return }
        if let floor, key <= floor { return }
        found.append(Found(key: key, amount: AgeAmount(bytes: bytes, names: names)))
        if found.count >= max(capacity / 2, 1) { merge() }
    }

    /// The end of the selection; `nil` if nothing was found.
    mutating func cut(need: Int64) -> AgeCut? {
        merge()
        var (bytes, files, before) = (Int64(0), 0, floor)
        for (index, bin) in bins.enumerated() {
            let isEnough = bytes.addingClamped(bin.amount.bytes) >= need
            if isEnough || index == bins.count - 1 {
                return AgeCut(
                    before: before, first: bin.first, through: bin.last, bytesBefore: bytes, filesBefore: files,
                    bytes: bin.amount.bytes, files: bin.amount.files, isEnough: isEnough)
            }
            bytes = bytes.addingClamped(bin.amount.bytes)
            files += bin.amount.names
            before = bin.last
        }
        return nil
    }

    private mutating func merge() {
        if found.isEmpty { return }
        found.sort { $0.key < $1.key }
        merged.removeAll(keepingCapacity: true)
        var next = 0
        for bin in bins {
            var bin = bin
            while next < found.count, found[next].key <= bin.last {
                if bin.first <= found[next].key {
                    bin.amount.add(found[next].amount)
                } else {
                    append(found[next])
                }
                next += 1
            }
            merged.append(bin)
        }
        for index in next..<found.count { append(found[index]) }
        found.removeAll(keepingCapacity: true)
        swap(&bins, &merged)
        prune()
        if bins.count > capacity { compress() }
    }

    private mutating func append(_ file: Found) {
        if let last = merged.indices.last, merged[last].last == file.key {
            merged[last].amount.add(file.amount)
        } else {
            merged.append(Bin(first: file.key, last: file.key, amount: file.amount))
        }
    }

    /// Forgets what is newer than all that is needed.
    private mutating func prune() {
        guard let need else { return }
        var bytes: Int64 = 0
        for (index, bin) in bins.enumerated() {
            bytes = bytes.addingClamped(bin.amount.bytes)
            if bytes >= need {
                bound = bin.last
                bins.removeLast(bins.count - index - 1)
                return
            }
        }
    }

    /// Joins neighbours until at most half of the bins are left, each holding about as much.
    private mutating func compress() {
        let total = bins.reduce(Int64(0)) { $0.addingClamped($1.amount.bytes) }
        // Two neighbours together hold more than this: there are at most twice as many bins as it goes into the total.
        let share = max(1, total / Int64(max(1, capacity / 4)))
        var count = 0
        for bin in bins {
            if count > 0, bins[count - 1].amount.bytes.addingClamped(bin.amount.bytes) <= share {
                bins[count - 1].amount.add(bin.amount)
                bins[count - 1].last = bin.last
            } else {
                bins[count] = bin
                count += 1
            }
        }
        bins.removeLast(bins.count - count)
    }
}
