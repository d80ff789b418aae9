package import Logging
package import SafeBackupCore
import SafeBackupS3
import SafeBackupState
package import SafeBackupSystem
import SystemPackage

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

/// What became of settings that a running agent was given.
package enum ReloadOutcome: Sendable, Hashable {
    /// The agent works with them.
    case used
    /// They cannot be used; the agent goes on with those it had.
    case refused
    /// Newer ones came before they were used.
    case superseded
}

/// The daemon: opens the state, brings it together with the destination, and keeps watching, walking and draining
/// until it is told to stop.
package final class Agent: Sendable {
    private let wanted: Locked<Wanted>
    private let logger: Logger
    private let clock: WallClock
    private let io: ThreadExecutor
    private let stop = StopSignal()
    package let progress = Progress()
    /// The open state of a run, for those who ask how it goes.
    let current = Locked<StateStore?>(nil)

    /// The settings of this round, and of those that may follow it.
    private struct Wanted {
        var settings: AgentSettings
        /// What the agent ran with before, until the newer ones have turned out to be usable.
        var former: AgentSettings?
        /// Newer settings came, and the round that has the older ones is to end.
        var isReloading = false
        /// Whom to tell what became of the settings that came last.
        var outcome: (@Sendable (ReloadOutcome) -> Void)?
        /// Ends the round.
        var stop: StopSignal?
    }

    private var settings: AgentSettings { wanted.withLock { $0.settings } }

    /// Throws `exhausted` when the system gives no threads.
    package init(
        settings: AgentSettings, logger: Logger, clock: WallClock = .system, ioThreads: Int
    ) throws(SafeBackupError) {
        wanted = Locked(Wanted(settings: settings))
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

    /// Goes on with other settings: what is under way ends or is given back, as at a stop, and begins again with them. The
    /// queue stays, and the walk at the beginning finds what changed in between. The state's directory stays too. If the
    /// settings turn out not to be usable, the agent goes on with those that it had.
    ///
    /// - Parameter outcome: called once it is known what became of them; never, if the agent stops before.
    package func reload(_ settings: AgentSettings, outcome: @escaping @Sendable (ReloadOutcome) -> Void) {
        let (stop, superseded) = wanted.withLock { wanted in
            wanted.former = wanted.former ?? wanted.settings
            let state = wanted.settings.state
            wanted.settings = settings
            wanted.settings.state = state
            wanted.isReloading = true
            defer { wanted.outcome = outcome }
            return (wanted.stop, wanted.outcome)
        }
        superseded?(.superseded)
        stop?.request()
    }

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
            "Release \(Release.version) saves \(settings.summary)\(settings.isOnce ? ", once" : "")", in: store)
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

    /// One round, and another each time the state turns out to be damaged, when it is begun anew and rebuilt, or other
    /// settings came.
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
        var damages = 0
        while damages < 4 {
            let failure: SafeBackupError
            do throws(SafeBackupError) {
                let result = try await run(with: store, report, ready: announce)
                guard goesOnReloaded() else { return result }
                report.damagedMovedTo = nil
                continue
            } catch {
                failure = error
            }
            // A round that is to end gives up on a state that cannot be written; the next one waits for it again.
            let isGivenUp = failure.code == .stateFailed && failure.disposition != .permanent
            if goesOnWithFormer(after: failure) || (isGivenUp && goesOnReloaded()) {
                report.damagedMovedTo = nil
                continue
            }
            damages += 1
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

    /// Whether the round ended because newer settings came; they are those of the next.
    private func goesOnReloaded() -> Bool {
        wanted.withLock { wanted in
            defer { wanted.isReloading = false }
            return wanted.isReloading && !stop.isRequested
        }
    }

    /// Whether the round could not begin with the settings that came last; then the former ones are those of the next.
    private func goesOnWithFormer(after failure: SafeBackupError) -> Bool {
        if failure.code == .stateFailed || failure.code == .stateDamaged || stop.isRequested { return false }
        let (isFormer, outcome) = wanted.withLock { wanted in
            guard let former = wanted.former else { return (false, (@Sendable (ReloadOutcome) -> Void)?.none) }
            // Still newer ones came meanwhile: they are tried first, and their outcome is told then.
            if wanted.isReloading { return (true, nil) }
            defer { wanted.outcome = nil }
            (wanted.settings, wanted.former) = (former, nil)
            return (true, wanted.outcome)
        }
        if isFormer {
            logger.error(
                .configurationRefused, "The new configuration cannot be used; the agent goes on with the one it had",
                metadata: ["error.code": "\(failure.code)", "error": "\(failure.message)"])
        }
        outcome?(.refused)
        return isFormer
    }

    private func run(
        with store: StateStore, _ report: OpenReport, ready: @escaping @Sendable () -> Void
    ) async throws(SafeBackupError) -> AgentResult {
        // Ends this round: at a requested stop, or when the state turns out to be damaged and a new round begins.
        let stop = StopSignal()
        self.stop.onRequest { stop.request() }
        var settings = wanted.withLock { wanted in
            // What comes from now on ends this round.
            wanted.isReloading = false
            wanted.stop = stop
            return wanted.settings
        }
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
        let units: AgentUnits
        let silent: SilentSources
        do throws(SafeBackupError) {
            silent = try await SilentSources.leave(outOf: &settings, state, io)
            for reason in silent.reasons {
                logger.error(
                    .held, "A source that was never saved does not answer; the others are saved without it",
                    metadata: ["error.code": "\(reason.code)", "error": "\(reason.message)"])
            }
            let around = AgentUnits.Surroundings(
                settings: settings, state: state, io: io, clock: clock, stop: stop, logger: logger, progress: progress)
            let notice = WaitNotice(for: settings.summary, logger: logger)
            defer { notice.over() }
            units = try await Vitals.loop("start", isAlive: false) { () throws(SafeBackupError) in
                try await AgentUnits.make(around)
            }
        } catch {
            guard settings.isOnce, error.holdsDestination else { throw error }
            return .held(error)
        }
        // They can be used.
        let outcome = wanted.withLock { wanted in
            if wanted.isReloading { return (@Sendable (ReloadOutcome) -> Void)?.none }
            defer { (wanted.former, wanted.outcome) = (nil, nil) }
            return wanted.outcome
        }
        outcome?(.used)
        let result: Result<AgentResult, SafeBackupError>
        do throws(SafeBackupError) {
            if settings.isOnce {
                var ended = try await OnceRun(units: units, state: state, stop: stop, logger: logger).run()
                if case .complete = ended, let reason = silent.reasons.first { ended = .held(reason) }
                result = .success(ended)
            } else {
                let waiting = silent.reasons.isEmpty ? nil : Task { await beginAnew(when: silent, stop) }
                defer { waiting?.cancel() }
                result = .success(try await runOn(units, state, stop, ready: ready))
            }
        } catch {
            result = .failure(error)
        }
        await Vitals.unfailing("end of a round", isAlive: false) {
            // The next round keeps the copies by itself.
            if let requested = self.stop.requestedAt, case .success = result {
                await units.exportCatalogues(requestedAt: requested)
            }
            await units.close()
        }
        return try result.get()
    }

    /// Ends this round as soon as a source that was left out of it answers; it is part of the next.
    private func beginAnew(when silent: SilentSources, _ stop: StopSignal) async {
        guard await silent.wait(until: stop, io) else { return }
        logger.notice(.released, "A source that did not answer does so now; the agent begins anew with it")
        wanted.withLock { $0.isReloading = true }
        stop.request()
    }

    // MARK: On and on

    private func runOn(
        _ units: AgentUnits, _ state: StateAccess, _ stop: StopSignal, ready: @escaping @Sendable () -> Void
    ) async throws(SafeBackupError) -> AgentResult {
        let failure = Locked<SafeBackupError?>(nil)
        let requests = RequestDesk(
            state: state, directory: settings.state, io: io, stop: stop, logger: logger,
            cleaningWasAsked: { asked in
                guard let unit = units.destinations.first(where: { $0.id == asked.request.destination }) else {
                    return false
                }
                unit.cleaningWasAsked(asked)
                return true
            },
            bucket: { record in units.destinations.first { $0.id == record.id }?.target as? S3Destination }
        ) {
            if $0 == .accepted {
                for source in units.sources { source.lookAgain() }
                for destination in units.destinations { destination.sourceWasAccepted() }
            }
            if $0 == .removals { for destination in units.destinations { destination.removalsWereAsked() } }
            for destination in units.destinations { destination.kick() }
        }
        // With several, one that is held does not keep the agent from being ready.
        let isOnly = units.sources.count == 1
        let awaited = Locked(units.sources.count)
        let oneIsReady: @Sendable () -> Void = {
            let left = awaited.withLock { count in
                count -= 1
                return count
            }
            if left == 0 { ready() }
        }
        await withTaskGroup(of: SafeBackupError?.self) { tasks in
            for source in units.sources {
                tasks.addTask {
                    do throws(SafeBackupError) {
                        try await source.run(isReadyWhenHeld: !isOnly, ready: oneIsReady)
                    } catch {
                        return error
                    }
                    return nil
                }
            }
            for destination in units.destinations {
                tasks.addTask {
                    do throws(SafeBackupError) { try await destination.run() } catch { return error }
                    return nil
                }
            }
            tasks.addTask {
                do throws(SafeBackupError) { try await requests.run() } catch { return error }
                return nil
            }
            for keeper in units.keepers {
                tasks.addTask {
                    do throws(SafeBackupError) { try await keeper.run(stop: stop) } catch { return error }
                    return nil
                }
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
            .destinationReadOnly, .notAnswering:
            true
        // Another agent may end; another source stays.
        case .destinationTaken: disposition != .permanent
        default: false
        }
    }
}
