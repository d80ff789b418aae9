package import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// What `safebackup status` shows.
package struct StateStatus: Sendable, Hashable {
    package struct Source: Sendable, Hashable {
        package var record: SourceRecord
        /// Of the destination that has most of it.
        package var files: Int
        package var bytes: Int64
        /// How many entries are not saved, by reason.
        package var notSaved: [String: Int]
        /// Entries that the rules leave out, as the last complete walk counted them; a directory is one, whatever is in
        /// it. `nil` before the first.
        package var excluded: Int?
        /// `nil`: nobody watches it.
        package var coverage: SourceCoverage?
        /// `nil` before the first periodic walk.
        package var drift: DriftRecord?
        /// It lost its last file, and has none since.
        package var emptied: EmptiedSource?
    }

    package struct Destination: Sendable, Hashable {
        package var record: DestinationRecord
        /// Sums over its active pairs.
        package var counts: QueueCounts
        /// When the oldest change that waits was first seen.
        package var oldestPending: Timestamp?
        /// Files among the first thousands that wait whose size is not known.
        package var unknownSizes: Int
        /// What waits because the destination is full.
        package var waitingForRoom: Backlog?
        /// `nil` before the first look.
        package var capacity: CapacityRecord?
    }

    /// Jobs, and their bytes as far as they are known.
    package struct Backlog: Sendable, Hashable {
        package var jobs: Int
        package var bytes: Int64
    }

    package struct Pair: Sendable, Hashable {
        package var record: PairRecord
        package var counts: QueueCounts
    }

    /// The release that opened the state last.
    package var release: String
    package var sources: [Source]
    package var destinations: [Destination]
    package var pairs: [Pair]
}

/// The state for those who only look: its own connection, beside a running agent or without one.
package final class StateReader: CatalogueReading {
    private let connection: Connection

    /// Opens the state in `directory`. Throws `stateFailed` when there is none, or when it may not be read, and
    /// `stateNewer`.
    package init(in directory: FilePath) throws(SafeBackupError) {
        connection = try Self.open(StateFile.path(in: directory))
        let version = try connection.number("PRAGMA user_version") ?? 0
        let application = try connection.number("PRAGMA application_id") ?? 0
        guard application == Schema.applicationID, version > 0 else {
            throw SafeBackupError(
                .stateFailed, "There is no state of safebackup in \(directory) yet; run the agent first",
                disposition: .permanent)
        }
        if version != Migrations.all.version {
            let isNewer = version > Migrations.all.version
            throw SafeBackupError(
                isNewer ? .stateNewer : .stateFailed,
                "The state database in \(directory) has schema \(version), this release reads "
                    + "\(Migrations.all.version); use \(isNewer ? "the newer release" : "the agent once, to migrate it")",
                disposition: .permanent)
        }
    }

    private static func open(_ path: FilePath) throws(SafeBackupError) -> Connection {
        do throws(SafeBackupError) {
            let connection = try Connection(path, .readOnly)
            try connection.execute("PRAGMA query_only = ON")
            // The file is opened, and the shared memory needed, only by the first read.
            _ = try connection.number("PRAGMA user_version")
            return connection
        } catch {
            // Without write access to the directory the shared memory cannot be made. Where nothing lies in the
            // write-ahead log, and so no agent runs, the file alone is the state.
            if error.code != .stateFailed { throw error }
            if try hasLog(path) { throw error }
            return try Connection(path, .immutable)
        }
    }

    private static func hasLog(_ path: FilePath) throws(SafeBackupError) -> Bool {
        do throws(Errno) {
            let folder = try Descriptor.open(path.removingLastComponent(), O_RDONLY | O_DIRECTORY)
            return try folder.status(of: StateFile.leaf + Array("-wal".utf8)).size > 0
        } catch {
            if error == .noSuchFileOrDirectory { return false }
            throw SafeBackupError(
                .stateFailed, "The state database \(path) may not be read: \(error.explanation)",
                disposition: .permanent, systemError: error.rawValue)
        }
    }

    /// See `Connection.work`.
    var work: Int { connection.work }

    func comparison(_ pair: PairKey) -> CatalogueComparison {
        CatalogueComparison(connection, pair, findsInodes: true)
    }

    /// Reads the whole database, and throws `stateDamaged` if SQLite finds it inconsistent. Takes a while for a large one.
    package func check() throws(SafeBackupError) {
        let verdict = try connection.string("PRAGMA quick_check(1)")
        if verdict == "ok" { return }
        throw SafeBackupError(
            .stateDamaged, "The state database is damaged: \(verdict ?? "no answer")", disposition: .permanent)
    }

    /// Runs `body` on one view of the database, which is given up when this returns.
    func read<R>(_ body: (Connection) throws(SafeBackupError) -> R) throws(SafeBackupError) -> R {
        try connection.statement("BEGIN").run()
        // Ignored beyond its effect: nothing was changed, and the next BEGIN tells if the connection is broken.
        defer { connection.rollBack() }
        return try body(connection)
    }

    package func status() throws(SafeBackupError) -> StateStatus {
        try read { (connection) throws(SafeBackupError) in try status(connection) }
    }

    private func status(_ connection: Connection) throws(SafeBackupError) -> StateStatus {
        let tallies = try Tally.all(connection)
        let pairs = try PairRecord.all(connection)
        var status = StateStatus(
            release: try connection.string("SELECT value FROM meta WHERE key = 'release'") ?? "unknown", sources: [],
            destinations: [], pairs: [])
        for pair in pairs {
            var counts = QueueCounts()
            counts.add(tallies[PairKey(source: pair.source, destination: pair.destination)] ?? Tally())
            status.pairs.append(StateStatus.Pair(record: pair, counts: counts))
        }
        for record in try SourceRecord.all(connection) {
            let counts = status.pairs.filter { $0.record.source == record.id }.map(\.counts)
            let largest = counts.max { $0.files < $1.files } ?? QueueCounts()
            status.sources.append(
                StateStatus.Source(
                    record: record, files: largest.files, bytes: largest.bytes, notSaved: try notSaved(record.id),
                    excluded: try excluded(record.id), coverage: try SourceCoverage.read(record.id, connection),
                    drift: try DriftRecord.newest(record.id, connection),
                    emptied: try EmptiedSource.read(record.id, connection)))
        }
        for record in try DestinationRecord.all(connection) {
            var counts = QueueCounts()
            for (pair, tally) in tallies where pair.destination == record.id {
                let isActive = pairs.contains {
                    $0.isActive && $0.source == pair.source && $0.destination == pair.destination
                }
                if isActive { counts.add(tally) }
            }
            let isIdle = counts.pending + counts.leased == 0
            let oldest = isIdle ? nil : try oldestPending(record.id)
            status.destinations.append(
                StateStatus.Destination(
                    record: record, counts: counts, oldestPending: oldest,
                    unknownSizes: isIdle ? 0 : try Self.unknownSizes(record.id, connection),
                    waitingForRoom: try waitingForRoom(record.id),
                    capacity: try CapacityRecord.read(record.id, connection)))
        }
        return status
    }

    private func notSaved(_ source: SourceID) throws(SafeBackupError) -> [String: Int] {
        let statement = try connection.statement(
            "SELECT reason, count(*) FROM not_saved WHERE source_id = ? GROUP BY reason")
        defer { statement.reset() }
        statement.bind(source.rawValue)
        var reasons: [String: Int] = [:]
        while try statement.step() {
            let reason = statement.text()
            reasons[reason] = Int(statement.int())
        }
        return reasons
    }

    private func excluded(_ source: SourceID) throws(SafeBackupError) -> Int? {
        let statement = try connection.statement("SELECT excluded FROM source WHERE id = ?")
        defer { statement.reset() }
        return try statement.bind(source.rawValue).step() ? statement.intOrNull().map { Int($0) } : nil
    }

    private func waitingForRoom(_ destination: DestinationID) throws(SafeBackupError) -> StateStatus.Backlog? {
        let statement = try connection.statement(
            """
            SELECT count(*), ifnull(sum(min(size, 17592186044416)), 0) FROM job
            WHERE destination_id = ?1 AND state = 'pending' AND last_error_code IS NOT NULL AND last_error_code = ?2
            """)
        defer { statement.reset() }
        statement.bind(destination.rawValue).bind(text: SafeBackupError.Code.destinationFull.rawValue)
        guard try statement.step() else { return nil }
        let backlog = StateStatus.Backlog(jobs: Int(statement.int()), bytes: statement.int())
        return backlog.jobs == 0 ? nil : backlog
    }

    private func oldestPending(_ destination: DestinationID) throws(SafeBackupError) -> Timestamp? {
        // Sequences grow with time: the first open job is the oldest, or near enough to it for people.
        let statement = try connection.statement(
            """
            SELECT j.first_seen_at FROM job j NOT INDEXED WHERE j.destination_id = ? AND j.state <> 'stuck'
                AND EXISTS (SELECT 1 FROM pair p WHERE p.source_id = j.source_id
                    AND p.destination_id = j.destination_id AND p.active = 1)
            ORDER BY j.sequence LIMIT 1
            """)
        defer { statement.reset() }
        return try statement.bind(destination.rawValue).step() ? statement.timestamp() : nil
    }

    /// Up to `limit` paths that are not, or not wholly, saved: stuck first, then failing, fuzzy, not saved.
    package func unsavedReport(limit: Int) throws(SafeBackupError) -> [UnsavedEntry] {
        try UnsavedEntry.report(connection, limit: limit)
    }

    // MARK: - Catalogue

    package func catalogueSources() throws(SafeBackupError) -> [CatalogueSource] {
        try SourceRecord.all(connection).map { CatalogueSource(id: $0.id, uuid: $0.uuid, path: $0.path) }
    }

    package func names(
        _ source: SourceID, _ destination: DestinationID, within path: RelativePath, _ scope: NameScope,
        depth: NameDepth, after cursor: NameCursor?, limit: Int
    ) throws(SafeBackupError) -> NamePage {
        try NameQuery(
            connection: connection, source: source, destination: destination, path: path, scope: scope, depth: depth
        ).page(after: cursor, limit: limit)
    }

    package func firstSave(
        _ source: SourceID, _ destination: DestinationID
    ) throws(SafeBackupError) -> FirstSave? {
        guard let began = try NameQuery.firstBegan(source, destination, connection) else { return nil }
        let pair = try PairRecord.all(connection).first { $0.source == source && $0.destination == destination }
        return FirstSave(began: began, ended: pair?.firstSaveAt)
    }
}
