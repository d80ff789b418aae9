package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Removing what a deleted path left at its own place.
extension LocalDestination {
    /// See `removeNow(tombstones:)`.
    package func remove(tombstones: [CopyRecord]) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.removeNow(tombstones: tombstones) }
    }

    /// Removes these copies where they still are what was stored; another file at the place stays, and one that is gone
    /// is no error. Durable when it returns. Not to be called while a group is in flight.
    package func removeNow(tombstones: [CopyRecord]) throws(SafeBackupError) {
        let root = try attachedRoot()
        try root.check()
        do throws(Errno) {
            var flush = try GroupFlush(root)
            var directories = DirectoryCache(root.base)
            for copy in tombstones where !copy.location.isRoot && !copy.location.isWithin(Layout.area) {
                do throws(Errno) {
                    let parent = try directories.directory(copy.location.parent)
                    let status = try parent.status(of: copy.location.leaf)
                    guard FinalState(status).holds(copy, live: nil, root) else { continue }
                    try parent.remove(copy.location.leaf)
                    try flush.changed(parent, at: copy.location.parent)
                } catch {
                    switch error {
                    case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: continue
                    default: throw error
                    }
                }
            }
            try flush.flush()
        } catch {
            throw Failure.destination(error, "remove deleted files in", at: path)
        }
    }
}
