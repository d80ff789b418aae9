import Foundation
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import SystemPackage
import Testing

@Suite("Uploads in parts")
struct UploadTests {
    private static let big = DestinationBench.noise(64 * 1_024 * 7 + 11)

    @Test("A large file is sent in parts of one size, and its digest is of its content")
    func parts() async throws {
        let bench = try await DestinationBench()
        try bench.write("big", Self.big)
        try await bench.save("big")
        #expect(bench.store.requests.filter { $0 == .uploadPart }.count == 8)
        #expect(bench.store.object("backup/big")?.body == Self.big)
        try bench.expectSaved(["big"])
        #expect(bench.store.uploadCount == 0)
    }

    @Test("After a crash the parts that were confirmed are not sent again", arguments: [2, 4, 7, 9])
    func resume(after requests: Int) async throws {
        let bench = try await DestinationBench()
        try bench.write("big", Self.big)
        try await bench.queue(["big"])
        bench.store.failAll(from: requests, .before)
        _ = try await bench.round()
        let sent = requests - 1
        #expect(bench.store.object("backup/big") == nil)
        try await bench.restart()
        bench.store.clearLog()
        try await bench.drain()
        #expect(bench.store.requests.filter { $0 == .uploadPart }.count == 8 - min(sent, 8))
        #expect(!bench.store.requests.contains(.beginUpload))
        #expect(bench.store.object("backup/big")?.body == Self.big)
        try bench.expectTruth()
        try bench.expectSaved(["big"])
    }

    @Test("A part that the server lost is sent again, and a file that changed is sent anew")
    func changed() async throws {
        let bench = try await DestinationBench()
        try bench.write("big", Self.big)
        try await bench.queue(["big"])
        bench.store.failAll(from: 5, .before)
        _ = try await bench.round()
        try await bench.restart()
        bench.store.clearLog()
        var other = Self.big
        other[3] ^= 1
        try bench.write("big", other)
        try await bench.save("big")
        #expect(bench.store.requests.filter { $0 == .uploadPart }.count == 8)
        #expect(bench.store.requests.contains(.abortUpload))
        #expect(bench.store.object("backup/big")?.body == other)
        #expect(bench.store.uploadCount == 0)
        try bench.expectSaved(["big"])
    }

    @Test("An upload that the server does not know any more is begun again")
    func lost() async throws {
        let bench = try await DestinationBench()
        try bench.write("big", Self.big)
        try await bench.queue(["big"])
        bench.store.failAll(from: 5, .before)
        _ = try await bench.round()
        bench.store.forgetUploads()
        try await bench.restart()
        try await bench.drain()
        #expect(bench.store.object("backup/big")?.body == Self.big)
        try bench.expectSaved(["big"])
    }

    @Test("A file that grows while it is sent is torn, and nothing of it is stored until the last attempt")
    func torn() async throws {
        let bench = try await DestinationBench { $0.tornLimit = 3 }
        try bench.write("big", Self.big)
        let path = bench.path("big")
        bench.store.onRequest { operation in
            guard operation == .uploadPart, let handle = FileHandle(forWritingAtPath: path) else { return }
            handle.seekToEndOfFile()
            handle.write(Data([1]))
            handle.closeFile()
        }
        try await bench.queue(["big"])
        for _ in 0..<2 {
            let outcomes = try #require(try await bench.round())
            guard case .failed(let error) = outcomes[0] else {
                Issue.record("a torn file was stored")
                return
            }
            #expect(error.code == .torn)
            #expect(bench.store.object("backup/big") == nil && bench.store.uploadCount == 0)
        }
        let outcomes = try #require(try await bench.round())
        guard case .stored(let entry) = outcomes[0] else {
            Issue.record("an open log is never saved")
            return
        }
        #expect(entry.isFuzzy)
        try bench.expectTruth()
        bench.store.onRequest(nil)
        try await bench.save("big")
        try bench.expectSaved(["big"])
    }

    @Test("A file that shrinks while it is sent is torn, and ends without a fault")
    func shrinks() async throws {
        let bench = try await DestinationBench { $0.tornLimit = 2 }
        try bench.write("big", Self.big)
        let path = bench.path("big")
        bench.store.onRequest { operation in
            if operation == .beginUpload { truncate(path, 70_000) }
        }
        try await bench.queue(["big"])
        _ = try await bench.round()
        #expect(bench.store.object("backup/big") == nil && bench.store.uploadCount == 0)
        try await bench.drain()
        try bench.expectTruth()
        try bench.expectSaved(["big"])
    }

    @Test("Buffers never hold more than their budget, and all files arrive")
    func memory() async throws {
        let bench = try await DestinationBench {
            $0.limits.memory = 200 << 10
            $0.limits.partsAtOnce = 8
            $0.filesAtOnce = 16
        }
        let names = (0..<6).map { "big\($0)" }
        for (index, name) in names.enumerated() {
            try bench.write(name, DestinationBench.noise(300_000 + index, UInt64(index + 1)))
        }
        for index in 0..<40 { try bench.write("small\(index)", DestinationBench.noise(5_000, UInt64(index + 100))) }
        try await bench.queue(names + (0..<40).map { "small\($0)" })
        try await bench.drain()
        #expect(bench.store.mostInFlight <= 200 << 10)
        #expect(bench.destination.uploader.budget.available == 200 << 10)
        try bench.expectSaved(names)
        try bench.expectTruth()
    }

    @Test("A stop ends an upload as interrupted, and the next start goes on with it")
    func interrupt() async throws {
        let bench = try await DestinationBench()
        try bench.write("big", Self.big)
        let destination = bench.destination
        let seen = Locked(0)
        bench.store.onRequest { operation in
            guard operation == .uploadPart else { return }
            if seen.withLock({ count in
                count += 1
                return count == 3
            }) {
                destination.interrupt()
            }
        }
        try await bench.queue(["big"])
        let outcomes = try #require(try await bench.round())
        guard case .failed(let error) = outcomes[0] else {
            Issue.record("it was not interrupted")
            return
        }
        #expect(error.code == .interrupted)
        #expect(bench.store.uploadCount == 1)
        bench.store.onRequest(nil)
        try await bench.restart()
        bench.store.clearLog()
        try await bench.drain()
        #expect(bench.store.requests.filter { $0 == .uploadPart }.count < 8)
        try bench.expectSaved(["big"])
    }

    @Test("Uploads that nobody goes on with are ended at the server: our own, and after a day those of nobody")
    func stale() async throws {
        let bench = try await DestinationBench()
        try bench.write("big", Self.big)
        try await bench.queue(["big"])
        bench.store.failAll(from: 5, .before)
        _ = try await bench.round()
        bench.store.heal()
        let key = try bench.destination.keys.key(try RelativePath("other"))
        _ = try await bench.store.beginUpload(key, ObjectProperties())
        #expect(bench.store.uploadCount == 2)
        try await bench.destination.uploader.abandonStale(below: bench.destination.keys.prefix)
        // Too young.
        #expect(bench.store.uploadCount == 2)
        bench.store.ageUploads(by: .seconds(2 * 86_400))
        try await bench.destination.uploader.abandonStale(below: bench.destination.keys.prefix)
        #expect(bench.store.uploadCount == 1)
        try await bench.restart()
        try await bench.drain()
        try bench.expectSaved(["big"])
    }
}
