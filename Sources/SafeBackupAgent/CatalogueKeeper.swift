import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Keeps a copy of the catalogue beside the backups: after the first full save, then when something changed, hourly
/// while there is work and sooner when it has come to rest. A bare machine restores from it, and a lost state is rebuilt from it.
struct CatalogueKeeper: Sendable {
    let unit: DestinationUnit
    let sources: [SourceUnit]
    let stateDirectory: FilePath
    let state: StateAccess
    let io: ThreadExecutor
    let clock: WallClock
    let logger: Logger

    static let interval = Duration.seconds(3_600)
    /// After a minute without a change, so that a lost machine's last renames are in the copy; never so often that it
    /// costs more than a hundredth of the time.
    private static let (quietInterval, quietTime, costFactor) = (Duration.seconds(300), Duration.seconds(60), 100)

    func run(stop: StopSignal) async throws(SafeBackupError) {
        try await Vitals.loop("catalogue copies") { () throws(SafeBackupError) in try await keep(until: stop) }
    }

    private func keep(until stop: StopSignal) async throws(SafeBackupError) {
        let wake = TaskSignal()
        stop.onRequest { wake.signal() }
        var (seen, since, cost) = (Int64?.none, ContinuousClock.now, Duration.zero)
        while !stop.isRequested {
            await wake.wait(atMost: .seconds(1))
            if stop.isRequested { return }
            do throws(SafeBackupError) {
                let newest = try await state.durably { (store) throws(SafeBackupError) in try store.newestSequence() }
                let now = ContinuousClock.now
                if newest != seen { (seen, since) = (newest, now) }
                let isQuiet = now - since >= Self.quietTime
                try await export(after: isQuiet ? max(Self.quietInterval, cost * Self.costFactor) : Self.interval)
                let end = ContinuousClock.now
                // A call that had nothing to do took no time.
                if end - now > .milliseconds(100) { cost = end - now }
            } catch {
                if error.code == .stateDamaged { throw error }
                // The backup itself is not harmed; the older catalogue copy stays until one succeeds.
                logger.error(
                    .catalogueFailed, "The catalogue copy was not written; it is tried again",
                    metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
                await wake.wait(atMost: .seconds(60))
            }
        }
    }

    /// Whether the destination has once held everything that a walk found of a source.
    private static func noteFullSaves(
        of sources: [SourceUnit], at destination: DestinationID, _ store: isolated StateStore
    ) throws(SafeBackupError) -> Bool {
        let pairs = try store.pairs().filter { $0.destination == destination && $0.firstSaveAt != nil }
        let known = Set(pairs.map(\.source))
        var isAnySaved = !known.isEmpty
        for source in sources where !known.contains(source.id) {
            guard let last = source.walkedSequence,
                try store.outstanding(destination, of: source.id, upTo: last).isEmpty
            else { continue }
            try store.markFullSave(source.id, destination)
            isAnySaved = true
        }
        return isAnySaved
    }

    /// Writes a catalogue copy if the catalogue changed since the last, and that is older than `interval`.
    func export(after interval: Duration) async throws(SafeBackupError) {
        let (destination, sources, local) = (unit.id, sources, unit.local)
        let (record, isFullySaved, newest) = try await state.durably { (store) throws(SafeBackupError) in
            (
                try store.destinations().first { $0.id == destination },
                try Self.noteFullSaves(of: sources, at: destination, store), try store.newestSequence()
            )
        }
        guard let record, isFullySaved else { return }
        if let exported = record.catalogueSequence, exported >= newest { return }
        if let last = record.catalogueExportedAt {
            let age = clock.now - last
            // A clock that was set back must not stop the copies.
            if age < interval && age >= .zero { return }
        }
        guard unit.door.enter() else {
            // It is idle and closed; it is opened for this, and the next call finds it open.
            unit.kick()
            return
        }
        defer {
            local.endCatalogueExport()
            unit.door.leave()
        }
        let (directory, clock) = (stateDirectory, clock)
        let header = try await io.run { () throws(SafeBackupError) in
            try CatalogueFile.write(
                from: directory, destination, to: try local.catalogueStagePath(), release: Release.version,
                clock: clock)
        }
        try await local.installCatalogue()
        try await state.durably { (store) throws(SafeBackupError) in
            try store.markCatalogueExported(destination, sequence: header.sequenceTo)
        }
        logger.info(.catalogueWritten, "The catalogue copy was written", metadata: ["names": "\(header.names)"])
    }
}
