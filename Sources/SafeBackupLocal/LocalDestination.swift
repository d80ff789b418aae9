package import SafeBackupCore
package import SafeBackupSystem
import Synchronization
package import SystemPackage
import Glibc

/// Copies as plain files below a directory: DESIGN §6.
///
/// The asynchronous methods hop once per batch to a thread of `io`; the `…Now` methods do the same work on the calling
/// thread. Two groups may be stored at the same time. Leases of jobs that `store` calls `failed` go through `recover`
/// as those of a crash do: only the disk tells what was left of them.
package final class LocalDestination: Destination {
    package typealias Inspection = DestinationInspection

    package let path: FilePath
    /// Its path.
    package var location: [UInt8] { path.bytes }
    package let traits = DestinationTraits.disk
    let io: ThreadExecutor
    let clock: WallClock
    let policy: VersionPolicy
    let tornLimit: Int
    /// Whether files wait for their writers.
    package let writerProbe: WriterProbe?
    /// Slows down what reads sources.
    private let throttle: Throttle?
    /// What its groups share of its room.
    package let share = RoomShare()
    private let isStopping = Atomic(false)
    private let attached = Locked<AttachedRoot?>(nil)
    /// Staging, kept open while SQLite writes a catalogue copy by a path through this descriptor: its number must
    /// not lead to another directory before that is done.
    let exporting = Locked<Descriptor?>(nil)

    package init(
        path: FilePath, io: ThreadExecutor, clock: WallClock = .system, policy: VersionPolicy = VersionPolicy(),
        tornLimit: Int = BackoffPolicy().tornLimit, writerProbe: WriterProbe? = nil, bandwidth: ByteCount? = nil
    ) {
        self.path = path
        self.io = io
        self.clock = clock
        self.policy = policy
        self.tornLimit = tornLimit
        self.writerProbe = writerProbe
        throttle = bandwidth.map { Throttle($0) }
    }

    // MARK: Attaching

    /// Looks at a directory that may be, or become, a destination. Writes nothing. Throws `sentinelForeign` for a
    /// sentinel that cannot be read, `destinationMissing` for what is not a directory.
    package static func inspect(_ path: FilePath) throws(SafeBackupError) -> Inspection {
        let root: Descriptor
        do {
            root = try AttachedRoot.open(path)
        } catch {
            guard error.systemError == Errno.noSuchFileOrDirectory.rawValue else { throw error }
            return Inspection(exists: false, isEmpty: true)
        }
        let sentinel = try AttachedRoot.readSentinel(in: root)?.0
        do {
            var isEmpty = true
            let known = [Layout.area.bytes, Array("lost+found".utf8)]
            try root.forEachEntry { name, _ in if !known.contains(name) { isEmpty = false } }
            return Inspection(
                exists: true, isEmpty: isEmpty, sentinel: sentinel, device: try root.status().device,
                identity: try RootIdentity(of: root), statistics: try VolumeStatistics(root))
        } catch {
            throw Failure.destination(error, "inspect", at: path)
        }
    }

    /// Makes the directory a destination: the areas of ours, the probe, and last the sentinel. A crash before the end
    /// leaves no sentinel, and `create` may be called again. What is in the directory already stays as it is.
    /// The directory itself is made if its parent is there.
    package func createNow(id: String, sources: [SentinelSource]) throws(SafeBackupError) {
        do throws(Errno) {
            try systemCall("mkdir") { path.withPlatformString { mkdir($0, 0o700) } }
            try Descriptor.open(
                path.removingLastComponent().isEmpty ? "." : path.removingLastComponent(), O_RDONLY | O_DIRECTORY
            ).sync()
        } catch {
            if error != .fileExists && error != .noSuchFileOrDirectory {
                throw Failure.destination(error, "make", at: path)
            }
        }
        let root = try AttachedRoot.open(path)
        if let (sentinel, _) = try AttachedRoot.readSentinel(in: root) {
            throw SafeBackupError(
                .destinationTaken,
                "\(printable(path.bytes)) is a destination already (\(printable(sentinel.id.utf8))); choose another "
                    + "directory, or use the state that knows it",
                disposition: .permanent)
        }
        let area: Descriptor
        let capabilities: Capabilities
        let lock: Descriptor
        do {
            area = try Self.ownDirectory(Layout.area.bytes, in: root)
        } catch {
            throw Failure.destination(error, "make \(Layout.area) in", at: path)
        }
        lock = try AttachedRoot.lock(area, path)
        defer { ProcessLock.unlock(lock) }
        do throws(Errno) {
            let staging = try Self.ownDirectory(Layout.stagingLeaf, in: area)
            _ = try Self.ownDirectory(Layout.versionsLeaf, in: area)
            _ = try Self.ownDirectory(Layout.catalogueLeaf, in: area)
            capabilities = try Probe.run(in: staging)
            try root.sync()
        } catch {
            throw Failure.destination(error, "make \(Layout.area) in", at: path)
        }
        let sentinel = Sentinel(id: id, sources: sources, capabilities: capabilities)
        try AttachedRoot.write(try sentinel.encoded(), in: area)
    }

    static func ownDirectory(_ leaf: [UInt8], in parent: Descriptor) throws(Errno) -> Descriptor {
        do {
            try parent.makeDirectory(leaf, mode: 0o700)
        } catch {
            if error != .fileExists { throw error }
        }
        return try parent.open(leaf, O_RDONLY | O_DIRECTORY)
    }

    /// Opens and locks the destination with this id. Throws `destinationMissing`, `sentinelMissing`,
    /// `sentinelForeign`, `destinationTaken`, `destinationReadOnly`; all of them wait for the destination.
    package func attachNow(expecting id: String) throws(SafeBackupError) {
        // The own lock, if any, must not stand in the way of a new one.
        detachNow()
        let root = try AttachedRoot(attaching: path, expecting: id)
        attached.withLock { $0 = root }
    }

    /// Whether the destination with this id is at its path, by its sentinel: a wiped one has the same directory. Opens it
    /// for a moment only, so that it can be unmounted. Throws as `attachNow`.
    package func lookNow(expecting id: String) throws(SafeBackupError) { try AttachedRoot.look(path, expecting: id) }

    /// Closes everything, so that the disk can be unmounted, as soon as the groups in flight are done.
    package func detachNow() { attached.withLock { $0 = nil } }

    package var isAttached: Bool { attached.withLock { $0 != nil } }

    /// The attached destination's sentinel.
    package var sentinel: Sentinel? { attached.withLock { $0 }?.sentinel }

    /// Changes the attached destination's sentinel; after a crash the old one or the new one is there.
    package func updateSentinelNow(_ change: (inout Sentinel) -> Void) throws(SafeBackupError) {
        let root = try attachedRoot()
        try root.check()
        try root.update(change)
    }

    /// Versions have left directories that may be empty now: there is something for `removeEmpty`, also without one of ours.
    package var hasVacatedVersions: Bool { attached.withLock { $0 }?.hasVacated ?? false }

    /// At most one version of a path is kept in this time.
    package var versionInterval: Duration { policy.interval }

    /// Proves that the destination is still there and still ours; throws what holds it. Writes nothing.
    package func verify() async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.attachedRoot().check() }
    }

    /// Space, asked now.
    package func statistics() throws(SafeBackupError) -> VolumeStatistics {
        let root = try attachedRoot()
        do {
            return try VolumeStatistics(root.base.root)
        } catch {
            throw Failure.destination(error, "look at", at: path)
        }
    }

    func attachedRoot() throws(SafeBackupError) -> AttachedRoot {
        guard let root = attached.withLock({ $0 }) else {
            throw SafeBackupError(
                .destinationMissing, "The destination \(printable(path.bytes)) is not open now; it is tried again",
                disposition: .destinationUnavailable)
        }
        return root
    }

    /// The agent stops: copies that are being read end as `interrupted`, within a moment also for the largest file.
    package func interrupt() { isStopping.store(true, ordering: .relaxed) }

    // MARK: Asynchronous

    /// See `createNow`.
    package func create(id: String, sources: [SentinelSource]) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.createNow(id: id, sources: sources) }
    }

    /// See `attachNow`.
    package func attach(expecting id: String) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.attachNow(expecting: id) }
    }

    /// See `detachNow`.
    package func detach() async { await io.run { self.detachNow() } }

    /// See `inspect(_:)`.
    package func inspect() async throws(SafeBackupError) -> Inspection {
        let path = path
        return try await io.run { () throws(SafeBackupError) in try Self.inspect(path) }
    }

    /// See `lookNow`.
    package func look(expecting id: String) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.lookNow(expecting: id) }
    }

    package func keepFree(_ floor: ByteCount?) { share.set(floor: floor) }

    /// See `updateSentinelNow`.
    package func updateSentinel(sources: [SentinelSource]) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.updateSentinelNow { $0.sources = sources } }
    }

    /// See `emptyStagingNow`.
    package func emptyStaging() async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.emptyStagingNow() }
    }

    /// See `installCatalogueNow`.
    package func installCatalogue() async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.installCatalogueNow() }
    }

    /// See `cataloguesNow`.
    package func catalogues() async throws(SafeBackupError) -> [FilePath] {
        try await io.run { () throws(SafeBackupError) in try self.cataloguesNow() }
    }

    package func plan(_ jobs: [DueJob]) async -> [Result<LeasePlan, SafeBackupError>] {
        await io.run { self.planNow(jobs) }
    }

    package func store(
        _ group: [LeasedJob], from sources: [SourceID: ConfinedDirectory]
    ) async -> [JobOutcome] {
        await io.run { self.storeNow(group, from: sources) }
    }

    package func recover(_ leases: [LeasedJob]) async throws(SafeBackupError) -> [RecoveredLease] {
        try await io.run { () throws(SafeBackupError) in try self.recoverNow(leases) }
    }

    package func remove(versions: [RelativePath]) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.removeNow(versions: versions) }
    }

    /// See `removeEmptyNow`.
    package func removeEmpty(_ directories: [RelativePath]) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.removeEmptyNow(directories) }
    }

    package func read(_ location: RelativePath) async throws(SafeBackupError) -> Descriptor {
        try await io.run { () throws(SafeBackupError) in try self.readNow(location) }
    }

    // MARK: On the calling thread

    package func planNow(_ jobs: [DueJob]) -> [Result<LeasePlan, SafeBackupError>] {
        do throws(SafeBackupError) {
            var planner = try planner()
            return jobs.map { planner.plan($0) }
        } catch {
            return jobs.map { _ in .failure(error) }
        }
    }

    /// For one batch: what it has looked at it does not look at again.
    func planner() throws(SafeBackupError) -> Planner {
        let root = try attachedRoot()
        try root.check()
        do {
            return try Planner(
                root, policy: policy, share: share, tornLimit: tornLimit, now: clock.now,
                isInterrupted: { self.isStopping.load(ordering: .relaxed) })
        } catch {
            throw Failure.destination(error, "look at", at: path)
        }
    }

    package func storeNow(_ group: [LeasedJob], from sources: [SourceID: ConfinedDirectory]) -> [JobOutcome] {
        do throws(SafeBackupError) {
            let root = try attachedRoot()
            try root.check()
            var store: GroupStore
            do {
                store = try GroupStore(
                    in: root, from: sources, share: share, tornLimit: tornLimit, writerProbe: writerProbe,
                    clock: clock, throttle: throttle, isInterrupted: { self.isStopping.load(ordering: .relaxed) })
            } catch {
                throw Failure.destination(error, "open", at: path)
            }
            return store.run(group)
        } catch {
            return group.map { _ in .failed(error) }
        }
    }

    package func recoverNow(_ leases: [LeasedJob]) throws(SafeBackupError) -> [RecoveredLease] {
        let root = try attachedRoot()
        try root.check()
        var recovery: Recovery
        do {
            recovery = try Recovery(root, now: clock.now)
        } catch {
            throw Failure.destination(error, "open", at: path)
        }
        return try recovery.run(leases)
    }

    package func removeNow(versions: [RelativePath]) throws(SafeBackupError) {
        let root = try attachedRoot()
        try root.check()
        try Removal.remove(versions: versions, in: root)
    }

    /// Removes the directories of these that are empty, in the order given, and those below `versions/` that the last
    /// version has left since; others stay, and one that is gone is no error. Durable when it returns. Not to be called while a group is in flight.
    package func removeEmptyNow(_ directories: [RelativePath]) throws(SafeBackupError) {
        let root = try attachedRoot()
        try root.check()
        try Removal.removeEmpty(directories, in: root)
        try Removal.removeVacatedVersions(in: root)
    }

    /// Throws `damaged` when nothing, or no file, is there.
    package func readNow(_ location: RelativePath) throws(SafeBackupError) -> Descriptor {
        let root = try attachedRoot()
        do {
            let file = try root.base.open(location, O_RDONLY | O_NONBLOCK)
            if try file.status().kind == .file { return file }
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: break
            default: throw Failure.destination(error, "read", location)
            }
        }
        throw SafeBackupError(
            .damaged, "The stored copy \(location) is not there, or is no file; save it again, or look for a version",
            disposition: .permanent)
    }

    /// Removes everything from staging. To be called after recovery, when no group and no catalogue export is in
    /// flight. On return, what earlier processes made in the destination is durable too.
    package func emptyStagingNow() throws(SafeBackupError) {
        let root = try attachedRoot()
        try root.check()
        do throws(Errno) {
            try Removal.empty(root.staging)
            if root.honoursSyncFileSystem { try root.base.root.syncFileSystem() } else { try root.staging.sync() }
        } catch {
            throw Failure.destination(error, "empty", Layout.staging)
        }
    }
}
