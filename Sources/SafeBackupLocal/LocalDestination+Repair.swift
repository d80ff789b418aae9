package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage
import Glibc

/// A sentinel that is there and cannot be read any more: a bad sector, or an editor.
extension LocalDestination {
    /// Where its catalogue copies lie, by which the destination can be known again; `nil` if its sentinel is not damaged.
    /// Writes nothing. Throws what keeps it from being looked at.
    package static func damaged(at path: FilePath) throws(SafeBackupError) -> [FilePath]? {
        let root = try AttachedRoot.open(path)
        guard let bytes = try AttachedRoot.readBytes(in: root), Sentinel.isDamaged(bytes) else { return nil }
        let catalogue = path.appending(".safebackup").appending("catalogue")
        return names.map { catalogue.appending($0) }
    }

    /// Writes a damaged sentinel anew. After a crash the damaged one or the new one is there.
    /// Throws `sentinelForeign` if it is not damaged now, `destinationTaken` if another agent has the destination.
    package func repairNow(id: String, sources: [SentinelSource]) throws(SafeBackupError) {
        let root = try AttachedRoot.open(path)
        guard let bytes = try AttachedRoot.readBytes(in: root), Sentinel.isDamaged(bytes) else {
            throw SafeBackupError(
                .sentinelForeign,
                "The mark of \(printable(path.bytes)) has changed since it was shown; look at it again",
                disposition: .destinationUnavailable)
        }
        let capabilities: Capabilities
        let area: Descriptor
        do throws(Errno) {
            area = try ConfinedDirectory(root: root).openDirectory(Layout.area)
        } catch {
            throw Failure.destination(error, "open \(Layout.area) in", at: path)
        }
        let lock = try AttachedRoot.lock(area, path)
        defer { ProcessLock.unlock(lock) }
        do throws(Errno) {
            capabilities = try Probe.run(in: try Self.ownDirectory(Layout.stagingLeaf, in: area))
        } catch {
            throw Failure.destination(error, "look at", at: path)
        }
        try AttachedRoot.write(try Sentinel(id: id, sources: sources, capabilities: capabilities).encoded(), in: area)
    }

    /// See `repairNow`.
    package func repair(id: String, sources: [SentinelSource]) async throws(SafeBackupError) {
        try await io.run { () throws(SafeBackupError) in try self.repairNow(id: id, sources: sources) }
    }
}
