import Glibc
import SafeBackupSystem
import SystemPackage
import Testing

/// The service manager's end: a datagram socket that keeps what it was sent.
final class NotifySocket: Sendable {
    let socket: Descriptor

    /// - Parameter address: a path, or `@` and an abstract name.
    init(_ address: [UInt8]) throws {
        let raw = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        try #require(raw >= 0)
        socket = Descriptor(owning: raw)
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: address) }
        let isAbstract = address.first == UInt8(ascii: "@")
        if isAbstract { withUnsafeMutableBytes(of: &name.sun_path) { $0[0] = 0 } }
        let length = socklen_t(2 + address.count + (isAbstract ? 0 : 1))
        let result = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(raw, $0, length) }
        }
        try #require(result == 0, "bind: error \(errno)")
    }

    /// The next message that was not taken, or `nil`.
    func next() -> String? {
        var bytes = [UInt8](repeating: 0, count: 8_192)
        let count = recv(socket.raw, &bytes, bytes.count, 0)
        return count < 0 ? nil : String(decoding: bytes[..<count], as: UTF8.self)
    }

    /// Everything that has come.
    func all() -> [String] {
        var messages: [String] = []
        while let message = next() { messages.append(message) }
        return messages
    }
}
