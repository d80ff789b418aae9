package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// Tells what changes below a source's root, from inotify.
///
/// Two threads: `sb.watch` only empties the kernel's queue; `sb.tree` keeps the watches, lists new directories and
/// coalesces. A change is told as soon as it is seen; settling is the consumer's (`SettlePolicy`). Nothing here
/// survives a crash: after a start the consumer reconciles.
package final class Watcher: Sendable {
    /// The parts that exist between `start` and `stop`.
    private struct Running: Sendable {
        var loop: WatchLoop
        var wakeup: PollWakeup
        var reading: ThreadExecutor
        var tree: ThreadExecutor
    }

    /// How much may wait in memory.
    package struct Limits: Sendable, Hashable {
        /// Of events that were read and not digested.
        package var buffer: ByteCount = .mebibytes(8)
        /// Of changes that were not taken.
        package var paths = 65_536

        package init() {}
    }

    private let filter: TreeFilter
    private let limits: Limits
    private let open: @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    private let outbox: WatchOutbox
    private let running = Locked<Running?>(nil)

    /// Opens the root whenever it is needed and does not keep it open, so that it can be unmounted, and its removal
    /// is told (the kernel tells it when nobody has the directory open). A root that is not the one that `filter` was
    /// made with is not touched: `RootEvent.unreachable`, as when `open` throws anything but `exhausted`.
    package init(
        filter: TreeFilter, limits: Limits = Limits(),
        opening open: @escaping @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    ) {
        self.filter = filter
        self.limits = limits
        self.open = open
        outbox = WatchOutbox(limit: limits.paths)
    }

    /// Watches below a root that stays open. Its removal is then not told before `root` goes.
    package convenience init(root: ConfinedDirectory, filter: TreeFilter, limits: Limits = Limits()) {
        self.init(filter: filter, limits: limits) { () throws(SafeBackupError) in root }
    }

    deinit {
        running.withLock { running in
            running?.wakeup.signal()
            running?.reading.stop()
            running?.tree.stop()
        }
    }

    /// Returns when all watches are in place: what changes after that is told. What was there before is not: walk it
    /// now. Throws `rootMissing` or `unreadable` if the root cannot be watched, `exhausted` if the system has no room
    /// for another inotify instance.
    package func start() async throws(SafeBackupError) -> WatchReport {
        let inotify: Inotify
        let wakeup: PollWakeup
        do throws(Errno) {
            inotify = try Inotify()
            wakeup = try PollWakeup()
        } catch {
            throw SafeBackupError(
                .exhausted,
                "Cannot watch for changes: \(error.explanation); raise fs.inotify.max_user_instances or the limit of "
                    + "open files", disposition: .transient, systemError: error.rawValue)
        }
        let loop = WatchLoop(
            inotify: inotify, reader: EventReader(inotify, wakeup: wakeup, limit: Int(limits.buffer.bytes)),
            filter: filter, limit: limits.paths, outbox: outbox, open: open)
        let started = Running(
            loop: loop, wakeup: wakeup, reading: ThreadExecutor(name: "sb.watch"), tree: ThreadExecutor(name: "sb.tree")
        )
        let isFirst = running.withLock { running in
            if running != nil { return false }
            running = started
            return true
        }
        precondition(isFirst, "a watcher is started once")
        // No event comes before the first watch, and those that come meanwhile wait for the thread that places them.
        let placed: Result<WatchReport, SafeBackupError> = await withCheckedContinuation { continuation in
            started.tree.submit { continuation.resume(returning: loop.placeWatches()) }
            started.reading.submit { [tree = started.tree] in
                loop.read { tree.submit { loop.digestEvents() } }
            }
        }
        switch placed {
        case .success(let report): return report
        case .failure(let error):
            await stop()
            throw error
        }
    }

    /// Waits until something changed and returns all that was seen since the last call. One consumer. `nil` after
    /// `stop`, or when the task is cancelled.
    package func next() async -> WatchBatch? { await outbox.next() }

    /// Completes and corrects the watches, because events were lost or watches are missing. Reconcile afterwards: what
    /// came to be meanwhile is not told. Throws as `start`; after `stop` the report is empty.
    package func resync() async throws(SafeBackupError) -> WatchReport {
        let placed: Result<WatchReport, SafeBackupError> = await withCheckedContinuation { continuation in
            let isRunning = running.withLock { running in
                guard let running else { return false }
                running.tree.submit { [loop = running.loop] in
                    continuation.resume(returning: loop.placeWatches())
                }
                return true
            }
            if !isRunning { continuation.resume(returning: .success(WatchReport())) }
        }
        return try placed.get()
    }

    /// Ends both threads and all watches. What was not taken is lost.
    package func stop() async {
        let stopped = running.withLock { running in
            defer { running = nil }
            return running
        }
        outbox.close()
        guard let stopped else { return }
        stopped.wakeup.signal()
        // Each runs when the thread has done everything before it.
        await stopped.reading.run {}
        await stopped.tree.run {}
        stopped.reading.stop()
        stopped.tree.stop()
    }
}
