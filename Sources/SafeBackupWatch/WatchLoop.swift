import Glibc
package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What a watcher's thread `sb.tree` does; see `WatchKernel` for the other.
final class WatchLoop: Sendable {
    private let filter: TreeFilter
    private let limits: Watcher.Limits
    private let outbox: WatchOutbox
    private let tree: ThreadExecutor
    private let open: @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    /// Used on `sb.tree` only; the lock is never contended.
    private let digest: Locked<WatchDigest>
    /// `nil` while the system gives no inotify instance.
    private let kernel = Locked<WatchKernel?>(nil)
    private let covered = Locked(WatchCoverage())
    /// When an instance was asked for last, and how long to wait from then on.
    private let lastTry = Locked<(at: ContinuousClock.Instant, wait: Duration)?>(nil)
    private let isStopped = Locked(false)
    /// The consumer's, for which the events are digested.
    private let pulse = Locked<Pulse?>(nil)

    init(
        filter: TreeFilter, limits: Watcher.Limits, outbox: WatchOutbox, tree: ThreadExecutor,
        open: @escaping @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    ) {
        self.filter = filter
        self.limits = limits
        self.outbox = outbox
        self.tree = tree
        self.open = open
        digest = Locked(WatchDigest(filter: filter, limit: limits.paths))
    }

    /// As the last pass left it; from any thread.
    var coverage: WatchCoverage { covered.withLock { $0 } }

    /// On `sb.tree`: tries to get an instance, if there is none and it is time again.
    private func connect() {
        if kernel.withLock({ $0 != nil }) || isStopped.withLock({ $0 }) { return }
        let now = ContinuousClock.now
        let isDue = lastTry.withLock { last in
            if let known = last, now - known.at < known.wait { return false }
            last = (now, min((last?.wait ?? .seconds(1)) * 2, .seconds(60)))
            return true
        }
        if !isDue { return }
        let made: WatchKernel
        do throws(Errno) {
            made = try WatchKernel(limit: Int(limits.buffer.bytes))
        } catch {
            return  // not lost: every directory counts as one that is not watched, and the next look tries again
        }
        lastTry.withLock { $0 = nil }
        kernel.withLock { $0 = made }
        // The watcher may have been stopped while the instance was made.
        if isStopped.withLock({ $0 }) { return made.signalStop() }
        made.start(
            deliver: { [weak self] in
                guard let self else { return }
                tree.submit { self.digestEvents() }
            },
            nudged: { [weak self] in
                guard let self else { return }
                tree.submit { self.outbox.nudge() }
            },
            lost: { [weak self] in
                guard let self else { return }
                tree.submit { self.disconnect() }
            })
    }

    /// On `sb.tree`: the instance cannot be read. Another one is tried, and until then everything is looked at.
    private func disconnect() {
        kernel.withLock { $0 = nil }
        digest.withLock { digest in
            digest.tree.clearWatches()
            digest.findings.desync(.overflow)
            publish(&digest, effects())
        }
    }

    /// Asks both threads, one after the other, whether they are there; the consumer gets the answer as a batch.
    func nudge() {
        guard let kernel = kernel.withLock({ $0 }) else { return tree.submit { self.outbox.nudge() } }
        kernel.nudge()
    }

    /// From now on events are digested for the loop that the current task works for.
    func noteConsumer() {
        guard let current = Pulse.current else { return }
        pulse.withLock { $0 = current }
    }

    /// No event is told from now on; returns when none is read any more.
    func stop() async {
        isStopped.withLock { $0 = true }
        let running = kernel.withLock { kernel in
            defer { kernel = nil }
            return kernel
        }
        await running?.stop()
    }

    /// As `stop`, for those who cannot wait.
    func signalStop() {
        isStopped.withLock { $0 = true }
        kernel.withLock { $0 }?.signalStop()
    }

    /// On `sb.tree`: places the watches of the whole tree.
    func placeWatches(isFirst: Bool) -> Result<WatchReport, SafeBackupError> {
        if isFirst { probe() }
        connect()
        return digest.withLock { digest in
            var effects = effects()
            let report = digest.place(&effects)
            publish(&digest, effects)
            if let report { return .success(report) }
            return .failure(effects.rootFailure ?? SafeBackupError(listing: .root, .permissionDenied))
        }
    }

    private func probe() {
        do throws(SafeBackupError) {
            let isAlive = EventProbe.isAlive(try open())
            covered.withLock { $0.isAlive = isAlive }
        } catch {
            return  // ignored because placing the watches fails next, and says why
        }
    }

    /// On `sb.tree`: digests everything that was read.
    private func digestEvents() {
        let pulse = pulse.withLock { $0 }
        Pulse.$current.withValue(pulse) { digestWhatWasRead() }
    }

    private func digestWhatWasRead() {
        guard let kernel = kernel.withLock({ $0 }) else { return }
        digest.withLock { digest in
            var effects = effects()
            while let chunk = kernel.take() {
                chunk.withUnsafeBytes { bytes in
                    InotifyEvent.parse(bytes) { digest.digest($0, &effects) }
                }
                digest.endBatch(&effects)
                publish(&digest, effects)
            }
        }
    }

    /// On `sb.tree`: a part of a pass over the directories that no event is trusted for; see `Watcher.glance`.
    func glance(from number: Int32, everywhere: Bool, now: FileTime, inodesAreStable: Bool) -> GlancePart {
        if number == 0 { connect() }
        return digest.withLock { digest in
            let began = threadTime()
            var part = GlancePart()
            var effects = effects()
            if number == 0 { digest.hasDoubts = false }
            var index = number
            while let node = digest.tree.firstNode(from: index, onlyUncertain: !everywhere) {
                if part.entries >= GlancePart.entryLimit || part.differing.count >= GlancePart.pathLimit {
                    part.next = node.rawValue
                    break
                }
                index = node.rawValue + 1
                let look = digest.glance(
                    at: node, now: now, inodesAreStable: inodesAreStable, watching: !effects.isExhausted, &effects)
                // Opening a directory costs as much as looking at some entries.
                part.entries += (look?.entries ?? 0) + 4
                if let look, look.differs { part.differing.append(look.path) }
            }
            publish(&digest, effects)
            if part.next == nil && !effects.isExhausted { covered.withLock { $0.isLimited = false } }
            part.busy = threadTime() - began
            return part
        }
    }

    /// On `sb.tree`: what came of comparing directories that differed.
    func noteComparison(_ comparison: GlanceComparison) {
        digest.withLock { digest in
            for (path, signature) in comparison.known { digest.trustGlance(at: path, signature) }
            for path in comparison.failed { digest.doubt(path) }
            publish(&digest, effects())
        }
    }

    private func effects() -> InotifyEffects {
        InotifyEffects(inotify: kernel.withLock { $0?.inotify }, filter: filter, open: open)
    }

    private func publish(_ digest: inout WatchDigest, _ effects: InotifyEffects) {
        let unreadable = digest.unreadableCount
        let (directories, watched) = (digest.directoryCount - unreadable, digest.watchCount)
        let hasDoubts = digest.hasDoubts
        let hasInstance = kernel.withLock { $0 != nil }
        covered.withLock { coverage in
            coverage.directories = directories
            coverage.watched = watched
            coverage.unreadable = unreadable
            coverage.hasInstance = hasInstance
            if effects.isExhausted { coverage.isLimited = true }
            coverage.needsLook = hasDoubts || directories + unreadable > watched
        }
        if effects.rootFailure != nil { digest.findings.rootChanged(.unreachable) }
        if digest.findings.isEmpty { return }
        outbox.publish(digest.findings)
        digest.findings = WatchFindings(limit: limits.paths)
    }
}

/// What a part of a pass over directories that are not watched found.
package struct GlancePart: Sendable, Hashable {
    static let entryLimit = 16_384
    static let pathLimit = 256

    /// Directories whose entries may differ from the last look: to be compared with what is known of them.
    package var differing: [RelativePath] = []
    /// Where the next part begins; `nil`: the pass is over.
    package var next: Int32?
    /// CPU time that it took.
    package var busy = Duration.zero
    var entries = 0
}

/// What came of comparing the directories that a look found to differ.
package struct GlanceComparison: Sendable {
    /// Directories of which everything is known that a listing showed, with its signature.
    package var known: [(path: RelativePath, signature: UInt64)] = []
    /// Those that could not be listed.
    package var failed: [RelativePath] = []

    package init() {}
}

/// CPU time of the calling thread.
private func threadTime() -> Duration {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
}
