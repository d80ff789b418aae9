import Glibc
import SafeBackupSystem

/// One connection, from its first request to its end; used by its thread alone.
final class Connection {
    private let core: FakeS3Core
    private let socket: Int32
    private let number: Int
    /// What was received and is not used yet.
    private var pending: [UInt8] = []

    init(core: FakeS3Core, socket: Int32, number: Int) {
        self.core = core
        self.socket = socket
        self.number = number
    }

    /// Why a connection ends: the client's, or a fault's, doing.
    private struct Ended: Error {}

    func serve() {
        do { while try serveOne() {} } catch { return }
    }

    // MARK: The socket

    private func receive() throws(Ended) {
        let count: Int
        (pending, count) = Self.received(pending, from: socket)
        if count <= 0 { throw Ended() }
    }

    private static func received(_ held: consuming [UInt8], from socket: Int32) -> ([UInt8], Int) {
        var bytes = [UInt8](repeating: 0, count: 262_144)
        var count: Int
        repeat { count = recv(socket, &bytes, bytes.count, 0) } while count < 0 && errno == EINTR
        if count > 0 { held.append(contentsOf: bytes[..<count]) }
        return (held, count)
    }

    private func send(_ bytes: [UInt8]) throws(Ended) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(socket, $0.baseAddress?.advanced(by: sent), bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { throw Ended() }
            sent += count
        }
    }

    /// The block of headers with its empty line; `nil`: the client has closed.
    private func receiveHead() throws(Ended) -> [UInt8]? {
        var searched = 0
        while true {
            var index = max(0, searched - 3)
            while index + 3 < pending.count {
                if pending[index] == 13, pending[index + 1] == 10, pending[index + 2] == 13, pending[index + 3] == 10 {
                    let head = Array(pending[..<(index + 4)])
                    pending.removeFirst(index + 4)
                    return head
                }
                index += 1
            }
            searched = pending.count
            if searched > 65_536 { throw Ended() }
            do { try receive() } catch {
                if pending.isEmpty { return nil }
                throw Ended()
            }
        }
    }

    private func receiveBody(_ count: Int) throws(Ended) -> [UInt8] {
        while pending.count < count { try receive() }
        if pending.count == count {
            let body = pending
            pending = []
            return body
        }
        let body = Array(pending[..<count])
        pending.removeFirst(count)
        return body
    }

    private func reset() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }

    // MARK: A request

    /// A request on its way to its answer.
    private struct Exchange {
        var request: FakeRequest
        var route: Route
        var fault: Fault.Action?
        var bodyCount = 0
    }

    /// Whether there may be another one.
    private func serveOne() throws(Ended) -> Bool {
        guard let head = try receiveHead() else { return false }
        let options = core.state.withLock { $0.options }
        let request: FakeRequest
        do { request = try FakeRequest.parse(head) } catch {
            let broken = FakeRequest(method: "", path: "/", headers: [])
            let exchange = Exchange(request: broken, route: Route(broken, domains: []))
            try write(error.answer, to: exchange, code: error.code)
            return false
        }
        let route = Route(request, domains: options.domains)
        let fault = core.state.withLock { $0.faults.next(route.operation, route.key) }
        var exchange = Exchange(request: request, route: route, fault: fault)
        switch fault {
        case .closeAfterHead:
            note(exchange, nil, nil)
            throw Ended()
        case .refuseEarly(let answer):
            try write(answer, to: exchange, code: Self.code(in: answer), closes: true)
            return false
        default: break
        }
        let length: Int
        do {
            length = try Self.length(of: request)
            try check(request, options)
        } catch {
            return try refuse(error, &exchange)
        }
        switch fault {
        case .closeAfterBody(let count, let resets):
            if request.header("expect") != nil { try send(Array("HTTP/1.1 100 Continue\r\n\r\n".utf8)) }
            exchange.bodyCount = try receiveBody(min(count, length)).count
            if resets { reset() }
            note(exchange, nil, nil)
            throw Ended()
        case .noContinue: break
        default:
            if request.header("expect") != nil { try send(Array("HTTP/1.1 100 Continue\r\n\r\n".utf8)) }
        }
        exchange.request.body = try receiveBody(length)
        exchange.bodyCount = length
        return try finish(exchange, options)
    }

    private static func length(of request: FakeRequest) throws(S3Failure) -> Int {
        if request.header("transfer-encoding") != nil {
            throw S3Failure(
                501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        }
        if let text = request.header("content-length") {
            guard let length = Int(text), length >= 0, length <= 5 << 30 else {
                throw S3Failure(400, "InvalidRequest", "content-length: \(text)")
            }
            return length
        }
        if request.method == "PUT" || request.method == "POST" {
            throw S3Failure(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        }
        return 0
    }

    private func check(_ request: FakeRequest, _ options: FakeS3Options) throws(S3Failure) {
        var check = SignatureCheck(
            region: options.region, credentials: options.credentials, now: WireTime.now() + options.clockOffset)
        check.allowsUnsignedPayload = options.allowsUnsignedPayload
        try check.verify(request)
        if let expect = request.header("expect"), expect.lowercased() != "100-continue" {
            throw S3Failure(417, "ExpectationFailed", expect)
        }
        guard let header = request.headers.first(where: { Self.isChecksum($0.name) }) else { return }
        switch options.checksums {
        case .refused: throw S3Failure(400, "InvalidArgument", "Unsupported header '\(header.name)' received")
        case .notImplemented:
            throw S3Failure(
                501, "NotImplemented", "Header '\(header.name)' with value '\(header.value)' not implemented")
        case .verified, .ignored: return
        }
    }

    private static func isChecksum(_ name: String) -> Bool {
        name == "x-amz-sdk-checksum-algorithm" || name.hasPrefix("x-amz-checksum-") && name != "x-amz-checksum-mode"
    }

    /// Refuses by the headers alone. A body that is on its way is read first, unless the client asked before it sends it.
    private func refuse(_ failure: S3Failure, _ exchange: inout Exchange) throws(Ended) -> Bool {
        let asks = exchange.request.header("expect") != nil
        let length = exchange.request.header("content-length").flatMap { Int($0) }
        if !asks, let length, length >= 0 { exchange.bodyCount = try receiveBody(length).count }
        let closes = asks || length == nil && exchange.request.method != "GET" && exchange.request.method != "HEAD"
        try write(failure.answer, to: exchange, code: failure.code, closes: closes)
        return !closes
    }

    private func finish(_ exchange: Exchange, _ options: FakeS3Options) throws(Ended) -> Bool {
        var answer: FakeAnswer
        var code: String?
        switch exchange.fault {
        case .closeBeforeAnswer:
            note(exchange, nil, nil)
            throw Ended()
        case .answer(let scripted):
            try write(scripted, to: exchange, code: Self.code(in: scripted))
            return true
        case .holdBeforeEffect: hold()
        default: break
        }
        do {
            try verifyBody(of: exchange.request, options)
            let now = WireTime.now() + options.clockOffset
            answer = try perform(exchange, options, now: now)
        } catch {
            answer = error.answer
            code = error.code
        }
        var announced: Int?
        switch exchange.fault {
        case .loseAnswer:
            note(exchange, nil, nil)
            throw Ended()
        case .answerAfterEffect(let scripted):
            answer = scripted
            code = Self.code(in: scripted)
        case .cutAnswer(let count):
            announced = answer.body.count
            answer.body = Array(answer.body.prefix(count))
        case .shortenAnswer(let count): answer.body = Array(answer.body.prefix(count))
        case .spaceBeforeAnswer(let count): answer.body = [UInt8](repeating: 0x20, count: count) + answer.body
        case .flipAnswer(let index): if index < answer.body.count { answer.body[index] ^= 1 }
        case .delay(let milliseconds): usleep(UInt32(milliseconds) * 1_000)
        case .hold: hold()
        default: break
        }
        try write(answer, to: exchange, code: code, announced: announced)
        if case .idleClose = exchange.fault { return false }
        return announced == nil
    }

    private func hold() {
        core.state.withLock { $0.held += 1 }
        while core.state.withLock({ $0.isHolding && $0.sockets.contains(socket) && $0.listener >= 0 }) { usleep(2_000) }
        core.state.withLock { $0.held -= 1 }
    }

    private func perform(
        _ exchange: Exchange, _ options: FakeS3Options, now: Int
    ) throws(S3Failure) -> FakeAnswer {
        // The error goes around the lock, because the compiler loses its type in the closure.
        let result: Result<FakeAnswer, S3Failure> = core.state.withLock { state in
            do throws(S3Failure) {
                return .success(try state.operations.perform(exchange.route, exchange.request, options, now: now))
            } catch { return .failure(error) }
        }
        return try result.get()
    }

    private func verifyBody(of request: FakeRequest, _ options: FakeS3Options) throws(S3Failure) {
        if let wanted = request.header("x-amz-content-sha256"), wanted != "UNSIGNED-PAYLOAD" {
            guard Digests.hex(Digests.sha256(request.body)) == wanted else {
                throw S3Failure(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' does not match")
            }
        }
        if let text = request.header("content-md5") {
            guard let wanted = Digests.bytes(base64: text), wanted.count == 16 else {
                throw S3Failure(400, "InvalidDigest", "The Content-MD5 you specified was invalid")
            }
            guard Digests.md5(request.body) == wanted else {
                throw S3Failure(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
            }
        }
        guard options.checksums == .verified else { return }
        let isComplete = request.method == "POST" && request.has("uploadId")
        for name in Digests.checksumNames where !isComplete {
            guard let text = request.header("x-amz-checksum-\(name)") else { continue }
            let wanted = Digests.checksum(name, request.body)
            guard let given = Digests.bytes(base64: text), given.count == wanted?.count else {
                throw S3Failure(400, "InvalidRequest", "Value for x-amz-checksum-\(name) header is invalid.")
            }
            guard given == wanted else {
                throw S3Failure(400, "BadDigest", "The \(name) you specified did not match what we received.")
            }
        }
    }

    // MARK: The answer

    private static func code(in answer: FakeAnswer) -> String? {
        XML.elements("Code", in: String(decoding: answer.body, as: UTF8.self)).first.map(String.init)
    }

    private func note(_ exchange: Exchange, _ status: Int?, _ code: String?) {
        var request = exchange.request
        // Bodies of objects would double the memory.
        if request.body.count > 65_536 { request.body = [] }
        let record = RequestRecord(
            operation: exchange.route.operation, bucket: exchange.route.bucket, key: exchange.route.key,
            request: request, bodyCount: exchange.bodyCount, status: status, code: code, connection: number)
        core.state.withLock { $0.requests.append(record) }
    }

    private func write(
        _ answer: FakeAnswer, to exchange: Exchange, code: String?, announced: Int? = nil, closes: Bool = false
    ) throws(Ended) {
        let (count, now) = core.state.withLock { state in
            state.answers += 1
            return (state.answers, WireTime.now() + state.options.clockOffset)
        }
        note(exchange, answer.status, code)
        var head = "HTTP/1.1 \(answer.status) \(answer.status < 300 ? "OK" : "Status")\r\n"
        head += "date: \(WireTime.http(now))\r\n"
        // A web server where S3 should be knows nothing of S3.
        if !answer.headers.contains(where: { $0.value == "text/html" }) {
            head += "server: FakeS3\r\nx-amz-request-id: FAKE\(count)\r\nx-amz-id-2: fake/\(count)\r\n"
        }
        for (name, value) in answer.headers { head += "\(name): \(value)\r\n" }
        if answer.status != 204 && answer.status != 304 {
            head += "content-length: \(announced ?? answer.body.count)\r\n"
        }
        if closes { head += "connection: close\r\n" }
        let hasBody = exchange.request.method != "HEAD" && answer.status != 204 && answer.status != 304
        try send(Array((head + "\r\n").utf8) + (hasBody ? answer.body : []))
        if closes {
            // Without an end of what we send first, unread input would turn the close into a reset before the answer.
            shutdown(socket, Int32(SHUT_WR))
            drain()
        }
    }

    /// Reads on until the client closes too, at most a second.
    private func drain() {
        var limit = timeval(tv_sec: 1, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var bytes = [UInt8](repeating: 0, count: 65_536)
        while recv(socket, &bytes, bytes.count, 0) > 0 {}
    }
}
