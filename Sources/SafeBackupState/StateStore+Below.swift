package import SafeBackupCore
import SafeBackupSystem

/// What a directory leaves behind that vanished and came back as another one.
extension StateStore {
    /// Queues a look at every live name and every job below `path`. For a directory that was told to have vanished and
    /// is there: it may be another one, and nobody tells what was below the first. What is still there costs a look;
    /// what is not is confirmed to be absent, and ends. A file that waits to be saved still does.
    package func lookBelow(
        _ path: RelativePath, _ source: SourceID, _ destination: DestinationID, notBefore: Timestamp
    ) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            let pair = PairKey(source: source, destination: destination)
            try lookBelow(path, pair, notBefore: notBefore, now: now, connection)
        }
    }

    func lookBelow(
        _ path: RelativePath, _ pair: PairKey, notBefore: Timestamp, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        for range in [PathRange.only(path)] + PathRange.below(path) {
            let names = try connection.statement(
                """
                SELECT parent, leaf, kind FROM name WHERE source_id = ? AND destination_id = ?
                    AND parent >= ? AND parent < ? AND ended_at IS NULL
                """)
            // Read while jobs are written, which no name is part of.
            defer { names.reset() }
            names.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.lower).bind(range.upper)
            while try names.step() {
                let below = names.path().appending(names.bytes())
                let isDirectory = names.text() == EntryKind.directory.rawValue
                try look(at: below, isDirectory: isDirectory, pair, notBefore: notBefore, now: now, connection)
            }
        }
        for range in PathRange.below(path) {
            var last: Int64 = 0
            while true {
                let found = try jobs(in: range, after: last, pair, connection)
                guard let end = found.last else { break }
                last = end.sequence
                for job in found {
                    try look(
                        at: job.path, isDirectory: job.isDirectory, pair, notBefore: notBefore, now: now, connection)
                }
            }
        }
    }

    /// In parts, because the rows are about to change.
    private func jobs(
        in range: PathRange, after sequence: Int64, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) -> [(sequence: Int64, path: RelativePath, isDirectory: Bool)] {
        let select = try connection.statement(
            """
            SELECT sequence, path, is_directory FROM job WHERE destination_id = ? AND source_id = ?
                AND path >= ? AND path < ? AND sequence > ? ORDER BY sequence LIMIT 10000
            """)
        defer { select.reset() }
        select.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(range.lower).bind(range.upper)
            .bind(sequence)
        var found: [(sequence: Int64, path: RelativePath, isDirectory: Bool)] = []
        while try select.step() { found.append((select.int(), select.path(), select.bool())) }
        return found
    }

    private func look(
        at path: RelativePath, isDirectory: Bool, _ pair: PairKey, notBefore: Timestamp, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let change = QueuedChange(path: path, action: .delete, notBefore: notBefore, isDirectory: isDirectory)
        _ = try upsert(change, pair, keepsStore: true, now: now, connection)
    }
}
