import SafeBackupCore
import SafeBackupSystem

/// Establishes one destination: at the start if it is there, else each time that its unit tries to attach it.
struct DestinationSetup: Sendable {
    let pairs: PairSetup
    let destination: AgentSettings.Destination
    let seeds: [PairSetup.SourceSeed]
    let target: any Destination
    private let done = Shared(false)

    init(
        _ pairs: PairSetup, _ destination: AgentSettings.Destination, _ seeds: [PairSetup.SourceSeed],
        _ target: any Destination
    ) {
        self.pairs = pairs
        self.destination = destination
        self.seeds = seeds
        self.target = target
    }

    /// The destination, its sources and the state know each other.
    var isDone: Bool { done.value }

    /// Throws as `PairSetup.establish`.
    func run() async throws(SafeBackupError) {
        if isDone { return }
        try await pairs.establish(destination, seeds, target)
        done.set(true)
    }

    /// As `run`; a destination that may be waited for, and is away, gets its rows, so that its jobs can wait in the queue.
    func begin() async throws(SafeBackupError) {
        let away: SafeBackupError
        do throws(SafeBackupError) {
            return try await run()
        } catch {
            away = error
        }
        guard away.holdsDestination || destination.s3 != nil && away.isTroubleOfServer else { throw away }
        let isKnown = try await pairs.isKnown(destination)
        guard isKnown || pairs.settings.awaitsNewDestinations else { throw away }
        try await pairs.register(destination, seeds, sentinel: nil)
    }
}
