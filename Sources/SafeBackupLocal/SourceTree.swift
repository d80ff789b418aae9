import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A source as one group reads it. Not shared between threads.
final class SourceTree {
    private let root: Descriptor
    private var directories: DirectoryCache
    /// Whether an inode number stays a file's own; `true` where the file system cannot be asked, as most have it.
    private let hasStableInodes: Bool
    /// Whether the file system tells of a file's writers.
    let hasLeases: Bool

    init(_ root: ConfinedDirectory) {
        self.root = root.root
        directories = DirectoryCache(root)
        do {
            let type = try VolumeStatistics(root.root).type
            (hasStableInodes, hasLeases) = (type.hasStableInodes, type.hasLeases)
        } catch {
            // Ignored because the first read of the source will tell what is wrong with it.
            (hasStableInodes, hasLeases) = (true, false)
        }
    }

    /// The directory of an entry, or `nil` when the path does not exist as directories: a part of it is missing, or
    /// is a file or a link, which is never followed.
    func directory(_ path: RelativePath) throws(SafeBackupError) -> Descriptor? {
        // Not opened again: a directory that may be passed, but not be listed, serves too.
        if path.isRoot { return root }
        do {
            return try directories.directory(path)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return nil
            case .improperLink: throw .otherFileSystem(path)
            default: throw Failure.source(error, path)
            }
        }
    }

    /// Whether a file is as it was when it had `known`.
    func isUnchanged(_ now: Fingerprint, since known: Fingerprint) -> Bool {
        now.ctime == known.ctime && isSameContent(now, known)
    }

    /// Whether only the ctime can differ: mode, owner or link count changed, not the content.
    func isSameContent(_ now: Fingerprint, _ known: Fingerprint) -> Bool {
        now.size == known.size && now.mtime == known.mtime && (!hasStableInodes || now.inode == known.inode)
    }
}
