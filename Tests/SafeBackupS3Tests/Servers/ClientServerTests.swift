import Foundation
import SafeBackupCore
import SafeBackupFakeS3
import SafeBackupS3
import SafeBackupSystem
import Testing

@Suite("The S3 client and what servers are like")
struct ClientServerTests {
    @Test("A clock that is off by an hour is corrected by the server's, once", arguments: [3_600, -3_600])
    func clock(_ offset: Int) async throws {
        var options = FakeS3Options()
        options.clockOffset = offset
        let server = try FakeS3.start(options)
        let customer = try Customer(server)
        for index in 0..<3 { _ = try await customer.client.put("k\(index)", [1], ObjectProperties()) }
        #expect(server.requests.map(\.code) == ["RequestTimeTooSkewed", nil, nil, nil])
        #expect(customer.notices.all.count == 1)
        #expect(abs(customer.client.clockOffset.components.seconds - Int64(offset)) <= 60)
    }

    @Test("A bucket of another region is found by the server's word, once")
    func region() async throws {
        var options = FakeS3Options()
        options.region = "eu-central-1"
        let server = try FakeS3.start(options)
        let customer = try Customer(server)
        for index in 0..<3 { _ = try await customer.client.put("k\(index)", [1], ObjectProperties()) }
        #expect(server.requests.map(\.code) == ["AuthorizationHeaderMalformed", nil, nil, nil])
        #expect(customer.notices.all == [.regionChanged(from: "us-east-1", to: "eu-central-1")])
    }

    @Test("Keys that have expired are replaced by new ones within the request")
    func expiry() async throws {
        var options = FakeS3Options()
        options.credentials = [
            FakeCredential(accessKey: "OLD", sessionToken: "old+/=", expires: 1),
            FakeCredential(accessKey: "NEW", sessionToken: "new+/="),
        ]
        let server = try FakeS3.start(options)
        let customer = try Customer(server)
        for index in 0..<2 { _ = try await customer.client.put("k\(index)", [1], ObjectProperties()) }
        #expect(server.requests.map(\.code) == ["ExpiredToken", nil, nil])
    }

    @Test("Keys that are wrong hold the destination, and no message has the secret", arguments: ["access", "secret"])
    func wrongKeys(_ which: String) async throws {
        let server = try FakeS3.start()
        var keys = FakeCredential()
        if which == "access" { keys.accessKey += "X" } else { keys.secretKey += "-wrong-secret" }
        let customer = try Customer(endpoint: server.endpoint, [keys.keys])
        let error = await #expect(throws: SafeBackupError.self) {
            try await customer.client.put("k", [1], ObjectProperties())
        }
        #expect(error?.disposition == .auth, "\(String(describing: error))")
        #expect(error?.message.contains("secret+key") == false)
        #expect(server.requests.count <= 2)
    }

    @Test(
        "A server without checksums gets none from then on",
        arguments: [FakeS3Options.Checksums.refused, .notImplemented])
    func checksums(_ kind: FakeS3Options.Checksums) async throws {
        var options = FakeS3Options()
        options.checksums = kind
        options.minimumPartSize = 1
        let server = try FakeS3.start(options)
        let customer = try Customer(server) { $0.checksum = .crc64nvme }
        let upload = try await customer.client.beginUpload(ObjectKey("u"), ObjectProperties())
        let part = try await customer.client.uploadPart(1, of: upload, .bytes([1]))
        _ = try await customer.client.completeUpload(upload, [part], size: 1)
        _ = try await customer.client.put("k", [1], ObjectProperties())
        #expect(server.requests.filter { $0.status != 200 }.count == 1)
        #expect(customer.notices.all == [.checksumsDropped])
    }

    @Test(
        "Each checksum that can be configured is what the server computes",
        arguments: [S3ClientSettings.Checksum.md5, .crc32, .crc32c, .crc64nvme, .sha256])
    func eachChecksum(_ kind: S3ClientSettings.Checksum) async throws {
        var options = FakeS3Options()
        options.minimumPartSize = 1_000
        let server = try FakeS3.start(options)
        let customer = try Customer(server) { $0.checksum = kind }
        _ = try await customer.client.put("k", patterned(5_000), ObjectProperties())
        let upload = try await customer.client.beginUpload(ObjectKey("u"), ObjectProperties())
        var parts: [PartReceipt] = []
        for number in 1...3 {
            parts.append(
                try await customer.client.uploadPart(number, of: upload, .bytes(patterned(1_000, seed: number))))
        }
        _ = try await customer.client.completeUpload(upload, parts, size: 3_000)
        #expect(server.requests.allSatisfy { $0.status == 200 })
        #expect(server.object("u")?.bytes.count == 3_000)
        let content = try await customer.client.bytes(of: ObjectKey("k"), limit: 10_000)
        #expect(content?.bytes == patterned(5_000))
    }

    @Test("A web page in place of S3 is told, and nothing counts as stored", arguments: [200, 302, 403])
    func page(_ status: Int) async throws {
        let server = try FakeS3.start()
        let customer = try Customer(server)
        server.faults.add(.page(status), times: nil)
        let error = await #expect(throws: SafeBackupError.self) {
            try await customer.client.put("k", [1], ObjectProperties())
        }
        #expect(error?.code == .notObjectStore)
        #expect(error?.disposition == .destinationUnavailable)
        await #expect(throws: SafeBackupError.self) { try await customer.client.list(below: [], after: nil) }
        await #expect(throws: SafeBackupError.self) { try await customer.client.head(ObjectKey("k"), version: nil) }
    }

    @Test("What comes back with one byte changed is damaged, whether the digest is the server's or ours")
    func flipped() async throws {
        let server = try FakeS3.start()
        let content = patterned(10_000)
        let plain = try Customer(server)
        let checked = try Customer(server) { $0.checksum = .crc32c }
        _ = try await plain.client.put(
            "ours", content, ObjectProperties(metadata: ["sha256": Digests.hex(Digests.sha256(content))]))
        _ = try await checked.client.put("theirs", content, ObjectProperties())
        for (customer, key) in [(plain, "ours"), (checked, "theirs")] {
            let intact = try await customer.client.bytes(of: ObjectKey(key), limit: 20_000)
            #expect(intact?.bytes == content)
            server.faults.add(.flipAnswer(at: 9_999), on: .getObject)
            let error = await #expect(throws: SafeBackupError.self) {
                try await customer.client.bytes(of: ObjectKey(key), limit: 20_000)
            }
            #expect(error?.code == .damaged)
        }
    }

    @Test("An older object of the same length does not pass for the upload whose completion got lost")
    func notCompleted() async throws {
        var options = FakeS3Options()
        options.minimumPartSize = 1
        let server = try FakeS3.start(options)
        let customer = try Customer(server)
        server.plant("k", [9, 9])
        let upload = try await customer.client.beginUpload(ObjectKey("k"), ObjectProperties())
        let part = try await customer.client.uploadPart(1, of: upload, .bytes([1, 2]))
        // Somebody ends the upload before it is completed.
        try await customer.client.abortUpload(upload)
        let error = await #expect(throws: SafeBackupError.self) {
            try await customer.client.completeUpload(upload, [part], size: 2)
        }
        #expect(error?.code == .uploadLost)
        #expect(server.object("k")?.bytes == [9, 9])
    }

    @Test("Two hundred objects at once go over few connections, each once")
    func many() async throws {
        let server = try FakeS3.start()
        let customer = try Customer(server) { $0.maxConnections = 8 }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<200 {
                group.addTask {
                    _ = try await customer.client.put(
                        "f\(index)", patterned(4_096, seed: index), ObjectProperties())
                }
            }
            try await group.waitForAll()
        }
        #expect(server.count(.putObject) == 200)
        #expect(server.objects.count == 200)
        #expect(server.object("f77")?.bytes == patterned(4_096, seed: 77))
        // Not eight: one that rested for some seconds is not used again.
        #expect(Set(server.requests.map(\.connection)).count < 100)
    }

    @Test("What is in flight is ended when it is asked for; what begins later is sent")
    func endRequests() async throws {
        let server = try FakeS3.start()
        let customer = try Customer(server)
        server.faults.add(.holdBeforeEffect, on: .putObject)
        let sending = Task { try await customer.client.put("k", [1], ObjectProperties()) }
        while server.held == 0 { await Task.yield() }
        customer.client.endRequests()
        let began = ContinuousClock.now
        let result = await sending.result
        #expect(throws: SafeBackupError.self) { try result.get() }
        #expect(ContinuousClock.now - began < .seconds(20))
        server.releaseHeld()
        _ = try await customer.client.put("later", [2], ObjectProperties())
        #expect(server.object("later")?.bytes == [2])
    }

    @Test("A server that went away is transient, and when it is back all goes on")
    func outage() async throws {
        let server = try FakeS3.start()
        let customer = try Customer(server)
        _ = try await customer.client.put("a", [1], ObjectProperties())
        server.goDown()
        let error = await #expect(throws: SafeBackupError.self) {
            try await customer.client.put("b", [1], ObjectProperties())
        }
        #expect(error?.disposition == .transient || error?.disposition == .destinationUnavailable)
        try server.comeBack()
        _ = try await customer.client.put("b", [1], ObjectProperties())
        #expect(server.objects.keys.sorted() == ["a", "b"])
    }
}
