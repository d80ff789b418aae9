import Glibc
import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Keeps a copy of the catalogue beside the backups: after the first full save, or an hour, or at an orderly end, whichever
/// comes first; then when something changed, hourly while there is work and sooner when it has come to rest. A bare machine
/// restores from it, and a lost state is rebuilt from it.
///
/// It tells of each source whether all of it was ever saved. That a first save need not end, as with a file that cannot be
/// read, is why nothing waits for it longer; what was stored after a copy was written is found as it lies in the backup. But
/// where catalogue copies are that this state has not taken over, they may know more than a state that is not complete:
/// then the first full save is waited for.
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
    /// The last copy tells of everything.
    private let isCurrent = Shared(false)
    /// There are catalogue copies that are not this state's.
    private let hasOthers = Shared(false)

    init(
        unit: DestinationUnit, sources: [SourceUnit], stateDirectory: FilePath, state: StateAccess, io: ThreadExecutor,
        clock: WallClock, logger: Logger
    ) {
        (self.unit, self.sources, self.stateDirectory) = (unit, sources, stateDirectory)
        (self.state, self.io, self.clock, self.logger) = (state, io, clock, logger)
    }

    static let interval = Duration.seconds(3_600)
    /// A first save that takes longer is not waited for.
    private static let partialAfter = Duration.seconds(3_600)
    /// After a minute without a change, so that a lost machine's last renames are in the copy; never so often that it
    /// costs more than a hundredth of the time.
    private static let (quietInterval, quietTime, costFactor) = (Duration.seconds(300), Duration.seconds(60), 100)

    /// How often it is looked whether something changed, and whether a copy is due: at rest the processor sleeps.
    private static let (lookInterval, restInterval, rest) = (
        Duration.seconds(1), Duration.seconds(5), Duration.seconds(60)
    )

    func run(stop: StopSignal) async throws(SafeBackupError) {
        try await Vitals.loop("catalogue copies") { () throws(SafeBackupError) in try await keep(until: stop) }
    }

    private func keep(until stop: StopSignal) async throws(SafeBackupError) {
        let wake = TaskSignal()
        stop.onRequest { wake.signal() }
        var (seen, since) = (Int64?.none, ContinuousClock.now)
        let began = since
        var looked = since
        while !stop.isRequested {
            await wake.wait(atMost: isCurrent.value ? Self.restInterval : Self.lookInterval)
            if stop.isRequested { return }
            do throws(SafeBackupError) {
                let newest = try await state.durably { (store) throws(SafeBackupError) in try store.newestSequence() }
                let now = ContinuousClock.now
                if newest == seen && isCurrent.value && now - looked < Self.rest { continue }
                looked = now
                if newest != seen { (seen, since) = (newest, now) }
                let isQuiet = now - since >= Self.quietTime
                let quietInterval = max(Self.quietInterval, (cost.value ?? .zero) * Self.costFactor)
                // A stop waits for nobody's million rows; see `exportAtStop`.
                try await export(
                    after: isQuiet ? quietInterval : Self.interval, allowsPartial: now - began >= Self.partialAfter
                ) { !stop.isRequested }
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

    /// The destination, if its catalogue changed since the last copy and it has once held everything, or, if that is
    /// enough, something; and whether it held everything.
    func behind(
        allowsPartial: Bool
    ) async throws(SafeBackupError) -> (record: DestinationRecord, isFullySaved: Bool)? {
        isCurrent.set(false)
        let (destination, sources) = (unit.id, sources)
        let (record, isFullySaved, newest, isAny) = try await state.durably { (store) throws(SafeBackupError) in
            (
                try store.destinations().first { $0.id == destination },
                try Self.noteFullSaves(of: sources, at: destination, store), try store.newestSequence(),
                allowsPartial ? try store.hasCopies(destination) : false
            )
        }
        guard let record, isFullySaved || isAny else { return nil }
        if !isFullySaved && record.catalogueExportedAt == nil && hasOthers.value { return nil }
        if let exported = record.catalogueSequence, exported >= newest {
            isCurrent.set(true)
            return nil
        }
        return (record, isFullySaved)
    }

    /// Whether a copy may be written to the open destination: the first of a state that is not complete takes the place of
    /// no other.
    func mayReplace(_ behind: (record: DestinationRecord, isFullySaved: Bool)) async throws(SafeBackupError) -> Bool {
        if behind.isFullySaved || behind.record.catalogueExportedAt != nil { return true }
        if try await unit.target.catalogues().isEmpty { return true }
        hasOthers.set(true)
        return false
    }

    /// Writes a catalogue copy if the catalogue changed since the last, and that is older than `interval`.
    /// - Parameter allowsPartial: also of a destination that never held everything.
    /// - Throws: `interrupted` when it is not wanted any more.
    func export(
        after interval: Duration, allowsPartial: Bool, while isWanted: @escaping @Sendable () -> Bool = { true }
    ) async throws(SafeBackupError) {
        guard let behind = try await behind(allowsPartial: allowsPartial) else { return }
        if let last = behind.record.catalogueExportedAt {
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
        guard try await mayReplace(behind) else { return }
        try await write(sizeLimit: nil, while: isWanted)
    }

    /// Writes a copy to the open destination.
    /// - Parameter sizeLimit: one with more bytes is not installed, because its flush would take too long.
    /// - Throws: `interrupted` when it is not wanted any more, or is too large; the last copy stays.
    func write(sizeLimit: Int64?, while isWanted: @escaping @Sendable () -> Bool) async throws(SafeBackupError) {
        let (destination, target, began) = (unit.id, unit.target, ContinuousClock.now)
        defer { target.endCatalogueExport() }
        let (directory, clock) = (stateDirectory, clock)
        let header: CatalogueHeader
        do throws(SafeBackupError) {
            header = try await io.run { () throws(SafeBackupError) in
                let stage = try target.catalogueStagePath()
                let header = try CatalogueFile.write(
                    from: directory, destination, to: stage, release: Release.version, clock: clock, while: isWanted)
                if let sizeLimit, try Self.size(of: stage) > sizeLimit {
                    throw SafeBackupError(
                        .interrupted, "The catalogue copy is too large to be flushed in time", disposition: .transient)
                }
                return header
            }
        } catch {
            await io.run { target.abandonCatalogueNow() }
            throw error
        }
        try await target.installCatalogue()
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
