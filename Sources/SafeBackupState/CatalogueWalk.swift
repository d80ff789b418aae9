package import SafeBackupCore

/// The names at and below a path, in one order whether they are live, ended or both: a path before what lies in it, and
/// each directory's entries by their names. Holds a page of each kind, however many there are.
package struct CatalogueWalk {
    private let reader: any CatalogueReading
    private let source: SourceID
    private let destination: DestinationID
    private let path: RelativePath
    private let depth: NameDepth
    private var streams: [Stream]
    private var last: RelativePath?

    private struct Stream {
        let scope: NameScope
        /// Ends where the ended names begin.
        let isLive: Bool
        var entries: [CatalogueEntry] = []
        var position = 0
        var next: NameCursor?
        var isAtEnd = false

        var head: CatalogueEntry? { position < entries.count ? entries[position] : nil }
    }

    /// - Parameters:
    ///   - time: as it was then; `nil`: as it is now.
    ///   - includesDeleted: also what was deleted at the source and has not come back; only without a time.
    package init(
        _ reader: any CatalogueReading, _ source: SourceID, _ destination: DestinationID, within path: RelativePath,
        at time: Timestamp?, includesDeleted: Bool, depth: NameDepth
    ) {
        self.reader = reader
        self.source = source
        self.destination = destination
        self.path = path
        self.depth = depth
        if let time {
            streams = [
                Stream(scope: .at(time), isLive: true), Stream(scope: .at(time), isLive: false, next: .ended),
            ]
        } else {
            streams = [Stream(scope: .live, isLive: true)]
            if includesDeleted { streams.append(Stream(scope: .deleted, isLive: false)) }
        }
    }

    /// The next name; `nil` at the end.
    package mutating func next() throws(SafeBackupError) -> CatalogueEntry? {
        while true {
            for index in streams.indices { try fill(index) }
            var first: Int?
            for index in streams.indices {
                guard let head = streams[index].head else { continue }
                if let best = first.flatMap({ streams[$0].head }), !precedes(head.path, best.path) { continue }
                first = index
            }
            guard let first, let entry = streams[first].head else { return nil }
            streams[first].position += 1
            // After the clock was set back, a path may have had two names at one time.
            if entry.path == last { continue }
            last = entry.path
            return entry
        }
    }

    private mutating func fill(_ index: Int) throws(SafeBackupError) {
        while streams[index].head == nil && !streams[index].isAtEnd {
            let page = try reader.names(
                source, destination, within: path, streams[index].scope, depth: depth, after: streams[index].next,
                limit: 500)
            var entries = page.entries
            let isPast = page.next == nil || (streams[index].isLive && page.next?.isAmongEnded == true)
            if streams[index].isLive { entries.removeAll { $0.endedAt != nil } }
            streams[index].entries = entries
            streams[index].position = 0
            streams[index].next = page.next
            streams[index].isAtEnd = isPast
        }
    }

    /// The order of the pages: the path itself, then by parent and leaf, as the database sorts them.
    private func precedes(_ left: RelativePath, _ right: RelativePath) -> Bool {
        if left == right { return false }
        if left == path || right == path { return left == path }
        let parents = (left.parent.bytes, right.parent.bytes)
        return parents.0 == parents.1 ? Self.sorts(left.leaf, right.leaf) : Self.sorts(parents.0, parents.1)
    }

    private static func sorts(_ left: [UInt8], _ right: [UInt8]) -> Bool {
        let types = (left.withUnsafeBytes(isText), right.withUnsafeBytes(isText))
        return types.0 == types.1 ? left.lexicographicallyPrecedes(right) : types.0
    }
}
