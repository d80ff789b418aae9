package import SafeBackupCore

/// A part of what a destination does not hold of a source, by one reason.
package struct ExposurePart: Sendable, Hashable {
    package var source: SourceID
    package var destination: DestinationID
    /// A phase of jobs (`saving`, `settling`, `queued`, `failing`, `stuck`, `held`, `paused`), `fuzzy`, or a `SkipReason`.
    package var reason: String
    /// Entries that are no directories.
    package var files: Int
    package var directories: Int
    /// Of the files whose size is known.
    package var bytes: Int64
    package var filesOfUnknownSize: Int
    /// When the oldest change was first seen.
    package var oldestAt: Timestamp
}

/// The SQL that the verb and the view `v_exposure` share, so that they agree.
enum ExposureQuery {
    /// A name's path as `job.path` holds it: TEXT where both parts are, else the same bytes as a BLOB.
    static let namePath = """
        CASE WHEN typeof(n.parent) = 'blob' OR typeof(n.leaf) = 'blob'
        THEN CASE WHEN length(n.parent) = 0 THEN n.leaf ELSE CAST(n.parent || '/' || n.leaf AS BLOB) END
        WHEN n.parent = '' THEN n.leaf ELSE n.parent || '/' || n.leaf END
        """

    /// What keeps a job waiting. `now`: an expression for the time in microseconds; `j`, `s` and `d` are its tables. A
    /// job that failed on a fuzzy path waits to replace the copy.
    static func phase(now: String) -> String {
        """
        CASE WHEN j.state = 'stuck' THEN 'stuck'
            WHEN s.held_reason IS NOT NULL OR d.held_reason IS NOT NULL THEN 'held'
            WHEN s.paused_at IS NOT NULL OR d.paused_at IS NOT NULL THEN 'paused'
            WHEN j.state = 'leased' THEN 'saving'
            WHEN j.last_error_code IS NOT NULL THEN CASE WHEN (j.source_id, j.destination_id, j.path) IN
                (SELECT n.source_id, n.destination_id, \(namePath) FROM name n WHERE n.fuzzy = 1 AND n.ended_at IS NULL)
                THEN 'fuzzy' ELSE 'failing' END
            WHEN j.not_before > \(now) THEN 'settling' ELSE 'queued' END
        """
    }

    /// source_id, destination_id, reason, files, directories, bytes, unknown_size, oldest_at of the active pairs. A
    /// delete that waits exposes nothing: what it is about is gone from the source, and in the backup.
    static func parts(now: String) -> String {
        """
        SELECT j.source_id, j.destination_id, \(phase(now: now)) AS reason, count(*) FILTER (WHERE NOT j.is_directory)
                AS files, count(*) FILTER (WHERE j.is_directory) AS directories,
            ifnull(sum(min(j.size, 17592186044416)) FILTER (WHERE NOT j.is_directory), 0) AS bytes,
            count(*) FILTER (WHERE NOT j.is_directory AND j.size IS NULL) AS unknown_size,
            min(j.first_seen_at) AS oldest_at
        FROM job j NOT INDEXED CROSS JOIN pair p ON p.source_id = j.source_id AND p.destination_id = j.destination_id
            JOIN source s ON s.id = j.source_id JOIN destination d ON d.id = j.destination_id
        WHERE p.active = 1 AND j.action <> 'delete' GROUP BY 1, 2, 3
        UNION ALL
        SELECT n.source_id, n.destination_id, 'fuzzy', count(*), 0, sum(min(n.size, 17592186044416)), 0, min(n.began_at)
        FROM name n JOIN pair p ON p.source_id = n.source_id AND p.destination_id = n.destination_id AND p.active = 1
        WHERE n.fuzzy = 1 AND n.ended_at IS NULL AND NOT EXISTS (SELECT 1 FROM job j
            WHERE j.destination_id = n.destination_id AND j.source_id = n.source_id AND j.path = \(namePath)
                AND j.action <> 'delete')
        GROUP BY 1, 2
        UNION ALL
        SELECT u.source_id, p.destination_id, u.reason, count(*) FILTER (WHERE ifnull(u.kind, '') <> 'directory'),
            count(*) FILTER (WHERE u.kind = 'directory'), 0,
            count(*) FILTER (WHERE ifnull(u.kind, 'file') = 'file'), min(u.seen_at)
        FROM not_saved u JOIN pair p ON p.source_id = u.source_id AND p.active = 1 GROUP BY 1, 2, 3
        """
    }
}

extension StateReader {
    /// What the destinations do not hold of the sources, of active pairs, by reason.
    package func exposure(now: Timestamp) throws(SafeBackupError) -> [ExposurePart] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.prepare(ExposureQuery.parts(now: "?1"))
            statement.bind(now)
            var parts: [ExposurePart] = []
            while try statement.step() {
                parts.append(
                    ExposurePart(
                        source: SourceID(rawValue: statement.int()),
                        destination: DestinationID(rawValue: statement.int()), reason: statement.text(),
                        files: Int(statement.int()), directories: Int(statement.int()), bytes: statement.int(),
                        filesOfUnknownSize: Int(statement.int()), oldestAt: statement.timestamp()))
            }
            return parts
        }
    }

    /// Files of a pair that wait and whose size no change told, after a sequence, with what keeps them waiting.
    package func jobsOfUnknownSize(
        _ source: SourceID, _ destination: DestinationID, after sequence: Int64, limit: Int, now: Timestamp
    ) throws(SafeBackupError) -> [(sequence: Int64, path: RelativePath, reason: String)] {
        try read { (connection) throws(SafeBackupError) in
            // By its rowid the table is read once over all pages; by an index each page would read and sort all of it.
            let statement = try connection.prepare(
                """
                SELECT j.sequence, j.path, \(ExposureQuery.phase(now: "?1")) FROM job j NOT INDEXED
                    CROSS JOIN source s ON s.id = j.source_id JOIN destination d ON d.id = j.destination_id
                WHERE j.sequence > ?2 AND j.source_id = ?3 AND j.destination_id = ?4 AND j.size IS NULL
                    AND NOT j.is_directory AND j.action <> 'delete' ORDER BY j.sequence LIMIT ?5
                """)
            statement.bind(now).bind(sequence).bind(source.rawValue).bind(destination.rawValue).bind(Int64(limit))
            var jobs: [(sequence: Int64, path: RelativePath, reason: String)] = []
            while try statement.step() { jobs.append((statement.int(), statement.path(), statement.text())) }
            return jobs
        }
    }

    /// The newest thing that an agent is known to have done: until then it worked. `nil`: there is none.
    package func lastSignOfLife() throws(SafeBackupError) -> Timestamp? {
        try read { (connection) throws(SafeBackupError) in
            // Ids grow with time, so that each question ends at the first row.
            let newest =
                try connection.number(
                    """
                    SELECT max(ifnull((SELECT at FROM journal WHERE event IN ('started', 'stopped') ORDER BY id DESC LIMIT 1), 0),
                        ifnull((SELECT began_at FROM name ORDER BY id DESC LIMIT 1), 0),
                        ifnull((SELECT first_seen_at FROM job ORDER BY sequence DESC LIMIT 1), 0),
                        ifnull((SELECT max(began_at, ifnull(ended_at, 0)) FROM reconcile ORDER BY id DESC LIMIT 1), 0),
                        ifnull((SELECT max(max(ifnull(last_proof_at, 0), ifnull(catalogue_exported_at, 0))) FROM destination), 0))
                    """) ?? 0
            return newest == 0 ? nil : Timestamp(microseconds: newest)
        }
    }
}
