package import SystemPackage

import Glibc

/// The service manager that started us, told by datagrams how we are. See: man 3 sd_notify, man 7 unix.
package final class ServiceManager: Sendable {
    /// What it is told, in its own words.
    package enum Message: Sendable, Hashable {
        /// The start is over.
        case ready
        /// One line for people, in `systemctl status`.
        case status(String)
        /// The configuration is read again; `ready` ends it. Carries the time on CLOCK_MONOTONIC.
        case reloading
        /// The stop has begun.
        case stopping
        /// Every part of us moves.
        case watchdog

        var text: String {
            switch self {
            case .ready: "READY=1"
            // A line end would begin another assignment.
            case .status(let text): "STATUS=" + text.split(whereSeparator: \.isNewline).joined(separator: " ")
            case .reloading: "RELOADING=1\nMONOTONIC_USEC=\(monotonicMicroseconds)"
            case .stopping: "STOPPING=1"
            case .watchdog: "WATCHDOG=1"
            }
        }

        private var monotonicMicroseconds: Int64 {
            var time = timespec()
            clock_gettime(CLOCK_MONOTONIC, &time)
            return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
        }
    }

    private let socket: Descriptor
    private let address: [UInt8]
    /// It restarts us when it has heard no `watchdog` for so long; `nil`: it does not ask for any.
    package let watchdogTime: Duration?

    /// - Parameter address: a path, or `@` and an abstract name.
    /// - Throws: `addressFamilyNotSupported` for another form, `fileNameTooLong`.
    package init(address: [UInt8], watchdogTime: Duration? = nil) throws(Errno) {
        guard let first = address.first, first == UInt8(ascii: "/") || first == UInt8(ascii: "@"), address.count > 1
        else { throw .addressFamilyNotSupported }
        // One less, for the NUL of a path.
        guard address.count < MemoryLayout.size(ofValue: sockaddr_un().sun_path) else { throw .fileNameTooLong }
        self.address = address
        self.watchdogTime = watchdogTime
        let kind = Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue)
        socket = Descriptor(owning: try systemCall("socket") { Glibc.socket(AF_UNIX, kind, 0) })
        // A manager that does not read must not stop us.
        var limit = timeval(tv_sec: 1, tv_usec: 0)
        try systemCall("setsockopt") {
            setsockopt(socket.raw, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    /// The one that this process's environment names; `nil` if none does. Its time for the watchdog counts only if it is
    /// meant for this process. See: man 3 sd_watchdog_enabled.
    /// - Throws: as `init`.
    package static func ofThisProcess() throws(Errno) -> ServiceManager? {
        guard let name = getenv("NOTIFY_SOCKET"), name.pointee != 0 else { return nil }
        let bytes = Array(UnsafeBufferPointer(start: name, count: strlen(name)).map(UInt8.init(bitPattern:)))
        var time: Duration?
        if let value = getenv("WATCHDOG_USEC"), let microseconds = Int64(String(cString: value)), microseconds > 0 {
            let process = getenv("WATCHDOG_PID").map { String(cString: $0) }
            if process == nil || process == "\(getpid())" { time = .microseconds(microseconds) }
        }
        return try ServiceManager(address: bytes, watchdogTime: time)
    }

    /// Blocks for at most a second. The corresponding C function is `sendto`.
    /// - Throws: what the socket answers, such as `connectionRefused` when nobody listens.
    package func send(_ messages: Message...) throws(Errno) {
        let text = Array(messages.map(\.text).joined(separator: "\n").utf8)
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        let isAbstract = address[0] == UInt8(ascii: "@")
        withUnsafeMutableBytes(of: &name.sun_path) { path in
            path.copyBytes(from: address)
            if isAbstract { path[0] = 0 }
        }
        // An abstract name is as long as is said; a path ends at its NUL. See: man 7 unix.
        let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        let length = socklen_t(offset + address.count + (isAbstract ? 0 : 1))
        let flags = Int32(MSG_NOSIGNAL)
        try systemCall("sendto") {
            withUnsafePointer(to: &name) { name in
                name.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
                    sendto(socket.raw, text, text.count, flags, name, length)
                }
            }
        }
    }
}
