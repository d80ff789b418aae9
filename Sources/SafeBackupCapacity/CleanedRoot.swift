import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// The directory that is cleaned, open, after it was made sure that it may be.
struct CleanedRoot: Sendable {
    /// As it was given, for messages.
    let path: FilePath
    let confined: ConfinedDirectory
    let status: FileStatus
    let volume: VolumeType
    let isReadOnly: Bool

    /// Throws `invalidConfiguration` if it is not there or the top of all directories,
    /// `destinationForbidden` or `destinationFailed` if it cannot be opened, and `destinationTaken` if it holds an agent's backup or
    /// lies in one.
    init(_ path: FilePath) throws(SafeBackupError) {
        self.path = path
        let directory: Descriptor
        do throws(Errno) {
            directory = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
            status = try directory.status()
            let volume = try VolumeStatistics(directory)
            (self.volume, isReadOnly) = (volume.type, volume.isReadOnly)
        } catch {
            throw Self.failure("open", path.printable, error)
        }
        confined = ConfinedDirectory(root: directory, staysOnMount: true)
        try refuseAgents(directory)
    }

    /// Looks for `.safebackup` in the directory and in all above it. What lies below is found by the walk.
    private func refuseAgents(_ directory: Descriptor) throws(SafeBackupError) {
        let found: Level?
        do throws(Errno) {
            found = try Self.search(directory, status)
        } catch {
            throw Self.failure("look into the directories above", path.printable, error)
        }
        switch found {
        case .top:
            throw SafeBackupError(
                .invalidConfiguration,
                "\(path.printable) is the top of all directories; give the directory that holds the backups",
                disposition: .permanent)
        case .sentinel(let level): throw refusal(level == 0 ? "it holds" : "it lies in a directory that holds")
        case nil: return
        }
    }

    private enum Level {
        case top
        /// So many directories up.
        case sentinel(Int)
    }

    private static func search(_ directory: Descriptor, _ status: FileStatus) throws(Errno) -> Level? {
        var (current, status, level) = (directory, status, 0)
        while true {
            if try hasSentinel(current) { return .sentinel(level) }
            let above = try current.parentDirectory()
            let next = try above.status()
            if next.device == status.device && next.fingerprint.inode == status.fingerprint.inode {
                return level == 0 ? .top : nil
            }
            (current, status, level) = (above, next, level + 1)
        }
    }

    private static func hasSentinel(_ directory: Descriptor) throws(Errno) -> Bool {
        do {
            return try directory.status(of: Array(".safebackup".utf8)).kind == .directory
        } catch {
            if error == .noSuchFileOrDirectory { return false }
            throw error
        }
    }

    /// The space on its file system.
    func usage() throws(Errno) -> DiskUsage { try DiskUsage(VolumeStatistics(confined.root)) }

    func refusal(_ sentinel: RelativePath) -> SafeBackupError { refusal("\(sentinel.parent) below it holds") }

    private func refusal(_ place: String) -> SafeBackupError {
        SafeBackupError(
            .destinationTaken,
            "\(path.printable) is not cleaned: \(place) the backup of an agent (.safebackup), which alone knows what may "
                + "be removed there; give a directory that holds none",
            disposition: .permanent)
    }

    /// A failure of the directory itself, or of a directory below it.
    func failure(_ action: String, _ place: RelativePath, _ error: Errno) -> SafeBackupError {
        Self.failure(action, "\(place.isRoot ? "" : "\(place) in ")\(path.printable)", error)
    }

    private static func failure(_ action: String, _ place: String, _ error: Errno) -> SafeBackupError {
        let code: SafeBackupError.Code =
            switch error {
            case .noSuchFileOrDirectory, .notDirectory: .invalidConfiguration
            case .permissionDenied, .notPermitted: .destinationForbidden
            case .readOnlyFileSystem: .destinationReadOnly
            default: .destinationFailed
            }
        return SafeBackupError(
            code, "Cannot \(action) \(place): \(error.explanation)", disposition: .permanent,
            systemError: error.rawValue)
    }
}

extension FilePath {
    var printable: String {
        withPlatformString { SafeBackupCore.printable(UnsafeRawBufferPointer(start: $0, count: strlen($0))) }
    }
}
