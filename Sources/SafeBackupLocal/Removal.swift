import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Glibc

/// Removes what is ours to remove: unfinished copies, and versions that the agent's rules gave up.
enum Removal {
    /// Removes everything in `directory` with all below it: never through a link, never on another file system.
    static func empty(_ directory: Descriptor) throws(Errno) {
        let device = try directory.status().device
        try empty(directory, device: device, depth: 0)
    }

    private static func empty(_ directory: Descriptor, device: UInt64, depth: Int) throws(Errno) {
        // A descriptor for each level; a tree this deep is not ours.
        if depth > 200 { throw .directoryNotEmpty }
        var entries: [[UInt8]] = []
        try directory.forEachEntry { name, _ in entries.append(name) }
        for name in entries {
            do {
                try directory.remove(name)
                continue
            } catch {
                if error == .noSuchFileOrDirectory { continue }
                guard error == .isDirectory || error == .notPermitted else { throw error }
            }
            let below = try directory.open(name, O_RDONLY | O_DIRECTORY)
            guard try below.status().device == device else { throw .improperLink }
            try empty(below, device: device, depth: depth + 1)
            try directory.remove(name, isDirectory: true)
        }
    }

    /// Removes versions, and then the directories below `versions/` that became empty. One that is gone is no error.
    static func remove(versions: [RelativePath], in root: AttachedRoot) throws(SafeBackupError) {
        for version in versions where !version.isWithin(Layout.versions) || version == Layout.versions {
            throw SafeBackupError(
                .invalidPath, "\(version) is not below .safebackup/versions: only kept versions are removed",
                disposition: .permanent)
        }
        do throws(Errno) {
            var flush = try GroupFlush(root)
            var directories = DirectoryCache(root.base)
            var parents: Set<RelativePath> = []
            for version in versions {
                guard let parent = try existing(version.parent, &directories) else { continue }
                do {
                    try parent.remove(version.leaf)
                } catch {
                    if error != .noSuchFileOrDirectory { throw error }
                }
                try flush.changed(parent, at: version.parent)
                parents.insert(version.parent)
            }
            try removeIfEmpty(parents, &directories, &flush)
            try flush.flush()
        } catch {
            throw Failure.destination(error, "remove versions in", Layout.versions)
        }
    }

    /// Removes the directories below `versions/` that the last version has left.
    static func removeVacatedVersions(in root: AttachedRoot) throws(SafeBackupError) {
        let vacated = root.takeVacated()
        if vacated.isEmpty { return }
        do throws(Errno) {
            var flush = try GroupFlush(root)
            var directories = DirectoryCache(root.base)
            try removeIfEmpty(Set(vacated), &directories, &flush)
            try flush.flush()
        } catch {
            throw Failure.destination(error, "remove empty directories in", Layout.versions)
        }
    }

    /// Deepest first, so that a chain of empty directories goes in one pass.
    private static func removeIfEmpty(
        _ parents: Set<RelativePath>, _ directories: inout DirectoryCache, _ flush: inout GroupFlush
    ) throws(Errno) {
        for parent in parents.sorted(by: { $0.bytes.count > $1.bytes.count }) {
            try removeIfEmpty(parent, &directories, &flush)
        }
    }

    /// Removes the directories of these that are empty, in the order given.
    static func removeEmpty(_ paths: [RelativePath], in root: AttachedRoot) throws(SafeBackupError) {
        do throws(Errno) {
            var flush = try GroupFlush(root)
            var directories = DirectoryCache(root.base)
            for path in paths where !path.isRoot && !path.isWithin(Layout.area) {
                guard let parent = try existing(path.parent, &directories) else { continue }
                // Under another spelling it is another directory, which is not to go.
                if root.layout.foldsCase, try !parent.lists(path.leaf) { continue }
                do {
                    try parent.remove(path.leaf, isDirectory: true)
                } catch {
                    switch error {
                    // Tombstones, or somebody else's, lie there; or it is no directory, or has another file system.
                    case .directoryNotEmpty, .fileExists, .resourceBusy, .notDirectory, .noSuchFileOrDirectory,
                        .notPermitted, .permissionDenied:
                        continue
                    default: throw error
                    }
                }
                directories.forget(path)
                try flush.changed(parent, at: path.parent)
            }
            try flush.flush()
        } catch {
            throw Failure.destination(error, "remove empty directories in", at: root.path)
        }
    }

    private static func removeIfEmpty(
        _ path: RelativePath, _ directories: inout DirectoryCache, _ flush: inout GroupFlush
    ) throws(Errno) {
        var path = path
        while path != Layout.versions && path.isWithin(Layout.versions) {
            guard let parent = try existing(path.parent, &directories) else { return }
            do {
                try parent.remove(path.leaf, isDirectory: true)
            } catch {
                // Not empty, or somebody made it a mount point: it stays.
                if [.directoryNotEmpty, .fileExists, .resourceBusy].contains(error) { return }
                if error != .noSuchFileOrDirectory { throw error }
            }
            directories.forget(path)
            try flush.changed(parent, at: path.parent)
            path = path.parent
        }
    }

    private static func existing(
        _ path: RelativePath, _ directories: inout DirectoryCache
    ) throws(Errno) -> Descriptor? {
        do {
            return try directories.directory(path)
        } catch {
            if [.noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels].contains(error) { return nil }
            throw error
        }
    }
}
