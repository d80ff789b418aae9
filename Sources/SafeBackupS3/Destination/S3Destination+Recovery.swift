package import SafeBackupCore
import SafeBackupSystem

/// Clearing up leases whose group did not end well.
///
/// | the object under the key | what follows |
/// |---|---|
/// | names this lease, as one that moved a copy | moved; the copy is removed under its old key |
/// | names this lease | replaced, if its digest is known; else it is stored again |
/// | is not there, and was before | cleared |
/// | anything else | unchanged |
///
/// A lease of this process that changed nothing needs no look.
extension S3Destination {
    /// In the metadata of an object that was made by copying the origin's.
    static func moveToken(_ lease: LeasedJob) -> String { lease.plan.stageName + "m" }

    package func recover(_ leases: [LeasedJob]) async throws(SafeBackupError) -> [RecoveredLease] {
        let found = await atOnce(leases, limit: settings.filesAtOnce, ends: \.isFailure) { lease in
            await Result.of { () async throws(SafeBackupError) in try await self.recover(lease) }
        }
        let recovered = try found.successes()
        let stages = leases.map(\.plan.stageName)
        learn { knowledge in for stage in stages { knowledge.begun[stage] = nil } }
        return recovered
    }

    private func recover(_ lease: LeasedJob) async throws(SafeBackupError) -> RecoveredLease {
        let unchanged = RecoveredLease(lease: lease, finding: .unchanged)
        // Blind, the next attempt compares nothing and sends it again.
        if known.begun[lease.plan.stageName] == false || isBlind { return unchanged }
        let key = try keys.key(lease.job.location)
        let head: ObjectHead?
        do throws(SafeBackupError) {
            head = try await store.head(key, version: nil)
        } catch {
            guard error.isRefusal else { throw error }
            learn { $0.isBlind = true }
            return unchanged
        }
        guard let head else {
            if lease.plan.final == .absent { return unchanged }
            return RecoveredLease(lease: lease, finding: .cleared, displaced: try await displaced(lease))
        }
        let own = CopyMetadata(head.metadata, modified: head.modifiedAt)
        if own.lease == Self.moveToken(lease), let copy = lease.job.origin?.copy {
            try await removeIfAllowed([try keys.key(copy.location)])
            return RecoveredLease(lease: lease, finding: .moved, displaced: try await displaced(lease))
        }
        guard let token = own.lease,
            try await uploader.isToken(token, of: lease.plan.stageName, at: key)
                || token == Self.moveToken(lease)
        else {
            try await removeVersion(lease)
            return unchanged
        }
        var content = own.digest.map { ($0, head.size) }
        if content == nil { content = try await uploader.content(ofUpload: token, at: key) }
        guard let (digest, size) = content, size == head.size else {
            // Ours and new, but nobody knows its digest any more.
            return RecoveredLease(lease: lease, finding: .cleared, displaced: try await displaced(lease))
        }
        // Only what it says of itself was brought to the source's.
        if digest == lease.job.occupant?.digest, lease.job.occupant?.kind == own.kind { return unchanged }
        var target: [UInt8]?
        if own.kind == .symlink {
            target = try await store.bytes(of: key, limit: 64 << 10)?.bytes
        }
        return RecoveredLease(
            lease: lease,
            finding: .replaced(
                StoredCopy(digest: digest, size: size, inode: nil, mtime: own.mtime), kind: own.kind,
                linkTarget: target),
            displaced: try await displaced(lease))
    }

    /// The kept older copy that the lease made, if it made one.
    private func displaced(_ lease: LeasedJob) async throws(SafeBackupError) -> [Displacement] {
        guard let version = lease.plan.version, let occupant = lease.job.occupant,
            try await store.head(try keys.key(version), version: nil) != nil
        else { return [] }
        let reason = lease.plan.versionReason ?? .kept
        return [
            Displacement(
                from: lease.job.location, to: version, reason: reason, kind: occupant.kind,
                inode: Self.identity(occupant.digest), size: occupant.size,
                mtime: occupant.mtime ?? FileTime(nanoseconds: 0), digest: occupant.digest)
        ]
    }

    /// What was copied stays under its key: the second copy goes.
    private func removeVersion(_ lease: LeasedJob) async throws(SafeBackupError) {
        guard settings.versions == .copy || lease.plan.versionReason == .lastGood, let version = lease.plan.version
        else { return }
        try await removeIfAllowed([try keys.key(version)])
    }

    /// Removes objects; `false` if the keys may not do that, which is remembered.
    @discardableResult
    func removeIfAllowed(_ doomed: [ObjectKey]) async throws(SafeBackupError) -> Bool {
        do throws(SafeBackupError) {
            for result in try await store.delete(doomed) {
                if let error = result { throw error }
            }
            return true
        } catch {
            guard error.isRefusal else { throw error }
            learn { $0.refusesRemovals = true }
            return false
        }
    }
}
