import Glibc
package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage

/// A source's root: the path that was configured, and what the directory there was when it was looked at. Keeps nothing
/// open: each piece of work opens the root for itself, so that its file system can be unmounted in between.
package struct SourceRoot: Sendable {
    package let path: FilePath
    package let identity: RootIdentity
    /// The directory's own, as it was mounted then.
    package let status: FileStatus

    /// - Throws: `rootMissing` if nothing is at `path`, `rootReplaced` if it is not the directory of `known`,
    ///   `notAnswering` within seconds if nobody answers.
    package init(path: FilePath, known: RootIdentity?) throws(SafeBackupError) {
        self.path = path
        if !TimedLooks.shared.answers(path) {
            throw .notAnswering("The source \(printable(path.bytes))", disposition: .transient)
        }
        (_, identity, status) = try Self.open(path, staysOnMount: false)
        if let known, !known.matches(identity) { throw Self.replaced(path) }
    }

    /// The directory, if the path still leads to it. Throws as `init`.
    /// - Parameter staysOnMount: see `ConfinedDirectory`.
    package func opened(staysOnMount: Bool = false) throws(SafeBackupError) -> ConfinedDirectory {
        let (tree, now, there) = try Self.open(path, staysOnMount: staysOnMount)
        guard identity.matches(now), there.device == status.device,
            there.fingerprint.inode == status.fingerprint.inode
        else { throw Self.replaced(path) }
        return tree
    }

    /// A look that the path still leads to the directory. Throws as `init`.
    package func verify() throws(SafeBackupError) { _ = try opened() }

    private static func open(
        _ path: FilePath, staysOnMount: Bool
    ) throws(SafeBackupError) -> (ConfinedDirectory, RootIdentity, FileStatus) {
        do throws(Errno) {
            let tree = try ConfinedDirectory(opening: path, staysOnMount: staysOnMount)
            return (tree, try RootIdentity(of: tree.root), try tree.root.status())
        } catch {
            let name = "The source \(printable(path.bytes))"
            switch error {
            case .noSuchFileOrDirectory, .notDirectory:
                throw SafeBackupError(
                    .rootMissing,
                    "\(name) is not there; nothing is removed from the backup, and saving goes on by itself when it is "
                        + "back",
                    disposition: .transient, systemError: error.rawValue)
            case .permissionDenied:
                throw SafeBackupError(
                    .unreadable,
                    "\(name) may not be read: \(error.explanation); run as a user who may; saving goes on by itself then",
                    disposition: .transient, systemError: error.rawValue)
            case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory:
                throw SafeBackupError(
                    .exhausted, "\(name) cannot be opened now: \(error.explanation) (see ulimit -n)",
                    disposition: .transient, systemError: error.rawValue)
            default:
                throw SafeBackupError(
                    .sourceFailed,
                    "\(name) cannot be opened: \(error.explanation); check its disk; saving goes on by itself when it "
                        + "can be read",
                    disposition: .transient, systemError: error.rawValue)
            }
        }
    }

    private static func replaced(_ path: FilePath) -> SafeBackupError {
        let name = printable(path.bytes)
        return SafeBackupError(
            .rootReplaced,
            "At \(name) is another directory or file system than the one that was saved before: perhaps its disk is not "
                + "mounted; nothing is saved or removed until the known one is back, then it goes on by itself; if it "
                + "was replaced on purpose, 'safebackup accept \(name)' shows what would follow",
            disposition: .transient)
    }
}
