import Glibc
package import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

/// What is known of the named paths before anything is written: that they can be used together, and what must be
/// left out of the source. Ancestors are compared by device and inode, not by string.
package struct Preflight: Sendable {
    /// Absolute, without links.
    package var source: FilePath
    /// Absolute, without links.
    package var destination: FilePath
    package var destinationExists: Bool
    package var sourceExists: Bool
    /// The destination lies, or will lie, below the source.
    package var isDestinationInside = false
    /// The state directory lies, or will lie, below the source.
    package var isStateInside = false
    /// Source and destination share a file system: one failing disk takes both.
    package var isSameDevice: Bool
    /// The file system there does not answer now: it is taken for one that is not there.
    package var isSourceSilent = false
    package var isDestinationSilent = false

    /// - Parameter known: destinations that the state knows. One of them may be missing with its parent, as below the
    ///   mount point of a disk that the desktop mounts: it is waited for.
    /// - Parameter mayBeAway: so may a destination that the state does not know.
    /// - Throws: `invalidConfiguration` when the two cannot be used together.
    package init(
        source: [UInt8], destination: [UInt8], state: FilePath, known: [[UInt8]] = [], mayBeAway: Bool = false
    ) throws(SafeBackupError) {
        if destination.starts(with: Array("s3://".utf8)) {
            throw Self.refusal(
                "This verb does not know buckets yet; 'safebackup run SOURCE s3://BUCKET/PREFIX' saves to one, and "
                    + "'restore', 'status', 'ls' and 'versions' tell of it")
        }
        guard !source.isEmpty, !destination.isEmpty else {
            throw Self.refusal("SOURCE and DESTINATION must not be empty")
        }
        (self.source, sourceExists) = try Self.canonical(source, role: "source")
        (self.destination, destinationExists) = try Self.canonical(
            destination, role: "destination", known: known, mayBeAway: mayBeAway)
        TimedLooks.shared.begin([self.source, self.destination])
        isSourceSilent = !TimedLooks.shared.answers(self.source)
        isDestinationSilent = !TimedLooks.shared.answers(self.destination)
        if isDestinationSilent && !mayBeAway && !known.contains(self.destination.bytes) {
            throw .notAnswering("The destination \(printable(destination))", disposition: .destinationUnavailable)
        }
        sourceExists = sourceExists && !isSourceSilent
        destinationExists = destinationExists && !isDestinationSilent
        let from = try Self.status(self.source, role: "source")
        let to = try Self.status(
            destinationExists ? self.destination : self.destination.removingLastComponent(), role: "destination")
        // Where a known one is away, its parent tells nothing of its disk.
        isSameDevice =
            from != nil && from?.device == to?.device
            && (destinationExists || !(mayBeAway || known.contains(self.destination.bytes)))
        guard let from else { return }
        if let to, destinationExists, Self.isSame(from, to) {
            throw Self.refusal("Source and destination are the same directory \(printable(self.source.bytes))")
        }
        if destinationExists, try Self.hasAncestor(self.source, to) {
            throw Self.refusal(
                "The source \(printable(self.source.bytes)) lies inside the destination "
                    + "\(printable(self.destination.bytes)); name a destination outside of it")
        }
        isDestinationInside = try Self.hasAncestor(self.destination, from)
        isStateInside = try Self.hasAncestor(state, from)
    }

    /// A source that goes to a bucket; `destination` becomes a directory of the state, for what is on its way.
    package init(bucketFor source: [UInt8], state: FilePath) throws(SafeBackupError) {
        if source.isEmpty { throw Self.refusal("SOURCE must not be empty") }
        (self.source, sourceExists) = try Self.canonical(source, role: "source")
        (destination, destinationExists, isSameDevice) = (state.appending("s3"), true, false)
        if let from = try Self.status(self.source, role: "source") {
            isStateInside = try Self.hasAncestor(state, from)
        }
    }

    private static func isSame(_ left: FileStatus, _ right: FileStatus) -> Bool {
        left.device == right.device && left.fingerprint.inode == right.fingerprint.inode
    }

    package static func refusal(_ message: String) -> SafeBackupError {
        SafeBackupError(.invalidConfiguration, message, disposition: .permanent)
    }

    /// The path without links and relative parts. A missing last component is kept as it is.
    private static func canonical(
        _ text: [UInt8], role: String, known: [[UInt8]] = [], mayBeAway: Bool = false
    ) throws(SafeBackupError) -> (path: FilePath, exists: Bool) {
        var isSilent = false
        do throws(Errno) {
            return (try realPath(FilePath(bytes: text)), true)
        } catch {
            guard error == .noSuchFileOrDirectory || error == .timedOut else { throw unusable(text, role, error) }
            isSilent = error == .timedOut
        }
        var plain = FilePath(bytes: text).lexicallyNormalized()
        if plain.isRelative {
            do throws(Errno) {
                plain = try realPath(".").pushing(plain).lexicallyNormalized()
            } catch {
                throw unusable(text, role, error)
            }
        }
        if isSilent { return (resolvedAsFarAsPossible(plain), false) }
        guard let last = plain.lastComponent else { throw refusal("The \(role) \(printable(text)) is not a path") }
        do throws(Errno) {
            return (try realPath(plain.removingLastComponent()).appending(last), false)
        } catch {
            let resolved = resolvedAsFarAsPossible(plain)
            if error == .noSuchFileOrDirectory && (role == "source" || mayBeAway || known.contains(resolved.bytes)) {
                return (resolved, false)
            }
            throw refusal(
                "The \(role) \(printable(plain.bytes)) cannot be made, because its parent directory is not there; "
                    + "mount the disk or make the directory first")
        }
    }

    /// The path with the links of what is there of it resolved.
    private static func resolvedAsFarAsPossible(_ path: FilePath) -> FilePath {
        var (there, missing) = (path, [FilePath.Component]())
        while let last = there.lastComponent {
            do throws(Errno) {
                var resolved = try realPath(there)
                for component in missing.reversed() { resolved.append(component) }
                return resolved
            } catch {
                missing.append(last)
                there.removeLastComponent()
            }
        }
        return path
    }

    private static func unusable(_ text: [UInt8], _ role: String, _ error: Errno) -> SafeBackupError {
        // A disk that fails is no mistake of the one who typed the path.
        let isTheirs: [Errno] = [
            .noSuchFileOrDirectory, .notDirectory, .permissionDenied, .notPermitted, .fileNameTooLong,
            .tooManySymbolicLinkLevels, .invalidArgument,
        ]
        return SafeBackupError(
            isTheirs.contains(error) ? .invalidConfiguration : .sourceFailed,
            "The \(role) \(printable(text)) cannot be used: \(error.explanation)",
            disposition: .permanent, systemError: error.rawValue)
    }

    /// Throws `ETIMEDOUT` where nobody answers.
    package static func realPath(_ path: FilePath) throws(Errno) -> FilePath {
        let answer = TimedLooks.shared.answer(at: path) { () -> Result<FilePath, Errno> in
            guard let resolved = path.withPlatformString({ realpath($0, nil) }) else {
                return .failure(Errno(rawValue: errno))
            }
            defer { free(resolved) }
            return .success(FilePath(platformString: resolved))
        }
        guard let answer else { throw .timedOut }
        return try answer.get()
    }

    /// `nil` if nothing is there, or nobody answers.
    private static func status(_ path: FilePath, role: String) throws(SafeBackupError) -> FileStatus? {
        guard TimedLooks.shared.answers(path) else { return nil }
        do throws(Errno) {
            return try Descriptor.open(path, O_RDONLY | O_DIRECTORY).status()
        } catch {
            switch error {
            case .noSuchFileOrDirectory: return nil
            case .notDirectory: throw refusal("The \(role) \(printable(path.bytes)) is not a directory")
            default: throw unusable(path.bytes, role, error)
            }
        }
    }

    /// Whether `ancestor` is a proper ancestor of the directory at `path`, or of where it would be made.
    private static func hasAncestor(_ path: FilePath, _ ancestor: FileStatus?) throws(SafeBackupError) -> Bool {
        guard let ancestor else { return false }
        if !TimedLooks.shared.answers(path) {
            // What is above may not answer either: asked at once, not one after the other.
            TimedLooks.shared.begin(
                (1..<path.components.count).map { FilePath(root: path.root, path.components.dropLast($0)) })
        }
        var current = path
        while true {
            let parent = current.removingLastComponent()
            if parent == current || parent.isEmpty { return false }
            if let status = try status(parent, role: "directory"), isSame(status, ancestor) { return true }
            current = parent
        }
    }
}
