import Glibc
import Logging
package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
package import SafeBackupWatch
import Synchronization
package import SystemPackage

/// One source at work: watches it, walks it, and turns what changed into jobs. Holds it while its root is not the
/// one that is known.
package final class SourceUnit: Sendable {
    package struct Settings: Sendable {
        package var path: FilePath
        package var excludes: ExcludeRules
        /// Left out if they lie below the source.
        package var state: FilePath
        /// Of the whole agent: what one source writes must not be saved by another.
        package var destinations: [FilePath]
        package var settle: [DestinationID: SettlePolicy]
        /// From the end of one walk to the next, when nothing is known to be missing.
        package var reconcileInterval = Duration.seconds(86_400)
        /// Taken for the type of the source's file system.
        var declaredType: VolumeType?
    }

    package let id: SourceID
    package let destinations: [DestinationID]
    let settings: Settings
    private let record: SourceRecord
    let state: StateAccess
    let io: ThreadExecutor
    let clock: WallClock
    private let stop: StopSignal
    let logger: Logger
    private let progress: Progress
    /// Called after jobs were queued.
    let queued: @Sendable () -> Void
    private let root = Locked<SourceRoot?>(nil)
    let reconcileWanted = ReconcileCall()
    /// Ends the pause between two looks at the root.
    private let rootDoubted = TaskSignal()
    /// Ends the pause between two tries.
    private let pausing = TaskSignal()
    /// Every job that the last complete walk knew has a sequence up to this.
    private let walkedUpTo = Shared<Int64?>(nil)
    /// Since it is watched, it was compared with the catalogue.
    private let walkedSince = Shared(false)
    private let holding: Holding
    /// How often somebody asked to look again; a walk that began before does not count as a full one.
    private let doubts = Locked(0)

    init(
        record: SourceRecord, destinations: [DestinationID], settings: Settings, state: StateAccess,
        io: ThreadExecutor, clock: WallClock, stop: StopSignal, logger: Logger, progress: Progress,
        queued: @escaping @Sendable () -> Void
    ) {
        id = record.id
        self.record = record
        self.destinations = destinations
        self.settings = settings
        self.state = state
        self.io = io
        self.clock = clock
        self.stop = stop
        var logger = logger
        logger[metadataKey: "source.path"] = "\(printable(settings.path.bytes))"
        self.logger = logger
        self.progress = progress
        self.queued = queued
        holding = Holding(.source(record.id), state: state, logger: logger)
        stop.onRequest { [pausing] in pausing.signal() }
    }

    /// The root that reads start from; `nil` while the source is held.
    package var knownRoot: SourceRoot? { root.withLock { $0 } }

    /// Looks at once whether the root is there and the one that is known, and compares the source with the catalogue:
    /// somebody found it changed, or a person accepted something.
    func lookAgain() {
        doubts.withLock { $0 += 1 }
        walkedUpTo.set(nil)
        rootDoubted.signal()
        pausing.signal()
        reconcileWanted.signal()
    }

    /// Up to which sequence jobs must be done for the last complete walk to be saved; `nil` before one has ended.
    var walkedSequence: Int64? { walkedUpTo.value }

    /// Since the source is watched, everything that was there before was found.
    var hasWalked: Bool { walkedSince.value }

    /// Nothing that was there at the start is unknown, or nothing of it can be read.
    var isWalkedOrAway: Bool { hasWalked || walkedSequence != nil || knownRoot == nil }

    // MARK: Once

    /// One walk. Returns when everything that differs is queued.
    func walkOnce() async throws(SafeBackupError) {
        let root = try await open()
        try await reconcile(root, .start)
    }

    /// A look that the root which was opened is still there.
    func verify() async throws(SafeBackupError) {
        guard let root = knownRoot else { return }
        try await io.run { () throws(SafeBackupError) in try root.verify() }
    }

    // MARK: Continuous

    /// Watches until the stop is requested; `ready` is called when all watches are in place for the first time, or, with
    /// `isReadyWhenHeld`, when the source is found to be held before.
    func run(isReadyWhenHeld: Bool = false, ready: @Sendable @escaping () -> Void) async throws(SafeBackupError) {
        let isAnnounced = Atomic(false)
        // What an agent said that was killed.
        try await noteUnwatched()
        while !stop.isRequested {
            do throws(SafeBackupError) {
                let root = try await open()
                try await watch(root) {
                    if !isAnnounced.exchange(true, ordering: .acquiringAndReleasing) { ready() }
                }
            } catch {
                close()
                switch error.code {
                case .stateFailed, .stateDamaged: throw error
                case .rootMissing, .rootReplaced, .rootEmptied, .unreadable, .sourceFailed:
                    try await holding.begin(error)
                default:
                    logger.error(
                        .sourceFailed, "The source cannot be watched now; it is tried again",
                        metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
                }
                if isReadyWhenHeld, !isAnnounced.exchange(true, ordering: .acquiringAndReleasing) { ready() }
                await pausing.wait(atMost: .seconds(2))
            }
        }
        close()
        try await noteUnwatched()
    }

    private func open() async throws(SafeBackupError) -> SourceRoot {
        let id = id
        // Asked each time, because a person may have accepted another root.
        let record = try await state.durably { (store) throws(SafeBackupError) in
            try store.sources().first { $0.id == id }
        }
        let (path, known) = (settings.path, (record ?? self.record).identity)
        let opened = try await io.run { () throws(SafeBackupError) in try SourceRoot(path: path, known: known) }
        if record?.hold?.reason == .rootEmptied, record?.accepted != .rootEmptied {
            try await expectKnownEntry(in: opened)
        }
        root.withLock { $0 = opened }
        return opened
    }

    private func close() { root.withLock { $0 = nil } }

    /// A source that was emptied stays held until something is there again that was saved: a stranger is no sign that
    /// the rest is gone on purpose.
    private func expectKnownEntry(in root: SourceRoot) async throws(SafeBackupError) {
        let filter = filter(for: root)
        let leaves = try await io.run { () throws(SafeBackupError) -> [[UInt8]] in
            var leaves: [[UInt8]] = []
            var scanner = Scanner(root: try root.opened(), filter: filter, depth: .entries)
            while let listed = try scanner.next() {
                leaves += listed.flatMap(\.entries).map(\.leaf)
                // One of the first thousands is enough.
                if leaves.count > 4_096 { break }
            }
            return leaves
        }
        let isKnown = try await holdsKnown(leaves)
        if !isKnown { throw emptied() }
    }

    /// Whether nothing was saved, or one of these leaves at the top was; also what is not saved now keeps its name.
    private func holdsKnown(_ leaves: [[UInt8]]) async throws(SafeBackupError) -> Bool {
        let id = id
        return try await state.durably { (store) throws(SafeBackupError) in
            if try !store.hasLiveNames(id) { return true }
            return try store.hasLiveName(of: id, among: leaves)
        }
    }

    private func emptied() -> SafeBackupError {
        let name = printable(settings.path.bytes)
        return SafeBackupError(
            .rootEmptied,
            "The source \(name) is suddenly empty, although files of it were saved; nothing is removed from the backup; "
                + "saving goes on by itself when something of what was saved is there again; if it was emptied on "
                + "purpose, 'safebackup accept \(name)' shows what would follow",
            disposition: .transient)
    }

    func filter(for root: SourceRoot) -> TreeFilter {
        var own: [FileIdentity: SkipReason] = [:]
        // Asked each time, because both may have been made, or mounted, since the last.
        // A source may be the destination of another one.
        let destinations = settings.destinations.filter { $0 != settings.path }.map { ($0, SkipReason.ownDestination) }
        for (path, reason) in [(settings.state, SkipReason.ownState)] + destinations {
            do throws(Errno) {
                own[FileIdentity(try Descriptor.open(path, O_RDONLY | O_DIRECTORY).status())] = reason
            } catch {
                continue  // ignored because what cannot be opened has nothing to leave out
            }
        }
        return TreeFilter(root: root.status, rules: settings.excludes, own: own)
    }

    private func watch(_ root: SourceRoot, ready: @escaping @Sendable () -> Void) async throws(SafeBackupError) {
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

    // MARK: Reconcile

    func comparisonRules(_ root: SourceRoot, drift: DriftRule? = nil) -> ComparisonRules {
        ComparisonRules(inodesAreStable: root.identity.type.hasStableInodes, hashRacy: true, drift: drift)
    }

    private func compare(
        _ listed: [ListedDirectory], _ number: ReconcileID, _ root: SourceRoot, notBefore: Timestamp,
        drift: DriftRule?
    ) async throws(SafeBackupError) -> (counts: ReconcileCounts, isComplete: Bool) {
        let (id, destinations) = (id, destinations)
        let rules = comparisonRules(root, drift: drift)
        let counts = try await state.durably { (store) throws(SafeBackupError) in
            try store.reconcile(number, id, destinations, listed, rules: rules, notBefore: notBefore)
        }
        if counts.queued > 0 { queued() }
        var isComplete = true
        for directory in listed where directory.isLastPart {
            if try await queueAbsent(from: directory.path, in: root) == nil { isComplete = false }
        }
        return (counts, isComplete)
    }

    private func reconcileRepeatedly(
        _ root: SourceRoot, _ watcher: Watcher, until isOver: @Sendable () -> Bool
    ) async throws(SafeBackupError) {
        var reason = ReconcileSchedule.Reason.start
        var schedule = ReconcileSchedule(period: settings.reconcileInterval, now: .now)
        while !isOver() {
            let began = ContinuousClock.now
            schedule.noteBegin()
            if reason == .desynced {
                let report = try await watcher.resync()
                logger.debug(
                    .watchesPlaced, "The watches were placed again", metadata: ["watched": "\(report.watched)"])
            }
            try await reconcile(root, reason)
            walkedSince.set(true)
            schedule.noteEnd(at: .now, after: ContinuousClock.now - began)
            while !isOver() {
                // Something was lost, perhaps while the walk was under way.
                if reconcileWanted.take() { schedule.noteLoss(at: .now) }
                let next = schedule.next
                let now = ContinuousClock.now
                if now >= next.at {
                    reason = next.reason
                    break
                }
                await reconcileWanted.wait(atMost: next.at - now)
            }
        }
    }

    /// Walks the tree, compares it with the catalogue one directory at a time, and queues what differs.
    /// A periodic walk, with nothing known to be missing, takes a tenth of a core, and of the disk what others leave,
    /// until another walk is wanted, which must not wait for its slow end; it counts drift.
    private func reconcile(
        _ root: SourceRoot, _ reason: ReconcileSchedule.Reason
    ) async throws(SafeBackupError) {
        let (id, doubtsBefore) = (id, doubts.withLock { $0 })
        let isPeriodic = reason == .periodic
        let background = isPeriodic ? backgroundThread() : nil
        let io = background ?? io
        defer { background?.stop() }
        let filter = filter(for: root)
        let scan = try await io.run { () throws(SafeBackupError) in
            SharedScanner(Scanner(root: try root.opened(), filter: filter))
        }
        let (number, mayBeEmpty) = try await state.durably { (store) throws(SafeBackupError) in
            let isAccepted = try store.sources().contains { $0.id == id && $0.accepted == .rootEmptied }
            let hasLiveNames = try store.hasLiveNames(id)
            return (try store.beginReconcile(id, reason: reason.rawValue), isAccepted || !hasLiveNames)
        }
        progress.scanning(true)
        defer { progress.scanning(false) }
        let began = ContinuousClock.now
        let walkBegan = clock.now
        let drift = isPeriodic ? DriftRule(walkBegan: walkBegan, quietSince: walkBegan + (.zero - quietTime)) : nil
        var total = ReconcileCounts()
        var (isComplete, isFirst) = (true, true)
        var rest = Duration.zero
        var ahead = try await scan.next(on: io)
        while let listed = ahead {
            if stop.isRequested { return }
            let partBegan = ContinuousClock.now
            if isFirst, !mayBeEmpty, let top = listed.first(where: { $0.path.isRoot }), top.isWhole,
                !top.entries.contains(where: \.isSaved), try await !holdsKnown(top.entries.map(\.leaf))
            {
                throw emptied()
            }
            if isFirst { try await holding.end() }
            isFirst = false
            // The next part is read while this one is compared.
            let next = Task { [io] () -> Result<[ListedDirectory]?, SafeBackupError> in
                do throws(SafeBackupError) {
                    return .success(try await scan.next(on: io))
                } catch {
                    return .failure(error)
                }
            }
            let (counts, isWhole) = try await compare(listed, number, root, notBefore: clock.now, drift: drift)
            total += counts
            isComplete = isComplete && isWhole
            progress.scanned(counts.seen)
            for directory in listed {
                guard let failure = directory.failure else { continue }
                isComplete = false
                logger.error(
                    .directoryUnreadable, "A directory cannot be read; nothing below it is saved",
                    metadata: ["path": "\(directory.path)", "error": "\(failure.message)"])
            }
            ahead = try await next.value.get()
            rest += (ContinuousClock.now - partBegan) * 9
            // Nothing stays open meanwhile; a rest that comes in the middle of a large directory waits for its end.
            if isPeriodic, ahead != nil, await scan.letGo(on: io) {
                await reconcileWanted.pause(rest)
                rest = .zero
                try await scan.goOn(in: root, on: io)
            }
        }
        // The root could have gone away during the walk: then what it did not find is not known to be absent.
        try await io.run { () throws(SafeBackupError) in try root.verify() }
        let (complete, counts) = (isComplete, total)
        let last = try await state.durably { (store) throws(SafeBackupError) in
            _ = try store.finishReconcile(
                number, complete: complete, drift: counts.drift, excluded: counts.excluded)
            return try store.newestSequence()
        }
        if doubts.withLock({ $0 }) == doubtsBefore { walkedUpTo.set(last) }
        queued()
        logger.info(
            .reconciled, "The source was compared with the catalogue",
            metadata: [
                "reason": "\(reason)", "seen": "\(total.seen)", "queued": "\(total.queued)",
                "seconds": "\(secondsText(ContinuousClock.now - began))",
            ])
        if total.drift > 0 {
            logger.warning(
                .drift, "The walk found changes that no event had told of; they are saved now; please report it",
                metadata: ["drift": "\(total.drift)"])
        }
    }

    /// For a walk that nothing waits for. `nil` where the system gives no thread: it is done as any other.
    private func backgroundThread() -> ThreadExecutor? {
        do throws(Errno) {
            return try ThreadExecutor(name: "sb.walk", isBackground: true)
        } catch {
            logger.debug(
                .walkUnlowered, "No thread for the walk", metadata: ["error": "\(error.explanation)"])
            return nil
        }
    }

    /// What changed longer ago than this was told, or looked at, if it ever will be.
    private var quietTime: Duration { (destinations.map { settle(for: $0).limit }.max() ?? .zero) * 2 + .seconds(60) }

    func settle(for destination: DestinationID) -> SettlePolicy { settings.settle[destination] ?? SettlePolicy() }
}

/// With one decimal.
func secondsText(_ duration: Duration) -> String {
    let tenths = (duration.components.seconds * 10) + duration.components.attoseconds / 100_000_000_000_000_000
    return "\(tenths / 10).\(tenths % 10)"
}
