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
        /// Recovery takes all leases at once, also those of an agent that had more lanes.
        static let mostLanes = 64

        init() {}

        init(_ destination: AgentSettings.Destination) {
            lanes = destination.lanes
            // What is read slowly is called saved as soon: a group is no more than some seconds of reading.
            if let bandwidth = destination.bandwidth { bytes = min(bytes, max(1, bandwidth.bytes) * 4) }
        }
    }

    let id: DestinationID
    let target: any Destination
    /// What must be done before the destination can be attached for the first time.
    let setup: DestinationSetup
    let state: StateAccess
    let sources: [SourceID: SourceUnit]
    let io: ThreadExecutor
    let clock: WallClock
    let stop: StopSignal
    let backoff: BackoffPolicy
    let limits: GroupLimits
    let requeuesFuzzy: Bool
    /// What is deleted at the source becomes a version.
    let mirrorsDeletions: Bool
    /// What was deleted before is known to be; see `retireDeleted`.
    let hasNotedTombstones = Shared(false)
    /// After this time without work nothing below the destination stays open.
    let idleTime: Duration
    let logger: Logger
    let progress: Progress
    let wake = TaskSignal()
    /// Why the drain must end and the destination be attached again.
    let failure = Locked<SafeBackupError?>(nil)
    private let lanesInUse = Atomic(0)
    /// Paths whose copies are being moved away: nothing is stored there meanwhile.
    let origins = Locked<Set<MovingPath>>([])
    /// Jobs whose path, or whose origin, another group is working on.
    let busyJobs = Locked(BusyJobs())
    let holding: Holding
    /// Whether the destination still has what was stored.
    let copyCheck: Locked<CopyCheck>
    /// Whether there is room, and what is removed to make some.
    let keeping = Locked(RoomKeeping())
    /// Cleanings that a person asked for, the first in work or next.
    let askedCleanings = Locked<[AskedCleaning]>([])
    let roomSettings: RoomSettings
    /// Which older versions are kept, and how far it came with that.
    let policy: RetentionPolicy
    let retention = Locked(RetentionKeeping())
    let door = DestinationDoor()
    /// Keeps a second agent away also while nothing is open.
    let claimed = Shared<(sentinel: String, claim: NameClaim?)?>(nil)
    /// When a job was last in work.
    let lastWork = Shared(ContinuousClock.now)
    /// It was closed with nothing unfinished, and no look since then found anything else.
    let isResting = Shared(false)
    /// Copies may be marked for removal.
    let removalsAreDue = Shared(true)
    /// Until there is room again.
    let room = Locked(RoomWait())
    /// That the keys may not read was told.
    let wasBlind = Shared(false)
    /// What the sentinel tells of the sources may be older than what the state knows.
    let isSentinelStale = Shared(true)

    init(
        id: DestinationID, target: any Destination, setup: DestinationSetup, state: StateAccess,
        sources: [SourceID: SourceUnit], io: ThreadExecutor, clock: WallClock, stop: StopSignal,
        backoff: BackoffPolicy, limits: GroupLimits, mirrorsDeletions: Bool = false, requeuesFuzzy: Bool,
        idleTime: Duration, room: RoomSettings, policy: RetentionPolicy, logger: Logger, progress: Progress
    ) {
        self.id = id
        self.target = target
        self.setup = setup
        self.state = state
        self.sources = sources
        self.io = io
        self.clock = clock
        self.stop = stop
        self.backoff = backoff
        self.limits = limits
        self.requeuesFuzzy = requeuesFuzzy
        self.mirrorsDeletions = mirrorsDeletions
        self.idleTime = idleTime
        roomSettings = room
        self.policy = policy
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
            try await Vitals.loop("drain to \(printable(target.location))") { () throws(SafeBackupError) in
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
        await target.detach()
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
                try await answerAsked(failure: error)
                try await holdOrThrow(error)
                await pause(after: error)
            }
        }
    }

    /// Drains until no job is left that could still be done now, of each source up to the sequence that `sequence` tells
    /// as soon as the source was walked. Of a source that is away while some are left `sourceFailed` is told why; its jobs
    /// wait.
    /// - Throws: the reason if the destination is away.
    func drainOnce(
        upTo sequence: @Sendable (SourceID) -> Int64?,
        sourceFailed: @Sendable (SourceUnit, SafeBackupError) async -> Void
    ) async throws(SafeBackupError) {
        stop.onRequest { self.wake.signal() }
        let id = id
        try await drain { () throws(SafeBackupError) in
            var left = Outstanding.nothing
            for source in self.sources.keys {
                guard let last = sequence(source) else { return false }
                let its = try await self.state.durably { (store) throws(SafeBackupError) in
                    try store.outstanding(id, of: source, upTo: last)
                }
                left = left.and(its)
            }
            if left.isEmpty { return true }
            // Nobody else looks here, and its jobs would be put off without end.
            var hasFailed = false
            for source in self.sources.values where sequence(source.id).map({ $0 >= 0 }) == true {
                guard let failure = await self.failure(of: source) else { continue }
                await sourceFailed(source, failure)
                hasFailed = true
            }
            if hasFailed {
                // What is left without it is asked at once.
                self.wake.signal()
                return false
            }
            if left.hasUntried { return false }
            if self.checksRoomFirst() { return false }
            if try await self.triesWhatFits() { return false }
            return try await self.state.durably { (store) throws(SafeBackupError) in
                // What only waits for space would be waited for without end.
                return try store.unsavedReport(limit: 10_000).allSatisfy { entry in
                    entry.destination != id || entry.state != .failing
                        || entry.code == SafeBackupError.Code.destinationFull.rawValue
                }
            }
        }
    }

    private func failure(of source: SourceUnit) async -> SafeBackupError? {
        do throws(SafeBackupError) {
            try await source.verify()
            return nil
        } catch {
            return error
        }
    }

    // MARK: Drain

    private func drain(until isDone: () async throws(SafeBackupError) -> Bool) async throws(SafeBackupError) {
        let id = id
        let limits = limits
        // Another disk may be there now, or others may have filled it.
        beginRoom()
        let problem = await withDiscardingTaskGroup { lanes in
            var patience = GroupPatience()
            do throws(SafeBackupError) {
                while !self.stop.isRequested {
                    if let failure = self.failure.withLock({ $0 }) { return failure as SafeBackupError? }
                    let inUse = self.lanesInUse.load(ordering: .acquiring)
                    if inUse >= limits.lanes {
                        await self.wake.wait(atMost: Self.longestWait)
                        continue
                    }
                    switch try await self.keepRoom(inUse: inUse) {
                    case .none, .part: break
                    case .waitingForGroups:
                        if !patience.letsSaveMeanwhile() {
                            await self.wake.wait(atMost: Self.longestWait)
                            continue
                        }
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
                    if self.isMakingRoom {
                        if inUse > 0 { await self.wake.wait(atMost: Self.longestWait) }
                        continue
                    }
                    if inUse == 0 { try await self.finishPruning() }
                    let nextRetirement = inUse == 0 ? try await self.retireDeleted() : nil
                    if inUse == 0 { try await self.removeVacated() }
                    // Asked before the copies are looked for, which waits for the walk: it may end in between.
                    let isLast = inUse == 0 ? try await isDone() : false
                    if inUse == 0, try await checkSomeCopies() { continue }
                    if inUse == 0, try await applyRetention() { continue }
                    // What just became known may let a cleaning go on.
                    if self.isRoomCheckDue || (inUse == 0 && self.removalsAreDue.value) { continue }
                    if isLast { return nil }
                    if inUse == 0 {
                        try await self.target.verify()
                        try await self.lookForRoom()
                    }
                    let next = earlier(batch.nextDue, nextRetirement)
                    await self.wake.wait(atMost: self.untilLook(self.untilNextOrIdle(next)))
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
            var planned = await plan(stores)
            let isAlone = planned.plans.contains(where: Self.mayMoveWhatOthersUse)
            if isAlone, lanesInUse.load(ordering: .acquiring) > 0 {
                while lanesInUse.load(ordering: .acquiring) > 0 { await wake.wait(atMost: Self.longestWait) }
                // Their failure ends the drain; nothing is leased yet.
                if failure.withLock({ $0 != nil }) { return ([], true) }
                // They may have moved away what the first plans saw.
                planned = await plan(stores)
            }
            try await noteAbsent(planned.gone.map { stores[$0] })
            // What waits for a directory to be moved away comes again with the next batch.
            let members = planned.alone.map { [$0] } ?? Array(stores.indices.filter { !planned.gone.contains($0) })
            let plans = members.map { planned.plans[$0] }
            stores = members.map { stores[$0] }
            if isAlone { Self.dropOrigins(of: &stores, below: plans) }
            var leased: [LeasedJob] = []
            for (job, plan) in zip(stores, plans) {
                switch plan {
                case .success(let plan): leased.append(LeasedJob(job: job, plan: plan))
                case .failure(let error):
                    // The whole destination is away, not this job's file.
                    if error.disposition.isOfDestination { throw error }
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
    private func plan(_ jobs: [DueJob]) async -> PlannedJobs {
        var planned = PlannedJobs(plans: await target.plan(jobs))
        await replanSpellings(of: jobs, &planned)
        var overDirectories: [(index: Int, root: SourceRoot, path: RelativePath)] = []
        for (index, plan) in planned.plans.enumerated() {
            guard case .success(let plan) = plan, case .present(.directory, _, _, _) = plan.final,
                let root = sources[jobs[index].source]?.knownRoot
            else { continue }
            overDirectories.append((index, root, jobs[index].path))
        }
        if overDirectories.isEmpty { return planned }
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
            guard case .success(var plan) = planned.plans[entry.index] else { continue }
            (plan.version, plan.versionReason) = (nil, nil)
            planned.plans[entry.index] = .success(plan)
        }
        return planned
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

    func confirm(_ jobs: [DueJob]) async -> [(DueJob, AbsenceCheck.Verdict)] {
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

    /// Removes the kept versions whose removal is recorded.
    func finishRemovals() async throws(SafeBackupError) {
        try await RemovalWork(id: id, target: target, state: state).removeVersions()
    }
}
