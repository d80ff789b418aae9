import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupState

@Suite("What the backup holds no more")
struct GapTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    /// What the path was at a time: `content N`, `gap`, or nothing.
    private func look(_ path: String, at time: Timestamp) throws -> [String] {
        let reader = try StateReader(in: fixture.directory)
        let page = try reader.names(
            scene.source, scene.destination, within: try RelativePath(path), .at(time), after: nil, limit: 10)
        return page.entries.map { entry in
            entry.isUnavailable ? "gap" : "content \(entry.copy?.digest?.bytes.first ?? 0)"
        }
    }

    private func delete(_ path: String) async throws {
        try await scene.enqueue([try scene.change(path, .delete)])
        let leases = try await scene.leaseDue(only: try RelativePath(path))
        try await scene.complete(leases, .ended(namesUpTo: try await scene.store.newestSequence()))
    }

    /// The time now, and then a minute later.
    private func tick() -> Timestamp {
        let now = scene.clock.now
        scene.clock.advance(.seconds(60))
        return now
    }

    @Test("At each time a path is what it was, not available, or not there, and never something else")
    func times() async throws {
        let before = tick()
        try await scene.save("f", file(1))
        let first = tick()
        try await scene.save("f", file(2).displacing(try displacement("f", "f@1", .kept, 1)))
        let second = tick()
        // Two states that were replaced too soon to be kept.
        try await scene.save("f", file(3))
        let third = tick()
        try await scene.save("f", file(4))
        let fourth = tick()
        try await delete("f")
        let gone = tick()
        try await scene.save("f", file(5))
        let fifth = tick()
        try await scene.save("f", file(6))
        #expect(try look("f", at: before).isEmpty)
        #expect(try look("f", at: first) == ["content 1"])
        #expect(try look("f", at: second) == ["gap"])
        #expect(try look("f", at: third) == ["gap"])
        #expect(try look("f", at: fourth) == ["gap"])
        #expect(try look("f", at: gone).isEmpty, "a deletion is not hidden by what was lost around it")
        #expect(try look("f", at: fifth) == ["gap"])
        #expect(try look("f", at: scene.clock.now) == ["content 6"])
        try fixture.audit()
    }

    @Test("A removed version leaves a gap, also in a catalogue file and in a state that is rebuilt from it")
    func removed() async throws {
        try await scene.store.setSentinel("sentinel-1", for: scene.destination)
        try await scene.save("f", file(1))
        let first = tick()
        try await scene.save("f", file(2).displacing(try displacement("f", "f@1", .kept, 1)))
        let id = try #require(Int64(try fixture.rows("SELECT id FROM copy WHERE role = 'kept'")[0]))
        _ = try await scene.store.beginRemoval(scene.destination, [id], reason: "test")
        try await scene.store.finishRemoval(scene.destination, [id])
        #expect(try look("f", at: first) == ["gap"])
        try fixture.audit()

        let path = fixture.root.appending("a.db")
        _ = try CatalogueFile.write(
            from: fixture.directory, scene.destination, to: path, release: "1.0", clock: scene.clock.wallClock)
        let other = try StateFixture()
        let (store, _) = try await other.open()
        let destination = try await store.registerDestination(location: Array("/backup".utf8), kind: "local").id
        let report = try await store.importCatalogue(path, into: destination)
        #expect(report.ignored == 0 && report.names == 2)
        let reader = try StateReader(in: other.directory)
        let source = try #require(try reader.sources().first?.id)
        let page = try reader.names(
            source, destination, within: try RelativePath("f"), .at(first), after: nil, limit: 10)
        #expect(page.entries.map(\.isUnavailable) == [true])
    }

    @Test("Content under older metadata stays available, however often the metadata changed since")
    func metadata() async throws {
        try await scene.save("f", file(1))
        let first = tick()
        for number in 1...60 {
            try await scene.save("f", file(1).kept(UInt8(number), mode: UInt32(number)))
            _ = tick()
        }
        #expect(try look("f", at: first) == ["content 1"])
        #expect(try fixture.rows("SELECT count(*) FROM name") == ["21"])
        try fixture.audit()
    }

    @Test("A lock file that comes and goes for ever keeps a bounded history")
    func lockFile() async throws {
        for number in 1...100 {
            try await scene.save("lock", file(UInt8(number)))
            _ = tick()
            try await delete("lock")
            _ = tick()
        }
        let count = try #require(Int(try fixture.rows("SELECT count(*) FROM name")[0]))
        #expect(count <= 22)
        try fixture.audit()
    }

    @Test("The walk gives live and ended names in one order, parents first, each path once, whatever the bytes")
    func walk() async throws {
        try await scene.save("d", directory())
        let odd = try RelativePath([0x64, 0x2F, 0xFF])
        for path in ["d/a", "d/b", "d/c", "e"] { try await scene.save(path, file(1)) }
        try await scene.save(odd, file(2))
        for path in ["d/a", "d/c"] { try await delete(path) }
        func list(at time: Timestamp?, deleted: Bool = false, depth: NameDepth, _ path: RelativePath) throws -> [String]
        {
            let reader = try StateReader(in: fixture.directory)
            var walk = CatalogueWalk(
                reader, scene.source, scene.destination, within: path, at: time, includesDeleted: deleted, depth: depth)
            var found: [String] = []
            while let entry = try walk.next() { found.append(entry.path.description) }
            return found
        }
        let then = tick()
        try await delete("d/b")
        try await delete("e")
        #expect(try list(at: then, depth: .all, .root) == ["d", "e", "d/b", #"d/\xff"#])
        #expect(try list(at: nil, depth: .children, .root) == ["d"])
        #expect(
            try list(at: nil, deleted: true, depth: .children, try RelativePath("d"))
                == ["d", "d/a", "d/b", "d/c", #"d/\xff"#])
        #expect(try list(at: then, depth: .children, try RelativePath("e")) == ["e"])
    }
}
