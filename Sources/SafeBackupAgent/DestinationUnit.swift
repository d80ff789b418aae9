import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import Synchronization
import SystemPackage

/// One destination at work: attaches it, recovers what was leased, and drains its jobs in groups.
package final class DestinationUnit: Sendable {
    /// Bounds of one group; `syncfs` also writes the neighbours' dirty data, so a group is not too large.
    struct GroupLimits: Sendable {
        var jobs = 1_000
        /// Also bounds what a stop must wait for on a slow disk. A larger file is a group of its own.
        var bytes: Int64 = 64 << 20
        /// Groups in flight at once, each on an I/O thread.
        var lanes = 4
    }

    let id: DestinationID
    let local: LocalDestination
    private let sentinel: String
    let state: StateAccess
    let sources: [SourceID: SourceUnit]
    let io: ThreadExecutor
    let clock: WallClock
    private let stop: StopSignal
    private let backoff: BackoffPolicy
    private let limits: GroupLimits
    private let requeuesFuzzy: Bool
    private let logger: Logger
    private let progress: Progress
    private let wake = TaskSignal()
    /// Why the drain must end and the destination be attached again.
    private let failure = Locked<SafeBackupError?>(nil)
    private let lanesInUse = Atomic(0)
    /// When each reason for another try was logged last.
    private let told = Locked<[SafeBackupError.Code: ContinuousClock.Instant]>([:])
    /// Paths whose copies are being moved away: nothing is stored there meanwhile.
    let origins = Locked<Set<MovingPath>>([])
    /// What the log said last about the hold.
    private let heldFor = Locked<SafeBackupError.Code?>(nil)

    init(
        id: DestinationID, local: LocalDestination, sentinel: String, state: StateAccess,
        sources: [SourceID: SourceUnit], io: ThreadExecutor, clock: WallClock, stop: StopSignal,
        backoff: BackoffPolicy, limits: GroupLimits, requeuesFuzzy: Bool, logger: Logger, progress: Progress
    ) {
        self.id = id
        self.local = local
        self.sentinel = sentinel
        self.state = state
        self.sources = sources
        self.io = io
        self.clock = clock
        self.stop = stop
        self.backoff = backoff
        self.limits = limits
        self.requeuesFuzzy = requeuesFuzzy
        self.logger = logger
        self.progress = progress
    }

    /// Jobs may have become due.
    func kick() { wake.signal() }

    // MARK: Life

    /// Drains until the stop is requested; holds the destination while it is away.
    func run() async throws(SafeBackupError) {
        stop.onRequest { self.wake.signal() }
        while !stop.isRequested {
            do throws(SafeBackupError) {
                try await attach()
                try await drain { false }
            } catch {
                try await holdOrThrow(error)
                await wake.wait(atMost: .seconds(2))
            }
        }
        await local.detach()
    }

    /// Drains until no job up to `sequence` is left that could still be done now.
    /// - Throws: the reason if the destination is away.
    func drainOnce(upTo sequence: @Sendable () -> Int64?) async throws(SafeBackupError) {
        stop.onRequest { self.wake.signal() }
        let id = id
        try await drain { () throws(SafeBackupError) in
            guard let sequence = sequence() else { return false }
            return try await self.state.durably { (store) throws(SafeBackupError) in
                let left = try store.outstanding(id, upTo: sequence)
                if left.hasUntried { return false }
                if !left.hasFailed { return true }
                // What only waits for space would be waited for without end.
                return try store.unsavedReport(limit: 10_000).allSatisfy { entry in
                    entry.state != .failing || entry.code == SafeBackupError.Code.destinationFull.rawValue
                }
            }
        }
    }

    /// Opens the destination if its sentinel is there, and brings catalogue and disk together.
    func attach() async throws(SafeBackupError) {
        try await local.attach(expecting: sentinel)
        let id = id
        // All at once: where a copy moved may be another lease's matter, and there are no more than the lanes carried.
        let leaseLimit = 2 * limits.lanes * limits.jobs
        while true {
            let leases = try await state.durably { (store) throws(SafeBackupError) in
                try store.leases(id, limit: leaseLimit)
            }
            if leases.isEmpty { break }
            let recovered = try await local.recover(leases)
            try await state.durably { (store) throws(SafeBackupError) in
                try store.recover(id, recovered)
            }
            logger.info("Unfinished work was recovered", metadata: ["jobs": "\(recovered.count)"])
        }
        try await local.emptyStaging()
        try await finishRemovals()
        try await state.durably { (store) throws(SafeBackupError) in try store.clearHold(id) }
        heldFor.withLock { $0 = nil }
        failure.withLock { $0 = nil }
    }

    private func holdOrThrow(_ error: SafeBackupError) async throws(SafeBackupError) {
        if error.code == .stateFailed || error.code == .stateDamaged { throw error }
        await local.detach()
        guard error.disposition == .destinationUnavailable else {
            logger.error(
                "The destination failed; it is tried again",
                metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
            return
        }
        let id = id
        try await state.durably { (store) throws(SafeBackupError) in try store.hold(id, error) }
        let isNew = heldFor.withLock { held in
            defer { held = error.code }
            return held != error.code
        }
        if isNew {
            logger.error(
                "The destination is held; its jobs wait",
                metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
        }
    }

    // MARK: Drain

    private func drain(until isDone: () async throws(SafeBackupError) -> Bool) async throws(SafeBackupError) {
        let id = id
        let limits = limits
        let problem = await withDiscardingTaskGroup { lanes in
            do throws(SafeBackupError) {
                while !self.stop.isRequested {
                    if let failure = self.failure.withLock({ $0 }) { return failure as SafeBackupError? }
                    let inUse = self.lanesInUse.load(ordering: .acquiring)
                    if inUse >= limits.lanes {
                        await self.wake.wait()
                        continue
                    }
                    let now = self.clock.now
                    let batch = try await self.state.durably { (store) throws(SafeBackupError) in
                        try store.due(id, limit: limits.jobs, byteLimit: limits.bytes, now: now)
                    }
                    if !batch.jobs.isEmpty {
                        let (group, isAlone) = try await self.prepare(batch)
                        if group.isEmpty { continue }
                        let newest = batch.newestName
                        if isAlone {
                            await self.carry(group, newestName: newest)
                            continue
                        }
                        self.lanesInUse.add(1, ordering: .acquiringAndReleasing)
                        lanes.addTask {
                            await self.carry(group, newestName: newest)
                            self.lanesInUse.subtract(1, ordering: .acquiringAndReleasing)
                            self.wake.signal()
                        }
                        continue
                    }
                    if inUse == 0 { try await self.removeVacated() }
                    if inUse == 0, try await isDone() { return nil }
                    if inUse == 0 { try await self.local.verify() }
                    await self.wake.wait(atMost: self.untilNext(batch.nextDue))
                }
            } catch {
                return error
            }
            return nil
        }
        if let problem = problem ?? failure.withLock({ $0 }) { throw problem }
    }

    /// A jump of the wall clock must not stop the drain, and a disk that went away sends no event.
    private static let longestWait = Duration.seconds(5)

    private func untilNext(_ due: Timestamp?) -> Duration {
        guard let due else { return Self.longestWait }
        return min(max(due - clock.now, .milliseconds(1)), Self.longestWait)
    }

    /// Ends what is confirmed to be gone, fails what cannot be stored, and leases the rest. `isAlone`: no other group
    /// is in flight, and none may begin before this one stands in the catalogue.
    private func prepare(_ batch: DueBatch) async throws(SafeBackupError) -> (group: [LeasedJob], isAlone: Bool) {
        var completions: [Completion] = []
        var stores: [DueJob] = []
        var deletes: [DueJob] = []
        for job in batch.jobs {
            if job.action == .delete { deletes.append(job) } else { stores.append(job) }
        }
        for (job, verdict) in await confirm(deletes) {
            switch verdict {
            case .absent: completions.append(Completion(job: job, outcome: .ended(namesUpTo: batch.newestName)))
            case .present:
                stores.append(job)
                if job.live?.kind == .directory {
                    // Another one, perhaps: what was below the first has vanished with it.
                    let (id, now) = (id, clock.now)
                    try await state.durably { (store) throws(SafeBackupError) in
                        try store.lookBelow(job.path, job.source, id, notBefore: now)
                    }
                }
            case .unknown(let error): completions.append(failed(job, error))
            }
        }
        stores = try await findOrigins(of: stores, in: batch)
        if !stores.isEmpty {
            // In the order of the walk, so that neighbours share their open directories.
            var plans = await plan(stores)
            let isAlone = plans.contains(where: Self.mayMoveWhatOthersUse)
            if isAlone, lanesInUse.load(ordering: .acquiring) > 0 {
                while lanesInUse.load(ordering: .acquiring) > 0 { await wake.wait() }
                // Their failure ends the drain; nothing is leased yet.
                if failure.withLock({ $0 != nil }) { return ([], true) }
                // They may have moved away what the first plans saw.
                plans = await plan(stores)
            }
            if isAlone { Self.dropOrigins(of: &stores, below: plans) }
            var leased: [LeasedJob] = []
            for (job, plan) in zip(stores, plans) {
                switch plan {
                case .success(let plan): leased.append(LeasedJob(job: job, plan: plan))
                case .failure(let error):
                    // The whole destination is away, not this job's file.
                    if error.disposition == .destinationUnavailable { throw error }
                    completions.append(failed(job, error))
                }
            }
            try await finish(completions)
            let (id, leases) = (id, leased)
            if leases.isEmpty { return ([], isAlone) }
            let taken = try await state.durably { (store) throws(SafeBackupError) in try store.lease(id, leases) }
            noteOrigins(of: taken)
            Faults.reach("leased")
            return (taken, isAlone)
        }
        try await finish(completions)
        return ([], false)
    }

    /// Plans, and where a directory is stored over a directory, as its new mode is, leaves out the version name: without
    /// one nothing is moved, so that such a job need not wait for the others. If the source's directory becomes a file
    /// just then, the job fails and is tried again.
    private func plan(_ jobs: [DueJob]) async -> [Result<LeasePlan, SafeBackupError>] {
        var plans = await local.plan(jobs)
        var overDirectories: [(index: Int, tree: ConfinedDirectory, path: RelativePath)] = []
        for (index, plan) in plans.enumerated() {
            guard case .success(let plan) = plan, case .present(.directory, _, _, _) = plan.final,
                let tree = sources[jobs[index].source]?.openRoot?.tree
            else { continue }
            overDirectories.append((index, tree, jobs[index].path))
        }
        if overDirectories.isEmpty { return plans }
        let asked = overDirectories
        let areDirectories = await io.run {
            asked.map { entry in
                do throws(Errno) {
                    return try entry.tree.status(of: entry.path).kind == .directory
                } catch {
                    return false  // ignored because the store looks again and says what is wrong
                }
            }
        }
        for (entry, isDirectory) in zip(asked, areDirectories) where isDirectory {
            guard case .success(var plan) = plans[entry.index] else { continue }
            (plan.version, plan.versionReason) = (nil, nil)
            plans[entry.index] = .success(plan)
        }
        return plans
    }

    /// A directory that goes to its version name takes along what another group has just stored below it, and an entry
    /// in the way is in the way of several groups. Whichever group completed last would then write locations into the
    /// catalogue at which nothing lies any more.
    private static func mayMoveWhatOthersUse(_ plan: Result<LeasePlan, SafeBackupError>) -> Bool {
        guard case .success(let plan) = plan else { return false }
        if plan.obstruction != nil { return true }
        if case .present(.directory, _, _, _) = plan.final { return plan.version != nil }
        return false
    }

    private func confirm(_ jobs: [DueJob]) async -> [(DueJob, AbsenceCheck.Verdict)] {
        var result: [(DueJob, AbsenceCheck.Verdict)] = []
        for (source, jobs) in Dictionary(grouping: jobs, by: \.source) {
            guard let root = sources[source]?.openRoot else {
                let error = SafeBackupError(
                    .rootMissing, "The source is held; nothing of it ends", disposition: .destinationUnavailable)
                result += jobs.map { ($0, .unknown(error)) }
                continue
            }
            let verdicts = await io.run { AbsenceCheck.verdicts(for: jobs.map(\.path), below: root) }
            result += zip(jobs, verdicts)
        }
        return result
    }

    /// One group from lease to catalogue.
    private func carry(_ group: [LeasedJob], newestName: Int64) async {
        defer { forgetOrigins(of: group) }
        var trees: [SourceID: ConfinedDirectory] = [:]
        for lease in group where trees[lease.job.source] == nil {
            trees[lease.job.source] = sources[lease.job.source]?.openRoot?.tree
        }
        progress.storing(group.first?.job.path)
        let outcomes = await local.store(group, from: trees)
        do throws(SafeBackupError) {
            try await settle(group, outcomes, newestName: newestName)
        } catch {
            failure.withLock { $0 = $0 ?? error }
        }
    }

    private func settle(
        _ group: [LeasedJob], _ outcomes: [JobOutcome], newestName: Int64
    ) async throws(SafeBackupError) {
        var completions: [Completion] = []
        var gone: [DueJob] = []
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
            case .failed(let error): failures.append((lease, error))
            }
        }
        for (job, verdict) in await confirm(gone) {
            switch verdict {
            case .absent: completions.append(Completion(job: job, outcome: .ended(namesUpTo: newestName)))
            case .present:
                let error = SafeBackupError(
                    .changedKind, "\(job.path) came and went while it was read", disposition: .transient)
                completions.append(failed(job, error))
            case .unknown(let error): completions.append(failed(job, error))
            }
        }
        try await finish(completions)
        if files > 0 { progress.saved(files: files, bytes: bytes) }
        if failures.isEmpty { return }
        // Something may have been under way: the disk decides before anything is tried again.
        if let away = failures.first(where: { $0.1.disposition == .destinationUnavailable }) {
            throw away.1
        }
        let id = id
        let recovered = try await local.recover(failures.map(\.0))
        try await state.durably { (store) throws(SafeBackupError) in
            try store.recover(id, recovered)
        }
        // What a stop interrupted has not failed: its recovered lease is pending as before.
        try await finish(failures.filter { $0.1.code != .interrupted }.map { failed($0.0.job, $0.1) })
    }

    private func failed(_ job: DueJob, _ error: SafeBackupError) -> Completion {
        let verdict = backoff.verdict(
            for: error.disposition, attempts: job.attempts + 1, jitter: Double.random(in: 0..<1))
        switch verdict {
        case .stuck:
            logger.error(
                "A path cannot be saved; it is stuck",
                metadata: ["path": "\(job.path)", "error.code": "\(error.code)", "error": "\(error.message)"])
        case .retry(let wait, _):
            // Each reason once in a while, so that a full disk is told and does not fill the log.
            let isNew = told.withLock { told in
                let now = ContinuousClock.now
                if let last = told[error.code], now - last < .seconds(600) { return false }
                told[error.code] = now
                return true
            }
            logger.log(
                level: isNew && error.code != .torn && error.code != .interrupted ? .warning : .debug,
                "A path will be tried again",
                metadata: [
                    "path": "\(job.path)", "error.code": "\(error.code)", "error": "\(error.message)",
                    "wait": "\(secondsText(wait))",
                ])
        }
        return Completion(job: job, outcome: .failed(error, verdict))
    }

    private func finish(_ completions: [Completion]) async throws(SafeBackupError) {
        if completions.isEmpty { return }
        let id = id
        let result = try await state.durably { (store) throws(SafeBackupError) in
            try store.complete(id, completions)
        }
        Faults.reach("completed")
        if !result.excessVersions.isEmpty {
            let copies = result.excessVersions.map(\.id)
            try await state.durably { (store) throws(SafeBackupError) in
                _ = try store.beginRemoval(id, copies, reason: "versionLimit")
            }
            try await finishRemovals()
        }
    }

    /// Removes the kept versions whose removal is recorded. A crash in between repeats it.
    private func finishRemovals() async throws(SafeBackupError) {
        let id = id
        while true {
            let copies = try await state.durably { (store) throws(SafeBackupError) in
                try store.removals(id, limit: 1_000).map(\.copy)
            }
            if copies.isEmpty { return }
            try await local.remove(versions: copies.map(\.location))
            let numbers = copies.map(\.id)
            try await state.durably { (store) throws(SafeBackupError) in
                try store.finishRemoval(id, numbers)
            }
        }
    }
}
