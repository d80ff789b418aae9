import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A path whose content is stored already, under the name that the file had before.
extension GroupStore {
    /// Links the origin's copy into staging. `nil`, and nothing is left of the attempt: it is no move after all, or
    /// cannot be one here; the path is stored as any other.
    mutating func stageMove(
        _ lease: LeasedJob, _ found: Found, _ origin: MoveOrigin
    ) throws(SafeBackupError) -> Progress? {
        let (job, copy) = (lease.job, origin.copy)
        guard root.capabilities.hardLinks, root.type.hasStableInodes, copy.inode != nil,
            found.status.kind == copy.kind, Self.isSame(found.status.fingerprint, origin.name.fingerprint),
            takers[copy.location] == nil, !isOrigin(lease.plan.final, copy),
            // It goes away with the directory that makes room for this path.
            spelling(of: lease).map({ copy.location != $0 && copy.location.isWithin($0) }) != true
        else { return nil }
        var entry: StoredEntry
        switch copy.kind {
        case .file:
            let source = try open(found, job.path)
            if origin.isProven {
                entry = self.entry(.moved, found, try metadata(found, source, job.path))
            } else {
                guard let (digest, metadata) = try read(source, found, job.path), digest == copy.digest else {
                    return nil
                }
                entry = self.entry(.moved, found, metadata)
            }
        case .symlink:
            guard let target = try target(found, job.path), copier.digest(of: target) == copy.digest else {
                return nil
            }
            let metadata = FileMetadata(mode: found.status.mode, uid: found.status.uid, gid: found.status.gid)
            entry = self.entry(.moved, found, metadata, linkTarget: target)
        default: return nil
        }
        // The rename changed the ctime, and says nothing of the content.
        entry.isRacy = found.isRacy(since: found.status.fingerprint.mtime)
        let stage = Array(lease.plan.stageName.utf8)
        do {
            guard try link(copy, to: stage) else { return nil }
            Faults.reach("linked")
            guard try describe(stage, as: entry, origin) else {
                try root.staging.remove(stage)
                return nil
            }
            try flush.changed(root.staging, at: Layout.staging)
        } catch {
            throw Failure.destination(error, "move a copy to", job.location)
        }
        return .staged(entry)
    }

    /// A rename leaves these as they are.
    private static func isSame(_ now: Fingerprint, _ known: Fingerprint) -> Bool {
        now.inode == known.inode && now.size == known.size && now.mtime == known.mtime
    }

    /// What is under the final name is another link of the copy: a rename between two links of one file does nothing.
    private func isOrigin(_ final: FinalState, _ copy: CopyRecord) -> Bool {
        guard case .present(_, let inode, _, _) = final else { return false }
        return inode == copy.inode
    }

    /// `nil`: it is no link any more, or another one.
    private func target(_ found: Found, _ path: RelativePath) throws(SafeBackupError) -> [UInt8]? {
        do {
            let target = try found.parent.linkTarget(of: found.leaf)
            return try found.parent.status(of: found.leaf).fingerprint == found.status.fingerprint ? target : nil
        } catch {
            if error == .invalidArgument || error == .noSuchFileOrDirectory { return nil }
            throw Failure.source(error, path)
        }
    }

    /// `false`: the copy is not where, or not what, the catalogue says, or cannot have a second link.
    private mutating func link(_ copy: CopyRecord, to stage: [UInt8]) throws(Errno) -> Bool {
        do throws(Errno) {
            let parent = try directories.directory(copy.location.parent)
            do throws(Errno) {
                try parent.link(copy.location.leaf, to: root.staging, stage)
            } catch {
                // Left by an attempt that was cut off.
                guard error == .fileExists else { throw error }
                try root.staging.remove(stage)
                try parent.link(copy.location.leaf, to: root.staging, stage)
            }
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels, .notPermitted, .permissionDenied,
                .tooManyLinks, .notSupported, .improperLink:
                return false
            default: throw error
            }
        }
        let status = try root.staging.status(of: stage)
        // With a third link, somebody else's, it is not for us to change.
        if FinalState(status).holds(copy, live: nil, root), status.linkCount == 2 { return true }
        try root.staging.remove(stage)
        return false
    }

    /// Brings the metadata of the link to the source's. That changes the copy under its old name too, until the rename:
    /// harmless, as the next try brings it to whatever the source then has. `false`: not possible.
    private mutating func describe(
        _ stage: [UInt8], as entry: StoredEntry, _ origin: MoveOrigin
    ) throws(Errno) -> Bool {
        let mtime = entry.fingerprint.mtime
        if entry.kind == .symlink {
            let status = try root.staging.status(of: stage)
            if try writer.apply(entry.metadata, mtime: mtime, toLink: stage, in: root.staging, current: status) {
                try flush.madeLink(in: root.staging, at: Layout.staging)
            }
            return true
        }
        let file: Descriptor
        do {
            file = try root.staging.openForReading(stage)
        } catch {
            guard error == .permissionDenied || error == .notPermitted else { throw error }
            return entry.metadata == origin.name.metadata
        }
        if try writer.apply(entry.metadata, mtime: mtime, to: file, current: try file.status(), isNew: false) {
            try flush.wrote(file)
        }
        return true
    }
}

/// Moves among the other jobs of a group.
extension GroupStore {
    /// The job's stage is a link to a copy that moves.
    func isMove(_ index: Int) -> Bool {
        if case .staged(let entry) = progress[index] { return entry.content == .moved }
        return false
    }

    /// What is under the job's final name is a copy that another job of this group moves elsewhere.
    func isTaken(_ lease: LeasedJob) -> Bool {
        guard let taker = takers[lease.job.location], isMove(taker.index),
            case .present(_, let inode, _, _) = lease.plan.final
        else { return false }
        return inode == taker.copy.inode
    }

    /// A move that was given up after its stage was made leaves its copy where it is: what was to replace it there, as
    /// if it were gone, cannot. Nothing is renamed yet.
    mutating func failWithoutTaker(_ group: [LeasedJob]) {
        if takers.isEmpty { return }
        var isStable = false
        while !isStable {
            isStable = true
            for index in group.indices where older[index] == .taken {
                if case .finished = progress[index] { continue }
                if isTaken(group[index]) { continue }
                fail([index], group)
                // It may itself have been to move what another one replaces.
                isStable = false
            }
        }
    }

    /// Jobs that are about to be published, or with `failed` those of them that then failed.
    func published(_ group: [LeasedJob], failed: Bool) -> Set<Int> {
        Set(
            group.indices.filter { index in
                switch progress[index] {
                case .staged, .directory, .flushing: !failed
                case .finished(.failed): failed
                case .finished: false
                }
            })
    }

    /// Once renames have begun, moves and what is stored in the place of moved copies need each other: when one of them
    /// failed, recovery has to see all of them.
    mutating func failTogether(_ group: [LeasedJob], since before: Set<Int>) {
        if takers.isEmpty { return }
        let indices = together(group)
        if !before.intersection(published(group, failed: true)).isDisjoint(with: indices) { fail(indices, group) }
    }

    private func together(_ group: [LeasedJob]) -> [Int] {
        let movers = Set(takers.values.map(\.index))
        return group.indices.filter { index in
            movers.contains(index) || takers[group[index].job.location] != nil
                || group[index].plan.obstruction.map { takers[$0] != nil } ?? false
        }
    }

    private mutating func fail(_ indices: [Int], _ group: [LeasedJob]) {
        for index in indices {
            if case .finished(.failed) = progress[index] { continue }
            if !isMove(index) { removeStage(group[index]) }
            progress[index] = .finished(.failed(Failure.surprise(group[index].job.location)))
        }
    }

    /// Removes the names that the moved copies had, where they still lie there, and makes that durable.
    mutating func leaveOrigins(_ group: [LeasedJob]) {
        do throws(Errno) {
            for index in group.indices where isMove(index) {
                guard let copy = group[index].job.origin?.copy else { continue }
                // It went before the rename, and its name now leads to the new one.
                if group[index].plan.obstruction == copy.location { continue }
                try leave(copy)
                Faults.reach("unlinked")
            }
            try flush.flush()
        } catch {
            // They are under their new names all the same; recovery removes the old ones.
            fail(together(group), group)
        }
    }

    private mutating func leave(_ copy: CopyRecord) throws(Errno) {
        let location = copy.location
        do {
            let parent = try directories.directory(location.parent)
            // Another copy may have been stored there, or moved there.
            let status = try parent.status(of: location.leaf)
            guard status.kind == copy.kind, status.fingerprint.inode == copy.inode else { return }
            try parent.remove(location.leaf)
            try flush.changed(parent, at: location.parent)
            root.noteVacated(location)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return
            default: throw error
            }
        }
    }

    /// Makes room where a copy lies that is in staging too, and will be under its new name.
    mutating func removeTaken(_ location: RelativePath) throws(Errno) {
        let parent = try directories.directory(location.parent)
        let status = try parent.status(of: location.leaf)
        guard status.kind != .directory, status.fingerprint.inode == takers[location]?.copy.inode else {
            throw .fileExists
        }
        try parent.remove(location.leaf)
        directories.forget(location)
        try flush.changed(parent, at: location.parent)
    }
}
