package import SafeBackupCore
import SafeBackupSystem

/// How much is waiting and how much is saved.
package struct QueueCounts: Sendable, Hashable {
    package var pending = 0
    package var leased = 0
    package var stuck = 0
    /// Bytes of pending and leased jobs, as far as they are known.
    package var pendingBytes: Int64 = 0
    /// Live names that are no directories.
    package var files = 0
    package var directories = 0
    /// Bytes of live names.
    package var bytes: Int64 = 0
    /// Live names whose copy mixes several states of the file.
    package var fuzzy = 0

    package init() {}

    mutating func add(_ tally: Tally) {
        pending += Int(tally.pending)
        leased += Int(tally.leased)
        stuck += Int(tally.stuck)
        pendingBytes += tally.jobBytes
        files += Int(tally.files)
        directories += Int(tally.directories)
        bytes += tally.bytes
        fuzzy += Int(tally.fuzzy)
    }
}

/// What is still to be done of the jobs known at one moment.
package struct Outstanding: Sendable, Hashable {
    /// A job that was not tried since its last change, or is being worked on.
    package var hasUntried: Bool
    /// A job that failed and waits for another try.
    package var hasFailed: Bool

    package var isEmpty: Bool { !hasUntried && !hasFailed }

    /// What is to be done of both.
    package func and(_ other: Outstanding) -> Outstanding {
        Outstanding(hasUntried: hasUntried || other.hasUntried, hasFailed: hasFailed || other.hasFailed)
    }

    package static let nothing = Outstanding(hasUntried: false, hasFailed: false)
}

/// A path that is not, or not wholly, in the backup.
package struct UnsavedEntry: Sendable, Hashable {
    package enum State: String, Sendable, Hashable {
        /// Out of retries, or refused.
        case stuck
        /// Failed, and tried again.
        case failing
        /// Stored, but the copy mixes several states of the file; it is read again.
        case fuzzy
        /// Seen, and not saved by its nature or for lack of permission.
        case notSaved
    }

    package var state: State
    package var source: SourceID
    /// `nil`: not saved anywhere.
    package var destination: DestinationID?
    package var path: RelativePath
    /// An error's code, or a `SkipReason`.
    package var code: String
    /// A sentence, where there is one.
    package var message: String?
    package var since: Timestamp
}

extension StateStore {
    /// Sums over the active pairs, of one destination or of all; cheap enough for each second.
    package func counts(_ destination: DestinationID? = nil) throws(SafeBackupError) -> QueueCounts {
        try read { (connection) throws(SafeBackupError) in
            var counts = QueueCounts()
            for (pair, tally) in try Tally.all(connection)
            where destination == nil || pair.destination == destination {
                if try pairTable(connection)[pair]?.isActive == true { counts.add(tally) }
            }
            return counts
        }
    }

    /// The last number given: every job that is known now has a sequence up to it.
    package func newestSequence() throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in try connection.number("SELECT value FROM counter") ?? 0 }
    }

    /// What is left of the destination's jobs with a sequence up to this one, in active pairs, of all sources or of one.
    /// A fuzzy copy that was stored, and a stuck job, are not outstanding.
    package func outstanding(
        _ destination: DestinationID, of source: SourceID? = nil, upTo sequence: Int64
    ) throws(SafeBackupError) -> Outstanding {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT
                    EXISTS (SELECT 1 FROM job j JOIN pair p ON p.source_id = j.source_id AND p.active = 1
                            AND p.destination_id = j.destination_id
                        WHERE j.state = 'leased' AND j.state <> 'pending' AND j.destination_id = ?1 AND j.sequence <= ?2
                            AND (?3 IS NULL OR j.source_id = ?3))
                    OR EXISTS (SELECT 1 FROM pair p CROSS JOIN job j INDEXED BY job_pending ON j.source_id = p.source_id
                            AND j.destination_id = p.destination_id
                        WHERE p.destination_id = ?1 AND p.active = 1 AND j.state = 'pending' AND j.sequence <= ?2
                            AND j.last_error_code IS NULL AND (?3 IS NULL OR p.source_id = ?3)),
                    EXISTS (SELECT 1 FROM job j JOIN pair p ON p.source_id = j.source_id AND p.active = 1
                            AND p.destination_id = j.destination_id
                        WHERE j.state = 'pending' AND j.destination_id = ?1 AND j.sequence <= ?2
                            AND j.last_error_code IS NOT NULL AND (?3 IS NULL OR j.source_id = ?3))
                """)
            defer { statement.reset() }
            guard try statement.bind(destination.rawValue).bind(sequence).bind(source?.rawValue).step() else {
                return Outstanding(hasUntried: false, hasFailed: false)
            }
            return Outstanding(hasUntried: statement.bool(), hasFailed: statement.bool())
        }
    }

    /// Up to `limit` paths of active pairs that a person should know of: stuck first, then failing or fuzzy, then not saved.
    package func unsavedReport(limit: Int) throws(SafeBackupError) -> [UnsavedEntry] {
        try read { (connection) throws(SafeBackupError) in try UnsavedEntry.report(connection, limit: limit) }
    }

    // MARK: - Retry

    /// Stuck and failing jobs are pending again, at once and without their failures; how many. Of all sources, or of
    /// one; of all paths, or of those named with everything below them.
    package func retry(
        source: SourceID? = nil, paths: [RelativePath]? = nil
    ) throws(SafeBackupError) -> Int {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            var count = 0
            guard let paths else {
                try retry("TRUE", [], source, now: now, &count, connection)
                return count
            }
            for path in paths {
                for range in PathRange.within(path) {
                    try retry(
                        "path >= ? AND path < ?", [range.lower, range.upper], source, now: now, &count, connection)
                }
            }
            return count
        }
    }

    private func retry(
        _ condition: String, _ bounds: [PathBound], _ source: SourceID?, now: Timestamp, _ count: inout Int,
        _ connection: Connection
    ) throws(SafeBackupError) {
        for state in [JobState.stuck, .pending] {
            let update = try connection.prepare(
                """
                UPDATE job SET state = 'pending', attempts = 0, not_before = ?, settle_by = NULL, backoff_until = NULL,
                    last_error_code = NULL, last_error = NULL
                WHERE state = '\(state.rawValue)' AND last_error_code IS NOT NULL AND source_id = ifnull(?, source_id)
                    AND \(condition) RETURNING source_id, destination_id, size
                """)
            update.bind(now).bind(source?.rawValue)
            for bound in bounds { update.bind(bound) }
            while try update.step() {
                let pair = PairKey(
                    source: SourceID(rawValue: update.int()), destination: DestinationID(rawValue: update.int()))
                let size = update.intOrNull()
                note(pair) {
                    $0.count(state, size: size, sign: -1)
                    $0.count(.pending, size: size, sign: 1)
                }
                count += 1
            }
        }
    }
}

extension Tally {
    static func all(_ connection: Connection) throws(SafeBackupError) -> [PairKey: Tally] {
        let statement = try connection.statement(
            """
            SELECT source_id, destination_id, pending, leased, stuck, job_bytes, files, directories, bytes, fuzzy
            FROM tally
            """)
        defer { statement.reset() }
        var tallies: [PairKey: Tally] = [:]
        while try statement.step() {
            let pair = PairKey(
                source: SourceID(rawValue: statement.int()), destination: DestinationID(rawValue: statement.int()))
            tallies[pair] = Tally(
                pending: statement.int(), leased: statement.int(), stuck: statement.int(), jobBytes: statement.int(),
                files: statement.int(), directories: statement.int(), bytes: statement.int(), fuzzy: statement.int())
        }
        return tallies
    }
}

extension UnsavedEntry {
    static func report(_ connection: Connection, limit: Int) throws(SafeBackupError) -> [UnsavedEntry] {
        let statement = try connection.prepare(
            """
            SELECT * FROM (
                SELECT 'stuck', j.source_id, j.destination_id, j.path, ifnull(j.last_error_code, 'unknown'), j.last_error,
                    j.first_seen_at
                FROM pair p JOIN job j ON j.destination_id = p.destination_id AND j.source_id = p.source_id
                WHERE p.active = 1 AND j.state = 'stuck' AND j.state <> 'pending' LIMIT ?1)
            UNION ALL SELECT * FROM (
                SELECT 'failing', j.source_id, j.destination_id, j.path, j.last_error_code, j.last_error, j.first_seen_at
                FROM pair p JOIN job j ON j.destination_id = p.destination_id AND j.source_id = p.source_id
                WHERE p.active = 1 AND j.state = 'pending' AND j.last_error_code IS NOT NULL LIMIT ?1)
            UNION ALL SELECT * FROM (
                SELECT 'fuzzy', n.source_id, n.destination_id, \(ExposureQuery.namePath), 'torn', NULL, n.began_at
                FROM pair p JOIN name n ON n.source_id = p.source_id AND n.destination_id = p.destination_id
                WHERE p.active = 1 AND n.fuzzy = 1 AND n.ended_at IS NULL AND NOT EXISTS (SELECT 1 FROM job j
                    WHERE j.destination_id = n.destination_id AND j.source_id = n.source_id
                        AND j.path = \(ExposureQuery.namePath) AND j.last_error_code IS NOT NULL) LIMIT ?1)
            UNION ALL SELECT * FROM (
                SELECT 'notSaved', u.source_id, NULL, u.path, u.reason, NULL, u.seen_at
                FROM source s JOIN not_saved u ON u.source_id = s.id WHERE s.active = 1 LIMIT ?1)
            LIMIT ?1
            """)
        statement.bind(Int64(limit))
        var entries: [UnsavedEntry] = []
        while try statement.step() {
            var entry = UnsavedEntry(
                state: State(rawValue: statement.text()) ?? .failing, source: SourceID(rawValue: statement.int()),
                destination: statement.intOrNull().map(DestinationID.init(rawValue:)), path: statement.path(),
                code: statement.text(), message: statement.textOrNull(), since: statement.timestamp())
            if entry.state == .failing, let destination = entry.destination {
                // An agent that goes on has a job that reads the file again; after `run --once` there is none.
                let pair = PairKey(source: entry.source, destination: destination)
                if try connection.liveName(pair, entry.path)?.isFuzzy == true { entry.state = .fuzzy }
            }
            entries.append(entry)
        }
        return entries
    }
}
