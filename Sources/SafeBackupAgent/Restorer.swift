import Glibc
package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// One entry to get back: where it is stored, and what it was.
package struct RestoreEntry: Sendable {
    /// Relative to the source.
    package var path: RelativePath
    package var kind: EntryKind
    /// Below the destination's root; `nil` for a directory.
    package var location: RelativePath?
    package var digest: Digest?
    package var mtime: FileTime?
    package var metadata: FileMetadata?
    package var linkTarget: [UInt8]?
    package var isFuzzy: Bool

    package init(
        path: RelativePath, kind: EntryKind, location: RelativePath?, digest: Digest? = nil, mtime: FileTime? = nil,
        metadata: FileMetadata? = nil, linkTarget: [UInt8]? = nil, isFuzzy: Bool = false
    ) {
        self.path = path
        self.kind = kind
        self.location = location
        self.digest = digest
        self.mtime = mtime
        self.metadata = metadata
        self.linkTarget = linkTarget
        self.isFuzzy = isFuzzy
    }
}

/// Gets entries back: content, times, mode, owner, attributes. Never writes through a link, never outside the target
/// directory, and never over an existing entry unless told to. A file appears under its name only when it is whole.
package struct Restorer {
    package struct Report: Sendable {
        package var files = 0
        package var bytes: Int64 = 0
        package var directories = 0
        package var links = 0
        /// Path and reason, in order.
        package var problems: [(path: RelativePath, reason: String)] = []
    }

    let backup: ConfinedDirectory
    private let target: ConfinedDirectory
    private let overwrites: Bool
    private var stored: DirectoryCache
    private var made: DirectoryCache
    private var finishing: [(path: RelativePath, mtime: FileTime?, metadata: FileMetadata?)] = []
    /// Directories that were made only because something lies in them.
    private var implied: [RelativePath: (mtime: FileTime?, metadata: FileMetadata)] = [:]
    /// The last one that was looked at for what a killed restore left.
    private var tidied: RelativePath?
    private let content = StoredContent()
    private var fetchFailure: SafeBackupError?
    /// Of a bucket: gets a stored copy, instead of opening it below `backup`.
    var fetch: ((RelativePath) throws(SafeBackupError) -> Descriptor)?
    package private(set) var report = Report()

    /// - Parameters:
    ///   - backup: the destination's root.
    ///   - target: where the entries are put, under their paths relative to the source.
    package init(backup: ConfinedDirectory, target: ConfinedDirectory, overwrites: Bool) {
        self.backup = backup
        self.target = target
        self.overwrites = overwrites
        stored = DirectoryCache(backup)
        made = DirectoryCache(target)
    }

    /// Gets one entry back. What goes wrong with it stands in the report.
    package mutating func restore(_ entry: RestoreEntry) {
        // A catalogue on a disk may have been written by anybody.
        guard entry.path.staysBelow, entry.location?.staysBelow ?? true else {
            note(entry.path, "is no path below a root; the catalogue was tampered with, and nothing is written for it")
            return
        }
        do throws(Errno) {
            switch entry.kind {
            case .directory: try restoreDirectory(entry)
            case .symlink: try restoreLink(entry)
            case .file: try restoreFile(entry)
            case .fifo, .socket, .device: note(entry.path, "is not a file, a link or a directory")
            }
        } catch {
            switch error {
            case .fileExists: note(entry.path, "exists already and is left as it is (--overwrite replaces it)")
            case .tooManySymbolicLinkLevels, .notDirectory:
                note(entry.path, "a link or file stands where a directory is needed; nothing is written through it")
            case .isDirectory: note(entry.path, "a directory stands in its place and is left as it is; move it away")
            case .noSuchFileOrDirectory: note(entry.path, "its stored copy is not in the backup")
            default:
                note(entry.path, fetchFailure?.message ?? error.explanation)
                fetchFailure = nil
            }
        }
    }

    /// Sets the directories' own times and modes, innermost first, and ends.
    package mutating func finish() -> Report {
        for (path, directory) in implied { finishing.append((path, directory.mtime, directory.metadata)) }
        implied = [:]
        for directory in finishing.sorted(by: { $0.path > $1.path }) {
            do throws(Errno) {
                let open = try target.openDirectory(directory.path)
                apply(directory.metadata, mtime: directory.mtime, to: open, path: directory.path)
            } catch {
                note(directory.path, "its mode and times were not set: \(error.explanation)")
            }
        }
        finishing = []
        return report
    }

    /// Adds to the report what a person must know of a path.
    mutating func note(_ path: RelativePath, _ reason: String) { report.problems.append((path, reason)) }

    /// The directory that an entry belongs in. What is missing of it gets the mode, owner and time that it has in the
    /// backup: where nobody else may look there, nobody may here.
    private mutating func parent(of entry: RestoreEntry) throws(Errno) -> Descriptor {
        var new: [RelativePath] = []
        let directory = try made.makingDirectory(entry.path.parent, mode: 0o700) { path, _ in new.append(path) }
        if new.isEmpty, tidied != entry.path.parent { try Self.tidy(directory) }
        tidied = entry.path.parent
        for path in new {
            implied[path] = (nil, FileMetadata(mode: 0o755, uid: geteuid(), gid: getegid()))
            for place in [Self.place(of: path, above: entry), path].compactMap(\.self) {
                do throws(Errno) {
                    let status = try backup.status(of: place)
                    guard status.kind == .directory else { continue }
                    let metadata = FileMetadata(mode: status.mode, uid: status.uid, gid: status.gid)
                    implied[path] = (status.fingerprint.mtime, metadata)
                    break
                } catch {
                    continue  // ignored because it need not be there: that of a deleted file may be gone
                }
            }
        }
        return directory
    }

    /// Where a directory above the entry is stored: as far above its copy, as long as the names are the same.
    private static func place(of directory: RelativePath, above entry: RestoreEntry) -> RelativePath? {
        guard var place = entry.location else { return nil }
        var path = entry.path
        while !path.isRoot, !place.isRoot, path.leaf == place.leaf {
            if path == directory { return place }
            (path, place) = (path.parent, place.parent)
        }
        return nil
    }

    private mutating func restoreDirectory(_ entry: RestoreEntry) throws(Errno) {
        if !entry.path.isRoot {
            do {
                try parent(of: entry).makeDirectory(entry.path.leaf, mode: 0o700)
            } catch {
                guard error == .fileExists else { throw error }
                let status = try parent(of: entry).status(of: entry.path.leaf)
                guard status.kind == .directory else { throw Errno.notDirectory }
                // One that this restore made for what lies in it gets what the backup tells; another keeps its own.
                if !overwrites && implied[entry.path] == nil {
                    if let metadata = entry.metadata, metadata.mode & 0o7777 != status.mode & 0o7777 {
                        note(entry.path, "exists already and keeps its own mode (--overwrite sets that of the backup)")
                    }
                    report.directories += 1
                    return
                }
            }
            implied[entry.path] = nil
            report.directories += 1
            finishing.append((entry.path, entry.mtime, entry.metadata))
        }
    }

    private mutating func restoreLink(_ entry: RestoreEntry) throws(Errno) {
        var text = entry.linkTarget
        if text == nil, let location = entry.location {
            text = try stored.directory(location.parent).linkTarget(of: location.leaf)
        }
        guard let text else { throw .noSuchFileOrDirectory }
        let directory = try parent(of: entry)
        let stage = Self.stageName
        try directory.makeSymbolicLink(stage, target: text)
        do throws(Errno) {
            try publish(stage, as: entry.path.leaf, in: directory)
        } catch {
            try directory.remove(stage)
            throw error
        }
        if let metadata = entry.metadata {
            do throws(Errno) {
                try directory.setOwner(of: entry.path.leaf, uid: metadata.uid, gid: metadata.gid)
            } catch {
                // Ignored because only root may give a link away; its owner matters little.
            }
        }
        if let mtime = entry.mtime { try directory.setModified(mtime, of: entry.path.leaf) }
        report.links += 1
    }

    private mutating func restoreFile(_ entry: RestoreEntry) throws(Errno) {
        guard let location = entry.location else { throw .noSuchFileOrDirectory }
        let source: Descriptor
        do throws(Errno) {
            source = try opened(location)
        } catch {
            guard error == .tooManySymbolicLinkLevels || error == .notDirectory else { throw error }
            note(
                entry.path,
                "its stored copy \(location) is a link, or lies behind one; somebody changed the backup, and no link in it "
                    + "is followed")
            return
        }
        let status = try source.status()
        guard status.kind == .file else {
            note(entry.path, "its stored copy is no longer a file; somebody changed the backup")
            return
        }
        let directory = try parent(of: entry)
        let stage = Self.stageName
        let file = try directory.open(stage, O_WRONLY | O_CREAT | O_EXCL)
        do throws(Errno) {
            let digest = try copy(from: source, size: status.size, to: file)
            var metadata = entry.metadata
            if metadata == nil {
                metadata = FileMetadata(
                    mode: status.mode, uid: status.uid, gid: status.gid, xattrs: try source.extendedAttributes())
            }
            apply(
                metadata, mtime: entry.mtime ?? status.fingerprint.mtime, to: file, path: entry.path)
            if let known = entry.digest, known != digest {
                note(
                    entry.path,
                    "its content does not have the recorded SHA-256; the backup was damaged or changed; it was "
                        + "restored as it is")
            } else if entry.isFuzzy {
                note(entry.path, "it changed while it was saved, so it may mix several states (fuzzy)")
            }
            try publish(stage, as: entry.path.leaf, in: directory)
        } catch {
            try directory.remove(stage)
            throw error
        }
        report.files += 1
        report.bytes += status.size
    }

    private mutating func opened(_ location: RelativePath) throws(Errno) -> Descriptor {
        guard let fetch else {
            return try stored.directory(location.parent).open(location.leaf, O_RDONLY | O_NONBLOCK)
        }
        do throws(SafeBackupError) {
            return try fetch(location)
        } catch {
            if error.code == .damaged { throw .noSuchFileOrDirectory }
            fetchFailure = error
            throw .ioError
        }
    }

    private static let stagePrefix = Array(".safebackup-restore-".utf8)

    private static var stageName: [UInt8] { stagePrefix + Array("\(getpid())".utf8) }

    /// Removes what restores left here that were killed: unfinished files of processes that are gone.
    private static func tidy(_ directory: Descriptor) throws(Errno) {
        var left: [[UInt8]] = []
        try directory.forEachEntry { leaf, _ in
            guard leaf.starts(with: stagePrefix) else { return }
            let digits = String(decoding: leaf.dropFirst(stagePrefix.count), as: UTF8.self)
            guard let process = Int32(digits), process > 0, "\(process)" == digits else { return }
            // Another process may have the number by now: then it stays until that one ends.
            if process == getpid() || !isRunning(process) { left.append(leaf) }
        }
        for leaf in left {
            // A directory of this name is not ours.
            if try directory.status(of: leaf).kind != .directory { try directory.remove(leaf) }
        }
    }

    private static func isRunning(_ process: Int32) -> Bool {
        do throws(Errno) {
            try systemCall("kill") { kill(process, 0) }
            return true
        } catch {
            return error != .noSuchProcess
        }
    }

    private func publish(_ stage: [UInt8], as leaf: [UInt8], in directory: Descriptor) throws(Errno) {
        if overwrites {
            try directory.rename(stage, to: directory, leaf)
            return
        }
        do {
            try directory.renameWithoutReplacing(stage, to: directory, leaf)
        } catch {
            // Some file systems have no RENAME_NOREPLACE; a link refuses an existing name just as well.
            guard error == .invalidArgument || error == .noFunction else { throw error }
            try directory.link(stage, to: directory, leaf)
            try directory.remove(stage)
        }
    }

    /// Copies content and keeps holes; the digest is of what was read.
    private func copy(from source: Descriptor, size: Int64, to file: Descriptor) throws(Errno) -> Digest {
        let digest = try content.read(source, size: size) { (part, offset) throws(Errno) in
            try file.write(part, at: offset)
        }
        try file.setSize(size)
        return digest
    }

    private mutating func apply(_ metadata: FileMetadata?, mtime: FileTime?, to file: Descriptor, path: RelativePath) {
        do throws(Errno) {
            if let metadata {
                var mode = metadata.mode
                do throws(Errno) {
                    try file.setOwner(uid: metadata.uid, gid: metadata.gid)
                } catch {
                    // Only root may give a file away. A setuid bit must not follow to another owner.
                    if metadata.uid != getuid() { mode &= 0o1777 }
                }
                for attribute in metadata.xattrs {
                    do throws(Errno) {
                        try file.setExtendedAttribute(attribute)
                    } catch {
                        note(path, "its attribute \(printable(attribute.name)) was not set: \(error.explanation)")
                    }
                }
                try file.setMode(mode)
            }
            if let mtime { try file.setModified(mtime) }
        } catch {
            note(path, "its mode or times were not set: \(error.explanation)")
        }
    }
}
