import Glibc
package import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

/// A first save by root as the packaged service would do it: by the service's user and with its capabilities, so that what
/// it makes belongs to whom it must belong.
package enum ServiceSave {
    /// Whether a run by this process must be the service's: its state and its configuration are used.
    package static func applies(state: StateDirectory, configuration: FilePath) -> Bool {
        geteuid() == 0 && ServiceUnit.isInstalled && ServiceUnit.user != nil && state.path == ServiceUnit.state
            && configuration == ServiceUnit.configuration
    }

    /// Throws `invalidConfiguration`, with the command that helps, for a destination that the service's user could not write
    /// to and that is not empty. Changes nothing.
    package static func check(_ destination: FilePath) throws(SafeBackupError) {
        do throws(Errno) {
            _ = try claimable(destination)
        } catch {
            throw refusal(error, destination)
        }
    }

    /// Makes the state's directory, and the destination, the service's user's own. An empty destination is given away, and
    /// no other. Throws as `check`.
    package static func prepare(_ destination: FilePath, _ state: StateDirectory) throws(SafeBackupError) {
        guard let user = ServiceUnit.user else { return }
        try state.create()
        do throws(Errno) {
            let directory = try Descriptor.open(state.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
            if try directory.status().uid != user.uid { try directory.setOwner(uid: user.uid, gid: user.gid) }
        } catch {
            throw Preflight.refusal(
                "The state directory \(printable(state.path.bytes)) cannot be given to the user \(ServiceUnit.userName): "
                    + error.explanation)
        }
        do throws(Errno) {
            if !NewConfiguration.exists(destination) {
                try systemCall("mkdir") { destination.withPlatformString { mkdir($0, 0o700) } }
            }
            try claimable(destination)?.setOwner(uid: user.uid, gid: user.gid)
        } catch {
            throw refusal(error, destination)
        }
    }

    /// The destination, if it is to be given to the service's user; `nil` if it is that user's, or not there. Looked at and
    /// given away by one descriptor: nobody can put another directory in its place in between.
    /// Throws `ENOTEMPTY` for one that holds something and is somebody else's.
    private static func claimable(_ destination: FilePath) throws(Errno) -> Descriptor? {
        let directory: Descriptor
        do throws(Errno) {
            directory = try Descriptor.open(destination, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
        if try directory.status().uid == ServiceUnit.user?.uid { return nil }
        var isEmpty = true
        try directory.forEachEntry { name, _ in if name != Array("lost+found".utf8) { isEmpty = false } }
        if !isEmpty { throw .directoryNotEmpty }
        return directory
    }

    private static func refusal(_ error: Errno, _ destination: FilePath) -> SafeBackupError {
        let name = printable(destination.bytes)
        if error == .directoryNotEmpty {
            return Preflight.refusal(
                "The destination \(name) holds files and does not belong to the service's user, who could not write there; "
                    + "give it to that user, then run this again: chown -R \(ServiceUnit.userName): \(name)")
        }
        return Preflight.refusal("The destination \(name) cannot be used: \(error.explanation)")
    }

    /// Runs this program with these arguments as the service's user, to its end. Blocks.
    /// - Returns: its exit code.
    package static func run(_ arguments: [[UInt8]]) throws(SafeBackupError) -> Int32 {
        guard let user = ServiceUnit.user else { return 1 }
        let capabilities = ServiceUnit.capabilities
        let start = [
            "setpriv", "--reuid", "\(user.uid)", "--regid", "\(user.gid)", "--clear-groups", "--no-new-privs",
            "--bounding-set", capabilities, "--inh-caps", capabilities, "--ambient-caps", capabilities, "--",
        ]
        do throws(Errno) {
            let command = start.map { Array($0.utf8) } + [try executable()] + arguments
            return try ChildProcess.run(command, collectsOutput: false).code
        } catch {
            throw SafeBackupError(
                .stateFailed,
                "The save cannot be run as the user \(ServiceUnit.userName): \(error.explanation); setpriv (util-linux) is "
                    + "needed for it", disposition: .transient, systemError: error.rawValue)
        }
    }

    /// The absolute path of this program; `nil` where the system does not tell.
    package static var program: [UInt8]? {
        do throws(Errno) {
            return try executable()
        } catch {
            return nil  // ignored because it only serves a text
        }
    }

    private static func executable() throws(Errno) -> [UInt8] {
        try Descriptor.open("/proc/self", O_RDONLY | O_DIRECTORY).linkTarget(of: Array("exe".utf8))
    }
}
