package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage

/// What becomes of the object that a newer one replaces.
package enum ObjectVersions: String, Sendable, Hashable, CaseIterable {
    /// It is overwritten.
    case none
    /// The bucket keeps it: safebackup neither knows nor removes it.
    case bucket
    /// It is copied within the bucket, below `.safebackup/versions/`, before it is overwritten.
    case copy
}

/// How a destination in a bucket works.
package struct S3DestinationSettings: Sendable, Hashable {
    /// Of all keys; empty for the whole bucket.
    package var prefix: [UInt8] = []
    /// For words, without secrets: `s3://bucket/prefix`.
    package var name: String
    package var versions = ObjectVersions.none
    /// Which replaced objects are kept, with `copy`.
    package var versionPolicy = VersionPolicy()
    /// A directory of ours on this machine: for objects that are read, and for catalogue copies on their way.
    package var scratch: FilePath
    package var limits = Uploader.Limits()
    /// Files of a group that are under way at the same time.
    package var filesAtOnce = 64
    package var tornLimit = BackoffPolicy().tornLimit
    /// What is read in a second.
    package var bandwidth: ByteCount?

    package init(name: String, scratch: FilePath) {
        self.name = name
        self.scratch = scratch
    }
}

/// Copies as plain objects below a prefix of a bucket: DESIGN §8.
///
/// What is under a key is known from the catalogue: a change is one PUT, without a look before or after it. A lease whose
/// end nobody knows is cleared up by a look at its object, whose metadata name the lease that made it.
///
/// Keys that may only put objects are enough (`isBlind`): then nothing is moved, kept or looked at, and content that was
/// sent before is sent again rather than compared.
package final class S3Destination: Destination {
    package let settings: S3DestinationSettings
    package let keys: KeySpace
    let store: any ObjectStore
    package let uploader: Uploader
    let io: ThreadExecutor
    let clock: WallClock
    /// Whether files wait for their writers.
    package let writerProbe: WriterProbe?
    private let isStopping: Flag
    private let knowledge = Locked(Knowledge())

    /// What was learned since the start.
    struct Knowledge {
        /// The sentinel was seen since it was last let go.
        var isAttached = false
        var sentinel: Sentinel?
        /// Objects may not be read.
        var isBlind = false
        /// Objects may not be copied within the bucket.
        var refusesCopies = false
        /// Objects may not be removed.
        var refusesRemovals = false
        /// Leases of this process by their stage names: whether a request that changes something was begun.
        var begun: [String: Bool] = [:]
        /// The catalogue copy that was installed last.
        var newestCatalogue: String?
    }

    /// - Parameters:
    ///   - store: the bucket.
    ///   - ledger: remembers uploads in parts over a crash.
    package init(
        store: any ObjectStore, ledger: any UploadLedger, settings: S3DestinationSettings, io: ThreadExecutor,
        clock: WallClock = .system, writerProbe: WriterProbe? = nil
    ) {
        self.store = store
        self.settings = settings
        self.io = io
        self.clock = clock
        self.writerProbe = writerProbe
        keys = KeySpace(prefix: settings.prefix)
        let flag = Flag()
        isStopping = flag
        uploader = Uploader(
            store: store, ledger: ledger, limits: settings.limits, io: io, clock: clock, bandwidth: settings.bandwidth,
            isInterrupted: { flag.isSet })
    }

    package var location: [UInt8] { Array(settings.name.utf8) }

    package var traits: DestinationTraits { .bucket }

    /// The agent stops: files that are being read, and requests in flight, end as `interrupted` within a moment. An
    /// upload in parts goes on after the next start. The catalogue copy of an orderly end may still be installed.
    package func interrupt() {
        isStopping.set()
        store.endRequests()
    }

    var isInterrupted: Bool { isStopping.isSet }

    /// Objects may not be read: nothing is compared, moved or verified.
    package var isBlind: Bool { known.isBlind }

    var known: Knowledge { knowledge.withLock { $0 } }

    func learn(_ change: (inout Knowledge) -> Void) {
        knowledge.withLock { knowledge in change(&knowledge) }
    }

    // MARK: - Planning

    package func plan(_ jobs: [DueJob]) async -> [Result<LeasePlan, SafeBackupError>] {
        let now = clock.now
        return jobs.map { job in
            do throws(SafeBackupError) {
                return .success(try plan(job, now: now))
            } catch {
                return .failure(error)
            }
        }
    }

    private func plan(_ job: DueJob, now: Timestamp) throws(SafeBackupError) -> LeasePlan {
        if KeySpace.isReserved(job.path) || KeySpace.isReserved(job.location) {
            throw SafeBackupError(
                .reservedName,
                "\(job.path) is not saved: the name .safebackup at the top is safebackup's own; rename it to save it",
                disposition: .permanent)
        }
        if job.location.isRoot || job.path.isRoot {
            throw SafeBackupError(
                .invalidPath, "The source's root itself is not an entry to save", disposition: .permanent)
        }
        _ = try keys.key(job.location)
        var plan = LeasePlan(
            stageName: Self.stageName(sequence: job.sequence, generation: job.generation), final: .absent)
        guard let occupant = job.occupant else { return plan }
        plan.final = .present(
            kind: occupant.kind, inode: Self.identity(occupant.digest), size: occupant.size,
            mtime: occupant.mtime ?? FileTime(nanoseconds: 0))
        plan.version = keys.version(of: job.location, at: now, id: String(job.sequence, radix: 36))
        plan.versionReason = reason(job, occupant, now: now)
        return plan
    }

    /// Why what is there is kept when an entry of its own kind replaces it; `inTheWay`: only when another kind does.
    private func reason(_ job: DueJob, _ occupant: CopyRecord, now: Timestamp) -> VersionReason {
        if settings.versions == .bucket || isBlind { return .inTheWay }
        let isGood = !occupant.isFuzzy && !occupant.isDamaged
        if isGood && job.attempts + 1 >= settings.tornLimit { return .lastGood }
        if settings.versions == .none { return .inTheWay }
        // What a rename lands on may itself have been renamed, and be looked for a moment later.
        let isKept = job.origin != nil || settings.versionPolicy.keeps(newest: job.newestVersionAt, now: now)
        return isKept ? .kept : .inTheWay
    }

    /// Unique, because sequence and generation come from one persistent counter.
    static func stageName(sequence: Int64, generation: Int64) -> String {
        "s" + String(sequence, radix: 36) + "-" + String(generation, radix: 36)
    }

    /// What stands for an inode: objects have none, and a copy is known by its content wherever it is copied to.
    static func identity(_ digest: Digest?) -> UInt64 {
        digest?.bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) } ?? 0
    }

    // MARK: - Storing

    package func store(
        _ group: [LeasedJob], from sources: [SourceID: ConfinedDirectory]
    ) async -> [JobOutcome] {
        let work = GroupWork(group, sources)
        let outcomes = await atOnce(group, limit: settings.filesAtOnce) { await self.carry($0, work) }
        return outcomes.map { $0 ?? .failed(ReadFailure.interrupted(.root)) }
    }

    private func carry(_ lease: LeasedJob, _ work: GroupWork) async -> JobOutcome {
        let stage = lease.plan.stageName
        learn { $0.begun[stage] = false }
        do throws(SafeBackupError) {
            // What fails for the whole bucket is not tried with each file.
            if let failure = work.failure { throw failure }
            try await verify()
            if isInterrupted { throw ReadFailure.interrupted(lease.job.path) }
            let outcome = try await ObjectStage(self, lease, work).run()
            learn { $0.begun[stage] = nil }
            return outcome
        } catch {
            if error.isOfBucket { work.fail(error) }
            return .failed(error)
        }
    }

    /// A request that changes what is under a key is about to be sent: from now on only a look tells how it ended.
    func begin(_ lease: LeasedJob) { learn { $0.begun[lease.plan.stageName] = true } }

    // MARK: - Versions and reading

    package func remove(versions: [RelativePath]) async throws(SafeBackupError) {
        var doomed: [ObjectKey] = []
        for version in versions { doomed.append(try keys.key(version)) }
        try await delete(doomed)
    }
}

/// One call of `store`: what its jobs share.
final class GroupWork: Sendable {
    let sources: [SourceID: ConfinedDirectory]
    let traits: [SourceID: SourceTraits]
    /// What this group writes: a copy that lies there is not moved by another job, which would see it replaced.
    let locations: Set<RelativePath>
    /// Where the copies lie that this group may move: nothing is written there that was to be deleted.
    let origins: Set<RelativePath>
    private let stop = Locked<SafeBackupError?>(nil)

    init(_ group: [LeasedJob], _ sources: [SourceID: ConfinedDirectory]) {
        self.sources = sources
        traits = sources.mapValues { SourceTraits(of: $0) }
        locations = Set(group.lazy.filter { $0.job.action != .delete }.map(\.job.location))
        origins = Set(group.lazy.compactMap(\.job.origin?.copy.location))
    }

    /// Why nothing more of the group is tried.
    var failure: SafeBackupError? { stop.withLock { $0 } }

    func fail(_ error: SafeBackupError) { stop.withLock { $0 = $0 ?? error } }
}
