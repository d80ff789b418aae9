import SafeBackupCore
import SafeBackupS3
import SafeBackupState
import SafeBackupSystem
import SystemPackage
import Testing
import Glibc

@Suite("Taking a prefix of a bucket")
struct AttachTests {
    private func expect(_ code: SafeBackupError.Code, _ body: () async throws -> Void) async {
        await #expect {
            try await body()
        } throws: {
            ($0 as? SafeBackupError)?.code == code
        }
    }

    @Test("A prefix that holds somebody's objects is not taken, so that none of them is overwritten")
    func strangers() async throws {
        let bench = try await DestinationBench()
        let other = S3Destination(
            store: bench.store, ledger: MemoryLedger(),
            settings: S3DestinationSettings(name: "s3://bucket", scratch: bench.settings.scratch), io: bench.io)
        // backup/… lies below the whole bucket.
        #expect(try await other.inspect().isEmpty == false)
        await expect(.destinationTaken) { try await other.create(id: "x", sources: []) }
        #expect(bench.store.object(".safebackup/destination.json") == nil)
    }

    @Test("The sentinel proves the destination: one that is gone or another's holds it, and nothing is written")
    func sentinel() async throws {
        let bench = try await DestinationBench()
        let key = "backup/.safebackup/destination.json"
        let own = try #require(bench.store.object(key))
        #expect(try await bench.destination.inspect().sentinel?.id == DestinationBench.sentinel)
        await bench.destination.detach()
        bench.store.set(key, nil)
        await expect(.sentinelMissing) { try await bench.destination.attach(expecting: DestinationBench.sentinel) }
        bench.store.set(key, own)
        await expect(.sentinelForeign) { try await bench.destination.attach(expecting: "another") }
        bench.store.clearLog()
        try bench.write("a", "one")
        try await bench.queue(["a"])
        guard case .failed(let error)? = try await bench.round()?.first else {
            Issue.record("it was stored in a destination that nobody holds")
            return
        }
        #expect(error.disposition == .destinationUnavailable)
        #expect(bench.store.requests.isEmpty)
        try await bench.destination.attach(expecting: DestinationBench.sentinel)
        try await bench.drain()
        try bench.expectSaved(["a"])
    }

    @Test("Two that make one prefix a destination at the same moment do not both have it")
    func race() async throws {
        let bench = try await DestinationBench(denied: [.get, .list])
        let other = S3Destination(
            store: bench.store, ledger: MemoryLedger(), settings: bench.settings, io: bench.io)
        await expect(.destinationTaken) { try await other.create(id: "x", sources: []) }
    }

    @Test("Of the two catalogue copies one is always whole, and the newest comes first", arguments: 0...4)
    func catalogue(failing request: Int) async throws {
        let bench = try await DestinationBench()
        let destination = bench.destination
        func install(_ content: String) async throws {
            let path = try destination.catalogueStagePath()
            try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL).writeAll(Array(content.utf8))
            try await destination.installCatalogue()
        }
        func newest() async throws -> [String] {
            try await destination.catalogues().map {
                String(decoding: try Descriptor.open($0, O_RDONLY).readAll(), as: UTF8.self)
            }
        }
        #expect(try await newest().isEmpty)
        try await install("one")
        try await install("two")
        #expect(try await newest() == ["two", "one"])
        try await bench.restart()
        bench.store.fail(request, .before)
        do {
            try await install("three")
        } catch {
            #expect(try await newest().first == "two")
        }
        bench.store.heal()
        try await install("four")
        let found = try await newest()
        #expect(found.first == "four" && found.count == 2)
    }

    @Test(
        "A deleted path's copy goes to the versions once, whatever fails on the way", arguments: 0...4, [true, false])
    func retire(failing request: Int, isLost: Bool) async throws {
        let bench = try await DestinationBench()
        try bench.write("a", "one")
        try await bench.save("a")
        let digest = SHA256.digest(of: Array("one".utf8))
        let copy = CopyRecord(
            id: 7, location: try RelativePath("a"), kind: .file, digest: digest, size: 3,
            storedAt: Timestamp(microseconds: 0), inode: nil, mtime: nil)
        let version = try bench.destination.versionName(of: copy, at: Timestamp(microseconds: 0))
        let retirement = Retirement(source: bench.source, copy: copy, version: version)
        bench.store.fail(request, isLost ? .after : .before)
        do throws(SafeBackupError) {
            _ = try await bench.destination.retire([retirement])
        } catch {
            // Asked again below.
        }
        let versionKey = try bench.destination.keys.key(version)
        let body = Array("one".utf8)
        #expect(bench.store.object("backup/a")?.body == body || bench.store.object(versionKey)?.body == body)
        bench.store.heal()
        let outcomes = try await bench.destination.retire([retirement])
        guard case .moved(let move)? = outcomes.first else {
            Issue.record("\(outcomes)")
            return
        }
        #expect(move.to == version && bench.store.object(versionKey)?.body == body)
        #expect(bench.store.object("backup/a") == nil)
        // A file that is another one since stays.
        bench.store.set("backup/a", .init(body: Array("new".utf8), metadata: [:], etag: "x"))
        let tombstone = CopyRecord(
            id: 8, location: try RelativePath("a"), kind: .file, digest: nil, size: 3,
            storedAt: Timestamp(microseconds: 0), inode: nil, mtime: FileTime(nanoseconds: 5))
        try await bench.destination.remove(tombstones: [tombstone])
        #expect(bench.store.object("backup/a") != nil)
        try await bench.destination.remove(versions: [version])
        #expect(bench.store.object(versionKey) == nil)
    }
}
