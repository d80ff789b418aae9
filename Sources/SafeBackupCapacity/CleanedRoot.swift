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
    init(_ path: FilePath, protected: [ProtectedDirectory] = []) throws(SafeBackupError) {
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
        let levels = try refuseAgents(directory)
        for other in protected { try refuse(other, levels) }
    }

    /// What tells a directory from all others.
    private struct Identity: Hashable {
        var device: UInt64
        var inode: UInt64

        init(_ status: FileStatus) { (device, inode) = (status.device, status.fingerprint.inode) }
    }

    /// The directory and all above it.
    private struct Levels {
        var identities: [Identity] = []
        /// The lowest that holds `.safebackup`.
        var sentinel: Int?

        init(_ directory: Descriptor, looksForSentinel: Bool) throws(Errno) {
            var current = directory
            var identity = Identity(try current.status())
            while true {
                if looksForSentinel, sentinel == nil, try CleanedRoot.hasSentinel(current) {
                    sentinel = identities.count
                }
                identities.append(identity)
                let above = try current.parentDirectory()
                let next = Identity(try above.status())
                if next == identity { return }
                (current, identity) = (above, next)
            }
        }
    }

    /// Looks for `.safebackup` in the directory and in all above it. What lies below is found by the walk.
    private func refuseAgents(_ directory: Descriptor) throws(SafeBackupError) -> Levels {
        let levels: Levels
        do throws(Errno) {
            levels = try Levels(directory, looksForSentinel: true)
        } catch {
            throw Self.failure("look into the directories above", path.printable, error)
        }
        if levels.identities.count == 1 {
            throw CleaningLimits.invalid(
                "\(path.printable) is the top of all directories; give the directory that holds the backups")
        }
        if let level = levels.sentinel { throw refusal(level == 0 ? "it holds" : "it lies in a directory that holds") }
        return levels
    }

    private func refuse(_ other: ProtectedDirectory, _ own: Levels) throws(SafeBackupError) {
        let levels: Levels
        do throws(Errno) {
            levels = try Levels(Descriptor.open(other.path, O_RDONLY | O_DIRECTORY), looksForSentinel: false)
        } catch {
            // What is not there holds nothing that could go. What cannot be opened by this user cannot be cleaned either.
            return
        }
        let isIn = other.coversInside && own.identities.contains(levels.identities[0])
        guard isIn || levels.identities.contains(own.identities[0]) else { return }
        let place = own.identities[0] == levels.identities[0] ? "it is" : isIn ? "it lies in" : "it holds"
        throw CleaningLimits.invalid(
            "\(path.printable) is not cleaned: \(place) \(other.meaning) (\(other.path.printable)), whose files are no "
                + "backups; give a directory that holds only backups")
    }

    fileprivate static func hasSentinel(_ directory: Descriptor) throws(Errno) -> Bool {
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
