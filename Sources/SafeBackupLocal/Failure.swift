import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Turns errno into errors, once, at the edge that knows which side failed and what was being done.
enum Failure {
    /// Reading the source failed. `ENOENT` and `ENOTDIR` are not failures and never come here.
    static func source(_ error: Errno, _ path: RelativePath) -> SafeBackupError {
        ReadFailure.source(error, path)
    }

    /// Writing to the destination, or looking at it, failed. `doing` continues "Cannot …".
    static func destination(_ error: Errno, _ doing: String, _ location: RelativePath) -> SafeBackupError {
        destination(error, "Cannot \(doing) \(location) in the destination", of: location.description)
    }

    /// As above, of the destination itself.
    static func destination(_ error: Errno, _ doing: String, at path: FilePath) -> SafeBackupError {
        let name = printable(path.bytes)
        return destination(error, "Cannot \(doing) the destination \(name)", of: name)
    }

    private static func destination(_ error: Errno, _ attempt: String, of name: String) -> SafeBackupError {
        let what = "\(attempt): \(error.explanation)"
        switch error {
        case .noSpace, .diskQuotaExceeded:
            return make(.destinationFull, what + "; free space there", .destinationFull, error)
        case .readOnlyFileSystem:
            return make(
                .destinationReadOnly,
                what + "; mount it read-write, and check the disk if it was; saving goes on by itself then",
                .destinationUnavailable,
                error)
        case .permissionDenied, .notPermitted:
            return make(
                .destinationForbidden, what + "; let the agent's user write there (immutable files have chattr +i)",
                .transient, error)
        case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory, .resourceTemporarilyUnavailable:
            return exhausted(error, name)
        case .fileNameTooLong, .illegalByteSequence:
            return make(.nameTooLong, what + "; rename the file, or exclude it", .permanent, error)
        case .improperLink:
            return make(
                .destinationFailed, what + "; another file system is mounted below the destination", .permanent, error)
        case .fileTooLarge:
            return make(
                .destinationFailed, what + "; the destination's file system cannot hold a file of this size",
                .permanent,
                error)
        case .operationNotSupportedByDevice, .noSuchAddressOrDevice, .staleNFSFileHandle, .socketNotConnected:
            return make(.destinationFailed, what + "; check that the disk is connected", .destinationUnavailable, error)
        default:
            return make(.destinationFailed, what + "; it is tried again, check the disk if it stays", .transient, error)
        }
    }

    /// What was planned is not what is there now: harmless, planned again.
    static func surprise(_ location: RelativePath) -> SafeBackupError {
        SafeBackupError(
            .destinationFailed, "\(location) changed in the destination while it was being replaced; it is tried again",
            disposition: .transient)
    }

    static func full(_ location: RelativePath, _ space: RoomBudget) -> SafeBackupError {
        var what = "\(ByteCount(max(space.available, 0))) free in the destination; free space"
        if let inodes = space.inodes, space.isShortOfInodes {
            what =
                "the destination's disk can hold only \(max(inodes.available, 0)) more files of any size (inodes, see "
                + "df -i); remove files there that nobody needs"
        }
        return SafeBackupError(
            .destinationFull, "No room for \(location): \(what)", disposition: .destinationFull)
    }

    /// Only files are copied under names that callers give.
    static func notRegular(_ path: RelativePath, _ kind: EntryKind) -> SafeBackupError {
        SafeBackupError(
            .specialFile, "\(path) is a \(kind.rawValue), and only files can be saved; give a file",
            disposition: .permanent)
    }

    static func interrupted(_ path: RelativePath) -> SafeBackupError { ReadFailure.interrupted(path) }

    static func torn(_ path: RelativePath) -> SafeBackupError { ReadFailure.torn(path) }

    static func unsettled(_ path: RelativePath) -> SafeBackupError { ReadFailure.unsettled(path) }

    static func changedKind(_ path: RelativePath) -> SafeBackupError { ReadFailure.changedKind(path) }

    private static func exhausted(_ error: Errno, _ name: String) -> SafeBackupError {
        ReadFailure.exhausted(error, name)
    }

    private static func make(
        _ code: SafeBackupError.Code, _ message: String, _ disposition: Disposition, _ error: Errno
    ) -> SafeBackupError {
        SafeBackupError(code, message, disposition: disposition, systemError: error.rawValue)
    }
}
