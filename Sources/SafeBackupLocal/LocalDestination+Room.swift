package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// How much room there is.
extension LocalDestination {
    /// The space on the attached destination's file system. Throws what holds the destination.
    package func statistics() async throws(SafeBackupError) -> VolumeStatistics {
        try await io.run { () throws(SafeBackupError) in
            let root = try self.attachedRoot()
            do throws(Errno) {
                return try VolumeStatistics(root.base.root)
            } catch {
                throw Failure.destination(error, "tell how full it is of", at: self.path)
            }
        }
    }
}
