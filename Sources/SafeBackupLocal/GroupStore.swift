import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Stores one group of leased jobs on the calling thread:
/// stage → link older copies to their version names → flush → rename over the final names → flush → remove the names
/// that moved copies had.
///
/// A copy that moves is staged as a second link of itself, so that in each group all links are made before the first
/// rename: swaps and chains need no order.
///
/// After a crash at any point each final name holds its old entry or the new one, whole, or nothing while the old one
/// is at the version name that its lease records; `Recovery` tells which.
struct GroupStore {
    /// How far a job came.
    enum Progress {
        case finished(JobOutcome)
        /// Nothing to rename: durable after the next flush.
        case flushing(StoredEntry)
        /// A file or link is complete in staging.
        case staged(StoredEntry)
        /// A directory is to be made, or its metadata changed.
        case directory(StoredEntry)
    }

    /// What happens to the entry that is under the final name.
    enum Older: Equatable {
        /// There is none.
        case absent
        /// It is replaced and not kept.
        case dropped
        /// It has its version name already.
        case linked(VersionReason)
        /// It is renamed to its version name just before.
        case moving(VersionReason)
        /// It is at its version name, and the final name is free.
        case moved(VersionReason)
        /// Another job of this group moves it elsewhere: it is in staging too.
        case taken
    }

    let root: AttachedRoot
    let tornLimit: Int
    let writerProbe: WriterProbe?
    let clock: WallClock
    let writer: MetadataWriter
    let copier: FileCopier
    let trees: [SourceID: SourceTree]
    var directories: DirectoryCache
    var flush: GroupFlush
    let share: RoomShare
    var space: RoomBudget
    /// Jobs whose older copy is not kept as a version, because otherwise the newer one would not have room.
    var unkept: Set<Int64> = []
    private var moves: Int
    /// Tells whose a file in the way is.
    let contents: ContentCheck
    /// Directories were moved since this group looked at its final names.
    private var mustLookAgain = false
    var leftStages: [[UInt8]] = []
    var progress: [Progress] = []
    var older: [Older] = []
    /// By the locations that copies are moved away from: the copies, and the jobs that move them, once staged.
    var takers: [RelativePath: (index: Int, copy: CopyRecord)] = [:]

    /// Opens what the group needs; the descriptors that report failed writes must be older than the first write.
    init(
        in root: AttachedRoot, from sources: [SourceID: ConfinedDirectory], share: RoomShare, tornLimit: Int,
        writerProbe: WriterProbe? = nil, clock: WallClock, throttle: Throttle? = nil,
        isInterrupted: @escaping @Sendable () -> Bool = { false }
    ) throws(Errno) {
        copier = FileCopier(throttle: throttle, isInterrupted: isInterrupted)
        contents = ContentCheck(isInterrupted: isInterrupted)
        self.root = root
        self.tornLimit = tornLimit
        self.writerProbe = writerProbe
        self.clock = clock
        writer = MetadataWriter(capabilities: root.capabilities)
        trees = sources.mapValues { SourceTree($0) }
        moves = root.gate.moves
        directories = DirectoryCache(root.base)
        flush = try GroupFlush(root)
        self.share = share
        space = try share.budget(root)
    }

    /// Stores the group. No failure is thrown: each job has its outcome.
    mutating func run(_ group: [LeasedJob]) -> [JobOutcome] {
        progress.reserveCapacity(group.count)
        older = Array(repeating: .absent, count: group.count)
        defer {
            removeLeftStages()
            flush.end()
        }
        for (index, lease) in group.enumerated() {
            Pulse.current?.mark()
            progress.append(stage(lease))
            if isMove(index), let copy = lease.job.origin?.copy { takers[copy.location] = (index, copy) }
            Faults.reach("staged")
        }
        for index in group.indices {
            keepOlder(index, group[index])
            Faults.reach("versioned")
        }
        do throws(Errno) {
            try flush.flush()
        } catch {
            return failAll(group, error)
        }
        Faults.reach("flushed")
        var isPublishing = false
        for index in group.indices {
            switch progress[index] {
            case .flushing(let entry): progress[index] = .finished(.stored(entry))
            case .staged, .directory: isPublishing = true
            case .finished: break
            }
        }
        if isPublishing, let error = publish(group) { return failAll(group, error) }
        Faults.reach("durable")
        return group.indices.map { index in
            switch progress[index] {
            case .finished(let outcome): outcome
            case .flushing(let entry), .staged(let entry), .directory(let entry): .stored(entry)
            }
        }
    }

    // MARK: Older copies

    /// Gives what is under the final name its version name, or decides that it is dropped or must be moved.
    private mutating func keepOlder(_ index: Int, _ lease: LeasedJob) {
        guard case .present(let kind, _, _, _) = lease.plan.final else { return }
        do throws(SafeBackupError) {
            switch progress[index] {
            case .finished, .flushing: return
            case .directory:
                if isTaken(lease) {
                    older[index] = .taken
                } else if kind != .directory {
                    older[index] = .moving(.inTheWay)
                }
            case .staged(let entry):
                older[index] = try keepOlder(lease, kind: kind, newer: entry)
            }
        } catch {
            abandon(index, lease, .failed(error))
        }
    }

    private mutating func keepOlder(
        _ lease: LeasedJob, kind: EntryKind, newer: StoredEntry
    ) throws(SafeBackupError) -> Older {
        let location = lease.job.location
        if isTaken(lease) {
            guard lease.plan.final.isStill(try look(at: location), root) else { throw Failure.surprise(location) }
            return .taken
        }
        guard let reason = reason(lease, kind: kind, newer: newer) else {
            guard lease.plan.final.isStill(try look(at: location), root) else { throw Failure.surprise(location) }
            return .dropped
        }
        guard let version = lease.plan.version else { throw Failure.surprise(location) }
        guard kind != .directory, root.capabilities.hardLinks else { return .moving(reason) }
        do {
            return try link(lease, to: version) ? .linked(reason) : .moving(reason)
        } catch {
            if error == .noSuchFileOrDirectory { throw Failure.surprise(location) }
            throw Failure.destination(error, "keep the older copy of", location)
        }
    }

    /// `nil`: the older entry is not kept.
    private func reason(_ lease: LeasedJob, kind: EntryKind, newer: StoredEntry) -> VersionReason? {
        if kind != newer.kind { return lease.plan.versionReason == .foreign ? .foreign : .inTheWay }
        switch lease.plan.versionReason {
        case .inTheWay, nil: return nil
        // It stays the last good one only when a copy comes that is not.
        case .lastGood: return newer.isFuzzy ? .lastGood : .kept
        // Without a version there is room for the newer copy, which is a good one.
        case .kept where unkept.contains(lease.job.sequence) && !newer.isFuzzy: return nil
        case .kept, .foreign: return lease.plan.versionReason
        }
    }

    /// `false` if this file system or this entry cannot have a second link.
    private mutating func link(_ lease: LeasedJob, to version: RelativePath) throws(Errno) -> Bool {
        let location = lease.job.location
        var isRetry = false
        while true {
            let from = try directories.directory(location.parent)
            let to = try makeDirectory(version.parent)
            do {
                try from.link(location.leaf, to: to, version.leaf)
            } catch {
                switch error {
                case .fileExists: break
                // Foreign files under fs.protected_hardlinks; a link count at its limit.
                case .notPermitted, .permissionDenied, .tooManyLinks, .notSupported, .improperLink: return false
                case .noSuchFileOrDirectory where !isRetry:
                    // An empty version directory may have been removed since it was opened.
                    directories.forget(version.parent)
                    isRetry = true
                    continue
                default: throw error
                }
            }
            let status = try to.status(of: version.leaf)
            guard lease.plan.final.isStill(status, root) else {
                // Somebody replaced it since the plan was made. It is not the only link: it is still under its name.
                try to.remove(version.leaf)
                throw Errno.noSuchFileOrDirectory
            }
            try flush.changed(to, at: version.parent)
            return true
        }
    }

    // MARK: Publishing

    /// Renames everything staged over the final names and flushes. An error means that nothing is sure.
    private mutating func publish(_ group: [LeasedJob]) -> Errno? {
        var order = Array(group.indices)
        var movesDirectory = false
        var isOrdered = false
        for index in group.indices {
            if case .finished = progress[index] { continue }
            if group[index].plan.obstruction != nil { isOrdered = true }
            if spelling(of: group[index]) != nil { movesDirectory = true }
            guard case .moving = older[index] else { continue }
            isOrdered = true
            if case .present(.directory, _, _, _) = group[index].plan.final { movesDirectory = true }
        }
        if isOrdered {
            // An ancestor before what lies below it.
            order.sort { group[$0].job.location < group[$1].job.location }
        }
        if movesDirectory { failBelowMovedDirectories(group) }
        failWithoutTaker(group)
        let before = takers.isEmpty ? [] : published(group, failed: false)
        return root.gate.enter(alone: movesDirectory) {
            if root.gate.moves != moves {
                directories = DirectoryCache(root.base)
                mustLookAgain = true
            }
            for index in order {
                publish(index, group[index])
                Faults.reach("renamed")
            }
            Faults.reach("renamed")
            failTogether(group, since: before)
            do throws(Errno) {
                try flush.flush()
            } catch {
                return error
            }
            if !takers.isEmpty { leaveOrigins(group) }
            return nil
        }
    }

    /// A directory goes away with all below it: what this group has below it must be looked at again.
    private mutating func failBelowMovedDirectories(_ group: [LeasedJob]) {
        for mover in group.indices {
            let moved: RelativePath
            if let former = spelling(of: group[mover]) {
                moved = former
            } else if case .moving = older[mover], case .present(.directory, _, _, _) = group[mover].plan.final {
                moved = group[mover].job.location
            } else {
                continue
            }
            for index in group.indices where index != mover {
                let isBelow = group[index].job.location.isWithin(moved)
                // The copy of a file that is moved away itself is told by `takers`.
                let origin = isMove(index) ? group[index].job.origin?.copy.location : nil
                let comesFromBelow = origin.map { $0 != moved && $0.isWithin(moved) } ?? false
                guard isBelow || comesFromBelow else { continue }
                if case .finished(.failed) = progress[index] { continue }
                if case .finished(.gone) = progress[index] { continue }
                abandon(index, group[index], .failed(Failure.surprise(group[index].job.location)))
            }
        }
    }

    private mutating func publish(_ index: Int, _ lease: LeasedJob) {
        do throws(SafeBackupError) {
            do throws(Errno) {
                switch progress[index] {
                case .finished, .flushing: return
                case .staged(let entry): try publishStaged(index, lease, entry)
                case .directory(let entry): try publishDirectory(index, lease, entry)
                }
            } catch {
                switch error {
                case .noSuchFileOrDirectory, .fileExists, .notDirectory, .isDirectory, .tooManySymbolicLinkLevels,
                    .directoryNotEmpty:
                    throw Failure.surprise(lease.job.location)
                default: throw Failure.destination(error, "store", lease.job.location)
                }
            }
        } catch {
            abandon(index, lease, .failed(error))
        }
    }

    private mutating func publishStaged(_ index: Int, _ lease: LeasedJob, _ entry: StoredEntry) throws(Errno) {
        let location = lease.job.location
        var entry = entry
        try makeRoomForSpelling(lease, &entry)
        let parent = try makeParent(lease, &entry)
        let stage = Array(lease.plan.stageName.utf8)
        switch older[index] {
        case .absent:
            try move(stage, from: root.staging, to: parent, location.leaf)
        case .dropped, .linked, .taken:
            if mustLookAgain, !lease.plan.final.isStill(try parent.status(of: location.leaf), root) {
                throw .noSuchFileOrDirectory
            }
            if case .linked(let reason) = older[index], let version = lease.plan.version {
                entry.displaced.append(try Displacement(lease, to: version, reason))
            }
            try root.staging.rename(stage, to: parent, location.leaf)
        case .moving(let reason), .moved(let reason):
            entry.displaced.append(try displaceFinal(index, lease, reason, in: parent))
            try move(stage, from: root.staging, to: parent, location.leaf)
        }
        try flush.changed(parent, at: location.parent)
        progress[index] = .staged(entry)
    }

    private mutating func publishDirectory(_ index: Int, _ lease: LeasedJob, _ entry: StoredEntry) throws(Errno) {
        let location = lease.job.location
        var entry = entry
        try makeRoomForSpelling(lease, &entry)
        let parent = try makeParent(lease, &entry)
        if case .moving(let reason) = older[index] {
            entry.displaced.append(try displaceFinal(index, lease, reason, in: parent))
        }
        if case .taken = older[index] { try removeTaken(location) }
        let directory = try makeDirectory(location)
        let hasChanged = try writer.apply(
            entry.metadata, mtime: entry.fingerprint.mtime, to: directory, current: try directory.status(),
            isNew: lease.plan.final == .absent)
        if hasChanged { try flush.changed(directory, at: location) }
        progress[index] = .directory(entry)
    }

    /// Opens the final name's directory and makes what is missing of it; moves the one thing away that the plan found
    /// in the way.
    private mutating func makeParent(_ lease: LeasedJob, _ entry: inout StoredEntry) throws(Errno) -> Descriptor {
        let path = lease.job.location.parent
        let parent: Descriptor
        do {
            parent = try makeDirectory(path)
        } catch {
            guard error == .notDirectory || error == .tooManySymbolicLinkLevels,
                let obstruction = lease.plan.obstruction, let version = lease.plan.obstructionVersion
            else { throw error }
            if let taker = takers[obstruction], isMove(taker.index) {
                try removeTaken(obstruction)
            } else {
                entry.displaced.append(try displace(obstruction, to: version))
            }
            parent = try makeDirectory(path)
        }
        return parent
    }

    /// Moves what is under the final name to its version name, if it still is what was planned with.
    private mutating func displaceFinal(
        _ index: Int, _ lease: LeasedJob, _ reason: VersionReason, in parent: Descriptor
    ) throws(Errno) -> Displacement {
        let location = lease.job.location
        guard let version = lease.plan.version, lease.plan.final.isStill(try parent.status(of: location.leaf), root)
        else { throw .noSuchFileOrDirectory }
        let displacement = try Displacement(lease, to: version, reason)
        let versions = try makeDirectory(version.parent)
        try move(location.leaf, from: parent, to: versions, version.leaf)
        older[index] = .moved(reason)
        directories.forget(location)
        try flush.changed(versions, at: version.parent)
        try flush.changed(parent, at: location.parent)
        return displacement
    }

    func move(
        _ leaf: [UInt8], from: Descriptor, to: Descriptor, _ newLeaf: [UInt8]
    ) throws(Errno) {
        try from.moveToFreeName(leaf, to: to, newLeaf)
    }

    // MARK: Directories

    /// Opens a directory below the root; what is missing is made, and will be flushed in its parent, also when a
    /// later part of it cannot be made: another job may store below the first part.
    mutating func makeDirectory(_ path: RelativePath) throws(Errno) -> Descriptor {
        do {
            return try directories.directory(path)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
        }
        flush.willMake(path)
        var new: [(RelativePath, Descriptor)] = []
        let result = Result { () throws(Errno) in
            try directories.makingDirectory(path) { new.append(($0, $1)) }
        }
        for (directory, parent) in new {
            try flush.changed(parent, at: directory.parent)
        }
        return try result.get()
    }

    private mutating func look(at location: RelativePath) throws(SafeBackupError) -> FileStatus? {
        do {
            return try directories.directory(location.parent).status(of: location.leaf)
        } catch {
            if error == .noSuchFileOrDirectory || error == .notDirectory { return nil }
            throw Failure.destination(error, "look at", location)
        }
    }
}

extension Displacement {
    /// Of what the plan found under the final name; `ENOENT` if it found nothing.
    init(_ lease: LeasedJob, to version: RelativePath, _ reason: VersionReason) throws(Errno) {
        guard case .present(let kind, let inode, let size, let mtime) = lease.plan.final else {
            throw .noSuchFileOrDirectory
        }
        self.init(
            from: lease.job.location, to: version, reason: reason, kind: kind, inode: inode, size: size, mtime: mtime)
    }
}

extension FileStatus {
    /// Two names of one file: removing one leaves the other. Never true for two different files.
    func isSameFile(as other: FileStatus) -> Bool {
        kind != .directory && kind == other.kind && device == other.device
            && fingerprint.inode == other.fingerprint.inode && linkCount >= 2 && other.linkCount >= 2
    }
}

extension Descriptor {
    /// Renames to a name that must be free: `EEXIST` otherwise.
    func moveToFreeName(_ leaf: [UInt8], to directory: Descriptor, _ newLeaf: [UInt8]) throws(Errno) {
        do {
            try renameWithoutReplacing(leaf, to: directory, newLeaf)
            return
        } catch {
            // Not every file system has RENAME_NOREPLACE. See: man 2 renameat2.
            guard error == .invalidArgument || error == .noFunction else { throw error }
        }
        do {
            _ = try directory.status(of: newLeaf)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
            try rename(leaf, to: directory, newLeaf)
            return
        }
        throw .fileExists
    }
}
