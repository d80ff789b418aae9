package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// How much room there is, and what lies where.
extension LocalDestination {
    /// See `statistics`, on a thread of its own.
    package func room() async throws(SafeBackupError) -> VolumeStatistics {
        try await io.run { () throws(SafeBackupError) in try self.statistics() }
    }

    /// Looks for stored copies by name, kind, size and time; nothing is read. Throws what holds the destination, and
    /// when a look fails: then nothing is known of any of them.
    package func look(at copies: [ExpectedCopy]) async throws(SafeBackupError) -> [CopyLook] {
        try await io.run { () throws(SafeBackupError) in try self.lookNow(at: copies) }
    }

    package func lookNow(at copies: [ExpectedCopy]) throws(SafeBackupError) -> [CopyLook] {
        let root = try attachedRoot()
        try root.check()
        return try Self.look(at: copies, in: root.base, root.capabilities)
    }

    /// As `look(at:)`, in a destination that another process may have attached.
    package static func look(
        at copies: [ExpectedCopy], in base: ConfinedDirectory, _ capabilities: Capabilities
    ) throws(SafeBackupError) -> [CopyLook] {
        var directories = DirectoryCache(base)
        var looks: [CopyLook] = []
        looks.reserveCapacity(copies.count)
        for copy in copies {
            do throws(Errno) {
                let status = try directories.directory(copy.location.parent).status(of: copy.location.leaf)
                // A file with another name stays where that one is.
                let frees = status.linkCount > 1 ? 0 : status.allocated
                looks.append(isSame(status, copy, capabilities) ? .same(frees: frees) : .other)
            } catch {
                switch error {
                case .noSuchFileOrDirectory: looks.append(.missing)
                // Somebody put something else, perhaps a link, in the place of a directory.
                case .notDirectory, .tooManySymbolicLinkLevels: looks.append(.other)
                default: throw Failure.destination(error, "look at", copy.location)
                }
            }
        }
        return looks
    }
}
