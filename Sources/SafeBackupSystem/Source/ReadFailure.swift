package import SafeBackupCore
package import SystemPackage

/// Why a source's entry was not read, in words: the same whatever the destination is.
package enum ReadFailure {
    /// A system call failed. `ENOENT` and `ENOTDIR` are not failures and never come here.
    package static func source(_ error: Errno, _ path: RelativePath) -> SafeBackupError {
        switch error {
        case .permissionDenied, .notPermitted:
            SafeBackupError(
                .unreadable, "Cannot read \(path): permission denied; let the agent's user read it, or exclude it",
                disposition: .transient, systemError: error.rawValue)
        // ELOOP: it became a link; EISDIR, ESPIPE: a directory, or a FIFO.
        case .tooManySymbolicLinkLevels, .isDirectory, .illegalSeek: changedKind(path)
        case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory: exhausted(error, path.description)
        default:
            SafeBackupError(
                .sourceFailed, "Reading \(path) failed: \(error.explanation); check the source's disk",
                disposition: .transient, systemError: error.rawValue)
        }
    }

    package static func exhausted(_ error: Errno, _ name: String) -> SafeBackupError {
        SafeBackupError(
            .exhausted, "No resources for \(name): \(error.explanation); it is tried again (see ulimit -n)",
            disposition: .transient, systemError: error.rawValue)
    }

    /// FIFOs, sockets and devices are never opened.
    package static func special(_ path: RelativePath, _ kind: EntryKind) -> SafeBackupError {
        SafeBackupError(
            .specialFile, "\(path) is a \(kind.rawValue) and is not saved; exclude it to silence this",
            disposition: .permanent)
    }

    package static func interrupted(_ path: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .interrupted, "\(path) was not copied to its end, because the agent stops; it is copied at the next start",
            disposition: .transient)
    }

    package static func torn(_ path: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .torn, "\(path) changed while it was read; it is read again when it is quiet", disposition: .transient)
    }

    /// No failure: it is written, and read when it is quiet or has waited for long enough.
    package static func unsettled(_ path: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .unsettled, "\(path) is still being written; it is read when it is quiet", disposition: .transient)
    }

    package static func changedKind(_ path: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .changedKind, "\(path) became something else while it was opened; it is tried again",
            disposition: .transient)
    }

    /// The roots of sources are opened before a group is stored.
    package static func notOpen(_ path: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .rootMissing, "The source of \(path) is not open; it is tried again", disposition: .transient)
    }
}
