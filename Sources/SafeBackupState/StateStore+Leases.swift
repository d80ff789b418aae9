package import SafeBackupCore
import SafeBackupSystem

/// The right to work on jobs, and what was planned for them.
extension StateStore {
    /// Marks jobs as leased, with what was planned for them; gives those that were still pending, and whose source and
    /// destination are neither held, paused nor inactive now. When this returns, a power cut leaves `leases` able to tell what
    /// was about to be written. Done once more, because nobody knows whether the first time stands, it gives what the
    /// first time took.
    @discardableResult
    package func lease(
        _ destination: DestinationID, _ jobs: [LeasedJob]
    ) throws(SafeBackupError) -> [LeasedJob] {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            var taken: [LeasedJob] = []
            // A hold may have come since the jobs were due.
            let sources =
                try isStopped(destination, connection)
                ? [] : Set(try runnable(destination, connection).map(\.source))
            taken.reserveCapacity(jobs.count)
            let update = try connection.statement(
                """
                UPDATE job SET state = 'leased', leased_generation = ?1, leased_action = ?2, leased_at = ?3,
                    leased_upto = ?4, stage_name = ?5, version = ?6, version_reason = ?7, obstruction = ?8,
                    obstruction_version = ?9, final_kind = ?10, final_inode = ?11, final_size = ?12, final_mtime_ns = ?13,
                    origin_path = ?16, origin_copy = ?17,
                    settle_by = CASE WHEN generation = ?1 THEN NULL ELSE settle_by END, backoff_until = NULL
                WHERE sequence = ?14 AND state = 'pending' AND destination_id = ?15
                """)
            for lease in jobs {
                let (job, plan) = (lease.job, lease.plan)
                if !sources.contains(job.source) {
                    if try isTaken(lease, destination, connection) { taken.append(lease) }
                    continue
                }
                update.bind(job.generation).bind(text: job.action.rawValue).bind(now).bind(lastNumber)
                    .bind(text: plan.stageName).bind(path: plan.version?.bytes)
                    .bind(text: plan.versionReason?.rawValue).bind(path: plan.obstruction?.bytes)
                    .bind(path: plan.obstructionVersion?.bytes)
                switch plan.final {
                case .absent: update.bind(text: "absent").bindNull().bindNull().bindNull()
                case .present(let kind, let inode, let size, let mtime):
                    update.bind(text: kind.rawValue).bind(bits: inode).bind(size).bind(mtime)
                }
                try update.bind(job.sequence).bind(destination.rawValue).bind(path: job.origin?.path.bytes)
                    .bind(job.origin?.copy.id).run()
                if connection.changes == 0 {
                    if try isTaken(lease, destination, connection) { taken.append(lease) }
                    continue
                }
                note(PairKey(source: job.source, destination: destination)) {
                    $0.pending -= 1
                    $0.leased += 1
                }
                taken.append(lease)
            }
            return taken
        }
    }

    /// Whether the job is leased with this plan: its stage name was made for it.
    private func isTaken(
        _ lease: LeasedJob, _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let select = try connection.statement(
            """
            SELECT 1 FROM job WHERE sequence = ? AND state = 'leased' AND leased_generation = ? AND stage_name = ?
                AND destination_id = ?
            """)
        defer { select.reset() }
        return try select.bind(lease.job.sequence).bind(lease.job.generation).bind(text: lease.plan.stageName)
            .bind(destination.rawValue).step()
    }

    /// Up to `limit` leases that are not finished, with the catalogue as it is now, oldest first.
    package func leases(_ destination: DestinationID, limit: Int) throws(SafeBackupError) -> [LeasedJob] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT source_id, path, sequence, leased_generation, leased_action, attempts, first_seen_at, hash_first,
                    origin_path, origin_copy, stage_name, version, version_reason, obstruction, obstruction_version,
                    final_kind, final_inode, final_size, final_mtime_ns
                FROM job WHERE state = 'leased' AND state <> 'pending' AND destination_id = ? ORDER BY sequence LIMIT ?
                """)
            defer { statement.reset() }
            statement.bind(destination.rawValue).bind(Int64(limit))
            var leases: [LeasedJob] = []
            while try statement.step() {
                let pair = PairKey(source: SourceID(rawValue: statement.int()), destination: destination)
                let path = statement.path()
                var job = DueJob(
                    source: pair.source, path: path, location: try prefix(pair, connection).appending(path),
                    sequence: statement.int(), generation: statement.int(),
                    action: JobAction(rawValue: statement.text()) ?? .store, attempts: Int(statement.int()),
                    firstSeenAt: statement.timestamp(), hashFirst: statement.bool())
                let (origin, copy) = (statement.pathOrNull(), statement.intOrNull())
                try connection.look(&job, pair)
                if let origin, let copy { job.origin = try connection.origin(origin, copy) }
                leases.append(LeasedJob(job: job, plan: LeasePlan.read(statement)))
            }
            return leases
        }
    }

    /// Leased jobs are pending again, without a failure; a newer change keeps its own time.
    package func release(
        _ destination: DestinationID, _ jobs: [(job: DueJob, notBefore: Timestamp)]
    ) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement(
                """
                UPDATE job SET state = 'pending',
                    not_before = CASE WHEN generation = leased_generation THEN ? ELSE not_before END,
                    leased_generation = NULL, leased_action = NULL, leased_at = NULL, leased_upto = NULL,
                    stage_name = NULL, version = NULL, version_reason = NULL, obstruction = NULL,
                    obstruction_version = NULL, final_kind = NULL, final_inode = NULL, final_size = NULL,
                    final_mtime_ns = NULL, origin_path = NULL, origin_copy = NULL
                WHERE sequence = ? AND state = 'leased' AND destination_id = ?
                """)
            for (job, notBefore) in jobs {
                try update.bind(notBefore).bind(job.sequence).bind(destination.rawValue).run()
                if connection.changes == 0 { continue }
                note(PairKey(source: job.source, destination: destination)) {
                    $0.leased -= 1
                    $0.pending += 1
                }
            }
        }
    }
}

extension LeasePlan {
    /// Reads stage_name, version, version_reason, obstruction, obstruction_version, final_kind, final_inode, final_size,
    /// final_mtime_ns.
    static func read(_ row: Statement) -> LeasePlan {
        let stage = row.text()
        let version = row.pathOrNull()
        let reason = row.textOrNull().flatMap(VersionReason.init(rawValue:))
        let obstruction = row.pathOrNull()
        let obstructionVersion = row.pathOrNull()
        let kind = EntryKind(rawValue: row.text())
        let (inode, size, mtime) = (row.bits(), row.intOrNull(), row.fileTime())
        var final = FinalState.absent
        if let kind, let inode, let size, let mtime {
            final = .present(kind: kind, inode: inode, size: size, mtime: mtime)
        }
        return LeasePlan(
            stageName: stage, final: final, version: version, versionReason: reason, obstruction: obstruction,
            obstructionVersion: obstructionVersion)
    }
}
