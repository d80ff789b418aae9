import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import SystemPackage
import Testing

import Glibc

/// How many are in it at once.
private final class Inside: Sendable {
    private let counts = Locked((now: 0, most: 0))
    var most: Int { counts.withLock { $0.most } }
    func enter() { counts.withLock { $0 = ($0.now + 1, max($0.most, $0.now + 1)) } }
    func leave() { counts.withLock { $0.now -= 1 } }
}

@Suite("Requests over libcurl", .timeLimit(.minutes(2)))
struct CurlTransportTests {
    /// A server and a transport, both ended after `body`.
    private func with(
        _ settings: TransportSettings = TransportSettings(), serve: @escaping @Sendable (TinyServer.Connection) -> Void,
        _ body: (CurlTransport, HTTPOrigin, TinyServer) async throws -> Void
    ) async throws {
        var settings = settings
        if settings.proxy == nil { settings.proxy = "" }
        let server = try TinyServer(serve)
        let transport = try CurlTransport(settings)
        do {
            try await body(transport, HTTPOrigin(scheme: .http, host: "127.0.0.1", port: server.port), server)
        } catch {
            server.stop()
            await transport.close()
            throw error
        }
        server.stop()
        await transport.close()
    }

    private func failure(_ transport: CurlTransport, _ request: HTTPRequest) async -> TransportFailure? {
        do throws(TransportFailure) {
            _ = try await transport.send(request)
            return nil
        } catch {
            return error
        }
    }

    private func buffer(_ count: Int) -> PartBuffer {
        let buffer = PartBuffer(capacity: count)
        buffer.fill { memory in
            for index in 0..<count { memory[index] = UInt8(truncatingIfNeeded: index &* 131 &+ (index >> 8)) }
            return count
        }
        return buffer
    }

    @Test("What arrives is what was signed, byte by byte, on one kept connection")
    func keepAlive() async throws {
        let seen = Seen<TinyServer.Received>()
        let serve: @Sendable (TinyServer.Connection) -> Void = { connection in
            while let request = connection.readRequest() {
                seen.add(request)
                connection.answer(200, "", headers: ["ETag: \"x\"", "x-amz-request-id:  r \t"])
            }
        }
        try await with(serve: serve) { transport, origin, server in
            let bodies: [HTTPRequest.Body] = [.none, .bytes([]), .bytes(Array("hello".utf8)), .buffer(buffer(300_000))]
            for body in bodies {
                var request = HTTPRequest(.put, origin, path: "/b/a/../b//c/./%2Fd%20", body: body)
                request.query = [("uploads", nil), ("x", "a b/c")]
                request.headers = [("x-amz-meta-a", "b  c"), ("x-empty", "")]
                let response = try await transport.send(request)
                #expect(response.status == 200)
                #expect(response.header("etag") == "\"x\"")
                #expect(response.header("x-amz-request-id") == "r")
            }
            for (index, request) in seen.all.enumerated() {
                #expect(request.line == "PUT /b/a/../b//c/./%2Fd%20?uploads&x=a%20b%2Fc HTTP/1.1")
                #expect(request.headers["host"] == origin.hostHeader)
                #expect(request.headers["content-length"] == String(bodies[index].count))
                #expect(request.headers["x-amz-meta-a"] == "b  c")
                #expect(request.headers["x-empty"]?.isEmpty == true)
                #expect(request.headers["user-agent"] == "safebackup")
                for name in ["expect", "accept-encoding", "transfer-encoding", "content-type", "accept"] {
                    #expect(request.headers[name] == nil, "\(name)")
                }
                #expect(request.body == bytes(of: bodies[index]))
            }
            #expect(seen.all.count == bodies.count)
            #expect(server.connectionCount == 1)
            var fresh = HTTPRequest(.get, origin, path: "/")
            fresh.needsNewConnection = true
            _ = try await transport.send(fresh)
            #expect(server.connectionCount == 2)
        }
    }

    private func bytes(of body: HTTPRequest.Body) -> [UInt8] {
        switch body {
        case .none: []
        case .bytes(let bytes): bytes
        case .buffer(let buffer): buffer.withBytes { Array($0) }
        }
    }

    @Test("Every method goes as what it is", arguments: ["GET", "HEAD", "PUT", "POST", "DELETE"])
    func methods(_ name: String) async throws {
        let method = try #require(HTTPRequest.Method(rawValue: name))
        let seen = Seen<TinyServer.Received>()
        try await with(serve: { connection in
            while let request = connection.readRequest() {
                seen.add(request)
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + (name == "HEAD" ? "" : "abc"))
            }
        }) { transport, origin, _ in
            for _ in 0..<2 {
                let body: HTTPRequest.Body = name == "POST" ? .bytes(Array("<x/>".utf8)) : .none
                let response = try await transport.send(HTTPRequest(method, origin, path: "/k", body: body))
                #expect(response.body == (name == "HEAD" ? [] : Array("abc".utf8)))
            }
            #expect(seen.all.map(\.line) == ["\(name) /k HTTP/1.1", "\(name) /k HTTP/1.1"])
            #expect(seen.all.last?.body == (name == "POST" ? Array("<x/>".utf8) : []))
            #expect(seen.all.last?.headers["content-type"] == nil)
        }
    }

    @Test("A kept connection that the server has closed costs nothing: the body is sent again from its beginning")
    func closedIdle() async throws {
        let seen = Seen<[UInt8]>()
        try await with(serve: { connection in
            guard let first = connection.readRequest() else { return }
            seen.add(first.body)
            connection.answer()
            // The next request is cut without an answer, after a part of its body.
            if connection.number % 2 == 1, connection.readHead() != nil { connection.reset() }
        }) { transport, origin, server in
            let body = buffer(200_000)
            for _ in 0..<4 {
                let request = HTTPRequest(.put, origin, path: "/k", body: .buffer(body))
                let response = try await transport.send(request)
                #expect(response.status == 200)
            }
            let expected = body.withBytes { Array($0) }
            #expect(seen.all.count == 4)
            #expect(seen.all.allSatisfy { $0 == expected })
        }
    }

    @Test("A refusal in the middle of the body counts, also when the server then cuts the connection")
    func earlyRefusal() async throws {
        try await with(serve: { connection in
            guard connection.readHead() != nil, connection.readBody(100_000) != nil else { return }
            connection.answer(403, "<Error><Code>AccessDenied</Code></Error>")
            connection.reset()
        }) { transport, origin, _ in
            let response = try await transport.send(
                HTTPRequest(.put, origin, path: "/k", body: .buffer(buffer(8 << 20))))
            #expect(response.status == 403)
        }
    }

    @Test("With 100-continue a refused body is not sent, and an accepted one is")
    func expectContinue() async throws {
        let seen = Seen<Int>()
        try await with(serve: { connection in
            guard let head = connection.readHead() else { return }
            #expect(head.headers["expect"] == "100-continue")
            if head.line.contains("/no") {
                connection.answer(403, "no", headers: ["Connection: close"])
                seen.add(0)
            } else {
                connection.write("HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n")
                let count = head.headers["content-length"].flatMap(Int.init) ?? 0
                seen.add(connection.readBody(count)?.count ?? -1)
                connection.answer(200, "yes")
            }
        }) { transport, origin, _ in
            var request = HTTPRequest(.put, origin, path: "/no", body: .buffer(buffer(3 << 20)))
            request.expectsContinue = true
            let refused = try await transport.send(request)
            #expect(refused.status == 403)
            request.path = "/yes"
            let accepted = try await transport.send(request)
            #expect(accepted.status == 200)
            #expect(accepted.header("x-interim") == nil)
            #expect(accepted.body == Array("yes".utf8))
            #expect(seen.all == [0, 3 << 20])
        }
    }

    @Test(
        "Without an answer, and without a byte, a request ends at its limit; the next one works",
        arguments: [true, false])
    func stalled(_ readsBody: Bool) async throws {
        let gate = Gate()
        try await with(serve: { connection in
            guard let head = connection.readHead() else { return }
            if head.line.contains("/next") { return connection.answer() }
            if readsBody { _ = connection.readBody(32 << 20) }
            gate.pass()
        }) { transport, origin, _ in
            var request = HTTPRequest(.put, origin, path: "/k", body: .buffer(buffer(32 << 20)))
            request.limits.answer = readsBody ? .milliseconds(300) : .seconds(600)
            request.limits.stall = readsBody ? .seconds(600) : .milliseconds(300)
            let failure = await self.failure(transport, request)
            gate.open()
            #expect(failure?.kind == .stalled)
            #expect(failure?.mayHaveArrived == true)
            let next = try await transport.send(HTTPRequest(.get, origin, path: "/next"))
            #expect(next.status == 200)
        }
    }

    @Test("A cancelled task ends its request and no other")
    func cancelled() async throws {
        let gate = Gate()
        let arrived = Gate()
        try await with(serve: { connection in
            guard let request = connection.readRequest() else { return }
            if request.line.contains("/slow") {
                arrived.open()
                gate.pass()
            }
            connection.answer()
        }) { transport, origin, _ in
            let slow = Task { await self.failure(transport, HTTPRequest(.get, origin, path: "/slow")) }
            await Task.detached { arrived.pass() }.value
            let other = Task { try await transport.send(HTTPRequest(.get, origin, path: "/other")).status }
            slow.cancel()
            let failure = await slow.value
            gate.open()
            #expect(failure?.kind == .cancelled)
            #expect(failure?.mayHaveArrived == true)
            let status = try await other.value
            #expect(status == 200)
        }
    }

    @Test("A task that was cancelled before it began sends nothing")
    func cancelledBefore() async throws {
        let seen = Seen<String>()
        try await with(serve: { connection in
            while let request = connection.readRequest() {
                seen.add(request.line)
                connection.answer()
            }
        }) { transport, origin, _ in
            let task = Task { () -> TransportFailure? in
                while !Task.isCancelled { await Task.yield() }
                return await self.failure(transport, HTTPRequest(.get, origin, path: "/never"))
            }
            task.cancel()
            #expect(await task.value?.kind == .cancelled)
            _ = try await transport.send(HTTPRequest(.get, origin, path: "/after"))
            #expect(seen.all == ["GET /after HTTP/1.1"])
        }
    }

    @Test("A task cancelled at any moment comes back")
    func cancelledAnyTime() async throws {
        try await with(serve: { connection in
            while connection.readRequest() != nil { connection.answer() }
        }) { transport, origin, _ in
            await withTaskGroup(of: Void.self) { group in
                for index in 0..<400 {
                    group.addTask {
                        let task = Task { await self.failure(transport, HTTPRequest(.get, origin, path: "/\(index)")) }
                        for _ in 0..<(index % 7) { await Task.yield() }
                        task.cancel()
                        let failure = await task.value
                        #expect(failure == nil || failure?.kind == .cancelled)
                    }
                }
            }
            let after = try await transport.send(HTTPRequest(.get, origin, path: "/after"))
            #expect(after.status == 200)
        }
    }

    @Test("A cut answer is none, whether it goes to memory or to a file", arguments: [true, false])
    func cut(_ toFile: Bool) async throws {
        try await with(serve: { connection in
            guard connection.readRequest() != nil else { return }
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + String(repeating: "x", count: 50))
            connection.close()
        }) { transport, origin, _ in
            var request = HTTPRequest(.get, origin, path: "/k")
            let file = try temporaryFile()
            if toFile { request.sink = .file(file, offset: 0) }
            let failure = await self.failure(transport, request)
            #expect(failure?.kind == .connectionLost)
            #expect(failure?.mayHaveArrived == true)
        }
    }

    /// Without a name, gone with its descriptor.
    private func temporaryFile() throws -> Descriptor {
        let path = "/tmp/safebackup-transport-\(UInt64.random(in: 0...UInt64.max))"
        let raw = try FileDescriptor.open(
            path, .readWrite, options: [.create, .exclusiveCreate, .closeOnExec], permissions: [.ownerReadWrite])
        defer { _ = path.withCString { unlink($0) } }
        return Descriptor(owning: raw.rawValue)
    }

    @Test("A success goes into the file from its offset on, a failure into memory")
    func file() async throws {
        try await with(serve: { connection in
            while let request = connection.readRequest() {
                if request.line.contains("/no") {
                    connection.answer(404, "<Error/>")
                } else {
                    connection.write(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
                }
            }
        }) { transport, origin, _ in
            let file = try temporaryFile()
            var request = HTTPRequest(.get, origin, path: "/yes")
            request.sink = .file(file, offset: 5)
            let response = try await transport.send(request)
            #expect(response.bodyCount == 7)
            #expect(response.body.isEmpty)
            request.path = "/no"
            let missing = try await transport.send(request)
            #expect(missing.status == 404)
            #expect(missing.body == Array("<Error/>".utf8))
            var content = [UInt8](repeating: 1, count: 20)
            let count = content.withUnsafeMutableBytes { pread(file.raw, $0.baseAddress, $0.count, 0) }
            #expect(Array(content.prefix(count)) == [0, 0, 0, 0, 0] + Array("abcdefg".utf8))
        }
    }

    @Test("An answer above its limit fails, an endless page of an error is cut")
    func limits() async throws {
        let serve: @Sendable (TinyServer.Connection) -> Void = { connection in
            while let request = connection.readRequest() {
                connection.answer(
                    request.line.contains("/ok") ? 200 : 500, String(repeating: "x", count: 2 << 20))
            }
        }
        try await with(serve: serve) { transport, origin, _ in
            var request = HTTPRequest(.get, origin, path: "/ok")
            request.sink = .memory(limit: (2 << 20) - 1)
            #expect(await self.failure(transport, request)?.kind == .tooLarge)
            request.sink = .memory(limit: 2 << 20)
            let whole = try await transport.send(request)
            #expect(whole.body.count == 2 << 20)
            request.path = "/error"
            let error = try await transport.send(request)
            #expect(error.status == 500)
            #expect(error.body.count == 1 << 20)
        }
    }

    @Test("No redirect is followed", arguments: [301, 302, 307, 308])
    func redirect(_ status: Int) async throws {
        let seen = Seen<String>()
        try await with(serve: { connection in
            while let request = connection.readRequest() {
                seen.add(request.line)
                connection.answer(status, "", headers: ["Location: /other"])
            }
        }) { transport, origin, _ in
            let response = try await transport.send(HTTPRequest(.put, origin, path: "/k", body: .bytes([1])))
            #expect(response.status == status)
            #expect(response.header("location") == "/other")
            #expect(seen.all == ["PUT /k HTTP/1.1"])
        }
    }

    @Test("A proxy is asked, except for what must not go through one; its refusal is told as such")
    func proxy() async throws {
        let seen = Seen<String>()
        let proxy = try TinyServer { connection in
            while let request = connection.readRequest() {
                seen.add(request.line)
                if request.line.hasPrefix("CONNECT") {
                    connection.answer(407, "", headers: ["Proxy-Authenticate: Basic realm=\"x\"", "Connection: close"])
                    return
                }
                connection.answer(200, "proxy")
            }
        }
        defer { proxy.stop() }
        var settings = TransportSettings()
        settings.proxy = "http://127.0.0.1:\(proxy.port)"
        settings.noProxy = ""
        let serve: @Sendable (TinyServer.Connection) -> Void = { connection in
            while connection.readRequest() != nil { connection.answer(200, "direct") }
        }
        try await with(settings, serve: serve) { transport, origin, _ in
            var request = HTTPRequest(.get, origin, path: "/k")
            let through = try await transport.send(request)
            #expect(through.body == Array("proxy".utf8))
            request.mayUseProxy = false
            let direct = try await transport.send(request)
            #expect(direct.body == Array("direct".utf8))
            #expect(seen.all == ["GET http://\(origin.hostHeader)/k HTTP/1.1"])
            let secure = HTTPRequest(.get, HTTPOrigin(scheme: .https, host: "s3.example.test"), path: "/k")
            let failure = await self.failure(transport, secure)
            #expect(failure?.kind == .cannotConnect)
            #expect(failure?.message.contains("proxy") == true)
            #expect(failure?.mayHaveArrived == false)
        }
    }

    @Test("Never more requests are in flight than the settings allow, and all are served")
    func concurrency() async throws {
        let inside = Inside()
        var settings = TransportSettings()
        settings.concurrency = 4
        let arrived = Gate()
        let gate = Gate()
        try await with(
            settings,
            serve: { connection in
                while connection.readRequest() != nil {
                    inside.enter()
                    arrived.open()
                    gate.pass()
                    inside.leave()
                    connection.answer()
                }
            }
        ) { transport, origin, server in
            try await withThrowingTaskGroup(of: Int.self) { group in
                for index in 0..<40 {
                    group.addTask { try await transport.send(HTTPRequest(.get, origin, path: "/\(index)")).status }
                }
                // Four have arrived; then one goes for each that comes.
                for _ in 0..<4 { await Task.detached { arrived.pass() }.value }
                for _ in 0..<40 { gate.open() }
                for try await status in group { #expect(status == 200) }
            }
            #expect(inside.most == 4)
            #expect(server.connectionCount <= 4)
        }
    }

    @Test("Closing ends what is in flight and what waits; nothing begins after it")
    func closing() async throws {
        var settings = TransportSettings()
        settings.concurrency = 1
        let gate = Gate()
        let arrived = Gate()
        try await with(
            settings,
            serve: { connection in
                guard connection.readRequest() != nil else { return }
                arrived.open()
                gate.pass()
            }
        ) { transport, origin, _ in
            let tasks = (0..<3).map { _ in Task { await self.failure(transport, HTTPRequest(.get, origin, path: "/k")) }
            }
            await Task.detached { arrived.pass() }.value
            await transport.close()
            await transport.close()
            gate.open()
            for task in tasks { #expect(await task.value?.kind == .cancelled) }
            #expect(await self.failure(transport, HTTPRequest(.get, origin, path: "/k"))?.kind == .cancelled)
        }
    }

    @Test("What cannot be reached says why")
    func unreachable() async throws {
        let gone = try TinyServer { _ in }
        gone.stop()
        try await with(serve: { connection in
            connection.write("SSH-2.0-OpenSSH_9.2\r\n")
            connection.drain()
        }) { transport, origin, _ in
            var closed = origin
            closed.port = gone.port
            let refused = await self.failure(transport, HTTPRequest(.get, closed, path: "/"))
            #expect(refused?.kind == .cannotConnect)
            #expect(refused?.systemError == Errno.connectionRefused.rawValue)
            #expect(refused?.mayHaveArrived == false)
            let other = await self.failure(transport, HTTPRequest(.get, origin, path: "/"))
            // Whether its greeting or its reset comes first, nobody can say.
            #expect(other?.kind == .notHTTP || other?.kind == .connectionLost)
            var nameless = HTTPRequest(.get, HTTPOrigin(scheme: .http, host: "nowhere.invalid"), path: "/")
            nameless.limits.connect = .seconds(30)
            #expect(await self.failure(transport, nameless)?.kind == .nameNotFound)
            var secure = origin
            secure.scheme = .https
            #expect(await self.failure(transport, HTTPRequest(.get, secure, path: "/"))?.kind == .tlsFailed)
        }
    }

    @Test("All uploads together keep to the bandwidth, and none is taken for stalled")
    func bandwidth() async throws {
        var settings = TransportSettings()
        settings.bandwidth = ByteCount(400_000)
        let seen = Seen<Int>()
        try await with(
            settings,
            serve: { connection in
                while let request = connection.readRequest() {
                    seen.add(request.body.count)
                    connection.answer()
                }
            }
        ) { transport, origin, _ in
            let began = ContinuousClock.now
            try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<4 {
                    var request = HTTPRequest(.put, origin, path: "/k", body: .buffer(buffer(100_000)))
                    request.limits.stall = .milliseconds(500)
                    group.addTask { [request] in try await transport.send(request).status }
                }
                for try await status in group { #expect(status == 200) }
            }
            // The last slice of 20,000 bytes, and 100 ms of patience, are not waited for.
            #expect(ContinuousClock.now - began >= .milliseconds(800))
            #expect(seen.all == [100_000, 100_000, 100_000, 100_000])
        }
    }
}
