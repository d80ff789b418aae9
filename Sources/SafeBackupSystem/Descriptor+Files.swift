import CSafeBackupLinux
package import SystemPackage
import Glibc

extension Descriptor {
    /// Opens an entry of this directory for reading: never through a link, never waiting for a FIFO's writer, and
    /// without changing its access time where that is permitted (owner or CAP_FOWNER, else EPERM; see man 2 open).
    package func openForReading(_ leaf: [UInt8]) throws(Errno) -> Descriptor {
        do {
            return try open(leaf, O_RDONLY | O_NONBLOCK | sb_o_noatime)
        } catch {
            if error != .notPermitted { throw error }
        }
        return try open(leaf, O_RDONLY | O_NONBLOCK)
    }
}

/// The running kernel.
package enum Kernel {
    /// Whether its release is at least `major.minor`. The corresponding C function is `uname`.
    package static func isAtLeast(_ major: Int, _ minor: Int) -> Bool {
        var names = utsname()
        guard uname(&names) == 0 else { return false }
        let release = withUnsafeBytes(of: names.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
        guard numbers.count == 2 else { return false }
        return (numbers[0], numbers[1]) >= (major, minor)
    }
}
