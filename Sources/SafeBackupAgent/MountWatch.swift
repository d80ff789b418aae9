import SafeBackupSystem
import SystemPackage

/// Whether something was mounted or unmounted below a source since the last look. Cheap while nothing is, anywhere.
/// Blocks: runs on an I/O thread.
final class MountWatch: Sendable {
    private let directory: FilePath
    private let table: MountTable?
    private let known: Locked<Set<MountTable.Mount>?>

    init(below directory: FilePath) {
        self.directory = directory
        do throws(Errno) {
            table = try MountTable()
        } catch {
            table = nil  // ignored because without /proc the walks still find it, only later
        }
        known = Locked(Self.look(below: directory))
    }

    func hasChanged() -> Bool {
        do throws(Errno) {
            guard let table, try table.hasChanged() else { return false }
        } catch {
            return false  // ignored, as above
        }
        guard let now = Self.look(below: directory) else { return false }
        return known.withLock { known in
            defer { known = now }
            return known != now
        }
    }

    private static func look(below directory: FilePath) -> Set<MountTable.Mount>? {
        do throws(Errno) {
            return try MountTable.mounts(below: directory)
        } catch {
            return nil  // ignored, as above
        }
    }
}
