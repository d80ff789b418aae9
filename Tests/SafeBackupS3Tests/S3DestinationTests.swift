import SafeBackupCore
import SafeBackupS3
import SafeBackupState
import SafeBackupSystem
import SystemPackage
import Testing
import Glibc

@Suite("A destination in a bucket")
struct S3DestinationTests {
    @Test("Each changed file is one PUT, and nothing else is asked")
    func onePut() async throws {
        let bench = try await DestinationBench()
        try bench.write("a", "one")
        try bench.write("d/b", "two")
        try await bench.save("a", "d", "d/b")
        #expect(bench.store.requests == [.put, .put])
        #expect(bench.store.keys == ["backup/a", "backup/d/b"])
        try bench.expectSaved(["a", "d/b"])
        bench.store.clearLog()
        try bench.write("a", "three")
        try await bench.save("a", "d/b")
        #expect(bench.store.requests == [.put])
        try bench.expectSaved(["a", "d/b"])
        try bench.expectTruth()
    }

    @Test("An object tells mtime, mode and digest of its file, so that it can be restored without a catalogue")
    func objectMetadata() async throws {
        let bench = try await DestinationBench()
        try bench.write("a", "one")
        chmod(bench.path("a"), 0o640)
        var times = [timespec(tv_sec: 5, tv_nsec: 0), timespec(tv_sec: 1_000_000_001, tv_nsec: 42)]
        utimensat(AT_FDCWD, bench.path("a"), &times, 0)
        try bench.link("l", "nowhere at all")
        try bench.makeDirectory("empty")
        try await bench.save("a", "l", "empty")
        let file = CopyMetadata(try #require(bench.store.object("backup/a")).metadata, modified: nil)
        #expect(file.kind == .file && file.metadata.mode == 0o640)
        #expect(file.mtime == FileTime(nanoseconds: 1_000_000_001_000_000_042))
        #expect(file.digest == SHA256.digest(of: Array("one".utf8)))
        let link = try #require(bench.store.object("backup/l"))
        #expect(link.body == Array("nowhere at all".utf8))
        #expect(CopyMetadata(link.metadata, modified: nil).kind == .symlink)
        let directory = try #require(bench.store.object("backup/empty/"))
        #expect(directory.body.isEmpty && CopyMetadata(directory.metadata, modified: nil).kind == .directory)
        try bench.expectTruth()
    }

    @Test("A name that is not UTF-8 is saved, read back, and not mixed up with its spelling in the bucket")
    func strangeNames() async throws {
        let bench = try await DestinationBench()
        let name = [0x66, 0xFF] as [UInt8]
        let spelled = "f\u{201B}FF"
        let root = try Descriptor.open(FilePath(bench.top + "/source"), O_RDONLY | O_DIRECTORY)
        try root.open(name, O_WRONLY | O_CREAT).writeAll(Array("odd".utf8))
        try bench.write(spelled, "plain")
        try await bench.queue([
            .init(path: RelativePath(name), action: .store, notBefore: Timestamp(microseconds: 0)),
            .init(path: RelativePath(spelled), action: .store, notBefore: Timestamp(microseconds: 0)),
        ])
        try await bench.drain()
        try bench.expectTruth()
        #expect(bench.store.keys == ["backup/f\u{201B}FF", "backup/f\u{201B}\u{201B}FF"])
        let file = try await bench.destination.read(RelativePath(name))
        #expect(try file.readAll() == Array("odd".utf8))
        let own = try #require(bench.store.object("backup/f\u{201B}FF"))
        #expect(CopyMetadata(own.metadata, modified: nil).path == name)
    }

    @Test("A path whose key is too long is stuck, and the others are saved")
    func tooLong() async throws {
        let bench = try await DestinationBench()
        let directory = String(repeating: "d", count: 255)
        let long = [directory, directory, directory, directory, "file"].joined(separator: "/")
        try bench.write(long, "x")
        try bench.write("a", "one")
        try await bench.save(long, "a")
        #expect(bench.store.keys == ["backup/a"])
        let stuck = try await bench.state.due(
            bench.id, limit: 10, byteLimit: .max, now: WallClock.system.now + .seconds(10)
        ).jobs
        #expect(stuck.isEmpty)
    }

    @Test("What is safebackup's own in the bucket is never a source's file")
    func reserved() async throws {
        let bench = try await DestinationBench()
        let job = DueJob(
            source: bench.source, path: try RelativePath(".safebackup/destination.json"),
            location: try RelativePath(".safebackup/destination.json"), sequence: 1, generation: 1, action: .store)
        guard case .failure(let error) = await bench.destination.plan([job])[0] else {
            Issue.record("it was planned")
            return
        }
        #expect(error.code == .reservedName && error.disposition == .permanent)
    }

    @Test("With versions = copy the older object is copied within the bucket before it is overwritten")
    func versions() async throws {
        let bench = try await DestinationBench { $0.versions = .copy }
        try bench.write("a", "one")
        try await bench.save("a")
        bench.store.clearLog()
        try bench.write("a", "two!")
        try await bench.save("a")
        #expect(bench.store.requests == [.copy, .put])
        let version = try #require(bench.store.keys.first { $0.hasPrefix("backup/.safebackup/versions/a@") })
        #expect(bench.store.object(version)?.body == Array("one".utf8))
        try bench.expectTruth()
        try bench.expectSaved(["a"])
        // One more within the interval is not kept.
        try bench.write("a", "three")
        try await bench.save("a")
        #expect(bench.store.keys.count == 2)
        try bench.expectTruth()
    }

    @Test("A renamed file's object is copied within the bucket, and no byte of it is sent")
    func move() async throws {
        let bench = try await DestinationBench()
        try bench.write("a", DestinationBench.noise(200_000))
        try await bench.save("a")
        bench.store.clearLog()
        try bench.rename("a", "b")
        try await bench.queue(["a"], .delete)
        try await bench.queue(["b"])
        try await bench.drain()
        #expect(Set(bench.store.requests) == [.copy, .delete])
        #expect(bench.store.keys == ["backup/b"])
        try bench.expectTruth()
        try bench.expectSaved(["b"])
    }

    @Test("Two files that swap their names both keep what they are, whatever order the group has")
    func swap() async throws {
        let bench = try await DestinationBench()
        try bench.write("a", "content of a")
        try bench.write("b", "content of b, longer")
        try await bench.save("a", "b")
        try bench.rename("a", "c")
        try bench.rename("b", "a")
        try bench.rename("c", "b")
        try await bench.save("a", "b")
        try bench.expectTruth()
        try bench.expectSaved(["a", "b"])
    }

    @Test(
        "A file that becomes a directory, and a directory that becomes a file, leave no object that is promised and gone"
    )
    func kinds() async throws {
        let bench = try await DestinationBench()
        try bench.write("x", "a file")
        try bench.write("y/inner", "inner")
        try bench.makeDirectory("z")
        try await bench.save("x", "y", "y/inner", "z")
        #expect(bench.store.object("backup/z/") != nil)
        try bench.remove("x")
        try bench.write("x/inner", "now inside")
        try bench.remove("y")
        try bench.write("y", "now a file")
        try bench.remove("z")
        try bench.write("z", "a file too")
        try await bench.save("x", "x/inner", "y", "z")
        try bench.expectTruth()
        try bench.expectSaved(["x/inner", "y", "z"])
        #expect(bench.store.object("backup/x") == nil)
        #expect(bench.store.object("backup/z/") == nil)
        // What was under the name before is kept.
        #expect(bench.store.keys.contains { $0.hasPrefix("backup/.safebackup/versions/x@") })
    }

    @Test("Equal content under another time is not sent again; its object gets the new time")
    func touched() async throws {
        let bench = try await DestinationBench()
        try bench.write("a", "one")
        try await bench.save("a")
        bench.store.clearLog()
        var times = [timespec(tv_sec: 5, tv_nsec: 0), timespec(tv_sec: 77, tv_nsec: 0)]
        utimensat(AT_FDCWD, bench.path("a"), &times, 0)
        try await bench.save("a", hashFirst: true)
        #expect(bench.store.requests == [.copy])
        let object = try #require(bench.store.object("backup/a"))
        #expect(CopyMetadata(object.metadata, modified: nil).mtime == FileTime(nanoseconds: 77_000_000_000))
        try bench.expectTruth()
        try bench.expectSaved(["a"])
    }

    @Test("Keys that may only put objects are enough to save files, small and large, also after failures")
    func putOnly() async throws {
        let bench = try await DestinationBench(denied: [.head, .get, .copy, .delete, .list, .uploads, .parts])
        #expect(bench.destination.isBlind && bench.destination.isAttached)
        let big = DestinationBench.noise(300_000)
        try bench.write("a", "one")
        try bench.write("big", big)
        // The answer to the first PUT is lost, and nobody may look what became of it.
        bench.store.fail(0, .after)
        try await bench.save("a", "big")
        try bench.expectTruth()
        try bench.expectSaved(["a", "big"])
        // A state that the object never had in the catalogue, and back: blind, equal content is no proof.
        try bench.write("a", "two")
        bench.store.fail(0, .after)
        try await bench.queue(["a"])
        _ = try await bench.round()
        try bench.write("a", "one")
        try await bench.save("a", hashFirst: true)
        try bench.expectTruth()
        try bench.expectSaved(["a", "big"])
        try bench.rename("big", "other")
        try await bench.save("big", "other")
        try bench.expectTruth()
        try bench.expectSaved(["a", "other"])
        // A crash in the middle of it, and a stop in the middle of a large file.
        try bench.write("a", "three")
        try bench.write("other", DestinationBench.noise(310_000, 5))
        try await bench.queue(["a", "other"])
        bench.store.failAll(from: 4, .after)
        _ = try await bench.round()
        try await bench.restart()
        try await bench.drain()
        try bench.expectTruth()
        try bench.expectSaved(["a", "other"])
    }

    @Test("Content that was sent and never recorded is not taken for what the catalogue has")
    func thereAndBack() async throws {
        let bench = try await DestinationBench()
        try bench.write("a", "one")
        try await bench.save("a")
        try bench.write("a", "two")
        try await bench.queue(["a"])
        bench.store.failAll(from: 0, .after)
        _ = try await bench.round()
        try await bench.restart()
        try bench.write("a", "one")
        try await bench.save("a", hashFirst: true)
        try bench.expectTruth()
        try bench.expectSaved(["a"])
    }

    @Test("A copy that nobody has any more is said to be damaged, not empty")
    func missing() async throws {
        let bench = try await DestinationBench()
        await #expect {
            _ = try await bench.destination.read(try RelativePath("a"))
        } throws: {
            ($0 as? SafeBackupError)?.code == .damaged
        }
    }
}
