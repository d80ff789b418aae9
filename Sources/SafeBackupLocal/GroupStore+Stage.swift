import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Glibc

/// The first step: look at the source, and bring what differs into staging.
extension GroupStore {
    typealias Found = FoundEntry

    mutating func stage(_ lease: LeasedJob) -> Progress {
        do throws(SafeBackupError) {
            return try stageFound(lease)
        } catch {
            removeStage(lease)
            return .finished(.failed(error))
        }
    }

    private mutating func stageFound(_ lease: LeasedJob) throws(SafeBackupError) -> Progress {
        let path = lease.job.path
        guard let tree = trees[lease.job.source] else {
            throw ReadFailure.notOpen(path)
        }
        guard let found = try Found(path, in: tree, now: clock.now) else { return .finished(.gone) }
        let status = found.status
        if root.isKeyed {
            // The caller named this file, wherever it lies.
            if status.kind != .file { throw Failure.notRegular(path, status.kind) }
        } else if status.isMountRoot {
            throw .otherFileSystem(path)
        }
        Faults.reach("looked")
        // A rename that came after the lease is stored as any new content: what a lease does not name, recovery cannot tell
        // from a stranger, and it names what was known before anything was written. The older path ends as deleted, with
        // its copy.
        if let origin = lease.job.origin, let moved = try stageMove(lease, found, origin) { return moved }
        switch status.kind {
        case .file: return try stageFile(lease, found)
        case .symlink: return try stageLink(lease, found)
        case .directory: return try stageDirectory(lease, found)
        case .fifo, .socket, .device:
            throw ReadFailure.special(path, status.kind)
        }
    }

    // MARK: Files

    private mutating func stageFile(_ lease: LeasedJob, _ found: Found) throws(SafeBackupError) -> Progress {
        let job = lease.job
        let now = found.status.fingerprint
        let isOurs = holdsOccupant(lease)
        // A copy that may stay, if it has the source's content.
        var copy: CopyRecord?
        if isOurs, let occupant = job.occupant, occupant.kind == .file, occupant.digest != nil, !occupant.isDamaged,
            !occupant.isFuzzy
        {
            copy = occupant
        }
        let live = job.live?.kind == .file ? job.live : nil
        if let live, copy != nil, !job.hashFirst, !live.isRacy, !live.isFuzzy, !job.isTold(of: now),
            found.traits.isUnchanged(now, since: live.fingerprint)
        {
            return .finished(.stored(entry(.kept, found, live.metadata)))
        }
        let source = try open(found, job.path)
        try settle(job, source, found)
        if let copy, copy.size == now.size,
            // It came back to where it was: probably the same.
            job.hashFirst || job.live == nil && copy.mtime == now.mtime
                || live.map({ $0.isRacy || found.traits.isSameContent(now, $0.fingerprint) }) ?? false,
            let (digest, metadata) = try read(source, found, job.path), digest == copy.digest,
            let kept = try keep(lease, found, metadata)
        {
            return kept
        }
        if !isOurs, !root.isKeyed, case .present(.file, _, now.size, _) = lease.plan.final,
            let adopted = try adopt(lease, source, found)
        {
            return adopted
        }
        return try copyFile(lease, source, found, unlessSameAs: copy)
    }

    /// Whether the copy that the catalogue has is what the plan found under the final name.
    private func holdsOccupant(_ lease: LeasedJob) -> Bool {
        lease.job.occupant.map { lease.plan.final.holds($0, live: lease.job.live, root) } ?? false
    }

    func entry(
        _ content: StoredEntry.Content, _ found: Found, _ metadata: FileMetadata, linkTarget: [UInt8]? = nil,
        isFuzzy: Bool = false
    ) -> StoredEntry {
        found.entry(content, metadata, linkTarget: linkTarget, isFuzzy: isFuzzy)
    }

    func open(_ found: Found, _ path: RelativePath) throws(SafeBackupError) -> Descriptor { try found.open() }

    /// Lets a file wait that is still being written, as long as it may.
    private func settle(_ job: DueJob, _ source: Descriptor, _ found: Found) throws(SafeBackupError) {
        guard found.traits.hasLeases, let writerProbe,
            writerProbe.asks(mtime: found.status.fingerprint.mtime, firstSeen: job.firstSeenAt, now: found.at)
        else { return }
        if source.hasWriter() == true { throw Failure.unsettled(job.path) }
    }

    func metadata(_ found: Found, _ source: Descriptor, _ path: RelativePath) throws(SafeBackupError)
        -> FileMetadata
    {
        try found.metadata(source)
    }

    /// The digest of the whole source file; `nil` if it changed meanwhile.
    func read(
        _ source: Descriptor, _ found: Found, _ path: RelativePath
    ) throws(SafeBackupError) -> (Digest, FileMetadata)? {
        let metadata = try metadata(found, source, path)
        do {
            let (digest, size) = try copier.digest(of: source, size: found.status.size)
            let after = try source.status()
            return size == found.status.size && after.fingerprint == found.status.fingerprint ? (digest, metadata) : nil
        } catch {
            if error == .canceled { throw Failure.interrupted(path) }
            throw Failure.source(error, path)
        }
    }

    /// What is under the final name, if it still is the file of the plan and has no other name, so that changing it
    /// changes nobody else's.
    private mutating func openFinal(_ lease: LeasedJob) throws(SafeBackupError) -> (Descriptor, FileStatus)? {
        let location = lease.job.location
        do {
            let file = try directories.directory(location.parent).openForReading(location.leaf)
            let status = try file.status()
            return lease.plan.final.isStill(status, root) && status.linkCount == 1 ? (file, status) : nil
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels, .permissionDenied,
                .notPermitted, .noSuchAddressOrDevice:
                return nil
            default: throw Failure.destination(error, "open", location)
            }
        }
    }

    /// The stored copy has the source's content already: only its metadata is brought to the source's. Looks at the
    /// copy itself, because an attempt that failed may have changed it and told nobody. `nil`: not possible in place.
    private mutating func keep(
        _ lease: LeasedJob, _ found: Found, _ metadata: FileMetadata
    ) throws(SafeBackupError) -> Progress? {
        let entry = entry(.kept, found, metadata)
        if let (final, status) = try openFinal(lease) {
            let hasChanged = try describe(final, status, metadata, found, lease)
            return hasChanged ? .flushing(entry) : .finished(.stored(entry))
        }
        if let live = lease.job.live, live.metadata == metadata,
            live.fingerprint.mtime == found.status.fingerprint.mtime
        {
            return .finished(.stored(entry))
        }
        return nil
    }

    private mutating func describe(
        _ final: Descriptor, _ status: FileStatus, _ metadata: FileMetadata, _ found: Found, _ lease: LeasedJob
    ) throws(SafeBackupError) -> Bool {
        do {
            let hasChanged = try writer.apply(
                metadata, mtime: found.status.fingerprint.mtime, to: final, current: status, isNew: false)
            if hasChanged { try flush.wrote(final) }
            return hasChanged
        } catch {
            throw Failure.destination(error, "change the metadata of", lease.job.location)
        }
    }

    /// A file that was in the destination before us is our copy from now on, if it has the source's content.
    private mutating func adopt(
        _ lease: LeasedJob, _ source: Descriptor, _ found: Found
    ) throws(SafeBackupError) -> Progress? {
        guard let (final, status) = try openFinal(lease) else { return nil }
        let there: Digest
        do {
            there = try copier.digest(of: final, size: status.size).digest
            // Somebody else's file may change under us.
            guard try final.status().fingerprint == status.fingerprint else { return nil }
        } catch {
            // Not readable, so not proven to be the same: it is kept as foreign, and a new copy is made.
            return nil
        }
        guard let (digest, metadata) = try read(source, found, lease.job.path), digest == there else { return nil }
        let isFlushing = try describe(final, status, metadata, found, lease)
        let now: FileStatus
        do {
            // Whoever wrote it may not have flushed it.
            if !isFlushing { try flush.wrote(final) }
            now = try final.status()
        } catch {
            throw Failure.destination(error, "look at", lease.job.location)
        }
        return .flushing(
            entry(
                .copied(
                    StoredCopy(
                        digest: digest, size: now.size, inode: now.fingerprint.inode, mtime: now.fingerprint.mtime,
                        isAdopted: true)),
                found, metadata))
    }

    private mutating func copyFile(
        _ lease: LeasedJob, _ source: Descriptor, _ found: Found, unlessSameAs copy: CopyRecord?
    ) throws(SafeBackupError) -> Progress {
        let job = lease.job
        let reserved = try admit(lease, found.status)
        defer { share.release(reserved) }
        let isSparse = found.status.allocated < found.status.size
        let (file, isDirect) = try makeStage(
            lease, mode: found.status.mode, isLarge: !isSparse && found.status.size >= FileCopier.directSize)
        let digest: Digest
        let size: Int64
        do {
            (digest, size) = try copier.copy(
                from: source, size: found.status.size, isSparse: isSparse, to: file, isDirect: isDirect)
        } catch {
            switch error {
            case .reading(let error): throw Failure.source(error, job.path)
            case .writing(let error): throw Failure.destination(error, "write", job.location)
            case .interrupted: throw Failure.interrupted(job.path)
            }
        }
        let metadata = try metadata(found, source, job.path)
        let after: FileStatus
        do { after = try source.status() } catch { throw Failure.source(error, job.path) }
        guard after.kind == .file else { throw Failure.changedKind(job.path) }
        let isTorn = size != found.status.size || after.fingerprint != found.status.fingerprint
        if isTorn && job.attempts + 1 < tornLimit { throw Failure.torn(job.path) }
        if !isTorn, let copy, digest == copy.digest, let kept = try keep(lease, found, metadata) {
            removeStage(lease)
            return kept
        }
        do {
            let status = try file.status()
            try writer.apply(
                metadata, mtime: found.status.fingerprint.mtime, to: file, current: status, isNew: true)
            let mtime = try ownMtime(found.status.fingerprint.mtime, of: file)
            try flush.wrote(file)
            space.take(status.allocated)
            let stored = StoredCopy(digest: digest, size: size, inode: status.fingerprint.inode, mtime: mtime)
            return .staged(entry(.copied(stored), found, metadata, isFuzzy: isTorn))
        } catch {
            throw Failure.destination(error, "write", job.location)
        }
    }

    /// The mtime that the stored file has after it was set: the destination may have a coarser step or a shorter range.
    private func ownMtime(_ wanted: FileTime, of file: Descriptor) throws(Errno) -> FileTime {
        if root.capabilities.timeStep == 1 && (0..<1 << 31).contains(wanted.seconds) { return wanted }
        return try file.status().fingerprint.mtime
    }

    /// Says no to a job that grows the backup when there is no room, before anything is written. Returns what is
    /// reserved for it, to be given back when it is written.
    private mutating func admit(_ lease: LeasedJob, _ status: FileStatus) throws(SafeBackupError) -> Int64 {
        let size = min(status.allocated, status.size)
        let isNear = space.isNearFloor(size)
        let reserved = isNear ? size : 0
        if isNear {
            // Before it is asked what is free, so that of two that ask at once at least one sees the other.
            share.reserve(reserved)
            do {
                let statistics = try VolumeStatistics(root.base.root)
                space.set(available: share.unpromised(statistics) + reserved, inodes: statistics.inodes)
            } catch {
                share.release(reserved)
                throw Failure.destination(error, "look at", at: root.path)
            }
        }
        var older: Int64 = 0
        if case .present(.file, _, let size, _) = lease.plan.final { older = size }
        let reason = lease.plan.versionReason
        var isNew = true
        if case .present(.file, _, _, _) = lease.plan.final { isNew = reason != nil && reason != .inTheWay }
        if !space.admits(size, releasing: reason == .inTheWay ? older : 0, isNew: isNew) {
            // The newest state comes before an older one.
            guard reason == .kept, space.admits(size, releasing: older, isNew: false) else {
                share.release(reserved)
                throw Failure.full(lease.job.location, space)
            }
            unkept.insert(lease.job.sequence)
        }
        return reserved
    }

    private func makeStage(
        _ lease: LeasedJob, mode: UInt32, isLarge: Bool
    ) throws(SafeBackupError) -> (Descriptor, isDirect: Bool) {
        let stage = Array(lease.plan.stageName.utf8)
        let mode = MetadataWriter.stageMode(mode)
        do throws(Errno) {
            do {
                return (try createStage(stage, mode: mode, isDirect: isLarge), isLarge)
            } catch {
                // EEXIST: left by an attempt that was cut off. Names are unique, so that nobody is writing to it.
                // EINVAL: the file system knows no O_DIRECT; before Linux 6.1 the file may have been made all the same.
                guard error == .fileExists || (isLarge && error == .invalidArgument) else { throw error }
            }
            do {
                try root.staging.remove(stage)
            } catch {
                if error != .noSuchFileOrDirectory { throw error }
            }
            return (try createStage(stage, mode: mode, isDirect: false), false)
        } catch {
            throw Failure.destination(error, "stage", lease.job.location)
        }
    }

    private func createStage(_ stage: [UInt8], mode: UInt32, isDirect: Bool) throws(Errno) -> Descriptor {
        isDirect
            ? try root.staging.createDirect(stage, mode: mode)
            : try root.staging.open(stage, O_WRONLY | O_CREAT | O_EXCL, mode: mode)
    }

    // MARK: Links and directories

    private mutating func stageLink(_ lease: LeasedJob, _ found: Found) throws(SafeBackupError) -> Progress {
        let job = lease.job
        let (target, metadata) = try found.linkTarget()
        let digest = copier.digest(of: target)
        let mtime = found.status.fingerprint.mtime
        let isOurs = holdsOccupant(lease)
        if isOurs, job.occupant?.digest == digest, job.occupant?.isDamaged == false,
            let kept = try keepLink(lease, entry(.kept, found, metadata, linkTarget: target))
        {
            return kept
        }
        guard root.capabilities.symbolicLinks else {
            throw SafeBackupError(
                .destinationForbidden,
                "\(job.path) is a symbolic link, which the destination's file system cannot hold; exclude it",
                disposition: .permanent)
        }
        let stage = Array(lease.plan.stageName.utf8)
        do throws(Errno) {
            if !isOurs, case .present(.symlink, _, _, _) = lease.plan.final,
                let status = try sameLink(lease, target: target)
            {
                let stored = StoredCopy(
                    digest: digest, size: Int64(target.count), inode: status.fingerprint.inode,
                    mtime: status.fingerprint.mtime, isAdopted: true)
                return .flushing(entry(.copied(stored), found, metadata, linkTarget: target))
            }
            do {
                try root.staging.makeSymbolicLink(stage, target: target)
            } catch {
                if error != .fileExists { throw error }
                try root.staging.remove(stage)
                try root.staging.makeSymbolicLink(stage, target: target)
            }
            let made = try root.staging.status(of: stage)
            try writer.apply(metadata, mtime: mtime, toLink: stage, in: root.staging, current: made)
            let status = try root.staging.status(of: stage)
            try flush.madeLink(in: root.staging, at: Layout.staging)
            let stored = StoredCopy(
                digest: digest, size: Int64(target.count), inode: status.fingerprint.inode,
                mtime: status.fingerprint.mtime)
            return .staged(entry(.copied(stored), found, metadata, linkTarget: target))
        } catch {
            throw Failure.destination(error, "make the symbolic link", job.location)
        }
    }

    /// The stored link has the source's target already: only its owner and time are brought to the source's.
    private mutating func keepLink(_ lease: LeasedJob, _ entry: StoredEntry) throws(SafeBackupError) -> Progress? {
        let location = lease.job.location
        do {
            let parent = try directories.directory(location.parent)
            let status = try parent.status(of: location.leaf)
            guard lease.plan.final.isStill(status, root), status.linkCount == 1 else { return nil }
            let hasChanged = try writer.apply(
                entry.metadata, mtime: entry.fingerprint.mtime, toLink: location.leaf, in: parent, current: status)
            if !hasChanged { return .finished(.stored(entry)) }
            try flush.madeLink(in: parent, at: location.parent)
            return .flushing(entry)
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw Failure.destination(error, "change the metadata of", location)
        }
    }

    /// A link with this target was in the destination before us.
    private mutating func sameLink(_ lease: LeasedJob, target: [UInt8]) throws(Errno) -> FileStatus? {
        let location = lease.job.location
        let parent = try directories.directory(location.parent)
        let status = try parent.status(of: location.leaf)
        guard lease.plan.final.isStill(status, root), try parent.linkTarget(of: location.leaf) == target else {
            return nil
        }
        try flush.changed(parent, at: location.parent)
        return status
    }

    private func stageDirectory(_ lease: LeasedJob, _ found: Found) throws(SafeBackupError) -> Progress {
        .directory(entry(.directory, found, try found.directory().metadata))
    }
}
