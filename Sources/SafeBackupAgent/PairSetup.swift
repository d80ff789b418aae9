import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// Brings a source, a destination and what the state knows of them together, before anything is drained: a new
/// destination is probed and gets its sentinel, a known one must show it, and a lost state is resumed from it.
struct PairSetup: Sendable {
    struct Pair: Sendable {
        var source: SourceRecord
        var destination: DestinationRecord
        var sentinel: String
        var local: LocalDestination
    }

    let settings: AgentSettings
    let state: StateAccess
    let io: ThreadExecutor
    let clock: WallClock
    let logger: Logger

    /// - Throws: `invalidConfiguration` or `destinationTaken` when the two cannot be a pair; a holding error when
    ///   what is known is not there and nothing can be begun without it.
    func establish() async throws(SafeBackupError) -> Pair {
        let (settings, clock) = (settings, clock)
        let machine = try await io.run { () throws(SafeBackupError) in try StateDirectory.machineIdentifier() }
        let local = LocalDestination(
            path: settings.destination, io: io, clock: clock,
            writerProbe: WriterProbe(quiet: settings.settle.quiet, limit: settings.settle.limit))
        let known = try await state.durably { (store) throws(SafeBackupError) in
            (
                try store.sources().first { $0.path == settings.source.bytes },
                try store.destinations().first { $0.location == settings.destination.bytes }
            )
        }
        if let sentinel = known.1?.sentinel {
            let source = try await knownOrNewSource(known.0, sentinelEntry: nil)
            try await admit(source, machine: machine, to: sentinel, local)
            return try await registered(source.path, source, sentinel, local)
        }
        let inspection = try await io.run { () throws(SafeBackupError) in
            try LocalDestination.inspect(settings.destination)
        }
        if let sentinel = inspection.sentinel {
            return try await resume(sentinel, machine: machine, known.0, local)
        }
        let source = try await knownOrNewSource(known.0, sentinelEntry: nil)
        let identifier = randomIdentifier()
        let entry = sentinelEntry(of: source, machine: machine)
        try await local.create(id: identifier, sources: [entry])
        logger.notice(
            .destinationBegun,
            inspection.exists && !inspection.isEmpty
                ? "The destination holds files already; identical ones are taken over, others are kept as versions"
                : "The destination is new",
            metadata: ["destination.path": "\(printable(settings.destination.bytes))"])
        warnOfSharedDisk()
        return try await registered(source.path, source, identifier, local)
    }

    /// No hold: some want just that. Told at each start.
    private func warnOfSharedDisk() {
        guard settings.isSameDevice else { return }
        logger.warning(
            .sameFileSystem,
            "Source and destination lie on the same file system: one failing disk takes both; use another disk")
    }

    /// The destination's sentinel is there and this state does not know it: a lost state, or somebody else's.
    private func resume(
        _ sentinel: Sentinel, machine: String, _ known: SourceRecord?, _ local: LocalDestination
    ) async throws(SafeBackupError) -> Pair {
        let path = settings.source.bytes
        guard let entry = sentinel.sources.first(where: { $0.machine == machine && $0.path == path }) else {
            if let other = sentinel.sources.first { throw taken(by: other) }
            let source = try await knownOrNewSource(known, sentinelEntry: nil)
            try await local.attach(expecting: sentinel.id)
            try await local.updateSentinel(sources: [sentinelEntry(of: source, machine: machine)])
            return try await registered(path, source, sentinel.id, local)
        }
        warnOfSharedDisk()
        let source = try await knownOrNewSource(known, sentinelEntry: entry)
        // What ends the agent before the catalogue was read must not leave a destination that looks known: its history
        // would never be read.
        let pair = try await registered(path, source, sentinel.id, local, isAdmitted: false)
        logger.notice(
            .destinationKnown, "The destination is known to an earlier state of this machine; its catalogue is read",
            metadata: ["destination.path": "\(printable(settings.destination.bytes))"])
        try await local.attach(expecting: sentinel.id)
        let files = try await local.catalogues()
        let id = pair.destination.id
        let shown = settings.destination.appending(".safebackup").appending("catalogue")
        Faults.reach("resuming")
        let imported = try await state.durably { (store) throws(SafeBackupError) in
            let imported = try Self.importNewest(of: files, shownIn: shown, into: id, store)
            try store.setSentinel(sentinel.id, for: id)
            return imported
        }
        for refusal in imported.refused {
            logger.warning(.catalogueUnusable, "A catalogue copy is not usable", metadata: ["error": "\(refusal)"])
        }
        if let report = imported.report {
            logger.notice(
                .catalogueRead, "The catalogue was read",
                metadata: ["names": "\(report.names)", "copies": "\(report.copies)"])
        } else {
            logger.warning(
                .catalogueMissing, "No finished catalogue is at the destination; every file is compared with the source"
            )
        }
        await local.detach()
        return pair
    }

    /// Tries the copies from the newest on; the older of the two is whole even if the newer one is damaged.
    private static func importNewest(
        of files: [FilePath], shownIn directory: FilePath, into destination: DestinationID, _ store: isolated StateStore
    ) throws(SafeBackupError) -> (report: ImportReport?, refused: [String]) {
        var refused: [String] = []
        for file in files {
            do throws(SafeBackupError) {
                return (try store.importCatalogue(file, into: destination), refused)
            } catch {
                // A failing state, as against a failing file, ends the attempt.
                if error.code == .stateFailed { throw error }
                // The file was opened through a descriptor; a person looks for it by its own name.
                let name = printable(directory.appending(file.components.suffix(1)).bytes)
                refused.append(Self.replacing(file.string, by: name, in: error.message))
            }
        }
        return (nil, refused)
    }

    private static func replacing(_ old: String, by new: String, in text: String) -> String {
        let (text, old) = (Array(text.utf8), Array(old.utf8))
        guard let start = text.indices.first(where: { text[$0...].starts(with: old) }) else {
            return String(decoding: text, as: UTF8.self)
        }
        return String(decoding: text[..<start] + Array(new.utf8) + text[(start + old.count)...], as: UTF8.self)
    }

    /// Checks that a known destination lists this source, and lists it if there is room for it.
    private func admit(
        _ source: SourceSeed, machine: String, to sentinel: String, _ local: LocalDestination
    ) async throws(SafeBackupError) {
        let settings = settings
        let listed: Sentinel?
        do throws(SafeBackupError) {
            listed = try await io.run { () throws(SafeBackupError) in
                try LocalDestination.inspect(settings.destination).sentinel
            }
        } catch {
            // Away: the drain holds it and attaches it when it is back.
            if error.isHolding { return }
            throw error
        }
        guard let listed, listed.id == sentinel else { return }
        warnOfSharedDisk()
        if listed.sources.contains(where: { $0.machine == machine && $0.path == source.path }) { return }
        if let other = listed.sources.first { throw taken(by: other) }
        try await local.attach(expecting: sentinel)
        try await local.updateSentinel(sources: [sentinelEntry(of: source, machine: machine)])
        await local.detach()
    }

    private func taken(by other: SentinelSource) -> SafeBackupError {
        SafeBackupError(
            .destinationTaken,
            "The destination \(printable(settings.destination.bytes)) already holds the backup of "
                + "\(printable(other.path)); use another directory for \(printable(settings.source.bytes))",
            disposition: .permanent)
    }

    /// What is known of a source before it has a row.
    struct SourceSeed: Sendable {
        var path: [UInt8]
        var uuid: String
        var identity: RootIdentity
        var device: UInt64?
    }

    private func knownOrNewSource(
        _ record: SourceRecord?, sentinelEntry: SentinelSource?
    ) async throws(SafeBackupError) -> SourceSeed {
        let path = settings.source
        if let record {
            return SourceSeed(path: path.bytes, uuid: record.uuid, identity: record.identity, device: nil)
        }
        if let sentinelEntry, let identity = sentinelEntry.identity {
            return SourceSeed(path: path.bytes, uuid: sentinelEntry.id, identity: identity, device: nil)
        }
        do throws(SafeBackupError) {
            let (identity, device) = try await io.run { () throws(SafeBackupError) in
                let root = try SourceRoot(path: path, known: nil)
                return (root.identity, root.status.device)
            }
            return SourceSeed(
                path: path.bytes, uuid: sentinelEntry?.id ?? randomIdentifier(), identity: identity, device: device)
        } catch {
            // Nothing is known of it, so there is nothing to wait for.
            guard error.code == .rootMissing else { throw error }
            throw SafeBackupError(
                .invalidConfiguration, "The source \(printable(path.bytes)) is not there; check the path",
                disposition: .permanent)
        }
    }

    /// Without `isAdmitted` the state does not know the destination's sentinel yet: until it does, the next start resumes
    /// again.
    private func registered(
        _ path: [UInt8], _ seed: SourceSeed, _ sentinel: String, _ local: LocalDestination, isAdmitted: Bool = true
    ) async throws(SafeBackupError) -> Pair {
        let location = settings.destination.bytes
        return try await state.durably { (store) throws(SafeBackupError) in
            let source = try store.registerSource(path: path, identity: seed.identity, uuid: seed.uuid)
            let destination = try store.registerDestination(location: location, kind: "local")
            if isAdmitted { try store.setSentinel(sentinel, for: destination.id) }
            try store.setPair(source.id, destination.id, prefix: .root)
            try store.activate(pairs: [(source.id, destination.id)])
            return Pair(source: source, destination: destination, sentinel: sentinel, local: local)
        }
    }

    private func sentinelEntry(of seed: SourceSeed, machine: String) -> SentinelSource {
        SentinelSource(id: seed.uuid, machine: machine, path: seed.path, identity: seed.identity, prefix: .root)
    }
}

/// 32 hexadecimal digits that nobody else has.
func randomIdentifier() -> String {
    var generator = SystemRandomNumberGenerator()
    return hexadecimal((0..<16).map { _ in UInt8.random(in: 0...255, using: &generator) })
}
