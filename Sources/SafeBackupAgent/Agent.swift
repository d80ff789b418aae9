package import Logging
package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
package import SafeBackupSystem
package import SafeBackupWatch
package import SystemPackage

/// What one agent does: which source goes to which destination, and how.
package struct AgentSettings: Sendable {
    package var source: FilePath
    package var destination: FilePath
    package var state: StateDirectory
    package var excludes: ExcludeRules
    /// Walk, save what differs, and end.
    package var isOnce: Bool
    /// Source and destination share a file system.
    var isSameDevice: Bool
    package var settle: SettlePolicy
    package var backoff: BackoffPolicy
    /// From the end of one walk of the source to the next, when nothing is known to be missing.
    package var reconcileInterval = Duration.seconds(86_400)
    /// After this time without work nothing below the destination stays open, so that it can be unmounted.
    package var idleTime = Duration.seconds(10)

    package init(
        preflight: Preflight, state: StateDirectory, excludes: ExcludeRules, isOnce: Bool
    ) {
        source = preflight.source
        destination = preflight.destination
        self.state = state
        self.excludes = excludes
        self.isOnce = isOnce
        isSameDevice = preflight.isSameDevice
        settle = SettlePolicy()
        backoff = BackoffPolicy()
        if isOnce {
            // Somebody waits for the end: what does not go by soon is reported, and tried again by the next run.
            backoff.initial = .milliseconds(100)
            backoff.maximum = .seconds(2)
            backoff.attemptLimit = 5
            settle.limit = .seconds(5)
        }
    }
}

/// Jobs that are not done.
package struct Waiting: Sendable {
    /// Pending or leased.
    package var jobs: Int
    package var stuck: Int
}

/// How a run ended.
package enum AgentResult: Sendable {
    /// A stop was requested, or `--once` has saved everything.
    case complete
    /// `--once` is done; these could not be saved, or are fuzzy.
    case incomplete(UnsavedReport)
    /// `--once` found the source or the destination held.
    case held(SafeBackupError)
    /// `--once` found the source or the destination paused; so many jobs wait.
    case paused(Int)
    /// `--once` was asked to stop before everything was saved; so many jobs wait, and the walk may not have ended.
    case stopped(Int)
}

/// The daemon: opens the state, brings it together with the destination, and keeps watching, walking and draining
/// until it is told to stop.
package final class Agent: Sendable {
    private let settings: AgentSettings
    private let logger: Logger
    private let clock: WallClock
    private let io: ThreadExecutor
    private let stop = StopSignal()
    package let progress = Progress()
    /// The open state of a run, for those who ask how it goes.
    let current = Locked<StateStore?>(nil)

    /// Throws `exhausted` when the system gives no threads.
    package init(
        settings: AgentSettings, logger: Logger, clock: WallClock = .system, ioThreads: Int
    ) throws(SafeBackupError) {
        self.settings = settings
        self.logger = logger
        self.clock = clock
        do throws(Errno) {
            io = try ThreadExecutor(name: "sb.io", count: ioThreads)
        } catch {
            throw .noThread(error)
        }
    }

    /// Asks for an orderly end: watching stops, groups in flight end or are given back, the state is closed.
    package func requestStop() { stop.request() }

    package var isStopping: Bool { stop.isRequested }

    /// The queue's numbers, for the line on a terminal.
    package func waiting() async -> Waiting? {
        guard let store = current.withLock({ $0 }) else { return nil }
        do throws(SafeBackupError) {
            let counts = try await store.counts()
            return Waiting(jobs: counts.pending + counts.leased, stuck: counts.stuck)
        } catch {
            return nil  // ignored because the next look, a moment later, shows them
        }
    }

    /// Runs until stopped, or with `isOnce` until everything is saved. `ready` is called when all watches are in place.
    package func run(ready: @escaping @Sendable () -> Void) async throws(SafeBackupError) -> AgentResult {
        defer { io.stop() }
        try SHA256.requireAvailable()
        let directory = settings.state
        let lock = try await io.run { () throws(SafeBackupError) -> ProcessLock in
            try directory.create()
            return try directory.lock()
        }
        defer { withExtendedLifetime(lock) {} }
        let opened = try await StateStore.open(
            in: directory.path, clock: clock, options: StateOptions(release: Release.version))
        let store = opened.0
        current.withLock { $0 = store }
        defer { current.withLock { $0 = nil } }
        await note(
            "started",
            "Release \(Release.version) saves \(printable(settings.source.bytes)) to "
                + "\(printable(settings.destination.bytes))\(settings.isOnce ? ", once" : "")", in: store)
        let result: Result<AgentResult, SafeBackupError>
        do throws(SafeBackupError) {
            result = .success(try await runRounds(with: store, opened.1, ready: ready))
        } catch {
            result = .failure(error)
        }
        switch result {
        case .success(.held(let error)): await note("stopped", "Held: \(error.message)", level: "warning", in: store)
        case .success: await note("stopped", settings.isOnce ? "The run has ended" : "As it was asked to", in: store)
        case .failure(let error): await note("stopped", "By a failure: \(error.message)", level: "error", in: store)
        }
        do throws(SafeBackupError) {
            try await store.close()
        } catch {
            // Nothing that was called saved is lost; the next start looks at the state more closely.
            logger.warning(.stateNotClosed, "The state was not closed cleanly", metadata: ["error": "\(error.message)"])
        }
        return try result.get()
    }

    /// An event of the agent itself, for the journal.
    private func note(
        _ event: String, _ message: String, level: String = "notice", in store: StateStore
    ) async {
        do throws(SafeBackupError) {
            try await store.record(level: level, event: event, message: message)
        } catch {
            // What the state's failure means is decided by whoever needs the state next.
            logger.debug(
                .journalFailed, "An event could not be written to the journal", metadata: ["error": "\(error.message)"])
        }
    }

    /// One round, and another each time the state turns out to be damaged: it is begun anew and rebuilt.
    private func runRounds(
        with store: StateStore, _ first: OpenReport, ready: @escaping @Sendable () -> Void
    ) async throws(SafeBackupError) -> AgentResult {
        var report = first
        // Said once, in whatever round.
        let isAnnounced = Shared(false)
        let announce: @Sendable () -> Void = {
            if !isAnnounced.value { ready() }
            isAnnounced.set(true)
        }
        for _ in 0..<4 {
            let failure: SafeBackupError
            do throws(SafeBackupError) {
                return try await run(with: store, report, ready: announce)
            } catch {
                failure = error
            }
            if failure.code == .stateFailed && stop.isRequested {
                // What could not be written down was not called saved, and the next start's walk finds it.
                logger.warning(
                    .stateFailed, "The agent ends while the state cannot be written",
                    metadata: ["error": "\(failure.message)"])
                return .complete
            }
            if failure.code != .stateDamaged || stop.isRequested { throw failure }
            logger.error(
                .stateDamaged, "The state is damaged and is built anew", metadata: ["error": "\(failure.message)"])
            report = try await store.reopen()
        }
        throw SafeBackupError(
            .stateDamaged,
            "The state in \(printable(settings.state.path.bytes)) was damaged again and again; check its disk, or give "
                + "another place with --state", disposition: .permanent)
    }

    private func run(
        with store: StateStore, _ report: OpenReport, ready: @escaping @Sendable () -> Void
    ) async throws(SafeBackupError) -> AgentResult {
        // Ends this round: at a requested stop, or when the state turns out to be damaged and a new round begins.
        let stop = StopSignal()
        self.stop.onRequest { stop.request() }
        if let moved = report.damagedMovedTo {
            logger.error(
                .stateRebuilt,
                "The state was damaged; it was moved aside and is rebuilt from the destination and a walk",
                metadata: ["moved.to": "\(printable(moved.bytes))"])
            await note(
                "stateRebuilt",
                "The state was damaged; it lies at \(printable(moved.bytes)) now, and is rebuilt from the destination's "
                    + "catalogue and a walk", level: "error", in: store)
        }
        let state = StateAccess(store: store, stop: stop, logger: logger)
        // Whoever starts the agent has perhaps mended what made jobs stuck while it was down.
        _ = try await state.durably { (store) throws(SafeBackupError) in try store.retry() }
        let setup = PairSetup(settings: settings, state: state, io: io, clock: clock, logger: logger)
        let pair: PairSetup.Pair
        do throws(SafeBackupError) {
            pair = try await setup.establish()
        } catch {
            guard settings.isOnce, error.isHolding else { throw error }
            return .held(error)
        }
        let (sourceID, patterns) = (pair.source.id, settings.excludes.patterns)
        try await state.durably { (store) throws(SafeBackupError) in
            try store.setExcludeRules(sourceID, patterns)
            try store.markStarted(sourceID)
        }

        let drains = Locked<[DestinationUnit]>([])
        var sourceSettings = SourceUnit.Settings(
            path: settings.source, excludes: settings.excludes, state: settings.state.path,
            destination: settings.destination, settle: settings.settle)
        sourceSettings.reconcileInterval = settings.reconcileInterval
        sourceSettings.declaredType = VolumeType.declaredForTests
        let source = SourceUnit(
            record: pair.source, destinations: [pair.destination.id], settings: sourceSettings,
            state: state, io: io, clock: clock, stop: stop, logger: logger, progress: progress,
            queued: { for unit in drains.withLock({ $0 }) { unit.kick() } })
        let destination = DestinationUnit(
            id: pair.destination.id, local: pair.local, state: state,
            sources: [source.id: source], io: io, clock: clock, stop: stop, backoff: settings.backoff,
            limits: DestinationUnit.GroupLimits(), requeuesFuzzy: !settings.isOnce, idleTime: settings.idleTime,
            logger: logger, progress: progress)
        drains.withLock { $0 = [destination] }
        // They know each other; the next round must not meet this one's locks.
        defer { drains.withLock { $0 = [] } }
        let keeper = CatalogueKeeper(
            unit: destination, source: source, stateDirectory: settings.state.path,
            state: state, io: io, clock: clock, logger: logger)
        stop.onRequest { pair.local.interrupt() }
        if settings.isOnce {
            let result: Result<AgentResult, SafeBackupError>
            do throws(SafeBackupError) {
                result = .success(try await runOnce(source, destination, keeper, state, stop))
            } catch {
                result = .failure(error)
            }
            await destination.letGo()
            return try result.get()
        }
        return try await runOn(source, destination, keeper, state, stop, ready: ready)
    }

    // MARK: Once

    private func runOnce(
        _ source: SourceUnit, _ destination: DestinationUnit, _ keeper: CatalogueKeeper, _ state: StateAccess,
        _ stop: StopSignal
    ) async throws(SafeBackupError) -> AgentResult {
        if try await isPaused(source, destination, state) { return try await walkPaused(source, state) }
        do throws(SafeBackupError) {
            try await destination.attach()
        } catch {
            return try await held(error, destination: destination.id, state)
        }
        let last = Shared<Int64?>(nil)
        let walkFailure = Shared<SafeBackupError?>(nil)
        let drainFailure = Shared<SafeBackupError?>(nil)
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                do throws(SafeBackupError) {
                    try await source.walkOnce()
                } catch {
                    walkFailure.set(error)
                    // Nothing of a source that is not the known one is saved.
                    last.set(-1)
                    destination.kick()
                    return
                }
                do throws(SafeBackupError) {
                    let sequence = try await state.durably { (store) throws(SafeBackupError) in
                        try store.newestSequence()
                    }
                    last.set(sequence)
                } catch {
                    walkFailure.set(error)
                    last.set(-1)
                }
                destination.kick()
            }
            tasks.addTask {
                do throws(SafeBackupError) {
                    try await destination.drainOnce(upTo: { last.value }, sourceFailed: { walkFailure.set($0) })
                } catch {
                    drainFailure.set(error)
                }
            }
        }
        if let failure = walkFailure.value {
            guard failure.isHolding else { throw failure }
            try await Holding(.source(source.id), state: state, logger: logger).begin(failure)
            await destination.local.detach()
            return .held(failure)
        }
        if let failure = drainFailure.value {
            return try await held(failure, destination: destination.id, state)
        }
        if !stop.isRequested { try await keeper.export(after: .zero) }
        await destination.local.detach()
        if stop.isRequested, let waiting = try await leftOver(state) { return .stopped(waiting) }
        let unsaved = try await state.durably { (store) throws(SafeBackupError) in
            UnsavedReport(try store.unsavedReport(limit: UnsavedReport.limit))
        }
        return unsaved.isComplete ? .complete : .incomplete(unsaved)
    }

    /// What a run that was stopped leaves to do; `nil` if that is nothing, as the stop came after its work.
    private func leftOver(_ state: StateAccess) async throws(SafeBackupError) -> Int? {
        try await state.durably { (store) throws(SafeBackupError) in
            let counts = try store.counts()
            let waiting = counts.pending + counts.leased
            let isWalked = try store.sources().allSatisfy {
                !$0.isActive || $0.lastReconcileAt != nil && !$0.isDesynced
            }
            return waiting == 0 && isWalked ? nil : waiting
        }
    }

    private func isPaused(
        _ source: SourceUnit, _ destination: DestinationUnit, _ state: StateAccess
    ) async throws(SafeBackupError) -> Bool {
        let (from, to) = (source.id, destination.id)
        return try await state.durably { (store) throws(SafeBackupError) in
            let isSourcePaused = try store.sources().contains { $0.id == from && $0.pausedAt != nil }
            let isDestinationPaused = try store.destinations().contains { $0.id == to && $0.pausedAt != nil }
            return isSourcePaused || isDestinationPaused
        }
    }

    /// What differs is queued, as by a running agent; nothing is saved, and the destination is not touched.
    private func walkPaused(_ source: SourceUnit, _ state: StateAccess) async throws(SafeBackupError) -> AgentResult {
        do throws(SafeBackupError) {
            try await source.walkOnce()
        } catch {
            guard error.isHolding else { throw error }
            let id = source.id
            try await state.durably { (store) throws(SafeBackupError) in _ = try store.hold(.source(id), error) }
            return .held(error)
        }
        let counts = try await state.durably { (store) throws(SafeBackupError) in try store.counts() }
        return .paused(counts.pending + counts.leased)
    }

    private func held(
        _ error: SafeBackupError, destination: DestinationID, _ state: StateAccess
    ) async throws(SafeBackupError) -> AgentResult {
        guard error.disposition == .destinationUnavailable else { throw error }
        try await state.durably { (store) throws(SafeBackupError) in
            _ = try store.hold(.destination(destination), error)
        }
        return .held(error)
    }

    // MARK: On and on

    private func runOn(
        _ source: SourceUnit, _ destination: DestinationUnit, _ keeper: CatalogueKeeper, _ state: StateAccess,
        _ stop: StopSignal, ready: @escaping @Sendable () -> Void
    ) async throws(SafeBackupError) -> AgentResult {
        let failure = Locked<SafeBackupError?>(nil)
        let requests = RequestDesk(state: state, directory: settings.state, io: io, stop: stop, logger: logger) {
            if $0 == .accepted {
                source.lookAgain()
                destination.sourceWasAccepted()
            }
            if $0 == .removals { destination.removalsWereAsked() }
            destination.kick()
        }
        await withTaskGroup(of: SafeBackupError?.self) { tasks in
            tasks.addTask {
                do throws(SafeBackupError) { try await source.run(ready: ready) } catch { return error }
                return nil
            }
            tasks.addTask {
                do throws(SafeBackupError) { try await destination.run() } catch { return error }
                return nil
            }
            tasks.addTask {
                do throws(SafeBackupError) { try await requests.run() } catch { return error }
                return nil
            }
            tasks.addTask {
                do throws(SafeBackupError) { try await keeper.run(stop: stop) } catch { return error }
                return nil
            }
            for await problem in tasks {
                guard let problem else { continue }
                failure.withLock { $0 = $0 ?? problem }
                stop.request()
            }
        }
        if let problem = failure.withLock({ $0 }) { throw problem }
        return .complete
    }
}

extension SafeBackupError {
    /// A person, or a mount, must change something before anything is saved.
    package var isHolding: Bool {
        switch code {
        case .rootMissing, .rootReplaced, .rootEmptied, .destinationMissing, .sentinelMissing, .sentinelForeign,
            .destinationReadOnly:
            true
        // Another agent may end; another source stays.
        case .destinationTaken: disposition != .permanent
        default: false
        }
    }
}
