import Glibc
import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// Brings sources, their destinations and what the state knows of them together, before anything is drained: a new
/// destination is probed and gets its sentinel, a known one must show it, and a lost state is resumed from it.
struct PairSetup: Sendable {
    /// What is known of a source before it has a row.
    struct SourceSeed: Sendable {
        var path: [UInt8]
        var uuid: String
        var identity: RootIdentity
    }

    let settings: AgentSettings
    let state: StateAccess
    let io: ThreadExecutor
    let clock: WallClock
    let logger: Logger

    // MARK: Sources

    /// Of each source of the settings: as the state knows it, else as a destination's sentinel does, else as it is now.
    /// - Throws: `invalidConfiguration` for one that nothing is known of and that is not there; what is wrong with a root.
    func seeds() async throws(SafeBackupError) -> [SourceSeed] {
        let machine = try await machine()
        let known = try await state.durably { (store) throws(SafeBackupError) in try store.sources() }
        let paths = settings.destinations.filter { $0.s3 == nil }.map(\.path)
        let listed = await io.run { paths.flatMap { Self.listedSources(at: $0) } }.filter { $0.machine == machine }
        var seeds: [SourceSeed] = []
        for source in settings.sources {
            let path = source.path.bytes
            let entry = listed.first { $0.path == path }
            seeds.append(try await seed(of: source.path, known.first { $0.path == path }, listed: entry))
        }
        return seeds
    }

    /// None of a destination that cannot be read: whoever needs it, says why.
    static func listedSources(at path: FilePath) -> [SentinelSource] {
        do throws(SafeBackupError) {
            return try LocalDestination.inspect(path).sentinel?.sources ?? []
        } catch {
            return []
        }
    }

    private func seed(
        of path: FilePath, _ record: SourceRecord?, listed entry: SentinelSource?
    ) async throws(SafeBackupError) -> SourceSeed {
        if let record { return SourceSeed(path: path.bytes, uuid: record.uuid, identity: record.identity) }
        if let entry, let identity = entry.identity {
            return SourceSeed(path: path.bytes, uuid: entry.id, identity: identity)
        }
        do throws(SafeBackupError) {
            let identity = try await io.run { () throws(SafeBackupError) in
                try SourceRoot(path: path, known: nil).identity
            }
            return SourceSeed(path: path.bytes, uuid: entry?.id ?? randomIdentifier(), identity: identity)
        } catch {
            // Nothing is known of it, so there is nothing to wait for.
            guard error.code == .rootMissing else { throw error }
            throw SafeBackupError(
                .invalidConfiguration, "The source \(printable(path.bytes)) is not there; check the path",
                disposition: .permanent)
        }
    }

    private func machine() async throws(SafeBackupError) -> String {
        try await io.run { () throws(SafeBackupError) in try StateDirectory.machineIdentifier() }
    }

    // MARK: Destinations

    /// Whether the state knows by which sentinel the destination is known.
    func isKnown(_ destination: AgentSettings.Destination) async throws(SafeBackupError) -> Bool {
        let location = destination.location
        return try await state.durably { (store) throws(SafeBackupError) in
            try store.destinations().contains { $0.location == location && $0.sentinel != nil }
        }
    }

    /// Makes the destination known to the state, and its sources known to the destination. May be called again after it
    /// failed.
    /// - Throws: `invalidConfiguration` or `destinationTaken` when they cannot go together; a holding error when what is
    ///   known is not there and nothing can be begun without it.
    func establish(
        _ destination: AgentSettings.Destination, _ seeds: [SourceSeed], _ target: any Destination
    ) async throws(SafeBackupError) {
        let machine = try await machine()
        let entries = destination.members.map { member in
            let seed = seeds[member.source]
            return SentinelSource(
                id: seed.uuid, machine: machine, path: seed.path, identity: seed.identity, prefix: member.prefix)
        }
        let location = destination.location
        let known = try await state.durably { (store) throws(SafeBackupError) in
            try store.destinations().first { $0.location == location }
        }
        if let known, var sentinel = known.sentinel {
            if let accepted = known.accepted, try await target.inspect().sentinel?.id == accepted {
                // A crash ended the agent before the replacement was finished; see `DestinationUnit.knownSentinel`.
                try await state.durably { (store) throws(SafeBackupError) in
                    try store.finishReplacement(of: known.id)
                }
                sentinel = accepted
            }
            try await admit(entries, to: sentinel, destination, target)
            try await register(destination, seeds, sentinel: sentinel)
            return
        }
        let inspection = try await target.inspect()
        if let sentinel = inspection.sentinel {
            try await resume(sentinel, entries, destination, seeds, target)
            return
        }
        let identifier = randomIdentifier()
        try await target.create(id: identifier, sources: entries)
        logger.notice(
            .destinationBegun,
            inspection.exists && !inspection.isEmpty
                ? "The destination holds files already; identical ones are taken over, others are kept as versions"
                : "The destination is new",
            metadata: ["destination.path": "\(printable(location))"])
        warnOfSharedDisk(await lookedAtAgain(destination))
        try await register(destination, seeds, sentinel: identifier)
    }

    /// Which of its sources share a file system with it, now that it was made: before, only its parent could be asked,
    /// which may have been the mount point of a disk that is away.
    private func lookedAtAgain(_ destination: AgentSettings.Destination) async -> AgentSettings.Destination {
        if destination.s3 != nil { return destination }
        let sources = destination.members.map { settings.sources[$0.source].path }
        let areSame = await io.run { () -> [Bool] in
            do throws(Errno) {
                let device = try Descriptor.open(destination.path, O_RDONLY | O_DIRECTORY).status().device
                return sources.map { Self.device(of: $0) == device }
            } catch {
                return []  // ignored because it is only a hint
            }
        }
        var looked = destination
        for (index, isSame) in areSame.enumerated() where isSame { looked.members[index].isSameDevice = true }
        return looked
    }

    /// `nil` of one that is not there.
    private static func device(of path: FilePath) -> UInt64? {
        guard TimedLooks.shared.answers(path) else { return nil }
        do throws(Errno) {
            return try Descriptor.open(path, O_RDONLY | O_DIRECTORY).status().device
        } catch {
            return nil
        }
    }

    /// No hold: some want just that. Told at each start.
    private func warnOfSharedDisk(_ destination: AgentSettings.Destination) {
        for member in destination.members where member.isSameDevice {
            logger.warning(
                .sameFileSystem,
                "Source and destination lie on the same file system: one failing disk takes both; use another disk",
                metadata: [
                    "source.path": "\(printable(settings.sources[member.source].path.bytes))",
                    "destination.path": "\(printable(destination.location))",
                ])
        }
    }

    /// Checks that a known destination lists these sources, and lists those that it has room for.
    private func admit(
        _ entries: [SentinelSource], to sentinel: String, _ destination: AgentSettings.Destination,
        _ target: any Destination
    ) async throws(SafeBackupError) {
        // Throws what holds it: nobody knows yet whether these may be saved there.
        try await target.look(expecting: sentinel)
        let listed = try await target.inspect().sentinel
        guard let listed, listed.id == sentinel else { return }
        warnOfSharedDisk(destination)
        let new = try Self.unlisted(entries, in: listed.sources, at: destination.location)
        if new.isEmpty { return }
        try await target.attach(expecting: sentinel)
        try await target.updateSentinel(sources: listed.sources + new)
        await target.detach()
    }

    /// The destination's sentinel is there and this state does not know it: a lost state, or somebody else's.
    private func resume(
        _ sentinel: Sentinel, _ entries: [SentinelSource], _ destination: AgentSettings.Destination,
        _ seeds: [SourceSeed], _ target: any Destination
    ) async throws(SafeBackupError) {
        let new = try Self.unlisted(entries, in: sentinel.sources, at: destination.location)
        let isOurs = new.count < entries.count
        // Another state's, or another machine's: two agents would take turns in writing its catalogue.
        if !isOurs, let other = sentinel.sources.first {
            throw Self.taken(by: other, entries, at: destination.location)
        }
        if isOurs { warnOfSharedDisk(destination) }
        // What ends the agent before the catalogue was read must not leave a destination that looks known: its history
        // would never be read.
        let (id, sources) = try await register(destination, seeds, sentinel: nil)
        try await target.attach(expecting: sentinel.id)
        if isOurs {
            try await readCatalogue(of: destination, id, Self.aliases(entries, sources, in: sentinel), target)
        }
        try await state.durably { (store) throws(SafeBackupError) in try store.setSentinel(sentinel.id, for: id) }
        if !new.isEmpty { try await target.updateSentinel(sources: sentinel.sources + new) }
        await target.detach()
    }

    /// This state's sources by the uuids that the sentinel has for them.
    private static func aliases(
        _ entries: [SentinelSource], _ sources: [SourceID], in sentinel: Sentinel
    ) -> [String: SourceID] {
        var aliases: [String: SourceID] = [:]
        for (entry, source) in zip(entries, sources) {
            if let listed = sentinel.sources.first(where: { $0.isSameTree(as: entry) }) { aliases[listed.id] = source }
        }
        return aliases
    }

    private func readCatalogue(
        of destination: AgentSettings.Destination, _ id: DestinationID, _ aliases: [String: SourceID],
        _ target: any Destination
    ) async throws(SafeBackupError) {
        logger.notice(
            .destinationKnown, "The destination is known to an earlier state of this machine; its catalogue is read",
            metadata: ["destination.path": "\(printable(destination.location))"])
        let files = try await target.catalogues()
        let shown = destination.path.appending(".safebackup").appending("catalogue")
        Faults.reach("resuming")
        let imported = try await state.durably { (store) throws(SafeBackupError) in
            let imported = try Self.importNewest(of: files, shownIn: shown, into: id, knownAs: aliases, store)
            let origin = imported.report?.exportedAt.map { "from the catalogue copy of \($0.iso8601)" }
            try store.record(
                level: "warning", event: "catalogueRead",
                message: "This state was begun anew \(origin ?? "without a catalogue copy"); files that were saved and "
                    + "deleted after that, and when anything happened since, are not known to it", destination: id)
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
    }

    /// Tries the copies from the newest on; the older of the two is whole even if the newer one is damaged.
    private static func importNewest(
        of files: [FilePath], shownIn directory: FilePath, into destination: DestinationID,
        knownAs aliases: [String: SourceID], _ store: isolated StateStore
    ) throws(SafeBackupError) -> (report: ImportReport?, refused: [String]) {
        var refused: [String] = []
        for file in files {
            do throws(SafeBackupError) {
                return (try store.importCatalogue(file, into: destination, knownAs: aliases), refused)
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

    // MARK: Who may share a destination

    /// Those that the sentinel does not list yet.
    /// - Throws: `destinationTaken` when a listed source leaves no room for them, `invalidConfiguration` when one is
    ///   listed with another prefix.
    static func unlisted(
        _ entries: [SentinelSource], in listed: [SentinelSource], at path: [UInt8]
    ) throws(SafeBackupError) -> [SentinelSource] {
        var new: [SentinelSource] = []
        for entry in entries {
            if let known = listed.first(where: { $0.isSameTree(as: entry) }) {
                if known.prefix == entry.prefix { continue }
                throw SafeBackupError(
                    .invalidConfiguration,
                    "\(printable(entry.path)) is saved \(place(known.prefix)) of \(printable(path)), not "
                        + "\(place(entry.prefix)); give its prefix as it was, or another destination for it",
                    disposition: .permanent)
            }
            // One agent is one machine's, and its prefixes neither nest nor are they the root.
            let other = listed.first {
                $0.machine != entry.machine || $0.prefix.isWithin(entry.prefix) || entry.prefix.isWithin($0.prefix)
            }
            if let other { throw taken(by: other, [entry], at: path) }
            new.append(entry)
        }
        return new
    }

    private static func place(_ prefix: RelativePath) -> String {
        prefix.isRoot ? "at the top" : "under the prefix \(prefix)"
    }

    static func taken(
        by other: SentinelSource, _ entries: [SentinelSource], at path: [UInt8]
    ) -> SafeBackupError {
        let lies = other.prefix.isRoot ? "" : " under the prefix \(other.prefix)"
        let wanted = entries.map { printable($0.path) }.joined(separator: ", ")
        return SafeBackupError(
            .destinationTaken,
            "The destination \(printable(path)) already holds the backup of \(printable(other.path))\(lies); use "
                + "another directory for \(wanted)",
            disposition: .permanent)
    }

    // MARK: Rows

    /// Rows for a destination and its sources. Without a sentinel the state does not know the destination yet: until it
    /// does, the next start establishes it again.
    @discardableResult
    func register(
        _ destination: AgentSettings.Destination, _ seeds: [SourceSeed], sentinel: String?
    ) async throws(SafeBackupError) -> (destination: DestinationID, sources: [SourceID]) {
        try await state.durably { (store) throws(SafeBackupError) in
            let record = try store.registerDestination(
                location: destination.location, kind: destination.s3 == nil ? "local" : "s3")
            var sources: [SourceID] = []
            for member in destination.members {
                let seed = seeds[member.source]
                let source = try store.registerSource(path: seed.path, identity: seed.identity, uuid: seed.uuid)
                try store.setPair(source.id, record.id, prefix: member.prefix)
                sources.append(source.id)
            }
            if let sentinel { try store.setSentinel(sentinel, for: record.id) }
            return (record.id, sources)
        }
    }
}

extension SentinelSource {
    /// The same directory of the same machine, whatever id a state gave it.
    fileprivate func isSameTree(as other: SentinelSource) -> Bool { machine == other.machine && path == other.path }
}

/// 32 hexadecimal digits that nobody else has.
func randomIdentifier() -> String {
    var generator = SystemRandomNumberGenerator()
    return hexadecimal((0..<16).map { _ in UInt8.random(in: 0...255, using: &generator) })
}
