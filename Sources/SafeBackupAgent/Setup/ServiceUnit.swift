import Glibc
package import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

/// The packaged service of the system, and the manager that would run it.
package enum ServiceUnit {
    package static let name = "safebackup.service"
    package static let userName = "safebackup"
    /// What its command names.
    package static let configuration: FilePath = "/etc/safebackup/agent.conf"
    package static let state: FilePath = "/var/lib/safebackup"
    /// What it may do beyond its user's permissions.
    package static let capabilities = "-all,+dac_read_search,+lease"

    /// Whether the unit file is where packages put it, or an administrator does.
    package static var isInstalled: Bool {
        ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"].contains { directory in
            exists(FilePath(directory).appending(name))
        }
    }

    /// Whether systemd runs this system. See: man 3 sd_booted.
    package static var isManagerRunning: Bool { exists("/run/systemd/system") }

    private static func exists(_ path: FilePath) -> Bool {
        do throws(Errno) {
            _ = try Descriptor.status(of: path)
            return true
        } catch {
            return false  // what cannot be looked at is of no use either
        }
    }

    /// The user that the service runs as; `nil` if there is none.
    package static var user: (uid: UInt32, gid: UInt32)? {
        var entry = passwd()
        var found: UnsafeMutablePointer<passwd>?
        var buffer = [CChar](repeating: 0, count: 16 << 10)
        guard getpwnam_r(userName, &entry, &buffer, buffer.count, &found) == 0, found != nil else { return nil }
        return (entry.pw_uid, entry.pw_gid)
    }

    package struct Status: Sendable {
        package var isActive: Bool
        package var isFailed: Bool
        package var isEnabled: Bool
        /// Why it failed, in the manager's word.
        package var result: String
    }

    /// Asks the manager. Blocks, for no longer than seconds.
    package static func status() throws(SafeBackupError) -> Status {
        let text = try systemctl(["show", name, "--property=ActiveState,UnitFileState,Result"], within: .seconds(5))
        var values: [Substring: String] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { values[parts[0]] = String(parts[1]) }
        }
        return Status(
            isActive: ["active", "activating", "reloading"].contains(values["ActiveState"]),
            isFailed: values["ActiveState"] == "failed",
            isEnabled: values["UnitFileState"]?.hasPrefix("enabled") ?? false,
            result: values["Result"] ?? "unknown")
    }

    /// Starts it now and at each boot. Blocks until it says that it runs.
    package static func enable() throws(SafeBackupError) { _ = try systemctl(["enable", "--now", name]) }

    private static func systemctl(
        _ arguments: [String], within limit: Duration? = nil
    ) throws(SafeBackupError) -> String {
        let words = ["systemctl"] + arguments
        let result: ChildProcess.Result
        do throws(Errno) {
            result = try ChildProcess.run(words.map { Array($0.utf8) }, collectsOutput: true, within: limit)
        } catch {
            if error == .timedOut {
                throw SafeBackupError(
                    .stateFailed,
                    "'\(words.joined(separator: " "))' did not answer within \(limit.map(secondsText) ?? "its time") s, and "
                        + "was ended: the service manager hangs or is overloaded, and whether the service runs is not known; "
                        + "try again later, and look at 'systemctl status'", disposition: .transient,
                    systemError: error.rawValue)
            }
            throw SafeBackupError(
                .stateFailed, "systemctl cannot be run: \(error.explanation)", disposition: .transient,
                systemError: error.rawValue)
        }
        if result.code == 0 { return String(decoding: result.output, as: UTF8.self) }
        throw SafeBackupError(
            .stateFailed,
            "'\(words.joined(separator: " "))' ended with \(result.code); see 'systemctl status safebackup'",
            disposition: .transient)
    }
}
