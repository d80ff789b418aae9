import Glibc
package import SafeBackupCore
import SafeBackupLocal
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

    /// Makes the state's directory, and the destination, the service's user's own. What somebody else keeps in them stays
    /// as it is: an empty destination is given away, and no other.
    /// - Throws: `invalidConfiguration` with the command for a destination that holds something and belongs to another.
    package static func prepare(_ destination: FilePath, _ state: StateDirectory) throws(SafeBackupError) {
        guard let user = ServiceUnit.user else { return }
        try state.create()
        try give(state.path, to: user, what: "state directory")
        let inspection = try LocalDestination.inspect(destination)
        do throws(Errno) {
            if !inspection.exists {
                try systemCall("mkdir") { destination.withPlatformString { mkdir($0, 0o700) } }
            } else if try Descriptor.open(destination, O_RDONLY | O_DIRECTORY).status().uid == user.uid {
                return
            }
        } catch {
            throw Preflight.refusal(
                "The destination \(printable(destination.bytes)) cannot be made: \(error.explanation)")
        }
        guard inspection.isEmpty && inspection.sentinel == nil else {
            throw Preflight.refusal(
                "The destination \(printable(destination.bytes)) holds files and does not belong to the service's user, who "
                    + "could not write there; give it to that user, then run this again: chown -R "
                    + "\(ServiceUnit.userName): \(printable(destination.bytes))")
        }
        try give(destination, to: user, what: "destination")
    }

    private static func give(
        _ path: FilePath, to user: (uid: UInt32, gid: UInt32), what: String
    ) throws(SafeBackupError) {
        do throws(Errno) {
            let directory = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
            if try directory.status().uid != user.uid { try directory.setOwner(uid: user.uid, gid: user.gid) }
        } catch {
            throw Preflight.refusal(
                "The \(what) \(printable(path.bytes)) cannot be given to the user \(ServiceUnit.userName): "
                    + error.explanation)
        }
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
            let program = try FilePath("/proc/self/exe").target()
            return try ChildProcess.run(start.map { Array($0.utf8) } + [program] + arguments, collectsOutput: false)
                .code
        } catch {
            throw SafeBackupError(
                .stateFailed,
                "The save cannot be run as the user \(ServiceUnit.userName): \(error.explanation); setpriv (util-linux) is "
                    + "needed for it", disposition: .transient, systemError: error.rawValue)
        }
    }
}

extension FilePath {
    /// What a symbolic link says.
    fileprivate func target() throws(Errno) -> [UInt8] {
        let parent = try Descriptor.open(removingLastComponent(), O_RDONLY | O_DIRECTORY)
        return try parent.linkTarget(of: Array((lastComponent?.string ?? "").utf8))
    }
}
