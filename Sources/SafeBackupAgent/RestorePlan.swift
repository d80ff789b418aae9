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
                    isActive: pair.record.isActive))
        }
        // A path that was named in full tells its source; else it is one of those that the agent ran with last.
        let isNamed = !paths.isEmpty && paths.allSatisfy { $0.first == UInt8(ascii: "/") }
        if isNamed {
            let wanted = try SourcePath.resolve(paths[0], chosen.map { ($0.source, $0.path) }).map(\.source)
            chosen.removeAll { !wanted.contains($0.source) }
            if chosen.contains(where: \.isActive) { chosen.removeAll { !$0.isActive } }
        } else if chosen.contains(where: \.isActive) {
            chosen.removeAll { !$0.isActive }
        }
        guard let first = chosen.first else {
            throw SafeBackupError(
                .stateFailed, "This state has saved nothing yet; name the backup with --from DESTINATION",
                disposition: .permanent)
        }
        let backup = try Self.openBackup(first.root)
        if let sentinel = first.sentinel, try LocalDestination.inspect(first.root).sentinel?.id != sentinel {
            throw SafeBackupError(
                .sentinelMissing,
                "\(printable(first.root.bytes)) does not hold the backup that this state knows; mount its disk, or name "
                    + "it with --from DESTINATION", disposition: .destinationUnavailable)
        }
        return try restore(
            from: reader, chosen.filter { $0.destination == first.destination }, backup: backup, notes: [])
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
        notes.append("By the catalogue copy of \(newest.header.exportedAt.iso8601)")
        let choices = try newest.catalogueSources().map { source in
            Choice(
                source: source.id, destination: CatalogueFileReader.destination, path: source.path, root: destination,
                sentinel: nil, isActive: true)
        }
        return try restore(from: newest, choices, backup: backup, notes: notes)
    }

    private struct Choice: Sendable {
        var source: SourceID
        var destination: DestinationID
        var path: [UInt8]
        var root: FilePath
        var sentinel: String?
        var isActive: Bool
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
        from reader: some CatalogueReading, _ choices: [Choice], backup: ConfinedDirectory, notes: [String]
    ) throws(SafeBackupError) -> Result {
        var wanted: [(choice: Choice, path: RelativePath)] = []
        for argument in paths.isEmpty ? [Array(".".utf8)] : paths {
            wanted += try SourcePath.resolve(argument, choices.map { ($0, $0.path) }).map { ($0.source, $0.path) }
        }
        var restorer = Restorer(backup: backup, target: try openTarget(), overwrites: overwrites)
        var notes = notes
        for (choice, path) in wanted {
            var found = try restore(choice, path, .live, from: reader, with: &restorer)
            if includesDeleted || (found == 0 && !path.isRoot) {
                found += try restore(choice, path, .deleted, from: reader, with: &restorer)
            }
            if found == 0 { notes.append("Nothing in the backup is called \(path)") }
        }
        return Result(report: restorer.finish(), notes: notes)
    }

    private func restore(
        _ choice: Choice, _ path: RelativePath, _ scope: NameScope, from reader: some CatalogueReading,
        with restorer: inout Restorer
    ) throws(SafeBackupError) -> Int {
        var cursor: NameCursor?
        var count = 0
        repeat {
            let page = try reader.names(
                choice.source, choice.destination, within: path, scope, after: cursor, limit: 1_000)
            for entry in page.entries {
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

    /// Without any catalogue: what lies in the backup, outside of `.safebackup`.
    private func restorePlain(_ backup: ConfinedDirectory, notes: [String]) throws(SafeBackupError) -> Result {
        var restorer = Restorer(backup: backup, target: try openTarget(), overwrites: overwrites)
        var notes = notes
        for argument in paths.isEmpty ? [Array(".".utf8)] : paths {
            for (_, path) in try SourcePath.resolve(argument, [((), Array("/".utf8))]) {
                do throws(Errno) {
                    try restorePlain(path, in: backup, with: &restorer)
                } catch {
                    notes.append("\(path) cannot be read in the backup: \(error.explanation)")
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
            restorer.restore(
                RestoreEntry(
                    path: path, kind: status.kind, location: status.kind == .directory ? nil : path,
                    mtime: status.fingerprint.mtime,
                    // A file's own are read with its attributes when it is opened.
                    metadata: status.kind == .file
                        ? nil : FileMetadata(mode: status.mode, uid: status.uid, gid: status.gid)))
            guard status.kind == .directory else { continue }
            var leaves: [[UInt8]] = []
            try backup.openDirectory(path).forEachEntry { leaf, _ in leaves.append(leaf) }
            for leaf in leaves where !(path.isRoot && leaf == Array(".safebackup".utf8)) {
                waiting.append(path.appending(leaf))
            }
        }
    }
}
