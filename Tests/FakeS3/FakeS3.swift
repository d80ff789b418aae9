import CSafeBackupLinux
import Glibc
import SafeBackupSystem
package import SystemPackage

/// A strict S3 server for tests, in this process, on a port of the loopback of its own, one thread per connection.
///
/// It verifies every signature and digest by its own means, keeps everything in memory, notes every request, and fails
/// as its script of faults says. It ends with the last reference to it.
package final class FakeS3: Sendable {
    private let core: FakeS3Core

    /// Throws what the system refused.
    package init(_ options: FakeS3Options = FakeS3Options()) throws(Errno) {
        core = FakeS3Core(options)
        try core.listen()
    }

    package static func start(_ options: FakeS3Options = FakeS3Options()) throws(Errno) -> FakeS3 {
        try FakeS3(options)
    }

    deinit { core.goDown() }

    package var host: String { "127.0.0.1" }
    package var port: Int { core.state.withLock { $0.port } }
    /// `http://127.0.0.1:PORT`
    package var endpoint: String { "http://\(host):\(port)" }

    /// From now on nothing listens at the port, and connections are closed.
    package func goDown() { core.goDown() }
    /// Listens again, at the same port.
    package func comeBack() throws(Errno) { try core.listen() }

    // MARK: Faults

    package struct Faults: Sendable {
        fileprivate let core: FakeS3Core

        package func add(_ fault: Fault) { core.state.withLock { $0.faults.add(fault) } }
        package func add(
            _ action: Fault.Action, on operation: FakeOperation? = nil, key: String? = nil, skipping: Int = 0,
            times: Int? = 1
        ) {
            add(Fault(action, on: operation, key: key, skipping: skipping, times: times))
        }
        package func removeAll() { core.state.withLock { $0.faults.removeAll() } }
        /// Everything that was to go wrong has gone wrong.
        package var isSpent: Bool { core.state.withLock { $0.faults.isSpent } }
    }

    package var faults: Faults { Faults(core: core) }

    /// Lets the requests go on that a fault holds, and those that it will hold.
    package func releaseHeld() { core.state.withLock { $0.isHolding = false } }
    /// Requests that a fault holds now.
    package var held: Int { core.state.withLock { $0.held } }

    // MARK: What it is and has

    package var options: FakeS3Options { core.state.withLock { $0.options } }
    package func change(_ body: @Sendable (inout FakeS3Options) -> Void) {
        core.state.withLock { state in body(&state.options) }
    }

    /// All requests so far, in the order of their ends.
    package var requests: [RequestRecord] { core.state.withLock { $0.requests } }
    package func count(_ operation: FakeOperation) -> Int {
        core.state.withLock { $0.requests.count { $0.operation == operation } }
    }
    package func forgetRequests() { core.state.withLock { $0.requests = [] } }

    package func bucket(_ name: String = "bucket") -> FakeBucket? {
        core.state.withLock { $0.operations.buckets[name] }
    }
    /// Changes a bucket behind the client's back.
    package func changeBucket(_ name: String = "bucket", _ body: @Sendable (inout FakeBucket) -> Void) {
        core.state.withLock { state in
            var bucket = state.operations.buckets[name] ?? FakeBucket()
            body(&bucket)
            state.operations.buckets[name] = bucket
        }
    }
    /// The newest versions by their keys, which must be UTF-8.
    package var objects: [String: FakeObject] { objects(in: "bucket") }
    package func objects(in name: String) -> [String: FakeObject] {
        guard let bucket = bucket(name) else { return [:] }
        var result: [String: FakeObject] = [:]
        for key in bucket.keys { result[String(decoding: key, as: UTF8.self)] = bucket.current(key) }
        return result
    }
    package func object(_ key: String, in name: String = "bucket") -> FakeObject? {
        bucket(name)?.current(Array(key.utf8))
    }
    /// Stores an object behind the client's back.
    package func plant(_ key: String, _ bytes: [UInt8], headers: [String: String] = [:], in name: String = "bucket") {
        let now = core.now
        changeBucket(name) { bucket in
            _ = bucket.store(
                Array(key.utf8),
                FakeObject(
                    bytes: bytes, etag: "\"\(Digests.hex(Digests.md5(bytes)))\"", version: "", modified: now,
                    headers: headers))
        }
    }
    /// Removes all versions of an object behind the client's back.
    package func uproot(_ key: String, in name: String = "bucket") {
        changeBucket(name) { $0.versions[Array(key.utf8)] = nil }
    }
}

/// What the connections' threads share.
final class FakeS3Core: Sendable {
    struct State {
        var options: FakeS3Options
        var operations: Operations
        var faults = FaultScript()
        var requests: [RequestRecord] = []
        var port = 0
        var listener: Int32 = -1
        /// Open sockets; each is closed by its own thread.
        var sockets: Set<Int32> = []
        var connections = 0
        var isHolding = true
        var held = 0
        var answers = 0
    }

    let state: Locked<State>

    init(_ options: FakeS3Options) {
        var buckets: [String: FakeBucket] = [:]
        for name in options.buckets { buckets[name] = FakeBucket() }
        state = Locked(State(options: options, operations: Operations(buckets: buckets)))
    }

    var now: Int { WireTime.now() + state.withLock { $0.options.clockOffset } }

    func listen() throws(Errno) {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { throw Errno(rawValue: errno) }
        var one: Int32 = 1
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(state.withLock { $0.port }).bigEndian)
        address.sin_addr.s_addr = in_addr_t(UInt32(0x7f00_0001).bigEndian)
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let failure: Int32 = withUnsafeMutablePointer(to: &address) { address in
            address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                if bind(socket, address, size) != 0 || Glibc.listen(socket, 512) != 0 { return errno }
                return getsockname(socket, address, &size) == 0 ? 0 : errno
            }
        }
        if failure != 0 {
            close(socket)
            throw Errno(rawValue: failure)
        }
        let port = Int(UInt16(bigEndian: address.sin_port))
        state.withLock {
            $0.port = port
            $0.listener = socket
        }
        spawn("fake-s3") { core in core.accept(socket) }
    }

    /// Runs `body` on a thread of its own, which holds the core until it ends.
    func spawn(_ name: String, _ body: @escaping @Sendable (FakeS3Core) -> Void) {
        let context = Unmanaged.passRetained(ThreadStart(core: self, body: body)).toOpaque()
        let failure = sb_start_thread(
            name,
            { context in
                guard let context else { return }
                let start = Unmanaged<ThreadStart>.fromOpaque(context).takeRetainedValue()
                start.body(start.core)
            }, context)
        precondition(failure == 0, "no thread for a connection of the fake server: error \(failure)")
    }

    private func accept(_ listener: Int32) {
        while true {
            let socket = Glibc.accept(listener, nil, nil)
            if socket < 0 {
                if errno == EINTR || errno == ECONNABORTED { continue }
                break
            }
            // accept4 is not imported into Swift; a child that is started in between ends before long.
            _ = fcntl(socket, F_SETFD, FD_CLOEXEC)
            var one: Int32 = 1
            setsockopt(socket, Int32(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<Int32>.size))
            let number: Int? = state.withLock { state in
                guard state.listener == listener else { return nil }
                state.connections += 1
                state.sockets.insert(socket)
                return state.connections
            }
            guard let number else {
                close(socket)
                break
            }
            spawn("fake-s3-conn") { core in
                Connection(core: core, socket: socket, number: number).serve()
                core.state.withLock { state in
                    state.sockets.remove(socket)
                    // Inside the lock, so that nobody shuts down a number that is somebody else's by then.
                    close(socket)
                }
            }
        }
        close(listener)
    }

    func goDown() {
        state.withLock { state in
            if state.listener >= 0 { shutdown(state.listener, Int32(SHUT_RDWR)) }
            state.listener = -1
            for socket in state.sockets { shutdown(socket, Int32(SHUT_RDWR)) }
        }
    }
}

/// What a new thread is given.
private final class ThreadStart: Sendable {
    let core: FakeS3Core
    let body: @Sendable (FakeS3Core) -> Void

    init(core: FakeS3Core, body: @escaping @Sendable (FakeS3Core) -> Void) {
        self.core = core
        self.body = body
    }
}
