import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// `run --once`: walks every source, drains every destination, and ends. What is away, held or paused keeps nothing else
/// from being saved.
final class OnceRun: Sendable {
    let units: AgentUnits
    let state: StateAccess
    let stop: StopSignal
    let logger: Logger
    /// Up to which sequence the jobs of a source must be done; `none` of one that is not saved now.
    private let walked = Locked<[SourceID: Int64]>([:])
    private static let none: Int64 = -1
    /// In the order in which they were found.
    private let failures = Locked<[SafeBackupError]>([])

    init(units: AgentUnits, state: StateAccess, stop: StopSignal, logger: Logger) {
        self.units = units
        self.state = state
        self.stop = stop
        self.logger = logger
    }

    /// - Throws: the first failure that is no hold.
    func run() async throws(SafeBackupError) -> AgentResult {
        let paused = try await pausedSides()
        for source in units.sources where paused.contains(.source(source.id)) { fail(source.id) }
        let runnable = units.destinations.filter { destination in
            !paused.contains(.destination(destination.id))
                && destination.sources.keys.contains { !paused.contains(.source($0)) }
        }
        let attached = await attach(runnable)
        // Nothing could be saved: the walk would be in vain.
        if attached.isEmpty && !runnable.isEmpty { return try ending() }
        await withTaskGroup(of: Void.self) { tasks in
            for source in units.sources { tasks.addTask { await self.walk(source) } }
            for destination in attached { tasks.addTask { await self.drain(destination) } }
        }
        if let held = try heldOrThrow() { return held }
        if stop.isRequested, let waiting = try await leftOver() { return .stopped(waiting) }
        let unsaved = try await state.durably { (store) throws(SafeBackupError) in
            UnsavedReport(try store.unsavedReport(limit: UnsavedReport.limit))
        }
        if !paused.isEmpty {
            let counts = try await state.durably { (store) throws(SafeBackupError) in try store.counts() }
            if runnable.isEmpty || (unsaved.isComplete && counts.pending + counts.leased > 0) {
                return .paused(counts.pending + counts.leased)
            }
        }
        return unsaved.isComplete ? .complete : .incomplete(unsaved)
    }

    /// What a run that was stopped leaves to do; `nil` if that is nothing, as the stop came after its work.
    private func leftOver() async throws(SafeBackupError) -> Int? {
        try await state.durably { (store) throws(SafeBackupError) in
            let counts = try store.counts()
            let waiting = counts.pending + counts.leased
            let isWalked = try store.sources().allSatisfy {
                !$0.isActive || $0.lastReconcileAt != nil && !$0.isDesynced
            }
            return waiting == 0 && isWalked ? nil : waiting
        }
    }

    /// After failures alone.
    private func ending() throws(SafeBackupError) -> AgentResult { try heldOrThrow() ?? .complete }

    private func heldOrThrow() throws(SafeBackupError) -> AgentResult? {
        let failures = failures.withLock { $0 }
        if let failure = failures.first(where: { !$0.holdsDestination }) {
            throw failure
        }
        return failures.first.map { .held($0) }
    }

    private func note(_ failure: SafeBackupError) { failures.withLock { $0.append(failure) } }

    private func fail(_ source: SourceID) { walked.withLock { $0[source] = Self.none } }

    private func pausedSides() async throws(SafeBackupError) -> Set<PairSide> {
        let sources = units.sources.map(\.id)
        let destinations = units.destinations.map(\.id)
        return try await state.durably { (store) throws(SafeBackupError) -> Set<PairSide> in
            var paused: Set<PairSide> = []
            for source in try store.sources() where source.pausedAt != nil && sources.contains(source.id) {
                paused.insert(.source(source.id))
            }
            for destination in try store.destinations()
            where destination.pausedAt != nil && destinations.contains(destination.id) {
                paused.insert(.destination(destination.id))
            }
            return paused
        }
    }

    // MARK: Destinations

    /// Those that are there; the others are held.
    private func attach(_ destinations: [DestinationUnit]) async -> [DestinationUnit] {
        await withTaskGroup(of: DestinationUnit?.self) { tasks in
            for destination in destinations {
                tasks.addTask {
                    do throws(SafeBackupError) {
                        try await destination.attach()
                        return destination
                    } catch {
                        await self.hold(destination, error)
                        return nil
                    }
                }
            }
            var attached: [DestinationUnit] = []
            for await destination in tasks { if let destination { attached.append(destination) } }
            return attached
        }
    }

    private func hold(_ destination: DestinationUnit, _ reason: SafeBackupError) async {
        note(reason)
        guard reason.disposition.isOfDestination else { return }
        let id = destination.id
        do throws(SafeBackupError) {
            try await state.durably { (store) throws(SafeBackupError) in
                _ = try store.hold(.destination(id), reason)
            }
        } catch {
            note(error)
        }
    }

    private func drain(_ destination: DestinationUnit) async {
        do throws(SafeBackupError) {
            try await destination.drainOnce(
                upTo: { source in self.walked.withLock { $0[source] } }, sourceFailed: { await self.hold($0, $1) })
            if !stop.isRequested { try await exportCatalogue(of: destination) }
        } catch {
            await hold(destination, error)
        }
        await destination.target.detach()
    }

    /// What was saved is saved: a catalogue copy that cannot be written, as on a full disk, is told, and the next run
    /// writes it.
    /// - Throws: what holds the destination, or ends the agent.
    private func exportCatalogue(of destination: DestinationUnit) async throws(SafeBackupError) {
        guard let keeper = units.keepers.first(where: { $0.unit.id == destination.id }) else { return }
        do throws(SafeBackupError) {
            try await keeper.export(after: .zero, allowsPartial: true)
        } catch {
            if error.code == .stateDamaged || error.holdsDestination {
                throw error
            }
            logger.error(
                .catalogueFailed,
                "The catalogue copy was not written; the next run writes it, and what was saved is saved",
                metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
            let (id, message) = (destination.id, "The catalogue copy was not written: \(error.message)")
            try await state.durably { (store) throws(SafeBackupError) in
                try store.record(level: "error", event: "catalogueFailed", message: message, destination: id)
            }
        }
    }

    // MARK: Sources

    private func walk(_ source: SourceUnit) async {
        do throws(SafeBackupError) {
            try await source.walkOnce()
            let sequence = try await state.durably { (store) throws(SafeBackupError) in try store.newestSequence() }
            // A paused one stays one that is not saved.
            walked.withLock { $0[source.id] = $0[source.id] ?? sequence }
        } catch {
            await hold(source, error)
        }
        for destination in units.destinations { destination.kick() }
    }

    /// Nothing of a source that is not the known one is saved.
    private func hold(_ source: SourceUnit, _ reason: SafeBackupError) async {
        note(reason)
        if reason.isHolding {
            do throws(SafeBackupError) {
                try await Holding(.source(source.id), state: state, logger: logger).begin(reason)
            } catch {
                note(error)
            }
        }
        fail(source.id)
    }
}
