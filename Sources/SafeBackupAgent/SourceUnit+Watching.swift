import Logging
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch

/// What happens at the source, as the kernel tells it.
extension SourceUnit {
    /// Watches, walks and looks until the stop is requested or the root is not the one that is known.
    func watch(_ root: SourceRoot, ready: @escaping @Sendable () -> Void) async throws(SafeBackupError) {
        let id = id
        try await state.durably { (store) throws(SafeBackupError) in store.forgetTold(id) }
        let watcher = Watcher(filter: filter(for: root)) { () throws(SafeBackupError) in try root.opened() }
        let report = try await watcher.start()
        logger.info(
            .watching, "The source is watched",
            metadata: ["directories": "\(report.directories)", "watched": "\(report.watched)"])
        walkedSince.set(false)
        // The first walk makes up for what was lost before it.
        _ = reconcileWanted.take()
        ready()
        let failure = Shared<SafeBackupError?>(nil)
        let isOver = Shared(false)
        let looking = TaskSignal()
        let finish: @Sendable (SafeBackupError?) -> Void = { [reconcileWanted, rootDoubted] error in
            if failure.value == nil { failure.set(error) }
            isOver.set(true)
            rootDoubted.signal()
            looking.signal()
            reconcileWanted.signal()
        }
        stop.onRequest { finish(nil) }
        let name = printable(settings.path.bytes)
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                do throws(SafeBackupError) {
                    try await Vitals.loop("changes of \(name)", waker: { [weak watcher] in watcher?.nudge() }) {
                        () throws(SafeBackupError) in
                        try await self.follow(watcher, root)
                    }
                    finish(nil)
                } catch {
                    finish(error)
                }
            }
            tasks.addTask {
                do throws(SafeBackupError) {
                    try await Vitals.loop("walks of \(name)") { () throws(SafeBackupError) in
                        try await self.reconcileRepeatedly(root, watcher) { isOver.value }
                    }
                } catch {
                    finish(error)
                }
            }
            tasks.addTask {
                do throws(SafeBackupError) {
                    try await Vitals.loop("looks at \(name)") { () throws(SafeBackupError) in
                        try await self.lookRepeatedly(root, watcher, looking) { isOver.value }
                    }
                } catch {
                    finish(error)
                }
            }
            tasks.addTask {
                do throws(SafeBackupError) {
                    try await Vitals.loop("root of \(name)") { () throws(SafeBackupError) in
                        try await self.keepLooking(at: root) { isOver.value }
                    }
                } catch {
                    finish(error)
                }
                await watcher.stop()
            }
        }
        if let failure = failure.value { throw failure }
    }

    /// What no event tells: a file system that is mounted over the root, or over a directory below it.
    private func keepLooking(
        at root: SourceRoot, until isOver: @Sendable () -> Bool
    ) async throws(SafeBackupError) {
        let (id, path) = (id, settings.path)
        let mounts = await io.run { MountWatch(below: path) }
        while true {
            await rootDoubted.wait(atMost: .seconds(5))
            if isOver() { return }
            let isMounted = try await io.run { () throws(SafeBackupError) in
                try root.verify()
                return mounts.hasChanged()
            }
            guard isMounted else { continue }
            logger.notice(
                .mountsChanged, "Something was mounted or unmounted below the source; it is compared with the catalogue"
            )
            try await state.durably { (store) throws(SafeBackupError) in try store.markDesynced(id, true) }
            reconcileWanted.signal()
        }
    }

    /// Takes what the watcher saw until it stops.
    private func follow(_ watcher: Watcher, _ root: SourceRoot) async throws(SafeBackupError) {
        var lastTold: ContinuousClock.Instant?
        while let batch = await watcher.next() {
            if !batch.changes.isEmpty { try await enqueue(batch.changes, batch.renames) }
            if !batch.notSaved.isEmpty {
                let (id, entries) = (id, batch.notSaved)
                try await state.durably { (store) throws(SafeBackupError) in
                    try store.recordNotSaved(id, entries)
                }
            }
            var crowded: [RelativePath] = []
            for case .crowded(let directory) in batch.desynced { crowded.append(directory) }
            if !crowded.isEmpty {
                await watcher.noteComparison(try await compareEntries(of: crowded, root))
            }
            if batch.desynced.count > crowded.count {
                let id = id
                // A storm loses events many times a second.
                let isNew = lastTold.map { ContinuousClock.now - $0 > .seconds(10) } ?? true
                lastTold = .now
                logger.log(
                    .desynced, level: isNew ? .warning : .debug,
                    "Events were lost; the source is compared with the catalogue",
                    metadata: ["reason": "\(batch.desynced.map { "\($0)" }.joined(separator: ", "))"])
                try await state.durably { (store) throws(SafeBackupError) in
                    try store.markDesynced(id, true)
                }
                reconcileWanted.signal()
            }
            if let event = batch.rootEvent {
                // Whether the path still leads to the directory that we know decides.
                guard let root = knownRoot else { return }
                try await io.run { () throws(SafeBackupError) in try root.verify() }
                logger.warning(
                    .rootChanged, "The root changed and is still the same directory", metadata: ["event": "\(event)"])
                reconcileWanted.signal()
            }
        }
    }

    private func enqueue(
        _ changes: [Change], _ renames: [RelativePath: RelativePath]
    ) async throws(SafeBackupError) {
        let now = clock.now
        let id = id
        let batches = destinations.map { destination in
            let settle = settle(for: destination)
            let queued = changes.map { change in
                QueuedChange(
                    path: change.path, action: change.kind == .vanished ? .delete : .store,
                    notBefore: settle.notBefore(for: change.kind, now: now), settleLimit: settle.limit,
                    isDirectory: change.isDirectory, size: nil, hashFirst: change.kind == .attributes,
                    origin: change.kind == .vanished || change.isDirectory ? nil : renames[change.path])
            }
            return (destination: destination, changes: queued)
        }
        try await state.durably { (store) throws(SafeBackupError) in _ = try store.enqueue(batches, source: id) }
        queued()
    }
}
