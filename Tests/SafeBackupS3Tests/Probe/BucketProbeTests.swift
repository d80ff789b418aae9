import SafeBackupCore
import SafeBackupFakeS3
import SafeBackupS3
import Testing

@Suite("A bucket is looked at")
struct BucketProbeTests {
    private func probe(
        _ server: FakeS3, _ change: (inout S3ClientSettings) -> Void = { _ in }
    ) async throws -> BucketFindings {
        let customer = try Customer(server, change)
        let found = try await BucketProbe(customer.client, prefix: Array("home".utf8)).run()
        #expect(server.requests.count <= 12, "\(server.requests.map(\.operation))")
        return found
    }

    @Test("What it can do is found out with a dozen requests at most, and nothing is left behind")
    func plain() async throws {
        let server = try FakeS3.start()
        let found = try await probe(server) { $0.checksum = .crc32 }
        #expect(found.storing == nil && found.checksum == .confirmed("crc32"))
        #expect(found.keepsExisting?.value == true && found.readBack?.value == true)
        #expect(found.sentinel?.value == false && found.stranger?.value == "" && found.versioning?.value == .never)
        #expect(found.lock == nil && found.lifecycle?.value == [] && found.uploads?.value?.count == 0)
        #expect(found.removal?.value == true && !found.hasVersion)
        #expect(String(decoding: found.key.bytes, as: UTF8.self).hasPrefix("home/.safebackup/doctor-"))
        #expect(try #require(found.clockOffset) < .seconds(5))
        #expect(server.objects.isEmpty)
    }

    @Test("A bucket with versions keeps none of the trial's, also where If-None-Match is ignored")
    func versions() async throws {
        var options = FakeS3Options()
        options.ignoresConditionalWrites = true
        options.hasListV2 = false
        let server = try FakeS3.start(options)
        server.changeBucket { $0.versioning = .enabled }
        server.faults.add(
            .answer(
                FakeAnswer(
                    200,
                    xml:
                        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
                        + "<Mode>GOVERNANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>")),
            on: .getObjectLock)
        let found = try await probe(server)
        #expect(found.keepsExisting?.value == false && found.versioning?.value == .enabled && found.hasVersion)
        #expect(found.lock?.value == BucketFindings.Lock(mode: "GOVERNANCE", time: "30 days"))
        #expect(found.removal?.value == true && found.checksum == .signature)
        #expect(server.bucket()?.versions.isEmpty == true)
    }

    @Test("A server's other time and its refusal of checksums are found, and what lies there is told")
    func others() async throws {
        var options = FakeS3Options()
        options.clockOffset = -3_600
        options.checksums = .refused
        let server = try FakeS3.start(options)
        server.plant("home/theirs", [1])
        let found = try await probe(server) { $0.checksum = .crc32c }
        #expect(try (-3_605...(-3_595)).contains(#require(found.clockOffset).components.seconds))
        #expect(found.storing == nil && found.checksum == .refused && found.stranger?.value == "home/theirs")
    }

    @Test("Keys that may only put objects learn that they may not ask, and of nothing is said that it failed")
    func putOnly() async throws {
        let server = try FakeS3.start()
        for operation in FakeOperation.allCases where operation != .putObject {
            server.faults.add(.failure(403, "AccessDenied"), on: operation, times: nil)
        }
        let found = try await probe(server)
        #expect(found.storing == nil && found.keepsExisting?.value == true)
        let denied = [
            found.readBack?.isDenied, found.sentinel?.isDenied, found.stranger?.isDenied, found.versioning?.isDenied,
            found.lifecycle?.isDenied, found.uploads?.isDenied, found.removal?.isDenied,
        ]
        #expect(denied == Array(repeating: true, count: 7))
    }

    @Test("After a failure that is the whole bucket's nothing more is asked")
    func missing() async throws {
        var options = FakeS3Options()
        options.buckets = []
        let server = try FakeS3.start(options)
        let found = try await probe(server)
        #expect(found.storing?.code.rawValue == "destinationMissing" && found.sentinel == nil)
        #expect(server.requests.count == 1)
    }
}
