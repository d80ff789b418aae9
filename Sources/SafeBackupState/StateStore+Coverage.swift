package import SafeBackupCore
import SafeBackupSystem

/// How much of a source the agent sees by events, and how it finds the rest.
package struct SourceCoverage: Sendable, Hashable {
    package enum Extent: String, Sendable, Hashable {
        /// Every directory is watched, and the file system tells every change.
        case events
        /// The directories that are not watched are looked at again and again.
        case partly
        /// All directories are looked at again and again.
        case polled
    }

    package var extent: Extent
    /// To be watched.
    package var directories: Int
    package var watched: Int
    /// Why it is not `events`, and what a person can do; `nil` for `events`.
    package var message: String?

    package init(extent: Extent, directories: Int, watched: Int, message: String? = nil) {
        self.extent = extent
        self.directories = directories
        self.watched = watched
        self.message = message
    }
}

/// What the last complete periodic walk found that no event had told of.
package struct DriftRecord: Sendable, Hashable {
    /// Differences; it should always be 0.
    package var count: Int
    package var at: Timestamp
}

extension StateStore {
    /// Notes how the source is seen now; `nil`: nobody watches it.
    package func setCoverage(_ source: SourceID, _ coverage: SourceCoverage?) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                "UPDATE source SET directories = ?, watched = ?, coverage = ?, coverage_message = ? WHERE id = ?"
            ).bind(coverage.map { Int64($0.directories) }).bind(coverage.map { Int64($0.watched) })
                .bind(text: coverage?.extent.rawValue).bind(text: coverage?.message).bind(source.rawValue).run()
        }
    }

    /// Compares listings of single directories with the live names, as a reconcile does, and queues what differs.
    /// `isKnown` tells of each listing that nothing differed and that no job may still change what is known of it.
    package func compare(
        _ source: SourceID, _ destinations: [DestinationID], _ directories: [ListedDirectory], rules: ComparisonRules,
        notBefore: Timestamp
    ) throws(SafeBackupError) -> (counts: ReconcileCounts, isKnown: [Bool]) {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            let newest = try newestReconcile(source, connection)
            var (total, isKnown) = (ReconcileCounts(), [Bool]())
            for directory in directories {
                let counts = try compare(
                    [directory], newest, source, destinations, rules, notBefore: notBefore, now: now, connection)
                total += counts
                let hasJobs = try hasJobs(below: directory.path, source, destinations, connection)
                isKnown.append(counts.differences == 0 && directory.failure == nil && !hasJobs)
            }
            return (total, isKnown)
        }
    }

    private func hasJobs(
        below path: RelativePath, _ source: SourceID, _ destinations: [DestinationID], _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let statement = try connection.statement(
            "SELECT 1 FROM job WHERE destination_id = ? AND source_id = ? AND path >= ? AND path < ? LIMIT 1")
        defer { statement.reset() }
        for destination in destinations {
            for range in PathRange.below(path) {
                statement.bind(destination.rawValue).bind(source.rawValue).bind(range.lower).bind(range.upper)
                if try statement.step() { return true }
                statement.reset()
            }
        }
        return false
    }

    /// Lets go of the pages that SQLite keeps for the next query. For a time of rest; they are read again when needed.
    package func releaseMemory() throws(SafeBackupError) {
        try read { (connection) throws(SafeBackupError) in try connection.execute("PRAGMA shrink_memory") }
    }

    /// What is noted with its number is forgotten by the next complete walk that does not see it.
    func newestReconcile(_ source: SourceID, _ connection: Connection) throws(SafeBackupError) -> ReconcileID {
        let statement = try connection.statement("SELECT max(id) FROM reconcile WHERE source_id = ?")
        defer { statement.reset() }
        return ReconcileID(rawValue: try statement.bind(source.rawValue).step() ? statement.int() : 0)
    }
}

extension SourceCoverage {
    /// `nil`: nobody watches.
    static func read(_ source: SourceID, _ connection: Connection) throws(SafeBackupError) -> SourceCoverage? {
        let statement = try connection.statement(
            "SELECT directories, watched, coverage, coverage_message FROM source WHERE id = ?")
        defer { statement.reset() }
        guard try statement.bind(source.rawValue).step() else { return nil }
        let (directories, watched) = (statement.intOrNull() ?? 0, statement.intOrNull() ?? 0)
        guard let extent = statement.textOrNull().flatMap(Extent.init(rawValue:)) else { return nil }
        return SourceCoverage(
            extent: extent, directories: Int(directories), watched: Int(watched), message: statement.textOrNull())
    }
}

extension DriftRecord {
    /// `nil` before the first periodic walk has ended.
    static func newest(_ source: SourceID, _ connection: Connection) throws(SafeBackupError) -> DriftRecord? {
        let statement = try connection.statement(
            """
            SELECT drift, ended_at FROM reconcile WHERE source_id = ? AND reason = 'periodic' AND complete = 1
            ORDER BY id DESC LIMIT 1
            """)
        defer { statement.reset() }
        guard try statement.bind(source.rawValue).step() else { return nil }
        return DriftRecord(count: Int(statement.int()), at: statement.timestamp())
    }
}

// MARK: - Drift

/// When a difference counts as one that an event should have told.
package struct DriftRule: Sendable, Hashable {
    /// What was saved, or ended, since then, may be newer than the listing.
    package var walkBegan: Timestamp
    /// What changed since then may be on its way still.
    package var quietSince: Timestamp

    package init(walkBegan: Timestamp, quietSince: Timestamp) {
        self.walkBegan = walkBegan
        self.quietSince = quietSince
    }

    /// Whether what is at the source has been as it is for long enough. What came or went changed its directory's times.
    func isQuiet(_ statuses: [FileStatus?]) -> Bool {
        statuses.compactMap(\.self).flatMap { [$0.fingerprint.mtime, $0.fingerprint.ctime] }
            .allSatisfy { $0.nanoseconds / 1_000 < quietSince.microseconds }
    }

    /// Whether the catalogue has been as it is since before the walk.
    func isQuiet(
        _ pair: PairKey, _ path: RelativePath, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        for condition in ["IS NULL", "IS NOT NULL"] {
            // One statement for each of the two partial indexes.
            let statement = try connection.prepare(
                """
                SELECT 1 FROM name WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf = ?
                    AND ended_at \(condition) AND max(began_at, ifnull(ended_at, 0)) >= ? LIMIT 1
                """)
            statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path).bind(walkBegan)
            if try statement.step() { return false }
        }
        return true
    }
}
