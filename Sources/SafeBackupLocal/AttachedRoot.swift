import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Glibc

/// The destination's root as it was found at attach: everything is reached through these descriptors, so that
/// nothing is written into the bare mount point of a disk that went away.
final class AttachedRoot: Sendable {
    let path: FilePath
    let base: ConfinedDirectory
    /// `.safebackup`.
    let area: Descriptor
    /// Holds the lock against a second agent.
    private let lock: Descriptor
    let staging: Descriptor
    let catalogue: Descriptor
    let device: UInt64
    let inode: UInt64
    let type: VolumeType
    let capabilities: Capabilities
    let layout: Layout
    let honoursSyncFileSystem: Bool
    /// The callers name the copies: there is no sentinel, no catalogue and no version. See `KeyedStore`.
    let isKeyed: Bool
    let gate = MoveGate()

    /// Directories below `versions/` that something was just removed from, or moved out of.
    private let vacatedVersions = Locked<Set<RelativePath>>([])

    private struct Known {
        var sentinel: Sentinel
        var bytes: [UInt8]
    }
    private let known: Locked<Known>
    /// Directories that groups in flight make, with all that is missing above them, and have not flushed yet; how many
    /// groups each.
    private let announced = Locked<[RelativePath: Int]>([:])

    /// Opens `path`, checks that its sentinel has the `id`, and locks it.
    init(attaching path: FilePath, expecting id: String) throws(SafeBackupError) {
        self.path = path
        let (root, sentinel, bytes) = try Self.look(path, expecting: id)
        do throws(Errno) {
            let statistics = try VolumeStatistics(root)
            if statistics.isReadOnly { throw Errno.readOnlyFileSystem }
            let status = try root.status()
            (device, inode) = (status.device, status.fingerprint.inode)
            type = statistics.type
            base = ConfinedDirectory(root: root)
            area = try base.openDirectory(Layout.area)
            // Tools that drop empty directories take these along; versions/ is made when it is needed.
            staging = try LocalDestination.ownDirectory(Layout.stagingLeaf, in: area)
            catalogue = try LocalDestination.ownDirectory(Layout.catalogueLeaf, in: area)
        } catch {
            throw Failure.destination(error, "open \(Layout.area) in", at: path)
        }
        capabilities = sentinel.capabilities
        layout = Layout(nameLimit: capabilities.nameLimit, foldsCase: capabilities.foldsCase)
        // Before 5.8 syncfs reports no write errors. See: man 2 syncfs.
        honoursSyncFileSystem = type.honoursSyncFileSystem && Kernel.isAtLeast(5, 8)
        known = Locked(Known(sentinel: sentinel, bytes: bytes))
        isKeyed = false
        lock = try Self.lock(area, path)
    }

    /// Opens a directory whose copies the callers name, makes its area, locks it and finds out what its file system can
    /// do. Throws `destinationTaken` for one that an agent, or another program by such a store, writes to.
    init(keyed path: FilePath) throws(SafeBackupError) {
        self.path = path
        let root = try Self.open(path)
        try Self.refuseSentinel(in: root, path)
        do throws(Errno) {
            let statistics = try VolumeStatistics(root)
            if statistics.isReadOnly { throw Errno.readOnlyFileSystem }
            let status = try root.status()
            (device, inode) = (status.device, status.fingerprint.inode)
            type = statistics.type
            base = ConfinedDirectory(root: root)
            area = try LocalDestination.ownDirectory(Layout.keyedArea.bytes, in: root)
        } catch {
            throw Failure.destination(error, "make \(Layout.keyedArea) in", at: path)
        }
        isKeyed = true
        do throws(SafeBackupError) {
            lock = try Self.lock(area, path)
        } catch {
            guard error.code == .destinationTaken else { throw error }
            throw SafeBackupError(
                .destinationTaken,
                "Another session writes to \(printable(path.bytes)); end it, or share one session",
                disposition: .permanent)
        }
        do throws(Errno) {
            staging = try LocalDestination.ownDirectory(Layout.stagingLeaf, in: area)
            catalogue = area
            // Only now: before the lock was taken they could be another session's.
            try Removal.empty(staging)
            capabilities = try Probe.run(in: staging)
            honoursSyncFileSystem = type.honoursSyncFileSystem && Kernel.isAtLeast(5, 8)
            // What earlier processes made is durable too, such as directories that copies are promised in later.
            if honoursSyncFileSystem { try root.syncFileSystem() }
            try area.sync()
            try root.sync()
        } catch {
            throw Failure.destination(error, "prepare", at: path)
        }
        layout = Layout(nameLimit: capabilities.nameLimit, foldsCase: capabilities.foldsCase)
        known = Locked(Known(sentinel: Sentinel(id: "", sources: [], capabilities: capabilities), bytes: []))
    }

    deinit { ProcessLock.unlock(lock) }

    /// Opens `path` and checks that its sentinel has the `id`.
    @discardableResult
    static func look(
        _ path: FilePath, expecting id: String
    ) throws(SafeBackupError) -> (root: Descriptor, sentinel: Sentinel, bytes: [UInt8]) {
        let root = try open(path)
        guard let (sentinel, bytes) = try readSentinel(in: root) else { throw sentinelMissing(path) }
        guard sentinel.id == id else { throw sentinelForeign(path, sentinel.id) }
        return (root, sentinel, bytes)
    }

    var sentinel: Sentinel { known.withLock { $0.sentinel } }

    /// Proves that the path still leads to this directory and that its sentinel is still ours; asked before each
    /// group, so that an unmounted or replaced disk is noticed before anything is written.
    func check() throws(SafeBackupError) {
        let there = try Self.open(path)
        do throws(Errno) {
            let status = try there.status()
            guard status.device == device, status.fingerprint.inode == inode else {
                throw Errno.noSuchFileOrDirectory
            }
        } catch {
            if error != .noSuchFileOrDirectory { throw Failure.destination(error, "look at", at: path) }
            throw isKeyed ? Self.replaced(path) : Self.sentinelMissing(path)
        }
        if isKeyed { return try Self.refuseSentinel(in: base.root, path) }
        guard let bytes = try Self.readBytes(in: base.root) else { throw Self.sentinelMissing(path) }
        let (knownID, isSame) = known.withLock { ($0.sentinel.id, $0.bytes == bytes) }
        if isSame { return }
        let sentinel = try Sentinel(decoding: bytes)
        guard sentinel.id == knownID else { throw Self.sentinelForeign(path, sentinel.id) }
    }

    /// Changes the sentinel; the old one or the new one is there after a crash.
    func update(_ change: (inout Sentinel) -> Void) throws(SafeBackupError) {
        var sentinel = self.sentinel
        change(&sentinel)
        let bytes = try sentinel.encoded()
        try Self.write(bytes, in: area)
        known.withLock { $0 = Known(sentinel: sentinel, bytes: bytes) }
    }

    /// To be called before a directory is made: another group may store below it, and return first.
    func announce(_ directory: RelativePath) {
        announced.withLock { $0[directory, default: 0] += 1 }
    }

    /// The directories are durable, or will never be promised.
    func withdraw(_ directories: [RelativePath]) {
        if directories.isEmpty { return }
        announced.withLock { announced in
            for directory in directories {
                let count = (announced[directory] ?? 1) - 1
                announced[directory] = count == 0 ? nil : count
            }
        }
    }

    /// The directories on the way to `paths` that others than `own` make, and whose entry in their parent may not be
    /// durable yet.
    func announcedDirectories(towards paths: Set<RelativePath>, besides own: [RelativePath]) -> Set<RelativePath> {
        var announced = announced.withLock { $0 }
        for directory in own { announced[directory]? -= 1 }
        var found: Set<RelativePath> = []
        for (directory, count) in announced where count > 0 {
            for part in directory.ancestors + [directory] where paths.contains(where: { $0.isWithin(part) }) {
                found.insert(part)
            }
        }
        return found
    }

    /// A version left its directory. Some may be forgotten: an empty directory more is no harm.
    func noteVacated(_ version: RelativePath) {
        if !version.isWithin(Layout.versions) { return }
        vacatedVersions.withLock { vacated in
            if vacated.count < 10_000 { vacated.insert(version.parent) }
        }
    }

    var hasVacated: Bool { vacatedVersions.withLock { !$0.isEmpty } }

    /// What was noted since this was asked last.
    func takeVacated() -> [RelativePath] {
        vacatedVersions.withLock { vacated in
            defer { vacated = [] }
            return Array(vacated)
        }
    }

    static func write(_ bytes: [UInt8], in area: Descriptor) throws(SafeBackupError) {
        do {
            try AtomicFile.write(bytes, to: Layout.sentinelLeaf, in: area)
        } catch {
            throw Failure.destination(error, "write the sentinel of", Layout.area)
        }
    }

    /// Throws `notAnswering` within seconds where nobody answers, as at a start; once it is open, nothing is timed.
    static func open(_ path: FilePath) throws(SafeBackupError) -> Descriptor {
        if !TimedLooks.shared.answers(path) {
            throw .notAnswering("The destination \(printable(path.bytes))", disposition: .destinationUnavailable)
        }
        do {
            return try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory:
                throw SafeBackupError(
                    .destinationMissing,
                    "The destination \(printable(path.bytes)) is not there; mount its disk, then saving goes on by itself",
                    disposition: .destinationUnavailable, systemError: error.rawValue)
            case .permissionDenied:
                throw SafeBackupError(
                    .destinationForbidden,
                    "The destination \(printable(path.bytes)) may not be opened; let the agent's user write there",
                    disposition: .destinationUnavailable, systemError: error.rawValue)
            default:
                throw Failure.destination(error, "open", at: path)
            }
        }
    }

    /// `nil` if there is none. Through the root's descriptor, never through a link.
    static func readSentinel(in root: Descriptor) throws(SafeBackupError) -> (Sentinel, [UInt8])? {
        guard let bytes = try readBytes(in: root) else { return nil }
        return (try Sentinel(decoding: bytes), bytes)
    }

    static func readBytes(in root: Descriptor) throws(SafeBackupError) -> [UInt8]? {
        do {
            let file = try ConfinedDirectory(root: root).open(
                Layout.area.appending(Layout.sentinelLeaf), O_RDONLY | O_NONBLOCK)
            return try file.readAll(limit: 1 << 20)
        } catch {
            if error == .noSuchFileOrDirectory || error == .notDirectory { return nil }
            throw Failure.destination(error, "read the sentinel of", Layout.area)
        }
    }

    /// Takes the lock, which is held as long as the descriptor that is returned.
    static func lock(_ area: Descriptor, _ path: FilePath) throws(SafeBackupError) -> Descriptor {
        do {
            if try ProcessLock.tryLock(area) { return area }
        } catch {
            // Network file systems lock only files that are open for writing. See: man 2 flock.
            guard [.badFileDescriptor, .invalidArgument, .notSupported, .noLocks].contains(error) else {
                throw Failure.destination(error, "lock", at: path)
            }
            do {
                let file = try area.open(Array("lock".utf8), O_RDWR | O_CREAT)
                if try ProcessLock.tryLock(file) { return file }
            } catch {
                throw Failure.destination(error, "lock", at: path)
            }
        }
        throw SafeBackupError(
            .destinationTaken,
            "Another agent writes to \(printable(path.bytes)); stop it, or add the pair to its configuration; "
                + "an agent that waits for it goes on by itself then",
            disposition: .destinationUnavailable)
    }

    private static func refuseSentinel(in root: Descriptor, _ path: FilePath) throws(SafeBackupError) {
        do throws(Errno) {
            _ = try root.status(of: Layout.area.bytes)
        } catch {
            if error == .noSuchFileOrDirectory { return }
            throw Failure.destination(error, "look at", at: path)
        }
        throw SafeBackupError(
            .destinationTaken,
            "\(printable(path.bytes)) holds the backup of an agent (.safebackup), which alone writes there; give another "
                + "directory",
            disposition: .permanent)
    }

    private static func replaced(_ path: FilePath) -> SafeBackupError {
        SafeBackupError(
            .destinationMissing,
            "Another directory is at \(printable(path.bytes)) now, or its disk was unmounted; nothing is written there "
                + "by this session: open a new one",
            disposition: .destinationUnavailable)
    }

    private static func sentinelMissing(_ path: FilePath) -> SafeBackupError {
        SafeBackupError(
            .sentinelMissing,
            "\(printable(path.bytes)) is there, but not the destination we know: its disk is probably not mounted; "
                + "mount it, nothing is written until then, and saving goes on by itself; if the disk was exchanged on "
                + "purpose, 'safebackup accept \(printable(path.bytes))' shows what would follow",
            disposition: .destinationUnavailable)
    }

    private static func sentinelForeign(_ path: FilePath, _ id: String) -> SafeBackupError {
        SafeBackupError(
            .sentinelForeign,
            "\(printable(path.bytes)) holds another destination (\(printable(id.utf8))); mount the right disk, "
                + "nothing is written until then, and saving goes on by itself",
            disposition: .destinationUnavailable)
    }
}

extension FilePath {
    /// The path's bytes, without the final NUL.
    var bytes: [UInt8] {
        withPlatformString { Array(UnsafeBufferPointer(start: $0, count: length)).map(UInt8.init(bitPattern:)) }
    }
}
