import Glibc
package import SafeBackupCore
import SafeBackupState
package import SafeBackupSystem
package import SystemPackage

/// The directory that holds one agent's state, and the lock that makes it one agent's.
package struct StateDirectory: Sendable {
    package let path: FilePath

    package init(path: FilePath) { self.path = path }

    /// `--state`, else systemd's STATE_DIRECTORY, else `$XDG_STATE_HOME/safebackup` (root: `/var/lib/safebackup`,
    /// others: `~/.local/state/safebackup`).
    package static func resolve(option: [UInt8]?, environment: [String: String], uid: UInt32) throws(SafeBackupError)
        -> StateDirectory
    {
        if let option {
            guard !option.isEmpty else {
                throw SafeBackupError(
                    .invalidConfiguration, "--state is empty; name a directory", disposition: .permanent)
            }
            return StateDirectory(path: try absolute(FilePath(bytes: option)))
        }
        // systemd lists several directories with colons; the first is the one it made first.
        if let listed = environment["STATE_DIRECTORY"]?.split(separator: ":").first {
            return StateDirectory(path: FilePath(String(listed)))
        }
        // The base directory specification has relative paths ignored.
        if let base = environment["XDG_STATE_HOME"], base.hasPrefix("/") {
            return StateDirectory(path: FilePath(base).appending("safebackup"))
        }
        if uid == 0 { return StateDirectory(path: "/var/lib/safebackup") }
        if let home = environment["HOME"], home.hasPrefix("/") {
            return StateDirectory(path: FilePath(home).appending(".local/state/safebackup"))
        }
        throw SafeBackupError(
            .invalidConfiguration, "No place for the state: HOME and XDG_STATE_HOME are not set; give --state DIR",
            disposition: .permanent)
    }

    /// Messages name the directory, and a person may read them elsewhere.
    private static func absolute(_ path: FilePath) throws(SafeBackupError) -> FilePath {
        if path.isAbsolute { return path.lexicallyNormalized() }
        guard let current = getcwd(nil, 0) else {
            throw SafeBackupError(
                .invalidConfiguration, "The current directory is not there; give --state an absolute path",
                disposition: .permanent)
        }
        defer { free(current) }
        return FilePath(platformString: current).pushing(path).lexicallyNormalized()
    }

    /// Makes the directory with mode 0700, and its ancestors as usual.
    package func create() throws(SafeBackupError) {
        do throws(Errno) {
            try Self.makeDirectories(path)
        } catch {
            throw SafeBackupError(
                .stateFailed,
                "The state directory \(printable(path.bytes)) cannot be made: \(error.explanation); give another with "
                    + "--state",
                disposition: .transient, systemError: error.rawValue)
        }
    }

    private static func makeDirectories(_ path: FilePath, mode: mode_t = 0o700) throws(Errno) {
        do {
            _ = try systemCall("mkdir") { path.withPlatformString { mkdir($0, mode) } }
        } catch {
            switch error {
            case .fileExists:
                _ = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
            case .noSuchFileOrDirectory:
                let parent = path.removingLastComponent()
                if parent == path || parent.isEmpty { throw error }
                try makeDirectories(parent, mode: 0o755)
                _ = try systemCall("mkdir") { path.withPlatformString { mkdir($0, mode) } }
            default: throw error
            }
        }
    }

    /// Whether an agent ever had its state here; `true` too when nobody may look.
    package var hasState: Bool {
        do throws(Errno) {
            _ = try Descriptor.open(path, O_RDONLY | O_DIRECTORY).status(of: Array("queue.db".utf8))
            return true
        } catch {
            return error != .noSuchFileOrDirectory && error != .notDirectory
        }
    }

    /// Throws `invalidConfiguration` where no agent ever had its state: most often a mistyped `--state`.
    package func requireState() throws(SafeBackupError) {
        if hasState { return }
        throw SafeBackupError(
            .invalidConfiguration,
            "No agent has run with the state directory \(printable(path.bytes)); give the --state that 'safebackup "
                + "run' had, or run it first", disposition: .permanent)
    }

    /// The locations of all destinations that the state knows; none where there is no state that can be read: the run
    /// itself tells what is wrong with it.
    package func knownDestinations() -> [[UInt8]] {
        do throws(SafeBackupError) {
            try requireState()
            return try StateReader(in: path).status().destinations.map(\.record.location)
        } catch {
            return []
        }
    }

    /// One agent at a time: the lock is held as long as the returned object lives. `stateLocked` names the process
    /// and the two ways out.
    package func lock() throws(SafeBackupError) -> ProcessLock {
        do throws(ProcessLock.Refusal) {
            return try ProcessLock(at: path.appending("lock"))
        } catch {
            switch error {
            case .held(let process):
                let who = process.map { "process \($0)" } ?? "another process"
                throw SafeBackupError(
                    .stateLocked,
                    "The state directory \(printable(path.bytes)) is in use by \(who); stop that agent first, or give "
                        + "this one its own with --state DIR",
                    disposition: .permanent)
            case .failed(let error):
                throw SafeBackupError(
                    .stateFailed,
                    "The lock file in \(printable(path.bytes)) cannot be taken: \(error.explanation)",
                    disposition: .transient, systemError: error.rawValue)
            }
        }
    }

    /// The process number of the agent that has the lock now, if one has it.
    package func holder() -> (isHeld: Bool, process: Int32?) {
        do throws(ProcessLock.Refusal) {
            return try ProcessLock.holder(of: path.appending("lock"))
        } catch {
            return (false, nil)
        }
    }

    /// Identifies this machine in a sentinel, also after the state is lost: systemd's machine-id, else, as in many
    /// containers, the host's name.
    package static func machineIdentifier() throws(SafeBackupError) -> String {
        for place: FilePath in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
            do throws(Errno) {
                let text = try Descriptor.open(place, O_RDONLY).readAll(limit: 4_096)
                let identifier = String(decoding: text.prefix { $0 > 0x20 && $0 < 0x7F }, as: UTF8.self)
                // An image that was never started says "uninitialized".
                if identifier.count == 32, identifier.allSatisfy(\.isHexDigit) { return identifier }
            } catch {
                continue  // ignored because the next place may have one
            }
        }
        var name = [CChar](repeating: 0, count: 256)
        guard gethostname(&name, name.count - 1) == 0 else {
            throw SafeBackupError(
                .invalidConfiguration,
                "This machine has neither /etc/machine-id nor a host name, so that a destination could not know it again; "
                    + "make one with systemd-machine-id-setup", disposition: .permanent)
        }
        return "host:" + String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

extension FilePath {
    /// The path's bytes as the system has them.
    package var bytes: [UInt8] {
        withPlatformString { pointer in Array(UnsafeRawBufferPointer(start: pointer, count: strlen(pointer))) }
    }

    /// A path of exactly these bytes.
    package init(bytes: [UInt8]) {
        self = SafeBackupSystem.withCString(bytes) { FilePath(platformString: $0) }
    }

    package func appending(path: RelativePath) -> FilePath {
        path.isRoot
            ? self : FilePath(bytes: bytes + (bytes.last == UInt8(ascii: "/") ? [] : [UInt8(ascii: "/")]) + path.bytes)
    }
}
