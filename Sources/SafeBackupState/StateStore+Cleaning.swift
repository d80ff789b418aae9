package import SafeBackupCore
import SafeBackupSystem

/// What keeping room in a destination asks of the state.
extension StateStore {
    /// See `Connection.cleaningPage`.
    /// - Parameter looked: the sources whose stored copies were looked for since the start; only their deleted paths may
    ///   lose their last copies.
    package func cleaningCandidates(
        _ destination: DestinationID, _ stage: CleaningStage, looked: Set<SourceID>, after cursor: CleaningCursor,
        bytes: Int64, limit: Int
    ) throws(SafeBackupError) -> CleaningPage {
        try read { (connection) throws(SafeBackupError) in
            let sources = stage == .deleted ? try connection.cleanableSources(destination) : []
            return try connection.cleaningPage(
                destination, stage, of: sources.intersection(looked), after: cursor, bytes: bytes, limit: limit)
        }
    }

    /// Those of these versions that may go.
    package func cleaningCandidates(
        _ destination: DestinationID, of copies: [Int64]
    ) throws(SafeBackupError) -> [CleaningCandidate] {
        try read { (connection) throws(SafeBackupError) in
            var found: [CleaningCandidate] = []
            for copy in copies {
                if let candidate = try connection.cleaningCandidate(copy, destination, .versions, of: []) {
                    found.append(candidate)
                }
            }
            return found
        }
    }

    /// Marks those that may go, each looked at once more: the rule must say the same of it, with the same state of its
    /// path kept, as when the destination was asked. When this returns, a crash leaves them to be removed later, or to be
    /// kept after all.
    /// - Parameter absent: those that are not in the destination any more: they are only forgotten, for the reason `missing`.
    package func beginCleaning(
        _ destination: DestinationID, _ candidates: [CleaningCandidate], _ stage: CleaningStage, looked: Set<SourceID>,
        reason: String, absent: Set<Int64> = []
    ) throws(SafeBackupError) -> [Int64] {
        try write { (connection) throws(SafeBackupError) in
            let sources = stage == .deleted ? try connection.cleanableSources(destination) : []
            let moving = try leasedOrigins(destination, connection)
            let mark = try connection.statement("UPDATE copy SET removing = ? WHERE id = ? AND removing IS NULL")
            var marked: [Int64] = []
            for candidate in candidates where !moving.contains(candidate.copy.id) {
                let now = try connection.cleaningCandidate(
                    candidate.copy.id, destination, stage, of: sources.intersection(looked))
                guard now == candidate else { continue }
                let why = absent.contains(candidate.copy.id) ? "missing" : reason
                try mark.bind(text: why).bind(candidate.copy.id).run()
                if connection.changes == 1 { marked.append(candidate.copy.id) }
            }
            return marked
        }
    }

    /// What the paths of these copies, which are marked for removal, keep; see `Connection.keeper`.
    package func keepers(
        _ destination: DestinationID, of copies: [Int64]
    ) throws(SafeBackupError) -> [Int64: CataloguedCopy] {
        try read { (connection) throws(SafeBackupError) in
            var keepers: [Int64: CataloguedCopy] = [:]
            for copy in copies {
                if let keeper = try connection.keeper(of: copy, destination) { keepers[copy] = keeper }
            }
            return keepers
        }
    }

    /// The copies that a lease is about to move.
    private func leasedOrigins(
        _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> Set<Int64> {
        let select = try connection.statement(
            """
            SELECT origin_copy FROM job WHERE destination_id = ? AND state = 'leased' AND state <> 'pending'
                AND origin_copy IS NOT NULL
            """)
        defer { select.reset() }
        select.bind(destination.rawValue)
        var copies: Set<Int64> = []
        while try select.step() { copies.insert(select.int()) }
        return copies
    }

    // MARK: - Room

    /// What is known of the destination's room; `nil` before the first look.
    package func capacity(_ destination: DestinationID) throws(SafeBackupError) -> CapacityRecord? {
        try read { (connection) throws(SafeBackupError) in try CapacityRecord.read(destination, connection) }
    }

    /// The destination's room was looked at, or a cleaning has ended. `isChecked`: only what is stored from now on counts
    /// towards the next look.
    package func setCapacity(
        _ destination: DestinationID, _ record: CapacityRecord, isChecked: Bool
    ) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                """
                INSERT OR REPLACE INTO capacity (destination_id, checked_at, total, available, threshold, target, floor,
                    baseline, stored, missing, cleaned_at, cleaned_copies, cleaned_bytes, max_size, max_usage, pruned_at)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
                    (SELECT pruned_at FROM capacity WHERE destination_id = ?1))
                """
            ).bind(destination.rawValue).bind(record.checkedAt).bind(record.total.bytes).bind(record.available.bytes)
                .bind(record.threshold.bytes).bind(record.target.bytes).bind(record.floor.bytes)
                .bind(record.baseline.bytes).bind(record.stored).bind(text: record.missing).bind(record.cleanedAt)
                .bind(Int64(record.cleanedCopies)).bind(record.cleanedBytes).bind(record.maxSize?.bytes)
                .bind(record.maxUsagePercent.map { Int64(($0 * 100).rounded()) }).run()
            if !isChecked { return }
            try connection.statement(
                "UPDATE destination SET accumulated_size = 0 WHERE id = ? AND accumulated_size <> 0"
            )
            .bind(destination.rawValue).run()
        }
    }

    /// The size of the smallest job that waits for room; `nil`: none does.
    package func smallestWaitingForRoom(_ destination: DestinationID) throws(SafeBackupError) -> Int64? {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT min(ifnull(size, 0)), count(*) FROM job WHERE destination_id = ?1 AND state = 'pending'
                    AND last_error_code IS NOT NULL AND last_error_code = ?2
                """)
            defer { select.reset() }
            select.bind(destination.rawValue).bind(text: SafeBackupError.Code.destinationFull.rawValue)
            guard try select.step() else { return nil }
            let size = select.int()
            return select.int() > 0 ? size.countedSize : nil
        }
    }

    /// When the configured policy was last applied; set after it was.
    package func setPruned(_ destination: DestinationID) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE capacity SET pruned_at = ? WHERE destination_id = ?")
                .bind(now).bind(destination.rawValue).run()
        }
    }
}

/// What is known of a destination's room.
package struct CapacityRecord: Sendable, Hashable {
    package var checkedAt: Timestamp
    package var total: ByteCount
    package var available: ByteCount
    package var threshold: ByteCount
    package var target: ByteCount
    package var floor: ByteCount
    /// What was available when that was last enough, or at the first look.
    package var baseline: ByteCount
    /// Bytes that we stored since then, less those that we removed.
    package var stored: Int64
    /// Why the last cleaning did not free enough.
    package var missing: String?
    /// The last cleaning that removed something.
    package var cleanedAt: Timestamp?
    package var cleanedCopies = 0
    package var cleanedBytes: Int64 = 0
    package var prunedAt: Timestamp?
    /// What the backup may hold at most.
    package var maxSize: ByteCount?
    /// How much of the disk may be used.
    package var maxUsagePercent: Double?

    package init(
        checkedAt: Timestamp, total: ByteCount, available: ByteCount, threshold: ByteCount, target: ByteCount,
        floor: ByteCount, baseline: ByteCount, stored: Int64 = 0
    ) {
        self.checkedAt = checkedAt
        self.total = total
        self.available = available
        self.threshold = threshold
        self.target = target
        self.floor = floor
        self.baseline = baseline
        self.stored = stored
    }

    static func read(_ destination: DestinationID, _ connection: Connection) throws(SafeBackupError) -> CapacityRecord?
    {
        let select = try connection.statement(
            """
            SELECT checked_at, total, available, threshold, target, floor, baseline, stored, missing, cleaned_at,
                cleaned_copies, cleaned_bytes, pruned_at, max_size, max_usage
            FROM capacity WHERE destination_id = ?
            """)
        defer { select.reset() }
        guard try select.bind(destination.rawValue).step() else { return nil }
        var record = CapacityRecord(
            checkedAt: select.timestamp(), total: ByteCount(select.int()), available: ByteCount(select.int()),
            threshold: ByteCount(select.int()), target: ByteCount(select.int()), floor: ByteCount(select.int()),
            baseline: ByteCount(select.int()), stored: select.int())
        record.missing = select.textOrNull()
        record.cleanedAt = select.timestampOrNull()
        record.cleanedCopies = Int(select.int())
        record.cleanedBytes = select.int()
        record.prunedAt = select.timestampOrNull()
        record.maxSize = select.intOrNull().map { ByteCount($0) }
        record.maxUsagePercent = select.intOrNull().map { Double($0) / 100 }
        return record
    }
}
