package import SafeBackupCore

/// A stored state of a path.
package struct PathState: Sendable, Hashable {
    package var copy: Int64
    package var location: RelativePath
    package var size: Int64
    /// `current`, `kept` or `lastGood`.
    package var role: String
    package var storedAt: Timestamp
    /// `nil`: it is the path's now.
    package var endedAt: Timestamp?
    /// Neither fuzzy nor damaged.
    package var isGood: Bool
    /// It was torn when it was read, and is as it was stored.
    package var isFuzzy = false
}

/// All stored states of a path, newest first.
package struct PathHistory: Sendable, Hashable {
    package var source: SourceID
    package var destination: DestinationID
    package var path: RelativePath
    package var states: [PathState]
    /// The source has it, as far as is known: it is saved, waits to be saved, or cannot be.
    package var isAlive: Bool
    /// When its newest state ended by a deletion.
    package var deletedAt: Timestamp?
}

/// A part of the histories.
package struct HistoryPage: Sendable {
    package var histories: [PathHistory]
    /// Where the rest begins; `nil` at the end.
    package var next: HistoryCursor?
}

/// A place between two paths, to go on from.
package struct HistoryCursor: Sendable, Hashable {
    var range = 0
    var parent: [UInt8]?
    var leaf: [UInt8] = []
    var id: Int64 = 0
}

/// What `safebackup prune` reads. Each call is one short read.
extension StateReader {
    /// Paths at and below `path` that have older states, up to about `limit` states of them.
    package func histories(
        _ source: SourceID, _ destination: DestinationID, within path: RelativePath, after cursor: HistoryCursor?,
        limit: Int
    ) throws(SafeBackupError) -> HistoryPage {
        try read { (connection) throws(SafeBackupError) in
            let pair = PairKey(source: source, destination: destination)
            var place = cursor ?? HistoryCursor()
            let ranges = [PathRange.only(path)] + PathRange.below(path)
            if cursor == nil && !path.isRoot {
                if let history = try connection.history(pair, path) {
                    return HistoryPage(histories: [history], next: place)
                }
            }
            while place.range < ranges.count {
                let paths = try Self.paths(pair, ranges[place.range], from: &place, limit: limit, connection)
                var histories: [PathHistory] = []
                for path in paths {
                    if let history = try connection.history(pair, path) { histories.append(history) }
                }
                if !histories.isEmpty { return HistoryPage(histories: histories, next: place) }
            }
            return HistoryPage(histories: [], next: nil)
        }
    }

    /// The next paths in a range that have an ended state; the place moves along, and to the next range at the end.
    private static func paths(
        _ pair: PairKey, _ range: PathRange, from place: inout HistoryCursor, limit: Int, _ connection: Connection
    ) throws(SafeBackupError) -> [RelativePath] {
        let statement = try connection.statement(
            """
            SELECT parent, leaf, id FROM name INDEXED BY name_history
            WHERE source_id = ? AND destination_id = ? AND parent < ? AND (parent, leaf, id) > (?, ?, ?)
                AND ended_at IS NOT NULL AND copy_id IS NOT NULL AND end_reason IN ('replaced', 'deleted')
            ORDER BY parent, leaf, id LIMIT ?
            """)
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.upper)
        if let parent = place.parent {
            statement.bind(path: parent).bind(path: place.leaf)
        } else {
            statement.bind(range.lower).bind(path: [])
        }
        statement.bind(place.id).bind(Int64(limit))
        var paths: [RelativePath] = []
        var count = 0
        while try statement.step() {
            let (parent, leaf, id) = (statement.path(), statement.bytes(), statement.int())
            (place.parent, place.leaf, place.id) = (parent.bytes, leaf, id)
            let path = parent.appending(leaf)
            if paths.last != path { paths.append(path) }
            count += 1
        }
        if count < limit {
            place = HistoryCursor(range: place.range + 1)
        } else {
            // The rest of this path's names is skipped: its history is read whole.
            place.id = .max
        }
        return paths
    }

    /// How many removals were begun and are not done.
    package func removalsLeft(_ destination: DestinationID) throws(SafeBackupError) -> Int {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                "SELECT count(*) FROM copy WHERE destination_id = ? AND removing IS NOT NULL")
            defer { statement.reset() }
            return try statement.bind(destination.rawValue).step() ? Int(statement.int()) : 0
        }
    }

    /// The number of the newest event that tells of a copy that could not be removed; 0 if there is none.
    package func newestFailedRemoval(_ destination: DestinationID) throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                "SELECT ifnull(max(id), 0) FROM journal WHERE event = 'removalFailed' AND destination_id = ?")
            defer { statement.reset() }
            return try statement.bind(destination.rawValue).step() ? statement.int() : 0
        }
    }

    /// How many removals have failed since that entry of the journal.
    package func failedRemovals(_ destination: DestinationID, after entry: Int64) throws(SafeBackupError) -> Int {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                "SELECT count(*) FROM journal WHERE event = 'removalFailed' AND destination_id = ? AND id > ?")
            defer { statement.reset() }
            return try statement.bind(destination.rawValue).bind(entry).step() ? Int(statement.int()) : 0
        }
    }
}

extension Connection {
    /// All stored states of a path; `nil` if there is none but the live one.
    func history(_ pair: PairKey, _ path: RelativePath) throws(SafeBackupError) -> PathHistory? {
        var history = PathHistory(
            source: pair.source, destination: pair.destination, path: path, states: [], isAlive: false)
        let live = try liveName(pair, path)
        if let live {
            history.isAlive = true
            let copies = try statement(
                """
                SELECT id, location, size, role, stored_at, fuzzy = 0 AND damaged = 0, fuzzy = 1 AND damaged = 0
                FROM copy WHERE id = ?
                """)
            defer { copies.reset() }
            if try copies.bind(live.copy).step() { history.states.append(Self.state(copies, endedAt: nil)) }
        } else {
            history.isAlive = try isWanted(pair, path)
        }
        let ended = try statement(
            """
            SELECT n.ended_at, c.id, c.location, c.size, c.role, c.stored_at,
                c.fuzzy = 0 AND c.damaged = 0, c.fuzzy = 1 AND c.damaged = 0, c.removing IS NOT NULL
            FROM name n JOIN copy c ON c.id = n.copy_id
            WHERE n.source_id = ? AND n.destination_id = ? AND n.parent = ? AND n.leaf = ? AND n.ended_at IS NOT NULL
                AND n.end_reason IN ('replaced', 'deleted')
                AND c.role IN ('kept', 'lastGood', 'current')
                AND NOT EXISTS (SELECT 1 FROM name m WHERE m.copy_id = c.id AND m.id > n.id)
            ORDER BY n.id DESC
            """)
        defer { ended.reset() }
        ended.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path)
        var (hasEnded, isAnyGoing) = (false, false)
        while try ended.step() {
            let endedAt = ended.timestamp()
            let state = Self.state(ended, endedAt: endedAt)
            if ended.bool() {
                isAnyGoing = true
                continue
            }
            history.states.append(state)
            hasEnded = true
        }
        if live == nil { history.deletedAt = try deletion(pair, path) }
        return hasEnded || isAnyGoing ? history : nil
    }

    /// When a path without a live name was deleted, by its newest name, whether or not its content is still there: what the
    /// newest state had may be removed before the older ones, or long since. `nil`: it ended in another way.
    private func deletion(_ pair: PairKey, _ path: RelativePath) throws(SafeBackupError) -> Timestamp? {
        let newest = try statement(
            """
            SELECT end_reason = 'deleted', ended_at FROM name WHERE source_id = ? AND destination_id = ? AND parent = ?
                AND leaf = ? AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 1
            """)
        defer { newest.reset() }
        newest.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path)
        guard try newest.step(), newest.bool() else { return nil }
        return newest.timestamp()
    }

    private static func state(_ row: Statement, endedAt: Timestamp?) -> PathState {
        PathState(
            copy: row.int(), location: row.path(), size: row.int(), role: row.text(), storedAt: row.timestamp(),
            endedAt: endedAt, isGood: row.bool(), isFuzzy: row.bool())
    }

    /// Whether the source has the path, although it is not saved: it waits to be, or cannot be.
    private func isWanted(_ pair: PairKey, _ path: RelativePath) throws(SafeBackupError) -> Bool {
        let jobs = try statement("SELECT 1 FROM job WHERE destination_id = ? AND source_id = ? AND path = ?")
        defer { jobs.reset() }
        if try jobs.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(path).step() { return true }
        let others = try statement("SELECT 1 FROM not_saved WHERE source_id = ? AND path = ?")
        defer { others.reset() }
        return try others.bind(pair.source.rawValue).bind(path).step()
    }
}
