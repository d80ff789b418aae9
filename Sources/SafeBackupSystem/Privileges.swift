import Glibc
package import SystemPackage

/// What this process may do beyond what the files' permissions say. See: man 7 capabilities.
package struct Privileges: Sendable, Hashable {
    /// The effective capabilities, a bit for each.
    package var effective: UInt64

    package init(effective: UInt64) { self.effective = effective }

    /// Of this process; none where the system does not tell.
    package static var current: Privileges {
        do throws(Errno) {
            let text = try Descriptor.open("/proc/self/status", O_RDONLY).readAll(limit: 64 << 10)
            for line in String(decoding: text, as: UTF8.self).split(separator: "\n") where line.hasPrefix("CapEff:") {
                let digits = line.dropFirst("CapEff:".count).filter(\.isHexDigit)
                return Privileges(effective: UInt64(digits, radix: 16) ?? 0)
            }
        } catch {
            // Ignored because then each file is asked for by itself.
        }
        return Privileges(effective: 0)
    }

    /// CAP_DAC_OVERRIDE or CAP_DAC_READ_SEARCH: every file can be read.
    package var readsEverything: Bool { effective & (1 << 1 | 1 << 2) != 0 }
}

extension Descriptor {
    /// Whether this process may read an entry of this directory, by the permissions of the entry alone. Never follows a
    /// link. The corresponding C function is `faccessat`.
    package func allowsReading(_ leaf: [UInt8]) -> Bool {
        do throws(Errno) {
            try systemCall("faccessat") { withCString(leaf) { faccessat(raw, $0, R_OK, AT_EACCESS) } }
            return true
        } catch {
            return error != .permissionDenied
        }
    }

    /// Whether this process may make entries in this directory. Tells what the file system has: also that it is mounted
    /// read-only. The corresponding C function is `faccessat`.
    package func checkWriting() throws(Errno) {
        try systemCall("faccessat") { faccessat(raw, ".", W_OK | X_OK, AT_EACCESS) }
    }
}
