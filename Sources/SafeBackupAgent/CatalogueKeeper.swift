import Glibc
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
    /// What the last copy took, with its flush.
    let cost = Shared<Duration?>(nil)

    init(
        unit: DestinationUnit, sources: [SourceUnit], stateDirectory: FilePath, state: StateAccess, io: ThreadExecutor,
        clock: WallClock, logger: Logger
    ) {
        (self.unit, self.sources, self.stateDirectory) = (unit, sources, stateDirectory)
        (self.state, self.io, self.clock, self.logger) = (state, io, clock, logger)
    }

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
        var (seen, since) = (Int64?.none, ContinuousClock.now)
        while !stop.isRequested {
            await wake.wait(atMost: .seconds(1))
            if stop.isRequested { return }
            do throws(SafeBackupError) {
                let newest = try await state.durably { (store) throws(SafeBackupError) in try store.newestSequence() }
                let now = ContinuousClock.now
                if newest != seen { (seen, since) = (newest, now) }
                let isQuiet = now - since >= Self.quietTime
                let quietInterval = max(Self.quietInterval, (cost.value ?? .zero) * Self.costFactor)
                // A stop waits for nobody's million rows; see `exportAtStop`.
                try await export(after: isQuiet ? quietInterval : Self.interval) { !stop.isRequested }
            } catch {
                if error.code == .stateDamaged { throw error }
                if error.code == .interrupted { return }
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

    /// The destination, if its catalogue changed since the last copy and it has once held everything.
    func behind() async throws(SafeBackupError) -> DestinationRecord? {
        let (destination, sources) = (unit.id, sources)
        let (record, isFullySaved, newest) = try await state.durably { (store) throws(SafeBackupError) in
            (
                try store.destinations().first { $0.id == destination },
                try Self.noteFullSaves(of: sources, at: destination, store), try store.newestSequence()
            )
        }
        guard let record, isFullySaved else { return nil }
        if let exported = record.catalogueSequence, exported >= newest { return nil }
        return record
    }

    /// Writes a catalogue copy if the catalogue changed since the last, and that is older than `interval`.
    /// - Throws: `interrupted` when it is not wanted any more.
    func export(
        after interval: Duration, while isWanted: @escaping @Sendable () -> Bool = { true }
    ) async throws(SafeBackupError) {
        guard let record = try await behind() else { return }
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
        defer { unit.door.leave() }
        try await write(sizeLimit: nil, while: isWanted)
    }

    /// Writes a copy to the open destination.
    /// - Parameter sizeLimit: one with more bytes is not installed, because its flush would take too long.
    /// - Throws: `interrupted` when it is not wanted any more, or is too large; the last copy stays.
    func write(sizeLimit: Int64?, while isWanted: @escaping @Sendable () -> Bool) async throws(SafeBackupError) {
        let (destination, local, began) = (unit.id, unit.local, ContinuousClock.now)
        defer { local.endCatalogueExport() }
        let (directory, clock) = (stateDirectory, clock)
        let header: CatalogueHeader
        do throws(SafeBackupError) {
            header = try await io.run { () throws(SafeBackupError) in
                let stage = try local.catalogueStagePath()
                let header = try CatalogueFile.write(
                    from: directory, destination, to: stage, release: Release.version, clock: clock, while: isWanted)
                if let sizeLimit, try Self.size(of: stage) > sizeLimit {
                    throw SafeBackupError(
                        .interrupted, "The catalogue copy is too large to be flushed in time", disposition: .transient)
                }
                return header
            }
        } catch {
            await io.run { local.abandonCatalogueNow() }
            throw error
        }
        try await local.installCatalogue()
        try await state.durably { (store) throws(SafeBackupError) in
            try store.markCatalogueExported(destination, sequence: header.sequenceTo)
        }
        cost.set(ContinuousClock.now - began)
        logger.info(.catalogueWritten, "The catalogue copy was written", metadata: ["names": "\(header.names)"])
    }

    private static func size(of file: FilePath) throws(SafeBackupError) -> Int64 {
        do throws(Errno) {
            return try Descriptor.open(file, O_RDONLY).status().size
        } catch {
            throw SafeBackupError(
                .destinationFailed, "The catalogue copy \(file) cannot be looked at: \(error.explanation)",
                disposition: .transient, systemError: error.rawValue)
        }
    }
}
