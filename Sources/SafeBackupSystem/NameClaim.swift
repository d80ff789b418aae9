package import SystemPackage

import Glibc

/// A name that one process of this machine has, until the object goes or the process ends, in whatever way. It is no
/// file, so that it keeps no file system busy: the address of a socket that nobody connects to.
/// The corresponding C function is `bind`. See: man 7 unix, "Abstract sockets".
package final class NameClaim: Sendable {
    private let socket: Descriptor

    /// `nil` if another process has the name. Not seen: a process in another network namespace.
    package init?(_ name: String) throws(Errno) {
        socket = Descriptor(
            owning: try systemCall("socket") {
                Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            })
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // A first byte 0 makes it abstract; the rest is the name, without an end.
        let bytes = [0] + Array(name.utf8)
        let room = MemoryLayout.size(ofValue: address.sun_path)
        if bytes.count > room { throw .fileNameTooLong }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = MemoryLayout<sockaddr_un>.size - room + bytes.count
        let raw = socket.raw
        do {
            try systemCall("bind") {
                withUnsafePointer(to: &address) { pointer in
                    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        Glibc.bind(raw, $0, socklen_t(length))
                    }
                }
            }
        } catch {
            if error == .addressInUse { return nil }
            throw error
        }
    }
}
