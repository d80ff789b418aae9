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
            running?.loop.signalStop()
            running?.tree.stop()
        }
    }

    /// Returns when all watches are in place: what changes after that is told. What was there before is not: walk it
    /// now. Where the system has too few watches, or none, the rest is for `glance`. Throws `rootMissing` or
    /// `unreadable` if the root cannot be entered, `exhausted` if the system gives no thread.
    package func start() async throws(SafeBackupError) -> WatchReport {
        let tree: ThreadExecutor
        do throws(Errno) { tree = try ThreadExecutor(name: "sb.tree") } catch { throw .noThread(error) }
        let loop = WatchLoop(filter: filter, limits: limits, outbox: outbox, tree: tree, open: open)
        let isFirst = running.withLock { running in
            if running != nil { return false }
            running = Running(loop: loop, tree: tree)
            return true
        }
        precondition(isFirst, "a watcher is started once")
        // Events that come meanwhile wait for the thread that places the watches.
        switch await tree.run({ loop.placeWatches(isFirst: true) }) {
        case .success(let report): return report
        case .failure(let error):
            await stop()
            throw error
        }
    }

    /// How much of the tree is watched, as of the last event.
    package var coverage: WatchCoverage { running.withLock { $0?.loop.coverage } ?? WatchCoverage() }

    /// Looks at some of the directories that no event is trusted for: those that are not watched, or with `everywhere`
    /// all of them. A directory that can be watched now is watched from then on. Begin with 0, and go on with
    /// `GlancePart.next`; each part takes some 50 ms. Directories that are new are told by `next`.
    /// - Parameters:
    ///   - now: the time, by which entries are known that changed too recently to tell them from another change.
    ///   - inodesAreStable: the file system keeps a file's inode number.
    package func glance(
        from number: Int32, everywhere: Bool, now: FileTime, inodesAreStable: Bool
    ) async -> GlancePart {
        await onTree {
            $0.glance(from: number, everywhere: everywhere, now: now, inodesAreStable: inodesAreStable)
        } ?? GlancePart()
    }

    /// Says what came of comparing the directories that differed: those of which everything is known do not differ until
    /// they change, those that could not be listed are looked at again.
    package func noteComparison(_ comparison: GlanceComparison) async { await onTree { $0.noteComparison(comparison) } }

    /// Waits until something changed and returns all that was seen since the last call. One consumer. `nil` after
    /// `stop`, or when the task is cancelled.
    package func next() async -> WatchBatch? {
        running.withLock { $0 }?.loop.noteConsumer()
        let batch = await outbox.next()
        Pulse.current?.mark()
        return batch
    }

    /// `next` returns soon, with nothing if there is nothing, if both threads are alive.
    package func nudge() { running.withLock { $0 }?.loop.nudge() }

    /// Completes and corrects the watches, because events were lost or watches are missing. Reconcile afterwards: what
    /// came to be meanwhile is not told. Throws as `start`; after `stop` the report is empty.
    package func resync() async throws(SafeBackupError) -> WatchReport {
        guard let placed = await onTree({ $0.placeWatches(isFirst: false) }) else { return WatchReport() }
        return try placed.get()
    }

    /// Runs `body` on `sb.tree`; `nil` after `stop`.
    @discardableResult
    private func onTree<R: Sendable>(_ body: @escaping @Sendable (WatchLoop) -> R) async -> R? {
        let answer = Locked<R?>(nil)
        let pulse = Pulse.current
        await withCheckedContinuation { continuation in
            // Under the lock, because what is submitted to a thread that was stopped never runs.
            let isRunning = running.withLock { running in
                guard let running else { return false }
                running.tree.submit { [loop = running.loop] in
                    let result = Pulse.$current.withValue(pulse) { body(loop) }
                    // See `ThreadExecutor.run` for the way that the result takes.
                    answer.withLock { $0 = result }
                    continuation.resume()
                }
                return true
            }
            if !isRunning { continuation.resume() }
        }
        pulse?.mark()
        return answer.withLock { $0 }
    }

    /// Ends both threads and all watches. What was not taken is lost.
    package func stop() async {
        let stopped = running.withLock { running in
            defer { running = nil }
            return running
        }
        outbox.close()
        guard let stopped else { return }
        await stopped.loop.stop()
        // Runs when the thread has done everything before it.
        await stopped.tree.run {}
        stopped.tree.stop()
    }
}

extension Watcher {
    /// Whether the system gives an inotify instance now. Throws `exhausted`, naming the limit, if it does not.
    package static func checkInstance() throws(SafeBackupError) {
        do throws(Errno) {
            _ = try Inotify()
        } catch {
            throw SafeBackupError(
                .exhausted, "The system gives no inotify instance: \(error.explanation)", disposition: .transient,
                systemError: error.rawValue)
        }
    }
}
