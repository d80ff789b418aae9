import Glibc
package import SafeBackupCore
package import SystemPackage

/// A file that a program gives by its path, to be saved under a name: links on the way to it are followed, and so is a
/// link that it is itself.
package enum GivenFile {
    /// Where it lies when all links are followed. The corresponding C function is `realpath`.
    package static func resolve(_ path: FilePath) throws(Errno) -> FilePath {
        var found: FilePath?
        var failure = Errno.noSuchFileOrDirectory
        path.withPlatformString { text in
            if let resolved = realpath(text, nil) {
                found = FilePath(platformString: resolved)
                free(resolved)
            } else {
                failure = Errno(rawValue: errno)
            }
        }
        guard let found else { throw failure }
        return found
    }

    /// Why it is not saved, where a system call failed; `isDirectory` stands for all that is no regular file.
    package static func failure(_ file: FilePath, _ error: Errno) -> SafeBackupError {
        let name = file.withPlatformString {
            printable(UnsafeRawBufferPointer(start: $0, count: strlen($0)))
        }
        switch error {
        case .noSuchFileOrDirectory, .notDirectory:
            return SafeBackupError(
                .sourceGone, "There is no file \(name); give one that is there", disposition: .sourceGone,
                systemError: error.rawValue)
        case .isDirectory:
            return SafeBackupError(
                .specialFile, "\(name) is no regular file, and only those are saved; give a file",
                disposition: .permanent)
        case .permissionDenied, .notPermitted:
            return SafeBackupError(
                .unreadable, "\(name) may not be read by this user; let it read the file", disposition: .permanent,
                systemError: error.rawValue)
        default:
            return SafeBackupError(
                .sourceFailed, "\(name) cannot be looked at: \(error.explanation); check its disk",
                disposition: .transient, systemError: error.rawValue)
        }
    }
}
