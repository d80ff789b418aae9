import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// What lies in a backup and is not in a catalogue: after the copy of it was written, or where there is none.
extension RestorePlan {
    /// What lies in the backup and is not in its catalogue copy: stored, or renamed, after that was written.
    /// - Parameter onlyUnknown: not what differs from what is known of its path.
    func restoreNewer(
        _ choice: CatalogueSelection.Choice, _ start: RelativePath, than reader: any CatalogueReading,
        onlyUnknown: Bool = false, in backup: ConfinedDirectory, with restorer: inout Restorer
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
            if onlyUnknown && !known.isEmpty { continue }
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
    func restorePlain(_ backup: ConfinedDirectory, notes: [String]) throws(SafeBackupError) -> Result {
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
struct PlainLookup {
    enum Finding {
        case asRecorded
        case newer(FileStatus)
        case missing
        /// What the catalogue says lies among the versions now.
        case displaced(RelativePath)
    }

    private let backup: ConfinedDirectory
    private let findsVersions: Bool

    /// - Parameter findsVersions: what is not where the catalogue says is looked for among the versions.
    init(_ backup: ConfinedDirectory, findsVersions: Bool) {
        self.backup = backup
        self.findsVersions = findsVersions
    }

    func find(_ entry: CatalogueEntry) -> Finding {
        guard let copy = entry.copy else { return .asRecorded }
        do throws(Errno) {
            let status = try backup.status(of: copy.location)
            if Self.isRecorded(entry, status) { return .asRecorded }
            return version(of: copy).map(Finding.displaced) ?? .newer(status)
        } catch {
            guard error == .noSuchFileOrDirectory || error == .notDirectory else { return .asRecorded }
            return version(of: copy).map(Finding.displaced) ?? .missing
        }
    }

    /// Where the copy went when another one took its place: of a file, by its name, size and mtime. The restore compares
    /// digests.
    private func version(of copy: CopyRecord) -> RelativePath? {
        guard findsVersions, copy.kind == .file, let mtime = copy.mtime, !copy.location.isWithin(Layout.area) else {
            return nil
        }
        let parent = Layout.versions.appending(copy.location.parent)
        let start = copy.location.leaf + [UInt8(ascii: "@")]
        do throws(Errno) {
            let directory = try backup.openDirectory(parent)
            var leaves: [[UInt8]] = []
            try directory.forEachEntry { leaf, _ in if leaf.starts(with: start) { leaves.append(leaf) } }
            // The oldest that fits: later ones replaced it.
            for leaf in leaves.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                let status = try directory.status(of: leaf)
                if status.kind == .file && status.size == copy.size && status.fingerprint.mtime == mtime {
                    return parent.appending(leaf)
                }
            }
        } catch {
            return nil  // ignored because then it is told as not found
        }
        return nil
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
    init(plain path: RelativePath, at location: RelativePath? = nil, _ status: FileStatus) {
        self.init(
            path: path, kind: status.kind, location: status.kind == .directory ? nil : location ?? path,
            mtime: status.fingerprint.mtime,
            // A file's own are read with its attributes when it is opened.
            metadata: status.kind == .file ? nil : FileMetadata(mode: status.mode, uid: status.uid, gid: status.gid))
    }
}
