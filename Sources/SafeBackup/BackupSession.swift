public import SafeBackupCore
public import SystemPackage

/// Saves files under names that the caller gives, for programs that know themselves when something is to be saved.
///
/// All methods may be called from any number of tasks at once; saves that run at the same time share the costly waits.
public protocol BackupSession: Sendable {
    /// Copies a file. When this returns, the copy is whole, has the file's times, permissions and attributes, and
    /// survives a power cut: it was flushed to the disk, or the server has confirmed the object. After a crash before
    /// that, or a failure, `key` has what it had, or the new copy, whole.
    ///
    /// The save goes on when the calling task is cancelled.
    ///
    /// - Parameters:
    ///   - file: a regular file; links on the way to it are followed.
    ///   - key: where the copy lies in the backup. What a save under the same key stored before is replaced in one step.
    /// - Throws: `backupFailed` with the file, the key and the reason, or `closed`.
    func save(_ file: FilePath, as key: RelativePath) async throws(BackupSessionError)

    /// Returns when all that was asked for before is done: the saves, and the cleaning that they made necessary.
    ///
    /// - Parameter timeout: at most so long, if one is given; nothing is broken off then. A cancelled task waits no
    ///   longer either.
    /// - Throws: `cleaningTimeout` if something still goes on; else `savesFailed` with what was not saved since the last
    ///   call, though each save has told so itself; else `cleaningFailed` if a cleaning since the last call did not free
    ///   what was asked for. Each is told once. A key that is refused before the session has it is not among the saves.
    func waitForCompletion(timeout: Duration?) async throws(BackupSessionError)

    /// Takes no more saves, waits for those that were asked for and for a cleaning, and gives everything back. May be
    /// called again.
    func close() async
}

extension BackupSession {
    /// Copies a file, see `save(_:as:)`; the key is the UTF-8 bytes of `key`. Throws `backupFailed` for a key that is
    /// absolute, leaves the backup by `..`, or holds a NUL.
    public func save(_ file: FilePath, as key: String) async throws(BackupSessionError) {
        let path: RelativePath
        do {
            path = try RelativePath(key)
        } catch {
            throw .backupFailed(file: file, key: printable(key.utf8), reason: error)
        }
        try await save(file, as: path)
    }

    /// Returns when all that was asked for before is done, however long that takes; see `waitForCompletion(timeout:)`.
    public func waitForCompletion() async throws(BackupSessionError) { try await waitForCompletion(timeout: nil) }
}
