import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// Everything that works in one round of an agent: a unit for each source and for each destination, and a keeper of each
/// destination's catalogue copy.
final class AgentUnits: Sendable {
    let sources: [SourceUnit]
    let destinations: [DestinationUnit]
    let keepers: [CatalogueKeeper]
    /// What sources kick; emptied at the end, because units and sources know each other.
    private let drains: Shared<[DestinationUnit]>
    /// Threads of single destinations.
    private let threads: [ThreadExecutor]

    /// What all units share.
    struct Surroundings: Sendable {
        var settings: AgentSettings
        var state: StateAccess
        var io: ThreadExecutor
        var clock: WallClock
        var stop: StopSignal
        var logger: Logger
        var progress: Progress
    }

    /// Brings sources, destinations and the state together, and makes the units.
    /// - Throws: what keeps the agent from starting at all.
    static func make(_ around: Surroundings) async throws(SafeBackupError) -> AgentUnits {
        let (settings, state, clock) = (around.settings, around.state, around.clock)
        let pairs = PairSetup(
            settings: settings, state: state, io: around.io, clock: clock, logger: around.logger)
        let seeds = try await pairs.seeds()
        var threads: [ThreadExecutor] = []
        var setups: [DestinationSetup] = []
        do throws(SafeBackupError) {
            for (index, destination) in settings.destinations.enumerated() {
                // A disk that hangs holds its own threads, and nobody else's.
                var io = around.io
                let isOrdinary = destination.lanes <= DestinationUnit.GroupLimits().lanes
                if settings.destinations.count > 1 || !isOrdinary {
                    io = try makeThreads(named: "sb.io\(index)", lanes: destination.lanes)
                    threads.append(io)
                }
                let target: any Destination
                if let bucket = destination.s3 {
                    target = try BucketOpening(bucket, scratch: destination.path, io: io, clock: clock).destination(
                        state: state.store, settle: destination.settle, bandwidth: destination.bandwidth,
                        logger: around.logger)
                } else {
                    target = LocalDestination(
                        path: destination.path, io: io, clock: clock,
                        writerProbe: WriterProbe(quiet: destination.settle.quiet, limit: destination.settle.limit),
                        bandwidth: destination.bandwidth)
                }
                let setup = DestinationSetup(pairs, destination, seeds, target)
                setups.append(setup)
                try await setup.begin()
            }
            return try await AgentUnits(around, setups, seeds, threads)
        } catch {
            for thread in threads { thread.stop() }
            throw error
        }
    }

    /// For a destination's lanes, and for two that look.
    private static func makeThreads(named name: String, lanes: Int) throws(SafeBackupError) -> ThreadExecutor {
        do throws(Errno) {
            return try ThreadExecutor(name: name, count: lanes + 2)
        } catch {
            throw .noThread(error)
        }
    }

    private init(
        _ around: Surroundings, _ setups: [DestinationSetup], _ seeds: [PairSetup.SourceSeed],
        _ threads: [ThreadExecutor]
    ) async throws(SafeBackupError) {
        let (settings, state) = (around.settings, around.state)
        let (records, numbers) = try await Self.activate(settings, state)
        let drains = Shared<[DestinationUnit]>([])
        var sources: [SourceUnit] = []
        for (index, source) in settings.sources.enumerated() {
            let own = settings.destinations.indices.filter {
                settings.destinations[$0].members.contains { $0.source == index }
            }
            var sourceSettings = SourceUnit.Settings(
                path: source.path, excludes: source.excludes, state: settings.state.path,
                destinations: settings.destinations.filter { $0.s3 == nil }.map(\.path), settle: [:])
            for destination in own {
                sourceSettings.settle[numbers[destination]] = settings.destinations[destination].settle
            }
            sourceSettings.reconcileInterval = source.reconcileInterval
            sourceSettings.declaredType = VolumeType.declaredForTests
            let ids = Set(own.map { numbers[$0] })
            sources.append(
                SourceUnit(
                    record: records[index], destinations: own.map { numbers[$0] }, settings: sourceSettings,
                    state: state, io: around.io, clock: around.clock, stop: around.stop, logger: around.logger,
                    progress: around.progress,
                    queued: { for unit in drains.value where ids.contains(unit.id) { unit.kick() } }))
        }
        var destinations: [DestinationUnit] = []
        for (index, setup) in setups.enumerated() {
            let members = setup.destination.members.map { sources[$0.source] }
            var logger = around.logger
            if setups.count > 1 {
                logger[metadataKey: "destination.path"] = "\(printable(setup.destination.location))"
            }
            destinations.append(
                DestinationUnit(
                    id: numbers[index], target: setup.target, setup: setup, state: state,
                    sources: Dictionary(members.map { ($0.id, $0) }) { first, _ in first },
                    io: threads.isEmpty ? around.io : threads[index], clock: around.clock, stop: around.stop,
                    backoff: settings.backoff, limits: DestinationUnit.GroupLimits(setup.destination),
                    mirrorsDeletions: setup.destination.mirrorsDeletions, requeuesFuzzy: !settings.isOnce,
                    idleTime: setup.destination.idleTime,
                    room: RoomSettings(limits: setup.destination.room, stateDirectory: settings.state.path),
                    policy: setup.destination.retention, logger: logger, progress: around.progress))
        }
        drains.set(destinations)
        keepers = destinations.map { unit in
            CatalogueKeeper(
                unit: unit, sources: Array(unit.sources.values), stateDirectory: settings.state.path, state: state,
                io: unit.io, clock: around.clock, logger: unit.logger)
        }
        for setup in setups { around.stop.onRequest { setup.target.interrupt() } }
        self.sources = sources
        self.destinations = destinations
        self.drains = drains
        self.threads = threads
    }

    /// The rows of sources and the numbers of destinations, in the order of the settings; exactly their pairs are active.
    private static func activate(
        _ settings: AgentSettings, _ state: StateAccess
    ) async throws(SafeBackupError) -> (sources: [SourceRecord], destinations: [DestinationID]) {
        try await state.durably { (store) throws(SafeBackupError) in
            let (sources, destinations) = (try store.sources(), try store.destinations())
            let records = settings.sources.compactMap { source in sources.first { $0.path == source.path.bytes } }
            let numbers = settings.destinations.compactMap { destination in
                destinations.first { $0.location == destination.location }?.id
            }
            guard records.count == settings.sources.count, numbers.count == settings.destinations.count else {
                throw SafeBackupError(
                    .stateDamaged, "The state has lost a source or a destination", disposition: .permanent)
            }
            var pairs: [(source: SourceID, destination: DestinationID)] = []
            for (number, destination) in zip(numbers, settings.destinations) {
                for member in destination.members { pairs.append((records[member.source].id, number)) }
            }
            try store.activate(pairs: pairs)
            let mirroring = zip(numbers, settings.destinations).filter(\.1.mirrorsDeletions).map(\.0)
            try store.setMirroring(Set(mirroring))
            for (record, source) in zip(records, settings.sources) {
                try store.setExcludeRules(record.id, source.excludes.patterns)
                try store.markStarted(record.id)
            }
            return (records, numbers)
        }
    }

    /// See `CatalogueKeeper.exportAtStop`. Each disk has its own time.
    func exportCatalogues(requestedAt requested: ContinuousClock.Instant) async {
        await withTaskGroup(of: Void.self) { tasks in
            for keeper in keepers { tasks.addTask { await keeper.exportAtStop(requestedAt: requested) } }
        }
    }

    /// Leaves nothing behind for the next round: neither locks nor threads. To be called when no unit runs any more.
    func close() async {
        for destination in destinations { await destination.letGo() }
        drains.set([])
        for thread in threads { thread.stop() }
    }
}
