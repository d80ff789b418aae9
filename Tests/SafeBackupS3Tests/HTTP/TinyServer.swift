import SafeBackupSystem

import Glibc

/// A server that does what a test says, one thread a connection.
final class TinyServer: @unchecked Sendable {
    struct Received: Sendable {
        /// `PUT /a?b HTTP/1.1`
        var line: String
        /// Names in lower case.
        var headers: [String: String]
        var body: [UInt8] = []
    }

    /// One connection, used by its thread.
    final class Connection {
        let number: Int
        private let socket: Int32
        private var buffered: [UInt8] = []
        private var isOpen = true

        private let accepted: Accepted

        fileprivate init(_ socket: Int32, number: Int, _ accepted: Accepted) {
            self.socket = socket
            self.number = number
            self.accepted = accepted
        }

        deinit { close() }

        /// The head of a request; `nil`: the client has closed.
        func readHead() -> Received? {
            let end = Array("\r\n\r\n".utf8)
            while true {
                if let range = buffered.firstRange(of: end) {
                    let text = String(decoding: buffered[..<range.lowerBound], as: UTF8.self)
                    buffered.removeSubrange(..<range.upperBound)
                    let lines = text.split(separator: "\r\n")
                    var received = Received(line: String(lines.first ?? ""), headers: [:])
                    for line in lines.dropFirst() {
                        let parts = line.split(separator: ":", maxSplits: 1)
                        received.headers[parts[0].lowercased()] =
                            parts.count > 1 ? String(parts[1].drop { $0 == " " }) : ""
                    }
                    return received
                }
                guard fill() else { return nil }
            }
        }

        func readBody(_ count: Int) -> [UInt8]? {
            while buffered.count < count { guard fill() else { return nil } }
            let body = Array(buffered.prefix(count))
            buffered.removeFirst(count)
            return body
        }

        func readRequest() -> Received? {
            guard var received = readHead() else { return nil }
            let count = received.headers["content-length"].flatMap(Int.init) ?? 0
            guard let body = readBody(count) else { return nil }
            received.body = body
            return received
        }

        /// Until the client closes.
        func drain() { while fill() { buffered.removeAll(keepingCapacity: true) } }

        private func fill() -> Bool {
            var bytes = [UInt8](repeating: 0, count: 65_536)
            let count = recv(socket, &bytes, bytes.count, 0)
            if count <= 0 { return false }
            buffered += bytes[..<count]
            return true
        }

        func write(_ text: String) { write(Array(text.utf8)) }

        func write(_ bytes: [UInt8]) {
            var rest = bytes[...]
            while !rest.isEmpty {
                let count = rest.withUnsafeBytes {
                    send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
                }
                if count <= 0 { return }
                rest = rest.dropFirst(count)
            }
        }

        func answer(_ status: Int = 200, _ body: String = "", headers: [String] = []) {
            let lines = ["HTTP/1.1 \(status) Text", "Content-Length: \(body.utf8.count)"] + headers
            write(lines.joined(separator: "\r\n") + "\r\n\r\n" + body)
        }

        func close() {
            if !isOpen { return }
            isOpen = false
            // Under the lock: the number must not be another's when `stop` shuts it down.
            accepted.sockets.withLock { sockets in
                sockets.remove(socket)
                Glibc.close(socket)
            }
        }

        /// With a reset, so that the client's next write fails.
        func reset() {
            var option = linger(l_onoff: 1, l_linger: 0)
            setsockopt(socket, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
            close()
        }
    }

    let port: Int
    private let listener: Int32
    /// Shared with the thread that accepts.
    fileprivate final class Accepted: Sendable {
        let sockets = Locked<Set<Int32>>([])
        let count = Locked(0)
    }

    private let accepted = Accepted()

    init(_ serve: @escaping @Sendable (Connection) -> Void) throws {
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = listener
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(listener, address, length) == 0 && listen(listener, 64) == 0
                    && getsockname(listener, address, &length) == 0
            }
        }
        port = Int(UInt16(bigEndian: address.sin_port))
        if !isListening { throw TinyServerError(number: errno) }
        let thread = try ThreadExecutor(name: "tiny.accept")
        thread.submit { [accepted] in
            while true {
                let socket = accept(listener, nil, nil)
                if socket < 0 { break }
                accepted.sockets.withLock { _ = $0.insert(socket) }
                let number = accepted.count.withLock { count in
                    count += 1
                    return count
                }
                guard let worker = try? ThreadExecutor(name: "tiny.\(number % 100)") else {
                    Connection(socket, number: number, accepted).close()
                    continue
                }
                worker.submit {
                    serve(Connection(socket, number: number, accepted))
                    worker.stop()
                }
            }
            Glibc.close(listener)
            thread.stop()
        }
    }

    var connectionCount: Int { accepted.count.withLock { $0 } }

    /// Ends all connections and the threads that wait for them.
    func stop() {
        // Closed by its thread, which might else wait at another's socket of the same number.
        shutdown(listener, Int32(SHUT_RDWR))
        accepted.sockets.withLock { sockets in
            for socket in sockets { shutdown(socket, Int32(SHUT_RDWR)) }
        }
    }
}

struct TinyServerError: Error { var number: Int32 }

/// What the server's threads saw.
final class Seen<Value: Sendable>: Sendable {
    private let values = Locked<[Value]>([])
    var all: [Value] { values.withLock { $0 } }
    func add(_ value: Value) { values.withLock { $0.append(value) } }
}

/// Lets a server's thread wait until the test says go.
final class Gate: @unchecked Sendable {
    private let semaphore: UnsafeMutablePointer<sem_t>

    init() {
        semaphore = .allocate(capacity: 1)
        sem_init(semaphore, 0, 0)
    }

    deinit { semaphore.deallocate() }

    func open() { sem_post(semaphore) }

    func pass() { while sem_wait(semaphore) != 0 {} }
}
