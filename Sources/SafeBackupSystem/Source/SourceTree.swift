package import SafeBackupCore
import SystemPackage

/// What a source's file system keeps: by it two looks at a file are compared.
package struct SourceTraits: Sendable, Hashable {
    /// Whether an inode number stays a file's own; `true` where the file system cannot be asked, as most have it.
    package let hasStableInodes: Bool
    /// Whether the file system tells of a file's writers.
    package let hasLeases: Bool

    /// Of the file system that a source's root lies on.
    package init(of root: ConfinedDirectory) {
        do {
            let type = try VolumeStatistics(root.root).type
            (hasStableInodes, hasLeases) = (type.hasStableInodes, type.hasLeases)
        } catch {
            // Ignored because the first read of the source will tell what is wrong with it.
            (hasStableInodes, hasLeases) = (true, false)
        }
    }

    /// Whether a file is as it was when it had `known`.
    package func isUnchanged(_ now: Fingerprint, since known: Fingerprint) -> Bool {
        now.ctime == known.ctime && isSameContent(now, known)
    }

    /// Whether only the ctime can differ: mode, owner or link count changed, not the content.
    package func isSameContent(_ now: Fingerprint, _ known: Fingerprint) -> Bool {
        now.size == known.size && now.mtime == known.mtime && (!hasStableInodes || now.inode == known.inode)
    }
}

/// A source as one group reads it. Not shared between threads.
package final class SourceTree {
    private let root: Descriptor
    private var directories: DirectoryCache
    package let traits: SourceTraits

    /// - Parameter traits: where they are known already.
    package init(_ root: ConfinedDirectory, traits: SourceTraits? = nil) {
        self.root = root.root
        directories = DirectoryCache(root)
        self.traits = traits ?? SourceTraits(of: root)
    }

    /// The directory of an entry, or `nil` when the path does not exist as directories: a part of it is missing, or
    /// is a file or a link, which is never followed.
    package func directory(_ path: RelativePath) throws(SafeBackupError) -> Descriptor? {
        // Not opened again: a directory that may be passed, but not be listed, serves too.
        if path.isRoot { return root }
        do {
            return try directories.directory(path)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return nil
            case .improperLink: throw .otherFileSystem(path)
            default: throw ReadFailure.source(error, path)
            }
        }
    }
}
