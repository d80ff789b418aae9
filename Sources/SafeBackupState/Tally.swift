import SafeBackupCore

/// A source and a destination.
struct PairKey: Hashable {
    var source: SourceID
    var destination: DestinationID
}

enum JobState: String {
    case pending
    case leased
    case stuck

    /// Work that is still to be done without anybody's help.
    var isOpen: Bool { self != .stuck }
}

/// How many rows of each kind a pair has, or by how much a transaction changes that.
struct Tally: Equatable {
    var pending: Int64 = 0
    var leased: Int64 = 0
    var stuck: Int64 = 0
    var jobBytes: Int64 = 0
    var files: Int64 = 0
    var directories: Int64 = 0
    var bytes: Int64 = 0
    var fuzzy: Int64 = 0

    /// `sign` is 1 for a job that is there now, -1 for one that was.
    mutating func count(_ state: JobState, size: Int64?, sign: Int64) {
        switch state {
        case .pending: pending += sign
        case .leased: leased += sign
        case .stuck: stuck += sign
        }
        if state.isOpen { jobBytes += sign * (size ?? 0).countedSize }
    }

    /// `sign` is 1 for a name that is live now, -1 for one that was.
    mutating func count(_ kind: EntryKind, size: Int64, isFuzzy: Bool, sign: Int64) {
        if kind == .directory {
            directories += sign
        } else {
            files += sign
            bytes += sign * size.countedSize
        }
        if isFuzzy { fuzzy += sign }
    }

    /// Adds the changes of one transaction to the table.
    static func add(_ changes: [PairKey: Tally], to connection: Connection) throws(SafeBackupError) {
        for (pair, change) in changes where change != Tally() {
            let statement = try connection.statement(
                """
                INSERT INTO tally (source_id, destination_id, pending, leased, stuck, job_bytes, files, directories,
                    bytes, fuzzy)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT DO UPDATE SET pending = pending + excluded.pending, leased = leased + excluded.leased,
                    stuck = stuck + excluded.stuck, job_bytes = job_bytes + excluded.job_bytes,
                    files = files + excluded.files, directories = directories + excluded.directories,
                    bytes = bytes + excluded.bytes, fuzzy = fuzzy + excluded.fuzzy
                """)
            try statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(change.pending)
                .bind(change.leased).bind(change.stuck).bind(change.jobBytes).bind(change.files)
                .bind(change.directories).bind(change.bytes).bind(change.fuzzy).run()
        }
    }
}
