import SafeBackupCore

/// Which directories of a tree hold the most, found while a walk goes through it depth first, parents before what is in
/// them. Pure; keeps the way down to where the walk is, and the largest.
struct LargestDirectories {
    struct Directory: Sendable, Hashable {
        var path: RelativePath
        /// Below it too.
        var files = 0
        var bytes: Int64 = 0
        /// Of the largest directory in it.
        fileprivate var largest: Int64 = 0
    }

    private let limit: Int
    private var way: [Directory] = []
    /// The largest first. One whose bytes lie nearly all in one of its directories is left out: that one says more.
    private(set) var directories: [Directory] = []

    init(limit: Int = 8) { self.limit = limit }

    /// The walk tells of this directory now; again for each of its parts.
    mutating func enter(_ path: RelativePath) {
        while let last = way.last, !path.isWithin(last.path) { leave() }
        if way.last?.path != path { way.append(Directory(path: path)) }
    }

    /// A file that lies in the directory entered last.
    mutating func add(_ bytes: Int64) {
        guard !way.isEmpty else { return }
        way[way.count - 1].files += 1
        way[way.count - 1].bytes += bytes
    }

    /// The walk is over.
    mutating func finish() { while !way.isEmpty { leave() } }

    private mutating func leave() {
        guard let done = way.popLast() else { return }
        if !way.isEmpty {
            let above = way.count - 1
            way[above].files += done.files
            way[above].bytes += done.bytes
            way[above].largest = max(way[above].largest, done.bytes)
        }
        if done.path.isRoot || done.bytes == 0 || done.largest > done.bytes / 10 * 9 { return }
        let place = directories.firstIndex { $0.bytes < done.bytes } ?? directories.count
        if place >= limit { return }
        directories.insert(done, at: place)
        if directories.count > limit { directories.removeLast() }
    }
}
