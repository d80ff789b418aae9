/// Remembers inodes by their age, so that the walk that removes need not look again at those that stay. May take one
/// that stays for one that goes, never the other way round. 1 MiB. Pure.
///
/// The cut is known only when the walk that plans is over, and what is told before was old enough by what was known
/// then. Therefore each place holds the age class of the oldest inode that fell to it, and the classes divide what came
/// first into equal parts.
struct AgeFilter: Sendable {
    /// Times that make the classes.
    private static let sampleSize = 4_096
    /// Of a place that none fell to.
    private static let none = UInt8.max

    /// Classes: 0 is the oldest.
    private var places = [UInt8](repeating: none, count: 1 << 20)
    /// The last times of the classes 0, 1, …; what is newer than all is of the class after them.
    private var bounds: [Int64] = []
    private var sample: [Int64] = []
    /// Of the newest that go.
    private var limit = none - 1

    mutating func insert(_ inode: UInt64, time: Int64) {
        if bounds.isEmpty {
            sample.append(time)
            if sample.count == Self.sampleSize { divide() }
        }
        // Of those that came before there were classes nothing is known.
        let known = bounds.isEmpty ? 0 : ageClass(of: time)
        let digest = digest(inode)
        places[Self.first(digest)] = min(places[Self.first(digest)], known)
        places[Self.second(digest)] = min(places[Self.second(digest)], known)
    }

    /// To be called before it is asked: up to which time files go.
    mutating func select(through time: Int64) { limit = bounds.isEmpty ? Self.none - 1 : ageClass(of: time) }

    func mayContain(_ inode: UInt64) -> Bool {
        let digest = digest(inode)
        return places[Self.first(digest)] <= limit && places[Self.second(digest)] <= limit
    }

    private static func first(_ digest: UInt64) -> Int { Int(digest & 0xF_FFFF) }
    private static func second(_ digest: UInt64) -> Int { Int((digest >> 20) & 0xF_FFFF) }

    /// Grows with the time.
    private func ageClass(of time: Int64) -> UInt8 {
        var (low, high) = (0, bounds.count)
        while low < high {
            let middle = (low + high) / 2
            if bounds[middle] < time { low = middle + 1 } else { high = middle }
        }
        return UInt8(low)
    }

    private mutating func divide() {
        sample.sort()
        let count = Int(Self.none) - 1
        bounds = (1...count).map { sample[$0 * (sample.count - 1) / count] }
        sample = []
    }
}
