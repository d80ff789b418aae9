import SafeBackupSystem
import SystemPackage

/// Whether something was mounted or unmounted below a source since the last look. Cheap while nothing is, anywhere.
struct MountWatch {
    private let directory: FilePath
    private let table: MountTable?
    private var known: Set<MountTable.Mount>?

    init(below directory: FilePath) {
        self.directory = directory
        do throws(Errno) {
            table = try MountTable()
        } catch {
            table = nil  // ignored because without /proc the walks still find it, only later
        }
        known = look()
    }

    mutating func haveChanged() -> Bool {
        do throws(Errno) {
            guard let table, try table.hasChanged() else { return false }
        } catch {
            return false  // ignored, as above
        }
        guard let now = look(), now != known else { return false }
        known = now
        return true
    }

    private func look() -> Set<MountTable.Mount>? {
        do throws(Errno) {
            return try MountTable.mounts(below: directory)
        } catch {
            return nil
        }
    }
}
