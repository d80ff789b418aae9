import CSafeBackupLinux
package import SystemPackage
import Glibc

extension Descriptor {
    /// Opens a directory of the machine, following links, only as the place of the files in it: it may be passed, and
    /// need not be readable. The corresponding C function is `open` (`O_PATH`).
    package static func openPath(_ path: FilePath) throws(Errno) -> Descriptor {
        try open(path, sb_o_path | O_DIRECTORY)
    }

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

    /// Whether somebody has this file, open for reading, open for writing too; `nil` if that cannot be known: not our
    /// file, or a file system without leases. Takes a lease for a moment, in which an opener with `O_NONBLOCK` would be
    /// refused, and any other waits. `SIGIO` must be ignored. The corresponding C function is `fcntl` (`F_SETLEASE`).
    package func hasWriter() -> Bool? {
        do throws(Errno) {
            try systemCall("lease") { sb_probe_read_lease(raw) }
            return false
        } catch {
            return error == .resourceTemporarilyUnavailable ? true : nil
        }
    }

    /// Makes an entry of this directory, which must not be there yet, for writing past the page cache: addresses,
    /// offsets and lengths must be multiples of 4,096. `EINVAL`, here or at the first write, where that is not possible.
    package func createDirect(_ leaf: [UInt8], mode: UInt32) throws(Errno) -> Descriptor {
        try open(leaf, O_WRONLY | O_CREAT | O_EXCL | sb_o_direct, mode: mode)
    }

    /// What of these bytes is cached, and not changed, is forgotten: the next read comes from the disk, and what others
    /// need stays in the cache. Advice only. The corresponding C function is `posix_fadvise` (`POSIX_FADV_DONTNEED`).
    package func dropCache(_ offset: Int64, _ length: Int64) {
        // Ignored if it fails: then the cache is as it was.
        _ = posix_fadvise(raw, off_t(offset), off_t(length), POSIX_FADV_DONTNEED)
    }

    /// Ends what `createDirect` began: the rest is written through the page cache. The corresponding C function is
    /// `fcntl`.
    package func endDirect() throws(Errno) {
        let flags = try systemCall("fcntl") { fcntl(raw, F_GETFL) }
        try systemCall("fcntl") { fcntl(raw, F_SETFL, flags & ~sb_o_direct) }
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
