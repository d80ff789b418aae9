import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// One job from the look at the source to the object that the server confirmed.
///
/// After a crash at any point each key holds its old object or the new one, whole; where a kept older copy is being made,
/// it is made before the key is written.
struct ObjectStage: Sendable {
    private let destination: S3Destination
    private let lease: LeasedJob
    private let work: GroupWork

    /// What one look at the source found.
    private enum Look: Sendable {
        case gone
        case unchanged(StoredEntry)
        case file(FoundEntry, Descriptor, FileMetadata)
        case link(FoundEntry, [UInt8], FileMetadata)
        case directory(FoundEntry, FileMetadata, isEmpty: Bool)
    }

    init(_ destination: S3Destination, _ lease: LeasedJob, _ work: GroupWork) {
        self.destination = destination
        self.lease = lease
        self.work = work
    }

    private var job: DueJob { lease.job }

    func run() async throws(SafeBackupError) -> JobOutcome {
        let look = try await destination.io.run { () throws(SafeBackupError) in try self.look() }
        Faults.reach("looked")
        switch look {
        case .gone: return .gone
        case .unchanged(let entry): return .stored(entry)
        case .file(let found, let file, let metadata): return .stored(try await store(found, file, metadata))
        case .link(let found, let target, let metadata): return .stored(try await store(found, target, metadata))
        case .directory(let found, let metadata, let isEmpty):
            return .stored(try await store(found, metadata, isEmpty: isEmpty))
        }
    }

    // MARK: - The source

    private func look() throws(SafeBackupError) -> Look {
        guard let source = work.sources[job.source] else { throw ReadFailure.notOpen(job.path) }
        let tree = SourceTree(source, traits: work.traits[job.source])
        guard let found = try FoundEntry(job.path, in: tree, now: destination.clock.now) else { return .gone }
        if found.status.isMountRoot { throw .otherFileSystem(job.path) }
        // It came back, where another job of the group takes its copy away just now.
        if job.action == .delete, work.origins.contains(job.location) { throw ReadFailure.changedKind(job.path) }
        switch found.status.kind {
        case .file:
            if let entry = unchanged(found) { return .unchanged(entry) }
            let file = try found.open()
            if tree.traits.hasLeases, let probe = destination.writerProbe,
                probe.asks(mtime: found.status.fingerprint.mtime, firstSeen: job.firstSeenAt, now: found.at),
                file.hasWriter() == true
            {
                throw ReadFailure.unsettled(job.path)
            }
            return .file(found, file, try found.metadata(file))
        case .symlink:
            let (target, metadata) = try found.linkTarget()
            return .link(found, target, metadata)
        case .directory:
            let (metadata, directory) = try found.directory()
            return .directory(found, metadata, isEmpty: try isEmpty(directory))
        case .fifo, .socket, .device: throw ReadFailure.special(job.path, found.status.kind)
        }
    }

    private func isEmpty(_ directory: Descriptor?) throws(SafeBackupError) -> Bool {
        // What may not be listed may hold anything.
        guard let directory else { return false }
        var hasEntry = false
        do {
            while !hasEntry, try directory.readEntries({ _, _, _ in hasEntry = true }) {}
        } catch {
            throw ReadFailure.source(error, job.path)
        }
        return !hasEntry
    }

    /// The copy that may stay, if it has the source's content.
    private var good: CopyRecord? {
        guard let occupant = job.occupant, occupant.digest != nil, !occupant.isDamaged, !occupant.isFuzzy else {
            return nil
        }
        return occupant
    }

    private func unchanged(_ found: FoundEntry) -> StoredEntry? {
        let now = found.status.fingerprint
        guard good?.kind == .file, let live = job.live, live.kind == .file, !job.hashFirst, !live.isRacy, !live.isFuzzy,
            job.origin == nil, !job.isTold(of: now), found.traits.isUnchanged(now, since: live.fingerprint)
        else { return nil }
        return found.entry(.kept, live.metadata)
    }

    // MARK: - Files

    private func store(
        _ found: FoundEntry, _ file: Descriptor, _ metadata: FileMetadata
    ) async throws(SafeBackupError) -> StoredEntry {
        let key = try destination.keys.key(job.location)
        let order = Uploader.Order(
            key: key, path: job.path, file: file, status: found.status, stage: lease.plan.stageName,
            properties: { digest, token in
                ObjectProperties(metadata: self.metadata(found, metadata, digest, token).encoded)
            })
        if let origin = job.origin, let moved = try await move(origin, found, metadata, order, nil) { return moved }
        let copy = good?.kind == .file && !destination.isBlind ? good : nil
        let now = found.status.fingerprint
        let live = job.live?.kind == .file ? job.live : nil
        if let copy, copy.size == now.size,
            // It came back to where it was: probably the same.
            job.hashFirst || job.live == nil && copy.mtime == now.mtime
                || live.map({ $0.isRacy || found.traits.isSameContent(now, $0.fingerprint) }) ?? false
        {
            let read = try await destination.uploader.digest(of: order)
            if !isTorn(read, found), read.digest == copy.digest { return try await keep(found, metadata, copy) }
        }
        var displaced: [Displacement] = []
        var isFuzzy = false
        var isSame = false
        let content = try await destination.uploader.upload(order) { (content) throws(SafeBackupError) in
            guard content.after.kind == .file else { throw ReadFailure.changedKind(job.path) }
            isFuzzy = isTorn(content, found)
            if isFuzzy && job.attempts + 1 < destination.settings.tornLimit { throw ReadFailure.torn(job.path) }
            isSame = !isFuzzy && copy != nil && content.digest == copy?.digest
            if isSame { return false }
            displaced = try await keepOlder(newKind: .file, isFuzzy: isFuzzy)
            destination.begin(lease)
            Faults.reach("versioned")
            return true
        }
        guard let content else {
            guard isSame, let copy else { throw ReadFailure.interrupted(job.path) }
            return try await keep(found, metadata, copy)
        }
        Faults.reach("stored")
        await removeMarker()
        var entry = found.entry(.copied(copyOf(content.digest, content.size, found)), metadata, isFuzzy: isFuzzy)
        entry.displaced = displaced
        return entry
    }

    private func isTorn(_ content: ReadContent, _ found: FoundEntry) -> Bool {
        content.size != found.status.size || content.after.fingerprint != found.status.fingerprint
    }

    private func copyOf(_ digest: Digest, _ size: Int64, _ found: FoundEntry) -> StoredCopy {
        StoredCopy(
            digest: digest, size: size, inode: S3Destination.identity(digest), mtime: found.status.fingerprint.mtime)
    }

    private func metadata(
        _ found: FoundEntry, _ metadata: FileMetadata, _ digest: Digest?, _ token: String
    ) -> CopyMetadata {
        CopyMetadata(
            kind: found.status.kind, mtime: found.status.fingerprint.mtime, metadata: metadata, digest: digest,
            lease: token, path: KeySpace.isMapped(job.location.bytes) ? job.location.bytes : nil)
    }

    /// The object has the source's content already: only what it says of itself is brought to the source's, by a copy
    /// onto itself. Where the keys may not do that, it stays as it was: the true values are in the catalogue.
    private func keep(
        _ found: FoundEntry, _ metadata: FileMetadata, _ copy: CopyRecord
    ) async throws(SafeBackupError) -> StoredEntry {
        let entry = found.entry(.kept, metadata)
        if let live = job.live, live.metadata == metadata, live.fingerprint.mtime == found.status.fingerprint.mtime {
            return entry
        }
        if destination.known.refusesCopies { return entry }
        let key = try destination.keys.key(job.location)
        let own = self.metadata(found, metadata, copy.digest, lease.plan.stageName)
        destination.begin(lease)
        do throws(SafeBackupError) {
            _ = try await destination.store.copy(
                key, version: nil, size: copy.size, to: key, ObjectProperties(metadata: own.encoded))
        } catch {
            guard error.isRefusal else { throw error }
            destination.learn { $0.refusesCopies = true }
        }
        return entry
    }

    // MARK: - Links and directories

    private func store(
        _ found: FoundEntry, _ target: [UInt8], _ metadata: FileMetadata
    ) async throws(SafeBackupError) -> StoredEntry {
        let digest = SHA256.digest(of: target)
        let key = try destination.keys.key(job.location)
        if let origin = job.origin, let moved = try await move(origin, found, metadata, nil, target) { return moved }
        let isSame = good?.kind == .symlink && good?.digest == digest && !destination.isBlind
        if isSame, let live = job.live, live.metadata == metadata,
            live.fingerprint.mtime == found.status.fingerprint.mtime
        {
            return found.entry(.kept, metadata, linkTarget: target)
        }
        let displaced = isSame ? [] : try await keepOlder(newKind: .symlink, isFuzzy: false)
        destination.begin(lease)
        let own = self.metadata(found, metadata, digest, lease.plan.stageName)
        _ = try await destination.store.put(key, .bytes(target), ObjectProperties(metadata: own.encoded))
        Faults.reach("stored")
        await removeMarker()
        if isSame { return found.entry(.kept, metadata, linkTarget: target) }
        var entry = found.entry(
            .copied(copyOf(digest, Int64(target.count), found)), metadata, linkTarget: target)
        entry.displaced = displaced
        return entry
    }

    /// A directory that holds something needs no object; an empty one has one of its own. What was a file's is moved
    /// away, because no directory could hold it beside what lies below.
    private func store(
        _ found: FoundEntry, _ metadata: FileMetadata, isEmpty: Bool
    ) async throws(SafeBackupError) -> StoredEntry {
        var entry = found.entry(.directory, metadata)
        if job.occupant != nil {
            entry.displaced = try await keepOlder(newKind: .directory, isFuzzy: false)
            let key = try destination.keys.key(job.location)
            if !destination.known.refusesRemovals {
                destination.begin(lease)
                try await destination.removeIfAllowed([key])
            }
        }
        let isKnown =
            job.live?.kind == .directory && job.live?.metadata == metadata
            && job.live?.fingerprint == found.status.fingerprint
        guard isEmpty, !isKnown else { return entry }
        let own = CopyMetadata(
            kind: .directory, mtime: found.status.fingerprint.mtime, metadata: metadata, lease: lease.plan.stageName,
            path: KeySpace.isMapped(job.location.bytes) ? job.location.bytes : nil)
        _ = try await destination.store.put(
            try destination.keys.key(job.location, isDirectory: true), .bytes([]),
            ObjectProperties(metadata: own.encoded))
        return entry
    }

    /// Where a file is now, no empty directory is any more.
    private func removeMarker() async {
        guard job.live?.kind == .directory, !destination.known.refusesRemovals else { return }
        do throws(SafeBackupError) {
            try await destination.removeIfAllowed([try destination.keys.key(job.location, isDirectory: true)])
        } catch {
            // Ignored because it holds nothing, and the file beside it says what the path is.
        }
    }

    // MARK: - Older copies

    /// Copies what is about to be replaced to its version name, where it is kept.
    private func keepOlder(newKind: EntryKind, isFuzzy: Bool) async throws(SafeBackupError) -> [Displacement] {
        guard let occupant = job.occupant, let version = lease.plan.version,
            let reason = reason(occupant, newKind: newKind, isFuzzy: isFuzzy)
        else { return [] }
        let (from, to) = (try destination.keys.key(job.location), try destination.keys.key(version))
        destination.begin(lease)
        do throws(SafeBackupError) {
            _ = try await destination.store.copy(from, version: nil, size: occupant.size, to: to, nil)
        } catch {
            if error.isRefusal {
                // The newest state comes before an older one that nobody asked to keep.
                guard reason == .kept else { return [] }
                throw SafeBackupError(
                    error.code,
                    "The older copy of \(job.path) cannot be kept, as versions = copy asks for: \(error.message); let "
                        + "the keys read objects, or set versions = none",
                    disposition: .transient)
            }
            if try await destination.store.head(from, version: nil) == nil {
                // Somebody removed it: there is nothing to keep.
                return []
            }
            throw error
        }
        Faults.reach("kept")
        return [
            Displacement(
                from: job.location, to: version, reason: reason, kind: occupant.kind,
                inode: S3Destination.identity(occupant.digest), size: occupant.size,
                mtime: occupant.mtime ?? FileTime(nanoseconds: 0))
        ]
    }

    /// `nil`: the older copy is not kept.
    private func reason(_ occupant: CopyRecord, newKind: EntryKind, isFuzzy: Bool) -> VersionReason? {
        if destination.isBlind { return nil }
        if occupant.kind != newKind { return destination.settings.versions == .bucket ? nil : .inTheWay }
        let keepsCopies = destination.settings.versions == .copy
        switch lease.plan.versionReason {
        case .lastGood: return isFuzzy ? .lastGood : keepsCopies ? .kept : nil
        case .kept, .foreign: return keepsCopies ? .kept : nil
        case .inTheWay, nil: return nil
        }
    }

    // MARK: - Moves

    /// Takes the origin's copy to the new key within the bucket. `nil`: it is no move after all, or cannot be one here;
    /// the path is stored as any other.
    private func move(
        _ origin: MoveOrigin, _ found: FoundEntry, _ metadata: FileMetadata, _ order: Uploader.Order?,
        _ target: [UInt8]?
    ) async throws(SafeBackupError) -> StoredEntry? {
        let (known, copy, now) = (destination.known, origin.copy, found.status.fingerprint)
        guard !known.isBlind, !known.refusesCopies, !known.refusesRemovals, let digest = copy.digest,
            copy.kind == found.status.kind, copy.location != job.location, !work.locations.contains(copy.location),
            now.inode == origin.name.fingerprint.inode, now.size == origin.name.fingerprint.size,
            now.mtime == origin.name.fingerprint.mtime
        else { return nil }
        if let target {
            guard SHA256.digest(of: target) == digest else { return nil }
        } else if let order, !origin.isProven {
            let read = try await destination.uploader.digest(of: order)
            guard !isTorn(read, found), read.digest == digest else { return nil }
        }
        let (from, to) = (try destination.keys.key(copy.location), try destination.keys.key(job.location))
        let displaced = try await keepOlder(newKind: copy.kind, isFuzzy: false)
        let own = self.metadata(found, metadata, digest, S3Destination.moveToken(lease))
        destination.begin(lease)
        do throws(SafeBackupError) {
            _ = try await destination.store.copy(
                from, version: nil, size: copy.size, to: to, ObjectProperties(metadata: own.encoded))
        } catch {
            if error.isRefusal {
                destination.learn { $0.refusesCopies = true }
                return nil
            }
            if try await destination.store.head(from, version: nil) == nil { return nil }
            throw error
        }
        Faults.reach("copied")
        var entry = found.entry(.moved, metadata, linkTarget: target)
        // The rename changed the ctime, and says nothing of the content.
        entry.isRacy = found.isRacy(since: now.mtime)
        entry.displaced = displaced
        // Where it may not be removed, it stays as the deleted path's.
        if try await !destination.removeIfAllowed([from]) { entry.content = .copied(copyOf(digest, copy.size, found)) }
        Faults.reach("unlinked")
        return entry
    }
}
