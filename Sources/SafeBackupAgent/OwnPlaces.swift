import Glibc
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// What is ours and may lie inside a source.
extension TreeFilter {
    /// The directories of an agent's state and destinations, for the source at `source`, which may be a destination itself.
    /// Blocks.
    static func ownPlaces(state: FilePath, destinations: [FilePath], in source: FilePath) -> [FileIdentity: SkipReason]
    {
        ownPlaces(
            [(state, SkipReason.ownState)]
                + destinations.filter { $0 != source }.map { ($0, SkipReason.ownDestination) })
    }

    /// What cannot be opened, or does not answer, has nothing to leave out.
    static func ownPlaces(_ places: [(FilePath, SkipReason)]) -> [FileIdentity: SkipReason] {
        var own: [FileIdentity: SkipReason] = [:]
        for (path, reason) in places where TimedLooks.shared.answers(path) {
            do throws(Errno) {
                own[FileIdentity(try Descriptor.open(path, O_RDONLY | O_DIRECTORY).status())] = reason
            } catch {
                continue  // ignored, as above
            }
        }
        return own
    }
}
