import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What the two threads of a watcher do.
final class WatchLoop: Sendable {
    private let inotify: Inotify
    private let reader: EventReader
    private let filter: TreeFilter
    private let outbox: WatchOutbox
    private let open: @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    /// Used on `sb.tree` only; the lock is never contended.
    private let digest: Locked<WatchDigest>
    private let limit: Int

    init(
        inotify: Inotify, reader: EventReader, filter: TreeFilter, limit: Int, outbox: WatchOutbox,
        open: @escaping @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    ) {
        self.inotify = inotify
        self.reader = reader
        self.filter = filter
        self.limit = limit
        self.outbox = outbox
        self.open = open
        digest = Locked(WatchDigest(filter: filter, limit: limit))
    }

    /// On `sb.watch`: reads until the watcher stops.
    func read(deliver: () -> Void) {
        if reader.read(deliver: deliver) { return }
        var findings = WatchFindings(limit: limit)
        findings.rootChanged(.selfIgnored)
        outbox.publish(findings)
    }

    /// On `sb.tree`: places the watches of the whole tree.
    func placeWatches() -> Result<WatchReport, SafeBackupError> {
        digest.withLock { digest in
            var effects = InotifyEffects(inotify: inotify, filter: filter, open: open)
            let report = digest.place(&effects)
            publish(&digest, effects)
            if let report { return .success(report) }
            return .failure(effects.rootFailure ?? SafeBackupError(listing: .root, .permissionDenied))
        }
    }

    /// On `sb.tree`: digests everything that was read.
    func digestEvents() {
        digest.withLock { digest in
            var effects = InotifyEffects(inotify: inotify, filter: filter, open: open)
            while let chunk = reader.take() {
                chunk.withUnsafeBytes { bytes in
                    InotifyEvent.parse(bytes) { digest.digest($0, &effects) }
                }
                digest.endBatch(&effects)
                publish(&digest, effects)
            }
        }
    }

    private func publish(_ digest: inout WatchDigest, _ effects: InotifyEffects) {
        if effects.rootFailure != nil { digest.findings.rootChanged(.unreachable) }
        if digest.findings.isEmpty { return }
        outbox.publish(digest.findings)
        digest.findings = WatchFindings(limit: limit)
    }
}
