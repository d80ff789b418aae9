import Glibc
package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
package import SystemPackage

/// Gets paths back from a local destination: by the state's catalogue, else by the copy beside the backups, else by
/// the plain layout alone.
package struct RestorePlan: Sendable {
    /// Absolute, below a source, or relative to it; none means everything.
    package var paths: [[UInt8]]
    /// Made if it is missing.
    package var target: FilePath
    package var overwrites: Bool
    /// Also what was deleted at the source.
    package var includesDeleted: Bool

    package init(paths: [[UInt8]], target: FilePath, overwrites: Bool, includesDeleted: Bool) {
        self.paths = paths
        self.target = target
        self.overwrites = overwrites
        self.includesDeleted = includesDeleted
    }

    /// What came back, and what a person must know of it.
    package struct Result: Sendable {
        package var report: Restorer.Report
        package var notes: [String]
    }

    /// By the local state. Throws `stateFailed` if there is none, `invalidPath` for a path that no source holds, and
    /// a holding error if the destination is not there.
    package func run(state directory: StateDirectory) throws(SafeBackupError) -> Result {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let status = try reader.status()
        var chosen: [Choice] = []
        for pair in status.pairs {
            guard let source = status.sources.first(where: { $0.record.id == pair.record.source })?.record,
                let destination = status.destinations.first(where: { $0.record.id == pair.record.destination })?.record
            else { continue }
            chosen.append(
                Choice(
                    source: source.id, destination: destination.id, path: source.path,
                    root: FilePath(bytes: destination.location), sentinel: destination.sentinel,
                    isActive: pair.record.isActive, prefix: pair.record.prefix))
        }
        // A path that was named in full tells its source; else it is one of those that the agent ran with last.
        let isNamed = !paths.isEmpty && paths.allSatisfy { $0.first == UInt8(ascii: "/") }
        if isNamed {
            let wanted = try SourcePath.resolveArgument(paths[0], chosen.map { ($0.source, $0.path) }).map(\.source)
            chosen.removeAll { !wanted.contains($0.source) }
            if chosen.contains(where: \.isActive) { chosen.removeAll { !$0.isActive } }
        } else if chosen.contains(where: \.isActive) {
            chosen.removeAll { !$0.isActive }
        }
        let (there, backup) = try Self.firstThatIsThere(Self.bestFirst(chosen, in: status))
        let notes =
            chosen.contains { $0.destination != there.destination } ? ["From \(printable(there.root.bytes))"] : []
        return try restore(
            from: reader, chosen.filter { $0.destination == there.destination }, backup: backup, notes: notes)
    }

    /// Destinations that lack the least first.
    private static func bestFirst(_ choices: [Choice], in status: StateStatus) -> [Choice] {
        func lack(_ choice: Choice) -> (Int, Int) {
            let destination = status.destinations.first { $0.record.id == choice.destination }
            guard let destination else { return (1, .max) }
            let counts = destination.counts
            return (destination.record.hold == nil ? 0 : 1, counts.pending + counts.leased + counts.stuck)
        }
        return choices.enumerated().sorted { left, right in
            let (first, second) = (lack(left.element), lack(right.element))
            return first == second ? left.offset < right.offset : first < second
        }.map(\.element)
    }

    /// - Throws: what is wrong with the first destination, if none is there.
    private static func firstThatIsThere(
        _ choices: [Choice]
    ) throws(SafeBackupError) -> (choice: Choice, backup: ConfinedDirectory) {
        var failure = SafeBackupError(
            .stateFailed, "This state has saved nothing yet; name the backup with --from DESTINATION",
            disposition: .permanent)
        for (index, choice) in choices.enumerated() {
            do throws(SafeBackupError) {
                return (choice, try openKnownBackup(choice))
            } catch {
                if index == 0 { failure = error }
            }
        }
        throw failure
    }

    private static func openKnownBackup(_ choice: Choice) throws(SafeBackupError) -> ConfinedDirectory {
        let backup = try openBackup(choice.root)
        if let sentinel = choice.sentinel, try LocalDestination.inspect(choice.root).sentinel?.id != sentinel {
            throw SafeBackupError(
                .sentinelMissing,
                "\(printable(choice.root.bytes)) does not hold the backup that this state knows; mount its disk, or name "
                    + "it with --from DESTINATION", disposition: .destinationUnavailable)
        }
        return backup
    }

    /// Below one target, the trees of several sources would be one.
    private func refuseMixing(_ choices: [Choice]) throws(SafeBackupError) {
        let sources = Set(choices.map(\.path))
        if sources.count < 2 { return }
        let isAbsolute = !paths.isEmpty && paths.allSatisfy { $0.first == UInt8(ascii: "/") }
        let wanted = try paths.map { path throws(SafeBackupError) in
            try SourcePath.resolveArgument(path, choices.map { ($0.path, $0.path) }).map(\.source)
        }
        if isAbsolute, Set(wanted.joined()).count == 1 { return }
        let names = sources.map { printable($0) }.sorted().joined(separator: ", ")
        throw SafeBackupError(
            .invalidPath,
            "The backup holds several sources (\(names)); restore from one at a time, by absolute paths",
            disposition: .permanent)
    }

    /// From the destination alone, on this or any other machine.
    package func run(from destination: FilePath) throws(SafeBackupError) -> Result {
        let backup = try Self.openBackup(destination)
        let catalogue = destination.appending(".safebackup").appending("catalogue")
        let (newest, refused) = CatalogueFile.newestFinished(
            of: [catalogue.appending("a.db"), catalogue.appending("b.db")])
        var notes = refused.map { "A catalogue copy is not used: \($0.error.message)" }
        guard let newest else {
            notes.append(
                "There is no catalogue copy: files come back as they lie in the backup, also those that were deleted "
                    + "at the source, and nothing is compared with a digest")
            return try restorePlain(backup, notes: notes)
        }
        notes.append(
            "By the catalogue copy of \(newest.header.exportedAt.iso8601); what was stored since comes back as it lies in "
                + "the backup")
        let choices = try newest.catalogueSources().map { source in
            Choice(
                source: source.id, destination: CatalogueFileReader.destination, path: source.path, root: destination,
                sentinel: nil, isActive: true, prefix: source.prefix ?? .root)
        }
        return try restore(from: newest, choices, backup: backup, isOlder: true, notes: notes)
    }

    private struct Choice: Sendable {
        var source: SourceID
        var destination: DestinationID
        var path: [UInt8]
        var root: FilePath
        var sentinel: String?
        var isActive: Bool
        /// What its copies lie under.
        var prefix: RelativePath
    }

    private static func openBackup(_ path: FilePath) throws(SafeBackupError) -> ConfinedDirectory {
        do {
            return try ConfinedDirectory(opening: path)
        } catch {
            throw SafeBackupError(
                .destinationMissing,
                "The backup \(printable(path.bytes)) cannot be opened: \(error.explanation); mount its disk",
                disposition: .destinationUnavailable, systemError: error.rawValue)
        }
    }

    private func openTarget() throws(SafeBackupError) -> ConfinedDirectory {
        try SHA256.requireAvailable()
        do throws(Errno) {
            do throws(Errno) {
                try systemCall("mkdir") { target.withPlatformString { mkdir($0, 0o755) } }
            } catch {
                if error != .fileExists { throw error }
            }
            return try ConfinedDirectory(opening: target)
        } catch {
            throw SafeBackupError(
                .invalidConfiguration,
                "The target \(printable(target.bytes)) cannot be used: \(error.explanation); name a directory whose "
                    + "parent is there", disposition: .permanent, systemError: error.rawValue)
        }
    }

    private func restore(
        from reader: some CatalogueReading, _ choices: [Choice], backup: ConfinedDirectory, isOlder: Bool = false,
        notes: [String]
    ) throws(SafeBackupError) -> Result {
        try refuseMixing(choices)
        var wanted: [(choice: Choice, path: RelativePath)] = []
        for argument in paths.isEmpty ? [Array(".".utf8)] : paths {
            wanted += try SourcePath.resolveArgument(argument, choices.map { ($0, $0.path) }).map {
                ($0.source, $0.path)
            }
        }
        var restorer = Restorer(backup: backup, target: try openTarget(), overwrites: overwrites)
        var notes = notes
        let lookup = isOlder ? PlainLookup(backup) : nil
        var unknown: [RelativePath] = []
        var known: Set<RelativePath> = []
        for (choice, path) in wanted {
            var found = try restore(choice, path, .live, from: reader, lookup, with: &restorer)
            if lookup != nil {
                let newer = try restoreNewer(choice, path, than: reader, in: backup, with: &restorer)
                if newer > 0 {
                    notes.append("\(counted(newer, "entry", "entries")) below \(path) not in the catalogue copy")
                }
                found += newer
            }
            if includesDeleted || (found == 0 && !path.isRoot) {
                found += try restore(choice, path, .deleted, from: reader, nil, with: &restorer)
            }
            if found > 0 { known.insert(path) } else { unknown.append(path) }
        }
        // A relative path is looked for in each source, and need not be in all of them.
        for path in unknown where known.insert(path).inserted {
            restorer.note(path, "nothing in the backup is called so")
        }
        return Result(report: restorer.finish(), notes: notes)
    }

    private func restore(
        _ choice: Choice, _ path: RelativePath, _ scope: NameScope, from reader: some CatalogueReading,
        _ lookup: PlainLookup?, with restorer: inout Restorer
    ) throws(SafeBackupError) -> Int {
        var cursor: NameCursor?
        var count = 0
        repeat {
            let page = try reader.names(
                choice.source, choice.destination, within: path, scope, after: cursor, limit: 1_000)
            for entry in page.entries {
                switch lookup?.find(entry) {
                case nil, .asRecorded: break
                case .newer(let status):
                    restorer.restore(RestoreEntry(plain: entry.path, at: entry.copy?.location, status))
                    continue
                case .missing:
                    restorer.note(
                        entry.path,
                        "its stored copy was renamed or removed after the catalogue copy was written, or is lost")
                    continue
                }
                restorer.restore(
                    RestoreEntry(
                        path: entry.path, kind: entry.name.kind, location: entry.copy?.location,
                        digest: entry.copy?.digest, mtime: entry.name.fingerprint.mtime,
                        metadata: entry.name.metadata, linkTarget: entry.name.linkTarget,
                        isFuzzy: entry.name.isFuzzy))
            }
            count += page.entries.count
            cursor = page.next
        } while cursor != nil
        return count
    }

    /// What lies in the backup and is not in its catalogue copy: stored, or renamed, after that was written.
    private func restoreNewer(
        _ choice: Choice, _ start: RelativePath, than reader: some CatalogueReading, in backup: ConfinedDirectory,
        with restorer: inout Restorer
    ) throws(SafeBackupError) -> Int {
        if choice.prefix.appending(start).components.first == Array(".safebackup".utf8) { return 0 }
        var waiting = [start]
        var count = 0
        while let path = waiting.popLast() {
            let status: FileStatus
            let location = choice.prefix.appending(path)
            do throws(Errno) {
                status = try backup.status(of: location)
                if status.kind == .directory {
                    var leaves: [[UInt8]] = []
                    try backup.openDirectory(location).forEachEntry { leaf, _ in leaves.append(leaf) }
                    for leaf in leaves where !(location.isRoot && Self.ownNames.contains(leaf)) {
                        waiting.append(path.appending(leaf))
                    }
                }
            } catch {
                if error != .noSuchFileOrDirectory && error != .notDirectory {
                    restorer.note(path, "cannot be read in the backup: \(error.explanation)")
                }
                continue
            }
            if path.isRoot { continue }
            let known = try reader.names(
                choice.source, choice.destination, within: path, .history, after: nil, limit: 1
            ).entries.filter { $0.path == path }
            if known.contains(where: { PlainLookup.isRecorded($0, status) }) { continue }
            // A live one that differs came back with those of the catalogue.
            if known.contains(where: { $0.endedAt == nil && $0.name.kind != .directory && status.kind != .directory }) {
                continue
            }
            restorer.restore(RestoreEntry(plain: path, at: location, status))
            count += 1
        }
        return count
    }

    /// At a backup's top, and no part of it.
    private static let ownNames = [Array(".safebackup".utf8), Array("lost+found".utf8)]

    /// Without any catalogue: what lies in the backup, outside of `.safebackup`.
    private func restorePlain(_ backup: ConfinedDirectory, notes: [String]) throws(SafeBackupError) -> Result {
        var restorer = Restorer(backup: backup, target: try openTarget(), overwrites: overwrites)
        for argument in paths.isEmpty ? [Array(".".utf8)] : paths {
            for (_, path) in try SourcePath.resolveArgument(argument, [((), Array("/".utf8))]) {
                do throws(Errno) {
                    try restorePlain(path, in: backup, with: &restorer)
                } catch {
                    restorer.note(path, "cannot be read in the backup: \(error.explanation)")
                }
            }
        }
        return Result(report: restorer.finish(), notes: notes)
    }

    private func restorePlain(
        _ start: RelativePath, in backup: ConfinedDirectory, with restorer: inout Restorer
    ) throws(Errno) {
        // What is ours is no part of the backup.
        if start.components.first == Array(".safebackup".utf8) { throw .noSuchFileOrDirectory }
        var waiting = [start]
        while let path = waiting.popLast() {
            let status = try backup.status(of: path)
            restorer.restore(RestoreEntry(plain: path, status))
            guard status.kind == .directory else { continue }
            var leaves: [[UInt8]] = []
            try backup.openDirectory(path).forEachEntry { leaf, _ in leaves.append(leaf) }
            for leaf in leaves where !(path.isRoot && leaf == Array(".safebackup".utf8)) {
                waiting.append(path.appending(leaf))
            }
        }
    }
}

/// Compares a catalogue copy that may be older than the backup with what lies there.
private struct PlainLookup {
    enum Finding {
        case asRecorded
        case newer(FileStatus)
        case missing
    }

    private let backup: ConfinedDirectory

    init(_ backup: ConfinedDirectory) { self.backup = backup }

    func find(_ entry: CatalogueEntry) -> Finding {
        guard let copy = entry.copy else { return .asRecorded }
        do throws(Errno) {
            let status = try backup.status(of: copy.location)
            return Self.isRecorded(entry, status) ? .asRecorded : .newer(status)
        } catch {
            return error == .noSuchFileOrDirectory || error == .notDirectory ? .missing : .asRecorded
        }
    }

    /// Whether what lies there is what the catalogue says: for files by size and mtime.
    static func isRecorded(_ entry: CatalogueEntry, _ status: FileStatus) -> Bool {
        if status.kind != entry.name.kind { return false }
        guard status.kind == .file, let copy = entry.copy else { return true }
        return status.size == copy.size && (copy.mtime == nil || status.fingerprint.mtime == copy.mtime)
    }
}

extension RestoreEntry {
    /// As it lies in the backup, of which nothing more is known.
    /// - Parameter location: where it lies; `nil`: under its path.
    fileprivate init(plain path: RelativePath, at location: RelativePath? = nil, _ status: FileStatus) {
        self.init(
            path: path, kind: status.kind, location: status.kind == .directory ? nil : location ?? path,
            mtime: status.fingerprint.mtime,
            // A file's own are read with its attributes when it is opened.
            metadata: status.kind == .file ? nil : FileMetadata(mode: status.mode, uid: status.uid, gid: status.gid))
    }
}
