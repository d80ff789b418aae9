public import SafeBackupCapacity
public import SafeBackupCore
import SafeBackupSystem

extension BackupCleaner {
    /// Plans and does it as `clean()`, on a thread of its own: the caller is suspended and not blocked. What went wrong on
    /// the way is in the report; throws only as long as nothing was removed. It goes on when the calling task is
    /// cancelled.
    public func cleanInBackground() async throws(SafeBackupError) -> CleaningReport {
        let thread: ThreadExecutor
        do throws(Errno) {
            thread = try ThreadExecutor(name: "sb.cleaner")
        } catch {
            throw .noThread(error)
        }
        defer { thread.stop() }
        return try await thread.run { () throws(SafeBackupError) in try clean() }
    }
}
