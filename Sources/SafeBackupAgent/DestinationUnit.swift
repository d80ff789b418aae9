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
    let state: StateAccess
    let sources: [SourceID: SourceUnit]
    let io: ThreadExecutor
    let clock: WallClock
    let stop: StopSignal
    private let backoff: BackoffPolicy
    let limits: GroupLimits
    private let requeuesFuzzy: Bool
    /// After this time without work nothing below the destination stays open.
    let idleTime: Duration
    let logger: Logger
    private let progress: Progress
    let wake = TaskSignal()
    /// Why the drain must end and the destination be attached again.
    let failure = Locked<SafeBackupError?>(nil)
    private let lanesInUse = Atomic(0)
    /// Paths whose copies are being moved away: nothing is stored there meanwhile.
    let origins = Locked<Set<MovingPath>>([])
    /// Of the jobs whose path, or whose origin, another group is working on.
    let busyWait = Locked(BusyWait())
    let holding: Holding
    /// Whether the destination still has what was stored.
    let copyCheck: Locked<CopyCheck>
    let door = DestinationDoor()
    /// Keeps a second agent away also while nothing is open.
    let claimed = Shared<(sentinel: String, claim: NameClaim?)?>(nil)
    /// When a job was last in work.
    let lastWork = Shared(ContinuousClock.now)
    /// It was closed with nothing unfinished, and no look since then found anything else.
    let isResting = Shared(false)
    /// What the sentinel tells of the sources may be older than what the state knows.
    let isSentinelStale = Shared(true)

    init(
        id: DestinationID, local: LocalDestination, state: StateAccess,
        sources: [SourceID: SourceUnit], io: ThreadExecutor, clock: WallClock, stop: StopSignal,
        backoff: BackoffPolicy, limits: GroupLimits, requeuesFuzzy: Bool, idleTime: Duration,
        logger: Logger, progress: Progress
    ) {
        self.id = id
        self.local = local
        self.state = state
        self.sources = sources
        self.io = io
        self.clock = clock
        self.stop = stop
        self.backoff = backoff
        self.limits = limits
        self.requeuesFuzzy = requeuesFuzzy
        self.idleTime = idleTime
        let period = sources.values.map(\.settings.reconcileInterval).min() ?? .seconds(86_400)
        copyCheck = Locked(CopyCheck(period: period))
        holding = Holding(.destination(id), state: state, logger: logger)
        self.logger = logger
        self.progress = progress
    }

    /// Jobs may have become due.
    func kick() { wake.signal() }

    /// A person accepted another root of a source: the sentinel is to tell it too.
    func sourceWasAccepted() {
        isSentinelStale.set(true)
        wake.signal()
    }

    // MARK: Life

    /// Drains until the stop is requested; holds the destination while it is away, and lets go of it while it is idle.
    func run() async throws(SafeBackupError) {
        stop.onRequest { self.wake.signal() }
        do throws(SafeBackupError) {
            try await Vitals.loop("drain to \(printable(local.path.bytes))") { () throws(SafeBackupError) in
                try await runUntilStopped()
            }
        } catch {
            await letGo()
            throw error
        }
        await letGo()
    }

    /// Leaves the destination to whoever comes next: another agent, or this one's next round.
    func letGo() async {
        door.shut()
        await local.detach()
        claimed.set(nil)
    }

    private func runUntilStopped() async throws(SafeBackupError) {
        while !stop.isRequested {
            do throws(SafeBackupError) {
                try await rest()
                if stop.isRequested { break }
                try await attach()
                try await drain { () throws(SafeBackupError) in try await self.closesIdle() }
            } catch {
                try await holdOrThrow(error)
                await wake.wait(atMost: .seconds(2))
            }
        }
    }

    /// Drains until no job up to `sequence` is left that could still be done now, or a source is away while some are:
    /// `sourceFailed` is told why, and its jobs wait.
    /// - Throws: the reason if the destination is away.
    func drainOnce(
        upTo sequence: @Sendable () -> Int64?, sourceFailed: @Sendable (SafeBackupError) -> Void
    ) async throws(SafeBackupError) {
        stop.onRequest { self.wake.signal() }
        let id = id
        try await drain { () throws(SafeBackupError) in
            guard let sequence = sequence() else { return false }
            let left = try await self.state.durably { (store) throws(SafeBackupError) in
                try store.outstanding(id, upTo: sequence)
            }
            if !left.hasUntried && !left.hasFailed { return true }
            // Nobody else looks here, and its jobs would be put off without end.
            if let failure = await self.failureOfSources() {
                sourceFailed(failure)
                return true
            }
            if left.hasUntried { return false }
            return try await self.state.durably { (store) throws(SafeBackupError) in
                // What only waits for space would be waited for without end.
                return try store.unsavedReport(limit: 10_000).allSatisfy { entry in
                    entry.state != .failing || entry.code == SafeBackupError.Code.destinationFull.rawValue
                }
            }
        }
    }

    private func failureOfSources() async -> SafeBackupError? {
        for source in sources.values {
            do throws(SafeBackupError) {
                try await source.verify()
            } catch {
                return error
            }
        }
        return nil
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
                        await self.wake.wait(atMost: Self.longestWait)
                        continue
                    }
                    let now = self.clock.now
                    let batch = try await self.state.durably { (store) throws(SafeBackupError) in
                        try store.due(id, limit: limits.jobs, byteLimit: limits.bytes, now: now)
                    }
                    if !batch.jobs.isEmpty {
                        self.lastWork.set(.now)
                        let (group, isAlone) = try await self.prepare(batch)
                        if group.isEmpty { continue }
                        let newest = batch.newestName
                        if isAlone {
                            await self.carry(group, newestName: newest)
                            continue
                        }
                        self.lanesInUse.add(1, ordering: .acquiringAndReleasing)
                        lanes.addTask {
                            await self.carryApart(group, newestName: newest)
                            self.lastWork.set(.now)
                            self.lanesInUse.subtract(1, ordering: .acquiringAndReleasing)
                            self.wake.signal()
                        }
                        continue
                    }
                    if inUse == 0 { try await self.removeVacated() }
                    if inUse == 0, try await checkSomeCopies() { continue }
                    if inUse == 0, try await isDone() { return nil }
                    if inUse == 0 { try await self.local.verify() }
                    await self.wake.wait(atMost: self.untilNextOrIdle(batch.nextDue))
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

    func untilNext(_ due: Timestamp?) -> Duration {
        guard let due else { return Self.longestWait }
        return min(max(due - clock.now, .milliseconds(1)), Self.longestWait)
    }

    /// Also the moment is not missed at which the destination is idle for long enough.
    private func untilNextOrIdle(_ due: Timestamp?) -> Duration {
        let rest = idleTime - (ContinuousClock.now - lastWork.value)
        return min(untilNext(due), rest > .zero ? rest + .milliseconds(1) : Self.longestWait)
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
        // A rename is an absence and a new path. Copies move to new paths first, so that no name ends as deleted although
        // its copy is on its way, whatever ends the agent meanwhile; absences come with the next batch.
        if !stores.isEmpty && !batch.movedSources.isEmpty { deletes = [] }
        deletes = try await withoutMoving(deletes)
        for (job, verdict) in await confirm(deletes) {
            switch verdict {
            case .absent: completions.append(Completion(job: job, outcome: .ended(namesUpTo: batch.newestName)))
            case .present:
                var found = job
                found.action = .store
                stores.append(found)
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
                while lanesInUse.load(ordering: .acquiring) > 0 { await wake.wait(atMost: Self.longestWait) }
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
        var overDirectories: [(index: Int, root: SourceRoot, path: RelativePath)] = []
        for (index, plan) in plans.enumerated() {
            guard case .success(let plan) = plan, case .present(.directory, _, _, _) = plan.final,
                let root = sources[jobs[index].source]?.knownRoot
            else { continue }
            overDirectories.append((index, root, jobs[index].path))
        }
        if overDirectories.isEmpty { return plans }
        let asked = overDirectories
        let areDirectories = await io.run {
            asked.map { entry in
                do {
                    return try entry.root.opened().status(of: entry.path).kind == .directory
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
            guard let root = sources[source]?.knownRoot else {
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

    /// One group beside others: each of them must move.
    private func carryApart(_ group: [LeasedJob], newestName: Int64) async {
        do throws(SafeBackupError) {
            try await Vitals.loop("group to \(printable(local.path.bytes))") { () throws(SafeBackupError) in
                await carry(group, newestName: newestName)
            }
        } catch {
            failure.withLock { $0 = $0 ?? error }
        }
    }

    /// One group from lease to catalogue.
    private func carry(_ group: [LeasedJob], newestName: Int64) async {
        defer { forgetOrigins(of: group) }
        let (trees, readable) = await openSources(of: group)
        progress.storing(readable.first?.job.path)
        let outcomes = await local.store(readable, from: trees)
        do throws(SafeBackupError) {
            if readable.count < group.count {
                let later = clock.now + .seconds(2)
                try await release(group.filter { trees[$0.job.source] == nil }.map { ($0.job, later) })
            }
            try await settle(readable, outcomes, newestName: newestName)
        } catch {
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
        let (now, probe) = (clock.now, local.writerProbe)
        try await release(unsettled.map { ($0, probe?.retry(firstSeen: $0.firstSeenAt, now: now) ?? now) })
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
        var verdict = backoff.verdict(
            for: error.disposition, attempts: job.attempts + 1, jitter: Double.random(in: 0..<1))
        // It goes by when it is unmounted, which a walk finds too.
        if error.code == .otherFileSystem { verdict = .retry(after: .seconds(60), countsAttempt: false) }
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
        }
        if !result.excessVersions.isEmpty || result.hasRemovals { try await finishRemovals() }
    }

    /// Removes the kept versions whose removal is recorded. A crash in between repeats it.
    func finishRemovals() async throws(SafeBackupError) {
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
