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
///
/// Of a move, before that:
///
/// | stage | final name now | origin's name | what follows |
/// |---|---|---|---|
/// | any | the copy | any | moved; the origin's name is removed if it still has it |
/// | the copy | any | the copy | as above: the stage is removed |
/// | the copy | as planned, or nothing | another, or nothing | the stage is renamed over it: moved |
/// | the copy | something else | another, or nothing | the copy goes back, or to a version name |
struct Recovery {
    private let root: AttachedRoot
    private let copier = FileCopier()
    private let contents = ContentCheck()
    private var directories: DirectoryCache
    private var flush: GroupFlush
    private let now: Timestamp
    /// Copies that are under their new names, and may be under the old ones too.
    private var moved: [CopyRecord] = []

    init(_ root: AttachedRoot, now: Timestamp) throws(Errno) {
        self.root = root
        self.now = now
        directories = DirectoryCache(root.base)
        flush = try GroupFlush(root)
    }

    /// When it returns, what it found survives a power cut. After a failure, ask again: nothing is lost by that.
    mutating func run(_ leases: [LeasedJob]) throws(SafeBackupError) -> [RecoveredLease] {
        var recovered: [RecoveredLease] = []
        for lease in leases {
            Pulse.current?.mark()
            do {
                recovered.append(try recover(lease))
            } catch {
                throw Failure.destination(error, "recover", lease.job.location)
            }
        }
        do throws(Errno) {
            try flush.flush()
            for copy in moved { try leave(copy) }
            try flush.flush()
        } catch {
            throw Failure.destination(error, "flush", at: root.path)
        }
        return recovered
    }

    private mutating func recover(_ lease: LeasedJob) throws(Errno) -> RecoveredLease {
        let stage = Array(lease.plan.stageName.utf8)
        let stageStatus = try root.staging.statusIfThere(of: stage)
        let hasStage = stageStatus != nil
        var displaced: [Displacement] = []
        if let obstruction = lease.plan.obstruction, let version = lease.plan.obstructionVersion,
            let status = try look(at: version)
        {
            try flushParents(of: obstruction, version)
            let digest = try contents.digest(
                ofObstruction: version.leaf, in: directories.directory(version.parent), status, root)
            displaced.append(Displacement(from: obstruction, obstructing: status, to: version, digest: digest))
        }
        if let copy = lease.job.origin?.copy, copy.inode != nil,
            try findMove(lease, copy, stage: stageStatus, &displaced)
        {
            moved.append(copy)
            try removeStage(stage)
            return RecoveredLease(lease: lease, finding: .moved, displaced: displaced)
        }
        let finding = try find(lease, hasStage: hasStage, &displaced)
        if hasStage { try removeStage(stage) }
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

    // MARK: - Moves

    /// Whether the copy is under the job's final name; brings it there if its stage is all that is left of it.
    private mutating func findMove(
        _ lease: LeasedJob, _ copy: CopyRecord, stage: FileStatus?, _ displaced: inout [Displacement]
    ) throws(Errno) -> Bool {
        let location = lease.job.location
        let final = try look(at: location)
        if isCopy(final, copy) {
            try tellVersion(lease, final, &displaced)
            try flushParents(of: location)
            return true
        }
        guard isCopy(stage, copy), !isCopy(try look(at: copy.location), copy) else { return false }
        return try publish(lease, copy, over: final, &displaced)
    }

    private func isCopy(_ status: FileStatus?, _ copy: CopyRecord) -> Bool {
        guard let status else { return false }
        return status.kind == copy.kind && status.fingerprint.inode == copy.inode && status.size == copy.size
    }

    /// What was under the final name is at its version name.
    private mutating func tellVersion(
        _ lease: LeasedJob, _ final: FileStatus?, _ displaced: inout [Displacement]
    ) throws(Errno) {
        guard let version = lease.plan.version, let status = try look(at: version) else { return }
        try flushParents(of: version)
        displaced.append(
            Displacement(
                from: lease.job.location, to: version, reason: reason(lease, status, final), status: status))
    }

    /// Another job of the group has taken the copy's place already: its stage must not go. `false`: the copy is safe
    /// elsewhere, under its old name or a version name.
    private mutating func publish(
        _ lease: LeasedJob, _ copy: CopyRecord, over final: FileStatus?, _ displaced: inout [Displacement]
    ) throws(Errno) -> Bool {
        let location = lease.job.location
        let stage = Array(lease.plan.stageName.utf8)
        do throws(Errno) {
            var made: [(RelativePath, Descriptor)] = []
            let parent = try directories.makingDirectory(location.parent) { made.append(($0, $1)) }
            for (directory, above) in made { try flush.changed(above, at: directory.parent) }
            if let final {
                guard final.kind != .directory, lease.plan.final.isStill(final, root) else { throw Errno.fileExists }
                try keep(final, of: lease, in: parent)
                try root.staging.rename(stage, to: parent, location.leaf)
                // Not before: where the rename fails, what was under the final name is still there.
                try tellVersion(lease, final, &displaced)
            } else {
                try tellVersion(lease, nil, &displaced)
                try root.staging.moveToFreeName(stage, to: parent, location.leaf)
            }
            try flush.changed(parent, at: location.parent)
            return true
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .fileExists, .notDirectory, .isDirectory, .tooManySymbolicLinkLevels: break
            default: throw error
            }
        }
        try rescue(stage, copy, lease, &displaced)
        return false
    }

    /// The older copy gets its version name if the final name is its only one.
    private mutating func keep(_ final: FileStatus, of lease: LeasedJob, in parent: Descriptor) throws(Errno) {
        if final.linkCount > 1 { return }
        guard let version = lease.plan.version else { throw .fileExists }
        var made: [(RelativePath, Descriptor)] = []
        let versions = try directories.makingDirectory(version.parent) { made.append(($0, $1)) }
        for (directory, above) in made { try flush.changed(above, at: directory.parent) }
        try parent.link(lease.job.location.leaf, to: versions, version.leaf)
        try flush.changed(versions, at: version.parent)
        try flush.flush()
    }

    /// The copy's new place is somebody else's.
    private mutating func rescue(
        _ stage: [UInt8], _ copy: CopyRecord, _ lease: LeasedJob, _ displaced: inout [Displacement]
    ) throws(Errno) {
        do {
            let parent = try directories.directory(copy.location.parent)
            try root.staging.moveToFreeName(stage, to: parent, copy.location.leaf)
            return try flush.changed(parent, at: copy.location.parent)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .fileExists, .notDirectory, .tooManySymbolicLinkLevels: break
            default: throw error
            }
        }
        let version = root.layout.version(of: copy.location, at: now, id: lease.plan.stageName)
        var made: [(RelativePath, Descriptor)] = []
        let versions = try directories.makingDirectory(version.parent) { made.append(($0, $1)) }
        for (directory, above) in made { try flush.changed(above, at: directory.parent) }
        let status = try root.staging.status(of: stage)
        try root.staging.moveToFreeName(stage, to: versions, version.leaf)
        try flush.changed(versions, at: version.parent)
        displaced.append(Displacement(from: copy.location, to: version, reason: .inTheWay, status: status))
    }

    /// The name that a moved copy had goes, if it still is the copy's.
    private mutating func leave(_ copy: CopyRecord) throws(Errno) {
        guard isCopy(try look(at: copy.location), copy) else { return }
        let parent = try directories.directory(copy.location.parent)
        try parent.remove(copy.location.leaf)
        try flush.changed(parent, at: copy.location.parent)
        root.noteVacated(copy.location)
    }

    private func removeStage(_ stage: [UInt8]) throws(Errno) {
        do {
            try root.staging.remove(stage)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
        }
    }

    private func reason(_ lease: LeasedJob, _ version: FileStatus, _ final: FileStatus?) -> VersionReason {
        if !lease.plan.final.isStill(version, root) || lease.plan.versionReason == .foreign { return .foreign }
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
        root.noteVacated(version)
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
        root.noteVacated(version)
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
            // Another name's entry may answer to this one, where the file system folds names; it is not this job's.
            if root.layout.foldsCase, try !parent.lists(path.leaf) { return nil }
            return try parent.statusIfThere(of: path.leaf)
        } catch {
            // The way there is no way of directories: nothing of ours is under this name.
            if error == .noSuchFileOrDirectory || error == .notDirectory || error == .tooManySymbolicLinkLevels {
                return nil
            }
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
