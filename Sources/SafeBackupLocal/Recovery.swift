import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Tells how far leases came whose group did not end well, by comparing the disk with what each lease recorded; undoes
/// what was only begun. Never removes the last name of anything: when unsure, it stays.
///
/// | version name | final name now | what follows |
/// |---|---|---|
/// | nothing | as planned | unchanged |
/// | the planned entry | as planned | unchanged, the second link is removed |
/// | the planned entry | nothing | unchanged, renamed back |
/// | any | another file or link | replaced: it was complete and flushed before its rename; hashed now |
/// | any | a directory, or nothing | cleared |
struct Recovery {
    private let root: AttachedRoot
    private let copier = FileCopier()
    private var directories: DirectoryCache
    private var flush: GroupFlush

    init(_ root: AttachedRoot) throws(Errno) {
        self.root = root
        directories = DirectoryCache(root.base)
        flush = try GroupFlush(root)
    }

    /// When it returns, what it found survives a power cut. After a failure, ask again: nothing is lost by that.
    mutating func run(_ leases: [LeasedJob]) throws(SafeBackupError) -> [RecoveredLease] {
        var recovered: [RecoveredLease] = []
        for lease in leases {
            do {
                recovered.append(try recover(lease))
            } catch {
                throw Failure.destination(error, "recover", lease.job.location)
            }
        }
        do {
            try flush.flush()
        } catch {
            throw Failure.destination(error, "flush", .root)
        }
        return recovered
    }

    private mutating func recover(_ lease: LeasedJob) throws(Errno) -> RecoveredLease {
        let stage = Array(lease.plan.stageName.utf8)
        let hasStage = try Self.status(of: stage, in: root.staging) != nil
        var displaced: [Displacement] = []
        if let obstruction = lease.plan.obstruction, let version = lease.plan.obstructionVersion,
            let status = try look(at: version)
        {
            try flushParents(of: obstruction, version)
            displaced.append(Displacement(from: obstruction, to: version, reason: .inTheWay, status: status))
        }
        let finding = try find(lease, hasStage: hasStage, &displaced)
        if hasStage { try root.staging.remove(stage) }
        return RecoveredLease(lease: lease, finding: finding, displaced: displaced)
    }

    private mutating func find(
        _ lease: LeasedJob, hasStage: Bool, _ displaced: inout [Displacement]
    ) throws(Errno) -> RecoveredLease.Finding {
        let location = lease.job.location
        let final = try look(at: location)
        let version = try lease.plan.version.flatMap { version throws(Errno) in
            try look(at: version).map { (path: version, status: $0) }
        }
        if lease.plan.final.isStill(final, root) {
            if let version, let final, version.status.isSameFile(as: final) { try remove(version.path) }
            return .unchanged
        }
        if let version {
            if let final, version.status.isSameFile(as: final) {
                // Changed in place after it was linked: both names show the same file.
                try remove(version.path)
            } else if final == nil, lease.plan.final.isStill(version.status, root),
                try renameBack(version.path, to: location)
            {
                return .unchanged
            } else {
                try flushParents(of: location, version.path)
                displaced.append(
                    Displacement(
                        from: location, to: version.path, reason: reason(lease, version.status, final),
                        status: version.status))
            }
        }
        // With the stage still there our rename did not happen: what is there is somebody else's.
        guard let final, !hasStage else { return .cleared }
        return try replaced(location, final)
    }

    private func reason(_ lease: LeasedJob, _ version: FileStatus, _ final: FileStatus?) -> VersionReason {
        if !lease.plan.final.isStill(version, root) { return .foreign }
        if version.kind != final?.kind { return .inTheWay }
        return lease.plan.versionReason ?? .kept
    }

    /// `false` if the final name cannot take it back: its directory is gone, or something is there.
    private mutating func renameBack(_ version: RelativePath, to location: RelativePath) throws(Errno) -> Bool {
        do {
            let parent = try directories.directory(location.parent)
            try directories.directory(version.parent).moveToFreeName(version.leaf, to: parent, location.leaf)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels, .fileExists: return false
            default: throw error
            }
        }
        try flushParents(of: location, version)
        return true
    }

    /// What a rename of ours put under the final name. It is flushed once more, because the group's flush may not have
    /// come to its directory.
    private mutating func replaced(
        _ location: RelativePath, _ final: FileStatus
    ) throws(Errno) -> RecoveredLease.Finding {
        let parent = try directories.directory(location.parent)
        let digest: Digest
        var target: [UInt8]?
        do {
            switch final.kind {
            case .file:
                let file = try parent.openForReading(location.leaf)
                digest = try copier.digest(of: file, size: final.size).digest
                try flush.wrote(file)
            case .symlink:
                let link = try parent.linkTarget(of: location.leaf)
                digest = copier.digest(of: link)
                target = link
            default: return .cleared
            }
        } catch {
            switch error {
            // Not readable, so nothing is claimed of it: the next save treats it as foreign and keeps it.
            case .ioError, .permissionDenied, .notPermitted, .noSuchFileOrDirectory: return .cleared
            default: throw error
            }
        }
        try flush.changed(parent, at: location.parent)
        let stored = StoredCopy(digest: digest, size: final.size, inode: nil, mtime: final.fingerprint.mtime)
        return .replaced(stored, kind: final.kind, linkTarget: target)
    }

    private mutating func remove(_ version: RelativePath) throws(Errno) {
        let parent = try directories.directory(version.parent)
        try parent.remove(version.leaf)
        try flush.changed(parent, at: version.parent)
    }

    /// Both ends of a move that was found on the disk; an end that is gone needs no flush.
    private mutating func flushParents(of paths: RelativePath...) throws(Errno) {
        for path in paths {
            do {
                try flush.changed(directories.directory(path.parent), at: path.parent)
            } catch {
                guard error == .noSuchFileOrDirectory || error == .notDirectory || error == .tooManySymbolicLinkLevels
                else { throw error }
            }
        }
    }

    private mutating func look(at path: RelativePath) throws(Errno) -> FileStatus? {
        do {
            let parent = try directories.directory(path.parent)
            guard let status = try Self.status(of: path.leaf, in: parent) else { return nil }
            // Another name's entry may answer to this one, where the file system folds names; it is not this job's.
            if root.layout.foldsCase {
                var isListed = false
                try parent.forEachEntry { name, _ in if name == path.leaf { isListed = true } }
                if !isListed { return nil }
            }
            return status
        } catch {
            // The way there is no way of directories: nothing of ours is under this name.
            if error == .noSuchFileOrDirectory || error == .notDirectory || error == .tooManySymbolicLinkLevels {
                return nil
            }
            throw error
        }
    }

    private static func status(of leaf: [UInt8], in directory: Descriptor) throws(Errno) -> FileStatus? {
        do {
            return try directory.status(of: leaf)
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }
}

extension Displacement {
    init(from: RelativePath, to: RelativePath, reason: VersionReason, status: FileStatus) {
        self.init(
            from: from, to: to, reason: reason, kind: status.kind, inode: status.fingerprint.inode,
            size: status.size, mtime: status.fingerprint.mtime)
    }
}
