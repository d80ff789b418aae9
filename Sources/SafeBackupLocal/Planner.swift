import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Glibc

/// Decides what a lease must record before anything is written. Looks at the destination, writes nothing, and knows
/// nothing of the source: each plan holds for whatever kind of entry the store will find there.
struct Planner {
    private let root: AttachedRoot
    private let policy: VersionPolicy
    private let space: RoomBudget
    private let tornLimit: Int
    private let now: Timestamp
    private var directories: DirectoryCache
    /// Directories that are not there, so that a thousand new files below one cost one look-up.
    private var absent: Set<RelativePath> = []
    /// What is listed in a directory, on file systems that fold names.
    private var listings: [RelativePath: Set<[UInt8]>] = [:]

    init(
        _ root: AttachedRoot, policy: VersionPolicy, share: RoomShare, tornLimit: Int, now: Timestamp
    ) throws(Errno) {
        self.root = root
        self.policy = policy
        self.tornLimit = tornLimit
        self.now = now
        space = share.budget(try VolumeStatistics(root.base.root))
        directories = DirectoryCache(root.base)
    }

    /// - Parameter former: where another spelling of the location lies, which the source has no more.
    mutating func plan(_ job: DueJob, replacing former: RelativePath? = nil) -> Result<LeasePlan, SafeBackupError> {
        do throws(SafeBackupError) {
            return .success(try makePlan(job, replacing: former))
        } catch {
            return .failure(error)
        }
    }

    private mutating func makePlan(
        _ job: DueJob, replacing former: RelativePath?
    ) throws(SafeBackupError) -> LeasePlan {
        try checkName(job)
        var plan = LeasePlan(
            stageName: Layout.stageName(sequence: job.sequence, generation: job.generation), final: .absent)
        do throws(Errno) {
            if let status = try look(at: job.location, &plan, job) {
                plan.final = FinalState(status)
                plan.version = root.layout.version(of: job.location, at: now, id: id(job))
                plan.versionReason = reason(job, plan.final)
            }
        } catch {
            throw Failure.destination(error, "look at", job.location)
        }
        if let former, try isOnlySpelling(former, of: job.location) {
            // It goes first, as what stands in the way of the path; under the new spelling is nothing then.
            (plan.final, plan.version, plan.versionReason) = (.absent, nil, nil)
            plan.obstruction = former
            plan.obstructionVersion = root.layout.version(of: former, at: now, id: id(job) + "o")
        } else if root.layout.foldsCase {
            try checkFolding(job.location, exists: plan.final != .absent)
        }
        if case .absent = plan.final, job.action != .delete, job.live == nil, job.origin == nil, space.isScarce {
            throw Failure.full(job.location, ByteCount(space.available))
        }
        return plan
    }

    private func id(_ job: DueJob) -> String { String(job.sequence, radix: 36) }

    private func checkName(_ job: DueJob) throws(SafeBackupError) {
        if root.layout.isReserved(job.path) || root.layout.isReserved(job.location) {
            throw SafeBackupError(
                .reservedName,
                "\(job.path) is not saved: the name .safebackup at the top is safebackup's own; rename it to save it",
                disposition: .permanent)
        }
        if job.location.isRoot || job.path.isRoot {
            throw SafeBackupError(
                .invalidPath, "The source's root itself is not an entry to save", disposition: .permanent)
        }
        if let component = root.layout.componentTooLong(in: job.location) {
            throw SafeBackupError(
                .nameTooLong,
                "\(job.path) is not saved: the destination takes names of \(root.layout.nameLimit) bytes, "
                    + "\(printable(component.prefix(40)))… has \(component.count); rename it",
                disposition: .permanent)
        }
    }

    /// What is under the final name, or `nil`. An ancestor that is not a directory is planned to move away.
    private mutating func look(
        at location: RelativePath, _ plan: inout LeasePlan, _ job: DueJob
    ) throws(Errno) -> FileStatus? {
        let parent = location.parent
        if absent.contains(parent) { return nil }
        let directory: Descriptor
        do {
            directory = try directories.directory(parent)
        } catch {
            switch error {
            case .noSuchFileOrDirectory:
                absent.insert(parent)
                return nil
            case .notDirectory, .tooManySymbolicLinkLevels:
                if let obstruction = try obstruction(of: location) {
                    plan.obstruction = obstruction
                    plan.obstructionVersion = root.layout.version(of: obstruction, at: now, id: id(job) + "o")
                }
                return nil
            default: throw error
            }
        }
        return try Self.status(of: location.leaf, in: directory)
    }

    /// The outermost ancestor that is not a directory.
    private func obstruction(of location: RelativePath) throws(Errno) -> RelativePath? {
        for ancestor in location.ancestors {
            do {
                if try root.base.status(of: ancestor).kind != .directory { return ancestor }
            } catch {
                if error == .noSuchFileOrDirectory { return nil }
                throw error
            }
        }
        return nil
    }

    private static func status(of leaf: [UInt8], in directory: Descriptor) throws(Errno) -> FileStatus? {
        do {
            return try directory.status(of: leaf)
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }

    /// Why what is there is kept when an entry of its own kind replaces it; `inTheWay`: only when another kind does.
    private func reason(_ job: DueJob, _ final: FinalState) -> VersionReason {
        guard case .present(let kind, _, _, _) = final, kind != .directory else { return .inTheWay }
        guard let occupant = job.occupant, final.holds(occupant, live: job.live, root) else { return .foreign }
        let isGood = !occupant.isFuzzy && !occupant.isDamaged
        if isGood && job.attempts + 1 >= tornLimit { return .lastGood }
        // What a rename lands on may itself have been renamed, and be looked for a moment later.
        let isKept = job.origin != nil || policy.keeps(newest: job.newestVersionAt, now: now)
        return isKept ? .kept : .inTheWay
    }

    /// Whether `former` is the one entry that the location folds onto.
    private mutating func isOnlySpelling(
        _ former: RelativePath, of location: RelativePath
    ) throws(SafeBackupError) -> Bool {
        if former.parent != location.parent { return false }
        // Its directories are spelled as they are there.
        if !location.parent.isRoot { try checkFolding(location.parent, exists: false) }
        let others = try spellings(of: location)
        return others == [former.leaf]
    }

    /// The entries beside the location that it folds onto, by ASCII letters; without the location itself.
    mutating func spellings(of location: RelativePath) throws(SafeBackupError) -> [[UInt8]] {
        do {
            let folded = Layout.folded(location.leaf)
            return try listing(location.parent).filter { $0 != location.leaf && Layout.folded($0) == folded }
        } catch {
            throw Failure.destination(error, "list", location.parent)
        }
    }

    /// Refuses a name that folds onto another entry's: storing it would replace that entry.
    private mutating func checkFolding(_ location: RelativePath, exists: Bool) throws(SafeBackupError) {
        for path in location.ancestors + [location] {
            let names: Set<[UInt8]>
            do {
                names = try listing(path.parent)
            } catch {
                throw Failure.destination(error, "list", path.parent)
            }
            if names.contains(path.leaf) { continue }
            let folded = Layout.folded(path.leaf)
            // What is found but not listed was found under another spelling, by rules of the file system's own.
            let isFoundElsewhere = path == location && exists
            if isFoundElsewhere || names.contains(where: { Layout.folded($0) == folded }) {
                throw SafeBackupError(
                    .nameCollision,
                    "\(location) is not saved: another name differs from it only in case, and the destination "
                        + "takes them for one; rename one of them",
                    disposition: .permanent)
            }
            // The next job of the group must not fold onto this one.
            listings[path.parent]?.insert(path.leaf)
        }
    }

    private mutating func listing(_ path: RelativePath) throws(Errno) -> Set<[UInt8]> {
        if let known = listings[path] { return known }
        let directory: Descriptor
        do {
            directory = try root.base.openDirectory(path)
        } catch {
            guard [.noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels].contains(error) else {
                throw error
            }
            listings[path] = []
            return []
        }
        var names: Set<[UInt8]> = []
        try directory.forEachEntry { name, _ in names.insert(name) }
        listings[path] = names
        return names
    }
}

extension FinalState {
    init(_ status: FileStatus?) {
        guard let status else {
            self = .absent
            return
        }
        self = .present(
            kind: status.kind, inode: status.fingerprint.inode, size: status.size, mtime: status.fingerprint.mtime)
    }

    /// Whether `status` shows what was planned with. A directory is the same whatever was made or removed in it.
    func isStill(_ status: FileStatus?, _ root: AttachedRoot) -> Bool {
        guard case .present(let kind, let inode, let size, let mtime) = self else { return status == nil }
        guard let status, status.kind == kind else { return false }
        if root.type.hasStableInodes && status.fingerprint.inode != inode { return false }
        return kind == .directory || (status.size == size && root.capabilities.isSame(status.fingerprint.mtime, mtime))
    }

    /// Whether the copy that the catalogue has at this place is what is there. Its mtime may also be the live name's:
    /// a save that found equal content set it without making a new copy.
    func holds(_ occupant: CopyRecord, live: NameRecord?, _ root: AttachedRoot) -> Bool {
        guard case .present(let kind, let inode, let size, let mtime) = self else { return false }
        guard kind == occupant.kind, size == occupant.size else { return false }
        if root.type.hasStableInodes, let known = occupant.inode, known != inode { return false }
        if let known = occupant.mtime, root.capabilities.isSame(known, mtime) { return true }
        if let live, live.copy == occupant.id, root.capabilities.isSame(live.fingerprint.mtime, mtime) { return true }
        return false
    }
}
