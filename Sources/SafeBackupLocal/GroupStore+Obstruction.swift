import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What must go before a path can be stored: a file where one of its directories belongs, or, where the file system folds
/// names, what lies there under another spelling.
extension GroupStore {
    /// What the job replaces under another spelling, as it was planned: the entry itself, or a directory on the way.
    func spelling(of lease: LeasedJob) -> RelativePath? {
        lease.plan.obstruction.flatMap { lease.job.location.part(spelledAs: $0) == nil ? nil : $0 }
    }

    /// What lies under another spelling goes first, where the file system takes both for one.
    mutating func makeRoomForSpelling(_ lease: LeasedJob, _ entry: inout StoredEntry) throws(Errno) {
        guard let former = spelling(of: lease), let version = lease.plan.obstructionVersion else { return }
        // Another job of the group may have done it: the name would lead to what is there in its place by now.
        guard try directories.directory(former.parent).lists(former.leaf) else { return }
        if let taker = takers[former], isMove(taker.index) {
            try removeTaken(former)
        } else {
            entry.displaced.append(try displace(former, to: version, withAllBelow: true))
        }
    }

    /// Moves to its version name what is in the way: an ancestor that is not a directory, or another spelling, also of a
    /// directory. The copies below one are found there by their catalogued names, and moved on one by one: at no moment
    /// is one without a name, and recovery is that of any obstruction.
    mutating func displace(
        _ path: RelativePath, to version: RelativePath, withAllBelow: Bool = false
    ) throws(Errno) -> Displacement {
        let parent = try directories.directory(path.parent)
        let status = try parent.status(of: path.leaf)
        if status.kind == .directory && !withAllBelow { throw .isDirectory }
        let found = Displacement(
            from: path, obstructing: status, to: version,
            digest: try contents.digest(ofObstruction: path.leaf, in: parent, status, root))
        let versions = try makeDirectory(version.parent)
        try flush.changed(versions, at: version.parent)
        // Whatever a power cut leaves of a directory's two names, its new one does not hang below what was never written.
        if status.kind == .directory { try flush.flush() }
        try move(path.leaf, from: parent, to: versions, version.leaf)
        directories.forget(path)
        try flush.changed(versions, at: version.parent)
        try flush.changed(parent, at: path.parent)
        // Under other spellings of it more may be open.
        if status.kind == .directory { directories = DirectoryCache(root.base) }
        return found
    }
}

extension Displacement {
    /// What was in the way. Nobody has compared it with the catalogue; with a digest it is told apart from a copy of the
    /// same size and time, and what could not be read is taken for somebody else's.
    init(from: RelativePath, obstructing status: FileStatus, to: RelativePath, digest: ContentCheck.Obstruction) {
        self.init(from: from, to: to, reason: digest == .unreadable ? .foreign : .inTheWay, status: status)
        if case .digest(let digest) = digest { self.digest = digest }
    }
}

extension ContentCheck {
    enum Obstruction: Sendable, Hashable {
        case digest(Digest)
        case unreadable
        /// Of what has no content, and where the catalogue does not compare inodes.
        case notNeeded
    }

    func digest(
        ofObstruction leaf: [UInt8], in parent: Descriptor, _ status: FileStatus, _ root: AttachedRoot
    ) throws(Errno) -> Obstruction {
        guard root.type.hasStableInodes, status.kind == .file || status.kind == .symlink else { return .notNeeded }
        return try digest(of: leaf, in: parent, FinalState(status)).map { .digest($0) } ?? .unreadable
    }
}

extension RelativePath {
    /// Another path that differs only in the case of letters of its last component.
    func isSpelled(as other: RelativePath) -> Bool {
        self != other && !isRoot && !other.isRoot && parent == other.parent
            && Layout.folded(leaf) == Layout.folded(other.leaf)
    }

    /// This path, or the directory on the way to it, that is spelled otherwise than `other` and folds onto it.
    func part(spelledAs other: RelativePath) -> RelativePath? {
        (ancestors + [self]).first { $0.isSpelled(as: other) }
    }
}

extension Descriptor {
    /// Whether the directory has an entry of exactly this name, where the file system would also find it by another.
    func lists(_ leaf: [UInt8]) throws(Errno) -> Bool {
        var isListed = false
        try forEachEntry { name, _ in if name == leaf { isListed = true } }
        return isListed
    }
}
