package import SafeBackupCore

/// A job as `safebackup queue` and `safebackup why` show it.
package struct QueuedJob: Sendable, Hashable {
    package enum State: String, Sendable, Hashable {
        case pending
        case leased
        case stuck
    }

    package var source: SourceID
    package var destination: DestinationID
    package var path: RelativePath
    package var state: State
    package var action: JobAction
    /// Where the path was before, of a move.
    package var originPath: RelativePath?
    package var sequence: Int64
    /// The number of the path's newest change.
    package var generation: Int64
    /// Bytes, where the change told it.
    package var size: Int64?
    package var isDirectory: Bool
    /// Digests are compared before anything is copied.
    package var hashFirst: Bool
    package var firstSeenAt: Timestamp
    /// The earliest next try; of a stuck job its daily one.
    package var notBefore: Timestamp
    package var attempts: Int
    package var errorCode: String?
    package var error: String?
    package var leasedAt: Timestamp?

    static let columns = """
        source_id, destination_id, path, state, action, origin_path, sequence, generation, size, is_directory, hash_first,
        first_seen_at, not_before, attempts, last_error_code, last_error, leased_at
        """

    /// Reads `columns`.
    static func read(_ row: Statement) -> QueuedJob {
        QueuedJob(
            source: SourceID(rawValue: row.int()), destination: DestinationID(rawValue: row.int()), path: row.path(),
            state: State(rawValue: row.text()) ?? .pending, action: JobAction(rawValue: row.text()) ?? .store,
            originPath: row.pathOrNull(), sequence: row.int(), generation: row.int(), size: row.intOrNull(),
            isDirectory: row.bool(), hashFirst: row.bool(), firstSeenAt: row.timestamp(), notBefore: row.timestamp(),
            attempts: Int(row.int()), errorCode: row.textOrNull(), error: row.textOrNull(),
            leasedAt: row.timestampOrNull())
    }
}

extension StateReader {
    /// The first jobs of a destination's active pairs in the order they are done: what is being saved, then what waits
    /// by its time, then what is stuck by its next try. With `onlyStuck` the last alone.
    package func jobs(
        _ destination: DestinationID, onlyStuck: Bool = false, limit: Int
    ) throws(SafeBackupError) -> [QueuedJob] {
        try read { (connection) throws(SafeBackupError) in
            var jobs: [QueuedJob] = []
            if !onlyStuck {
                jobs += try Self.jobs(
                    connection, destination, limit,
                    """
                    j.state = 'leased' AND j.state <> 'pending' AND j.destination_id = ?1 AND \(Self.isActive)
                    ORDER BY j.sequence LIMIT ?2
                    """)
                // Pair by pair, as the drain asks, so that the index gives the order and no backlog is sorted.
                var waiting: [QueuedJob] = []
                for pair in try PairRecord.all(connection) where pair.isActive && pair.destination == destination {
                    waiting += try Self.jobs(
                        connection, destination, limit - jobs.count,
                        """
                        j.state = 'pending' AND j.destination_id = ?1 AND j.source_id = \(pair.source.rawValue)
                        ORDER BY j.not_before, j.sequence LIMIT ?2
                        """)
                }
                waiting.sort { ($0.notBefore, $0.sequence) < ($1.notBefore, $1.sequence) }
                jobs += waiting.prefix(limit - jobs.count)
            }
            jobs += try Self.jobs(
                connection, destination, limit - jobs.count,
                """
                j.state = 'stuck' AND j.state <> 'pending' AND j.destination_id = ?1 AND \(Self.isActive)
                ORDER BY j.not_before, j.sequence LIMIT ?2
                """)
            return jobs
        }
    }

    /// A look at so many jobs tells whether sizes are unknown.
    private static let sizeLook = 20_000

    /// How many of the files that wait for the destination have a size that no change told: of the first thousands only,
    /// because a backlog has no end, and only the events that come later tell none.
    static func unknownSizes(
        _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> Int {
        var count = 0
        for state in ["j.state = 'pending'", "j.state = 'leased' AND j.state <> 'pending'"] {
            let statement = try connection.prepare(
                """
                SELECT count(*) FROM (SELECT j.size, j.is_directory, j.action FROM job j
                    WHERE \(state) AND j.destination_id = ?1 AND \(isActive) LIMIT ?2)
                WHERE size IS NULL AND NOT is_directory AND action <> 'delete'
                """)
            statement.bind(destination.rawValue).bind(Int64(sizeLook))
            if try statement.step() { count += Int(statement.int()) }
        }
        return count
    }

    private static let isActive = """
        EXISTS (SELECT 1 FROM pair p WHERE p.source_id = j.source_id AND p.destination_id = j.destination_id AND p.active)
        """

    private static func jobs(
        _ connection: Connection, _ destination: DestinationID, _ limit: Int, _ condition: String
    ) throws(SafeBackupError) -> [QueuedJob] {
        if limit <= 0 { return [] }
        let statement = try connection.prepare("SELECT \(QueuedJob.columns) FROM job j WHERE \(condition)")
        statement.bind(destination.rawValue).bind(Int64(limit))
        var jobs: [QueuedJob] = []
        while try statement.step() { jobs.append(QueuedJob.read(statement)) }
        return jobs
    }
}
