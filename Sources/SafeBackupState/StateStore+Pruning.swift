package import SafeBackupCore
import SafeBackupSystem

/// A state of a path that a policy gives up.
package struct PruneChoice: Sendable, Hashable {
    package var copy: Int64
    /// The path was deleted at the source long enough ago: its last state goes too.
    package var isExpired: Bool

    package init(copy: Int64, isExpired: Bool) {
        self.copy = copy
        self.isExpired = isExpired
    }
}

/// A deleted path's last state that is to be removed, which lies at the path's own place.
package struct TombstoneRemoval: Sendable, Hashable {
    package var copy: CopyRecord
}

/// Removal by policy. As with every removal, the row tells before the file goes.
extension StateStore {
    /// Marks those that may be removed, each looked at once more: never what a live path has, never the last good state of
    /// a path that the source has, nothing that was there before us. How many, and their bytes. When this returns, a
    /// crash leaves them to be removed later.
    package func beginPruning(
        _ destination: DestinationID, _ choices: [PruneChoice], reason: String
    ) throws(SafeBackupError) -> (count: Int, bytes: Int64) {
        try write { (connection) throws(SafeBackupError) in
            let mark = try connection.statement("UPDATE copy SET removing = ? WHERE id = ? AND removing IS NULL")
            var (count, bytes) = (0, Int64(0))
            for choice in choices {
                guard let history = try history(of: choice.copy, destination, connection),
                    let state = history.states.first(where: { $0.copy == choice.copy }),
                    history.mayGo(state, isExpired: choice.isExpired)
                else { continue }
                try mark.bind(text: reason).bind(choice.copy).run()
                count += connection.changes
                bytes += state.size
            }
            return (count, bytes)
        }
    }

    func history(
        of copy: Int64, _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> PathHistory? {
        let names = try connection.statement(
            """
            SELECT source_id, parent, leaf FROM name WHERE copy_id = ? AND destination_id = ? ORDER BY id DESC LIMIT 1
            """)
        defer { names.reset() }
        guard try names.bind(copy).bind(destination.rawValue).step() else { return nil }
        let pair = PairKey(source: SourceID(rawValue: names.int()), destination: destination)
        return try connection.history(pair, names.path().appending(names.bytes()))
    }

    /// Up to `limit` deleted paths' last states that are to be removed, in the order of their numbers; those whose path
    /// came back, or may, are kept after all. Those that went for room wait until their source was walked, as after a
    /// crash, and while it is held, paused or emptied. To be called while nothing is leased.
    package func tombstoneRemovals(
        _ destination: DestinationID, limit: Int
    ) throws(SafeBackupError) -> [TombstoneRemoval] {
        let found = try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged FROM copy
                WHERE destination_id = ? AND removing IS NOT NULL AND role = 'current'
                    AND (removing <> 'space' OR EXISTS (SELECT 1 FROM source s WHERE s.id = copy.source_id
                        AND s.active = 1 AND s.held_reason IS NULL AND s.paused_at IS NULL AND s.desynced = 0
                        AND s.emptied_at IS NULL AND s.accepted IS NULL))
                ORDER BY id LIMIT ?
                """)
            defer { select.reset() }
            select.bind(destination.rawValue).bind(Int64(limit))
            var found: [CopyRecord] = []
            while try select.step() { found.append(CopyRecord.read(select)) }
            return found
        }
        if found.isEmpty { return [] }
        return try write { (connection) throws(SafeBackupError) in
            let keep = try connection.statement("UPDATE copy SET removing = NULL WHERE id = ?")
            var removals: [TombstoneRemoval] = []
            for copy in found {
                if try isGone(copy.id, destination, connection) {
                    removals.append(TombstoneRemoval(copy: copy))
                } else {
                    try keep.bind(copy.id).run()
                }
            }
            return removals
        }
    }

    /// Whether the path whose last state this is has neither a live name nor a job.
    private func isGone(
        _ copy: Int64, _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let names = try connection.statement(
            "SELECT source_id, parent, leaf, ended_at FROM name WHERE copy_id = ? ORDER BY id DESC LIMIT 1")
        defer { names.reset() }
        guard try names.bind(copy).step() else { return false }
        let pair = PairKey(source: SourceID(rawValue: names.int()), destination: destination)
        let path = names.path().appending(names.bytes())
        if names.isNull() { return false }
        if try connection.liveName(pair, path) != nil { return false }
        let jobs = try connection.statement("SELECT 1 FROM job WHERE destination_id = ? AND source_id = ? AND path = ?")
        defer { jobs.reset() }
        return try !jobs.bind(destination.rawValue).bind(pair.source.rawValue).bind(path).step()
    }

    /// Whether a removal was begun and is not done.
    package func hasRemovals(_ destination: DestinationID) throws(SafeBackupError) -> Bool {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                "SELECT 1 FROM copy WHERE destination_id = ? AND removing IS NOT NULL LIMIT 1")
            defer { select.reset() }
            return try select.bind(destination.rawValue).step()
        }
    }

    /// Whether a lease of the destination is not ended, as after a crash.
    package func hasLeases(_ destination: DestinationID) throws(SafeBackupError) -> Bool {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                "SELECT 1 FROM job WHERE destination_id = ? AND state = 'leased' AND state <> 'pending' LIMIT 1")
            defer { select.reset() }
            return try select.bind(destination.rawValue).step()
        }
    }
}

extension PathHistory {
    /// The rule that stands above every policy: what a live path has, the newest good state of any path, and what is
    /// kept for a reason of its own stays. Only of a path that was deleted long enough ago everything goes.
    package func mayGo(_ state: PathState, isExpired: Bool) -> Bool {
        if state.endedAt == nil { return false }
        if isExpired && !isAlive && deletedAt != nil { return state.role == "kept" || state.role == "current" }
        return state.role == "kept" && states.first(where: \.isGood)?.copy != state.copy
    }
}
