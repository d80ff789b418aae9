import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Keeps a copy of the catalogue beside the backups: after the first full save, then at most hourly when something
/// changed. A bare machine restores from it, and a lost state is rebuilt from it.
struct CatalogueKeeper: Sendable {
    let destination: DestinationID
    let sentinel: String
    let local: LocalDestination
    let database: FilePath
    let state: StateAccess
    let io: ThreadExecutor
    let clock: WallClock
    let logger: Logger

    static let interval = Duration.seconds(3_600)

    func run(stop: StopSignal) async throws(SafeBackupError) {
        let wake = Wakeup()
        stop.onRequest { wake.signal() }
        while !stop.isRequested {
            await wake.wait(atMost: .seconds(1))
            if stop.isRequested { return }
            do throws(SafeBackupError) {
                try await export(evenIfRecent: false)
            } catch {
                if error.code == .stateDamaged { throw error }
                // The backup itself is not harmed; the older catalogue copy stays until one succeeds.
                logger.error(
                    "The catalogue copy was not written; it is tried again",
                    metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
                await wake.wait(atMost: .seconds(60))
            }
        }
    }

    /// Writes a catalogue copy if the catalogue changed since the last, and it is time.
    func export(evenIfRecent: Bool) async throws(SafeBackupError) {
        let destination = destination
        let status = try await state.durably { (store) throws(SafeBackupError) in
            try store.catalogueStatus(destination: destination)
        }
        guard status.isFullySaved || status.exportedAt != nil, status.hasChanged, local.isAttached else { return }
        if !evenIfRecent, let last = status.exportedAt {
            let age = clock.now - last
            // A clock that was set back must not stop the copies.
            if age < Self.interval && age >= .zero { return }
        }
        let (database, clock, sentinel, local) = (database, clock, sentinel, local)
        let written = try await io.run { () throws(SafeBackupError) in
            try CatalogueFile.write(
                from: database, destination: destination, sentinel: sentinel, to: try local.catalogueStagePath(),
                at: clock.now)
        }
        try await local.installCatalogue()
        let now = clock.now
        try await state.durably { (store) throws(SafeBackupError) in
            try store.markCatalogueExported(destination: destination, at: now, sequence: written.sequence)
        }
        logger.info("The catalogue copy was written", metadata: ["names": "\(written.names)"])
    }
}
