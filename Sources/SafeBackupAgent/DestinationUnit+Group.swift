import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// What becomes of a group of leased jobs.
extension DestinationUnit {
    /// One group beside others: each of them must move.
    func carryApart(_ group: [LeasedJob], newestName: Int64) async {
        do throws(SafeBackupError) {
            try await Vitals.loop("group to \(printable(target.location))") { () throws(SafeBackupError) in
                await carry(group, newestName: newestName)
            }
        } catch {
            failure.withLock { $0 = $0 ?? error }
        }
    }

    /// One group from lease to catalogue. What waits for it can go on then.
    func carry(_ group: [LeasedJob], newestName: Int64) async {
        let (trees, readable) = await openSources(of: group)
        progress.storing(readable.first?.job.path)
        let outcomes = await target.store(readable, from: trees)
        do throws(SafeBackupError) {
            if readable.count < group.count {
                let later = clock.now + .seconds(2)
                try await release(group.filter { trees[$0.job.source] == nil }.map { ($0.job, later) })
            }
            try await settle(readable, outcomes, newestName: newestName)
            try await end(group)
        } catch {
            forgetOrigins(of: group)
            failure.withLock { $0 = $0 ?? error }
        }
    }

    /// The roots that the group reads from, open for the time of the group, and the jobs that have one: of a source that
    /// went away nothing is tried, and nothing has failed.
    private func openSources(
        of group: [LeasedJob]
    ) async -> (trees: [SourceID: ConfinedDirectory], readable: [LeasedJob]) {
        let roots = Set(group.map(\.job.source)).map { ($0, sources[$0]?.knownRoot) }
        let trees = await io.run {
            var trees: [SourceID: ConfinedDirectory] = [:]
            for (source, root) in roots {
                do throws(SafeBackupError) {
                    trees[source] = try root?.opened(staysOnMount: true)
                } catch {
                    continue  // ignored because the source itself looks now, and is held
                }
            }
            return trees
        }
        for (source, _) in roots where trees[source] == nil { sources[source]?.lookAgain() }
        return (trees, group.filter { trees[$0.job.source] != nil })
    }

    /// Nothing was written for these jobs, and nothing has failed: they wait.
    private func release(_ jobs: [(DueJob, Timestamp)]) async throws(SafeBackupError) {
        if jobs.isEmpty { return }
        let id = id
        try await state.durably { (store) throws(SafeBackupError) in try store.release(id, jobs) }
    }

    private func settle(
        _ group: [LeasedJob], _ outcomes: [JobOutcome], newestName: Int64
    ) async throws(SafeBackupError) {
        var completions: [Completion] = []
        var gone: [DueJob] = []
        var unsettled: [DueJob] = []
        var failures: [(LeasedJob, SafeBackupError)] = []
        var (files, bytes) = (0, Int64(0))
        for (lease, outcome) in zip(group, outcomes) {
            switch outcome {
            case .stored(let entry):
                var requeueAt: Timestamp?
                if entry.isFuzzy && requeuesFuzzy { requeueAt = clock.now + .seconds(300) }
                completions.append(
                    Completion(job: lease.job, outcome: .stored(entry), requeueAt: requeueAt))
                if case .copied(let copy) = entry.content {
                    files += 1
                    bytes += copy.size
                }
            case .gone: gone.append(lease.job)
            case .failed(let error) where error.code == .unsettled: unsettled.append(lease.job)
            case .failed(let error): failures.append((lease, error))
            }
        }
        var vanished: [DueJob] = []
        for (job, verdict) in await confirm(gone) {
            switch verdict {
            case .absent:
                // What was saved under it may just be found under another path: see `prepare`.
                if job.live?.copy != nil {
                    vanished.append(job)
                } else {
                    completions.append(Completion(job: job, outcome: .ended(namesUpTo: newestName)))
                }
            case .present:
                let error = SafeBackupError(
                    .changedKind, "\(job.path) came and went while it was read", disposition: .transient)
                completions.append(failed(job, error))
            case .unknown(let error): completions.append(failed(job, error))
            }
        }
        try await finish(completions)
        try await noteAbsent(vanished)
        let (now, probe) = (clock.now, target.writerProbe)
        try await release(unsettled.map { ($0, probe?.retry(firstSeen: $0.firstSeenAt, now: now) ?? now) })
        if files > 0 { progress.saved(files: files, bytes: bytes) }
        if failures.isEmpty { return }
        // Something may have been under way: the disk decides before anything is tried again.
        if let away = failures.first(where: { $0.1.disposition.isOfDestination }) {
            throw away.1
        }
        let id = id
        let recovered = try await target.recover(failures.map(\.0))
        try await state.durably { (store) throws(SafeBackupError) in
            try store.recover(id, recovered)
        }
        // What a stop interrupted has not failed: its recovered lease is pending as before.
        try await finish(failures.filter { $0.1.code != .interrupted }.map { failed($0.0.job, $0.1) })
    }

    func failed(_ job: DueJob, _ error: SafeBackupError) -> Completion {
        var verdict = backoff.verdict(
            for: error.disposition, attempts: job.attempts + 1, jitter: Double.random(in: 0..<1))
        // It goes by when it is unmounted, which a walk finds too.
        if error.code == .otherFileSystem { verdict = .retry(after: .seconds(60), countsAttempt: false) }
        if error.disposition == .destinationFull {
            verdict = .retry(after: room.withLock { $0.refused(at: .now) }, countsAttempt: false)
        }
        switch verdict {
        case .stuck:
            logger.error(
                .stuck, "A path cannot be saved; it is stuck",
                metadata: ["path": "\(job.path)", "error.code": "\(error.code)", "error": "\(error.message)"])
        case .retry(let wait, _):
            logger.log(
                .willRetry, level: error.code == .torn || error.code == .interrupted ? .debug : .warning,
                "A path will be tried again",
                metadata: [
                    "path": "\(job.path)", "error.code": "\(error.code)", "error": "\(error.message)",
                    "wait": "\(secondsText(wait))",
                ])
        }
        return Completion(job: job, outcome: .failed(error, verdict))
    }

    /// How many older versions a path has at most. Where a policy says what is kept, it alone does.
    var versionLimit: Int { policy.hasRules ? VersionThinning.policyLimit : VersionThinning.limit }

    func finish(_ completions: [Completion]) async throws(SafeBackupError) {
        if completions.isEmpty { return }
        let (id, versionLimit) = (id, versionLimit)
        let result = try await state.durably { (store) throws(SafeBackupError) in
            try store.complete(id, completions, versionLimit: versionLimit)
        }
        Faults.reach("completed")
        countStored(result.room, released: result.released, copies: completions.count(where: \.isStored))
        if completions.contains(where: \.foundNoRoom) { foundNoRoom() }
        for emptied in result.emptied {
            guard let path = sources[emptied.source]?.settings.path.bytes else { continue }
            logger.warning(
                .emptied, "A source has no file any more; nothing is removed from the backup",
                metadata: ["source.path": "\(printable(path))", "advice": "\(emptied.advice(path))"])
        }
        if !result.excessVersions.isEmpty {
            let copies = result.excessVersions.map(\.id)
            try await state.durably { (store) throws(SafeBackupError) in
                _ = try store.beginRemoval(id, copies, reason: "versionLimit")
            }
        }
        if !result.excessVersions.isEmpty || result.hasRemovals { try await finishRemovals() }
    }
}

extension Completion {
    fileprivate var isStored: Bool {
        if case .stored = outcome { return true }
        return false
    }

    fileprivate var foundNoRoom: Bool {
        if case .failed(let error, _) = outcome { return error.disposition == .destinationFull }
        return false
    }
}
