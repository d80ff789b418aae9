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
    private let contents: ContentCheck

    init(
        _ root: AttachedRoot, policy: VersionPolicy, share: RoomShare, tornLimit: Int, now: Timestamp,
        isInterrupted: @escaping @Sendable () -> Bool = { false }
    ) throws(Errno) {
        self.root = root
        self.policy = policy
        self.tornLimit = tornLimit
        self.now = now
        contents = ContentCheck(isInterrupted: isInterrupted)
        space = try share.budget(root)
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
        if let former, try isOnlySpelling(former, of: job.location) {
            // It goes first, as what stands in the way of the path; under the new spelling is nothing then.
            plan.obstruction = former
            plan.obstructionVersion = root.layout.version(of: former, at: now, id: id(job) + "o")
        } else {
            // By what is listed, and before anything is looked at under a name that is not: some file systems go on
            // finding by that what has been moved away.
            var isListed = true
            if root.layout.foldsCase { isListed = try checkFolding(job.location) }
            try lookAtFinal(job, &plan)
            // Found under another spelling, by rules of the file system's own.
            if !isListed, plan.final != .absent { throw Self.collision(job.location) }
        }
        if root.isKeyed { try checkKeyed(job, &plan) }
        if case .absent = plan.final, job.action != .delete, job.live == nil, job.origin == nil, space.isScarce {
            throw Failure.full(job.location, space)
        }
        return plan
    }

    private mutating func lookAtFinal(_ job: DueJob, _ plan: inout LeasePlan) throws(SafeBackupError) {
        do throws(Errno) {
            guard let status = try look(at: job.location, &plan, job) else { return }
            plan.final = FinalState(status)
            plan.version = root.layout.version(of: job.location, at: now, id: id(job))
            plan.versionReason = try reason(job, plan.final)
        } catch {
            if error == .canceled { throw Failure.interrupted(job.path) }
            throw Failure.destination(error, "look at", job.location)
        }
    }

    /// What a caller names replaces a file, which is not kept, and nothing else.
    private func checkKeyed(_ job: DueJob, _ plan: inout LeasePlan) throws(SafeBackupError) {
        (plan.version, plan.versionReason) = (nil, nil)
        if let obstruction = plan.obstruction { throw Self.inTheWay(job.location, obstruction, "is no directory") }
        if case .present(let kind, _, _, _) = plan.final, kind != .file {
            throw Self.inTheWay(job.location, job.location, "is no file but a \(kind.rawValue)")
        }
    }

    private static func inTheWay(_ key: RelativePath, _ path: RelativePath, _ what: String) -> SafeBackupError {
        SafeBackupError(
            .nameCollision,
            "The key \(key) cannot be stored: \(path) \(what) in the backup; remove it there, or give another key",
            disposition: .permanent)
    }

    private func id(_ job: DueJob) -> String { String(job.sequence, radix: 36) }

    private func checkName(_ job: DueJob) throws(SafeBackupError) {
        if !root.isKeyed && (root.layout.isReserved(job.path) || root.layout.isReserved(job.location)) {
            throw SafeBackupError(
                .reservedName,
                "\(job.path) is not saved: the name .safebackup at the top is safebackup's own; rename it to save it",
                disposition: .permanent)
        }
        if root.isKeyed && Layout.isReservedKey(job.location) {
            throw SafeBackupError(
                .reservedName,
                "The key \(job.location) has a name that safebackup uses itself (.safebackup, .safebackup-session); "
                    + "give another key",
                disposition: .permanent)
        }
        if root.isKeyed && job.location.isRoot {
            throw SafeBackupError(
                .invalidPath, "The key is empty; give the name that the copy gets", disposition: .permanent)
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
        return try directory.statusIfThere(of: location.leaf)
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

    /// Why what is there is kept when an entry of its own kind replaces it; `inTheWay`: only when another kind does.
    private mutating func reason(_ job: DueJob, _ final: FinalState) throws(Errno) -> VersionReason {
        guard case .present(let kind, _, _, _) = final, kind != .directory else { return .inTheWay }
        guard let occupant = job.occupant, final.resembles(occupant, live: job.live, root) else { return .foreign }
        // Under another inode: a copy on a disk that was restored, or somebody else's file in its place, of the same size
        // and time. Only its content tells; what a read cannot prove to be ours is not.
        if !final.holds(occupant, live: job.live, root) {
            let parent = try directories.directory(job.location.parent)
            guard try contents.digest(of: job.location.leaf, in: parent, final) == occupant.digest,
                occupant.digest != nil
            else { return .foreign }
        }
        let isGood = !occupant.isFuzzy && !occupant.isDamaged
        if isGood && job.attempts + 1 >= tornLimit { return .lastGood }
        // What a rename lands on may itself have been renamed, and be looked for a moment later.
        let isKept = job.origin != nil || policy.keeps(newest: job.newestVersionAt, now: now)
        return isKept ? .kept : .inTheWay
    }

    /// Whether `former` is the one entry that the location, or the first directory on the way to it that is not there as
    /// it is spelled, folds onto.
    private mutating func isOnlySpelling(
        _ former: RelativePath, of location: RelativePath
    ) throws(SafeBackupError) -> Bool {
        guard let path = location.part(spelledAs: former) else { return false }
        if !path.parent.isRoot { try checkFolding(path.parent) }
        return try spellings(of: path) == [former.leaf]
    }

    /// The one entry that the location, or else the first directory on the way to it that is not there as it is spelled,
    /// folds onto; `nil` if there is none, or more than one.
    mutating func otherSpelling(of location: RelativePath) throws(SafeBackupError) -> RelativePath? {
        for path in location.ancestors + [location] {
            if try isListed(path) { continue }
            let others = try spellings(of: path)
            return others.count == 1 ? path.parent.appending(others[0]) : nil
        }
        return nil
    }

    private mutating func isListed(_ path: RelativePath) throws(SafeBackupError) -> Bool {
        do {
            return try listing(path.parent).contains(path.leaf)
        } catch {
            throw Failure.destination(error, "list", path.parent)
        }
    }

    /// The entries beside the path that it folds onto, by ASCII letters; without the path itself.
    private mutating func spellings(of path: RelativePath) throws(SafeBackupError) -> [[UInt8]] {
        do {
            let folded = Layout.folded(path.leaf)
            return try listing(path.parent).filter { $0 != path.leaf && Layout.folded($0) == folded }
        } catch {
            throw Failure.destination(error, "list", path.parent)
        }
    }

    /// Refuses a name that folds onto another entry's: storing it would replace that entry. Whether the location is there
    /// as it is spelled.
    @discardableResult
    private mutating func checkFolding(_ location: RelativePath) throws(SafeBackupError) -> Bool {
        var isThere = true
        for path in location.ancestors + [location] {
            if try isListed(path) { continue }
            isThere = false
            if try !spellings(of: path).isEmpty { throw Self.collision(location) }
            // The next job of the group must not fold onto this one.
            listings[path.parent]?.insert(path.leaf)
        }
        return isThere
    }

    private static func collision(_ location: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .nameCollision,
            "\(location) is not saved: another name differs from it only in case, and the destination takes them for one; "
                + "rename one of them",
            disposition: .permanent)
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
        guard resembles(occupant, live: live, root), case .present(_, let inode, _, _) = self else { return false }
        return !root.type.hasStableInodes || occupant.inode.map { $0 == inode } ?? true
    }

    /// As `holds`, whatever the inode.
    func resembles(_ occupant: CopyRecord, live: NameRecord?, _ root: AttachedRoot) -> Bool {
        guard case .present(let kind, _, let size, let mtime) = self else { return false }
        guard kind == occupant.kind, size == occupant.size else { return false }
        if let known = occupant.mtime, root.capabilities.isSame(known, mtime) { return true }
        if let live, live.copy == occupant.id, root.capabilities.isSame(live.fingerprint.mtime, mtime) { return true }
        return false
    }
}
