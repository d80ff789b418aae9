package import SafeBackupCore
import SafeBackupSystem

/// Whether a destination still has what the catalogue says: the names that are looked for, and those that are saved again.
extension StateStore {
    /// Up to `limit` live names of a pair by directory and leaf, after `path`; none after the last. `nil` while the
    /// source or the destination is held or paused.
    package func copiesToCheck(
        _ source: SourceID, _ destination: DestinationID, after path: RelativePath, limit: Int
    ) throws(SafeBackupError) -> [ExpectedCopy]? {
        try read { (connection) throws(SafeBackupError) in
            let pair = PairKey(source: source, destination: destination)
            if try isStopped(destination, connection) { return nil }
            if try !runnable(destination, connection).contains(pair) { return nil }
            var found: [ExpectedCopy] = []
            // In two steps: a range over both columns would read the beginning of a large directory each time.
            let siblings = try connection.statement(
                """
                SELECT n.parent, n.leaf, n.id, n.kind, n.mtime_ns, c.size, c.mtime_ns FROM name n
                LEFT JOIN copy c ON c.id = n.copy_id
                WHERE n.source_id = ?1 AND n.destination_id = ?2 AND n.ended_at IS NULL AND n.parent = ?3 AND n.leaf > ?4
                ORDER BY n.leaf LIMIT ?5
                """)
            try collect(siblings, pair, after: path, limit, into: &found, connection)
            if found.count == limit { return found }
            let others = try connection.statement(
                """
                SELECT n.parent, n.leaf, n.id, n.kind, n.mtime_ns, c.size, c.mtime_ns FROM name n
                LEFT JOIN copy c ON c.id = n.copy_id
                WHERE n.source_id = ?1 AND n.destination_id = ?2 AND n.ended_at IS NULL AND n.parent > ?3 AND ?4 IS NOT NULL
                ORDER BY n.parent, n.leaf LIMIT ?5
                """)
            try collect(others, pair, after: path, limit - found.count, into: &found, connection)
            return found
        }
    }

    private func collect(
        _ select: Statement, _ pair: PairKey, after path: RelativePath, _ limit: Int, into found: inout [ExpectedCopy],
        _ connection: Connection
    ) throws(SafeBackupError) {
        let prefix = try prefix(pair, connection)
        defer { select.reset() }
        select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path).bind(Int64(limit))
        while try select.step() {
            let path = select.path().appending(select.bytes())
            let (name, kind) = (select.int(), EntryKind(rawValue: select.text()) ?? .device)
            let mtime = FileTime(nanoseconds: select.int())
            let (size, own) = (select.intOrNull() ?? 0, select.fileTime())
            found.append(
                ExpectedCopy(
                    source: pair.source, path: path, location: prefix.appending(path), name: name, kind: kind,
                    size: size, mtimes: own.map { [$0, mtime] } ?? []))
        }
    }

    /// Queues those of them whose name is still the live one and that no job will look at anyway, to be stored again from
    /// the source; gives them, and tells the journal.
    package func storeAgain(
        _ destination: DestinationID, _ copies: [ExpectedCopy]
    ) throws(SafeBackupError) -> [ExpectedCopy] {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            var queued: [ExpectedCopy] = []
            for copy in copies {
                let pair = PairKey(source: copy.source, destination: destination)
                guard try connection.liveName(pair, copy.path)?.id == copy.name else { continue }
                let change = QueuedChange(
                    path: copy.path, action: .store, notBefore: now, isDirectory: copy.kind == .directory,
                    size: copy.kind == .directory ? 0 : copy.size)
                if try upsert(change, pair, leavesWaiting: true, now: now, connection) == .made { queued.append(copy) }
            }
            try journal(queued, destination, now: now, connection)
            return queued
        }
    }

    private func journal(
        _ queued: [ExpectedCopy], _ destination: DestinationID, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        if queued.isEmpty || !journalBudget.spend("copiesChanged", now: now) { return }
        var examples = queued.prefix(3).map(\.path.description)
        if queued.count > examples.count { examples.append("…") }
        let what = queued.count == 1 ? "1 stored copy was" : "\(queued.count) stored copies were"
        let message =
            "\(what) deleted or changed in the destination by somebody else; what the source has is stored again "
            + "(\(examples.joined(separator: ", "))); what was there instead is kept under .safebackup/versions"
        try journal(
            JournalEntry(at: now, level: .warning, event: "copiesChanged", message: message, destination: destination),
            connection)
    }
}
