import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupState

@Suite struct CatalogueFileTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
        try await scene.store.setSentinel("sentinel-1", for: scene.destination)
    }

    private func path(_ name: String) -> FilePath { fixture.root.appending(name) }

    private func export(_ name: String) throws -> CatalogueHeader {
        try CatalogueFile.write(
            from: fixture.directory, scene.destination, to: path(name), release: "1.0", clock: scene.clock.wallClock)
    }

    /// Files, directories, links, versions, tombstones, foreign copies and odd names.
    private func fill() async throws {
        try await scene.save("d", directory())
        for path in ["d/a", "d/b", "e", "gone"] { try await scene.save(path, file(1)) }
        try await scene.save(try RelativePath([0x64, 0x2F, 0xFF]), file(4))
        try await scene.save("d/a", file(2).displacing(try displacement("d/a", "d/a@1", .kept, 1)))
        try await scene.save("e", file(3).displacing(try displacement("e", "e@1", .foreign, 9)))
        try await scene.save("d/b", file(1).kept(7))
        try await scene.enqueue([try scene.change("gone", .delete)])
        try await scene.complete(
            try await scene.leaseDue(), .ended(namesUpTo: try await scene.store.newestSequence()))
        // Jobs are not part of the catalogue.
        try await scene.enqueue([try scene.change("later")])
    }

    private func all(
        _ reader: some CatalogueReading, _ source: SourceID, _ destination: DestinationID, _ scope: NameScope = .history
    ) throws -> [String] {
        var found: [String] = []
        var cursor: NameCursor?
        repeat {
            let page = try reader.names(source, destination, within: .root, scope, after: cursor, limit: 3)
            for entry in page.entries {
                var copy = entry.copy
                copy?.id = 0
                var name = entry.name
                (name.id, name.copy) = (0, nil)
                found.append(
                    "\(entry.path) \(entry.beganAt) \(entry.endedAt?.iso8601 ?? "") \(entry.endReason ?? "") \(name) "
                        + "\(copy.map { "\($0)" } ?? "-")")
            }
            cursor = page.next
        } while cursor != nil
        return found.sorted()
    }

    @Test("A catalogue file alone tells all that the state tells, on a bare machine")
    func bareMachine() async throws {
        try await fill()
        let header = try export("a.db")
        #expect(header.isFinished && header.sentinel == "sentinel-1" && header.release == "1.0")
        #expect(header.exportedAt == scene.clock.now)
        let state = try StateReader(in: fixture.directory)
        let reader = try CatalogueFileReader(path("a.db"))
        try reader.check()
        let sources = try reader.catalogueSources()
        #expect(sources.map(\.path) == [Array("/source".utf8)] && sources.map(\.uuid) == ["uuid-of-/source"])
        for scope in [NameScope.live, .deleted, .history, .at(scene.clock.now)] {
            let expected = try all(state, scene.source, scene.destination, scope)
            #expect(try all(reader, sources[0].id, CatalogueFileReader.destination, scope) == expected)
        }
        #expect(try all(reader, sources[0].id, CatalogueFileReader.destination).count == 9)
    }

    @Test("A state rebuilt from the file has the same catalogue, and goes on from there")
    func importing() async throws {
        try await fill()
        let header = try export("a.db")
        let other = try StateFixture()
        let rebuilt = try await other.scene()
        // Numbers that the new state gave before must not collide.
        try await rebuilt.enqueue(try (0..<50).map { try rebuilt.change("walk\($0)") })
        let report = try await rebuilt.store.importCatalogue(path("a.db"), into: rebuilt.destination)
        #expect(
            report
                == ImportReport(
                    copies: Int(header.copies), names: Int(header.names), ignored: 0, exportedAt: header.exportedAt))
        try other.audit()
        #expect(
            try all(try StateReader(in: other.directory), rebuilt.source, rebuilt.destination)
                == (try all(try StateReader(in: fixture.directory), scene.source, scene.destination)))
        #expect(try await rebuilt.store.counts().files == (try await scene.store.counts().files))

        let look = try await rebuilt.look("d/a")
        #expect(look.live?.fingerprint == fingerprint(2) && look.occupant?.digest == digest(2))
        try await rebuilt.save("d/a", file(5).displacing(try displacement("d/a", "d/a@2", .kept, 2)))
        try other.audit()
        await expect(.invalidConfiguration) {
            try await rebuilt.store.importCatalogue(path("a.db"), into: rebuilt.destination)
        }
    }

    @Test("Unknown sources are made, inactive; a path that another source has now is left out")
    func unknownSources() async throws {
        let second = try await Scene(scene.store, scene.clock, path: "/second")
        try await scene.save("f", file(1))
        try await second.save("s/g", file(2))
        let header = try export("a.db")
        let other = try StateFixture()
        let (store, _) = try await other.open()
        let identity = RootIdentity(type: .ext, volume: nil, inode: 1, birthTime: nil)
        _ = try await store.registerSource(path: Array("/second".utf8), identity: identity, uuid: "another")
        let destination = try await store.registerDestination(location: Array("/backup".utf8), kind: "local").id
        let report = try await store.importCatalogue(path("a.db"), into: destination)
        #expect(report == ImportReport(copies: 1, names: 1, ignored: 2, exportedAt: header.exportedAt))
        let made = try #require(try await store.sources().first { $0.uuid == "uuid-of-/source" })
        #expect(!made.isActive && made.identity.inode == UInt64.max - 1)
        #expect(try await store.pairs().map(\.source) == [made.id])
        try other.audit()
    }

    @Test("A file that is not finished, cut, foreign or missing is refused, and nothing of it is taken over")
    func refused() async throws {
        try await fill()
        _ = try export("whole.db")
        let whole = try Data(contentsOf: URL(fileURLWithPath: path("whole.db").string))
        func put(_ name: String, _ data: Data) throws {
            try data.write(to: URL(fileURLWithPath: path(name).string))
        }
        try put("empty.db", Data())
        try put("text.db", Data("not a database".utf8))
        try put("cut.db", whole.prefix(whole.count / 2))
        try put("head.db", whole.prefix(100))
        try FileManager.default.copyItem(atPath: path("whole.db").string, toPath: path("unfinished.db").string)
        let unfinished = try Connection(path("unfinished.db"), .scratch)
        try unfinished.execute("UPDATE header SET finished = 0")
        try FileManager.default.copyItem(atPath: path("whole.db").string, toPath: path("fewer.db").string)
        try Connection(path("fewer.db"), .scratch).execute("DELETE FROM name WHERE id IN (SELECT max(id) FROM name)")
        let other = try StateFixture()
        let rebuilt = try await other.scene()
        for name in ["empty.db", "text.db", "cut.db", "head.db", "unfinished.db", "fewer.db"] {
            await expect(.stateDamaged) {
                try await rebuilt.store.importCatalogue(path(name), into: rebuilt.destination)
            }
        }
        await expect(.stateFailed) {
            try await rebuilt.store.importCatalogue(path("missing.db"), into: rebuilt.destination)
        }
        #expect(try await rebuilt.store.counts() == QueueCounts(), "the state itself is sound")
        try other.audit()
        #expect(try other.rows("SELECT count(*) FROM copy") == ["0"])
        _ = try await rebuilt.store.importCatalogue(path("whole.db"), into: rebuilt.destination)

        let found = CatalogueFile.newestFinished(
            of: ["cut.db", "missing.db", "whole.db", "unfinished.db"].map(path))
        #expect(found.newest?.path == path("whole.db"))
        #expect(found.refused.map(\.path) == ["cut.db", "unfinished.db"].map(path))
    }

    @Test("Of two finished files the newer one counts, in whatever order they are given")
    func newest() async throws {
        try await scene.save("f", file(1))
        let first = try export("a.db")
        try await scene.save("f", file(2))
        let second = try export("b.db")
        #expect(second.sequenceTo > first.sequenceTo)
        for names in [["a.db", "b.db"], ["b.db", "a.db"]] {
            #expect(CatalogueFile.newestFinished(of: names.map(path)).newest?.path == path("b.db"))
        }
        #expect(CatalogueFile.newestFinished(of: [path("c.db")]).newest == nil)
    }

    @Test("An existing file is never written over")
    func existing() async throws {
        _ = try export("a.db")
        await expect(.destinationFailed) { try export("a.db") }
    }

    @Test("A file that is exported while the agent works has no name without its copy, once read")
    func besideWriter() async throws {
        let (store, scene) = (scene.store, scene)
        let writer = Task {
            for number in 0..<150 {
                let name = "f\(number % 20)"
                let entry = file(UInt8(number % 250))
                let move = try displacement(name, "\(name)@\(number)", .kept, UInt8((number + 230) % 250))
                try await scene.save(name, number % 3 == 0 ? entry.displacing(move) : entry)
            }
        }
        for number in 0..<5 { _ = try export("x\(number).db") }
        try await writer.value
        for number in 0..<5 {
            let other = try StateFixture()
            let rebuilt = try await other.scene()
            _ = try await rebuilt.store.importCatalogue(path("x\(number).db"), into: rebuilt.destination)
            try other.audit()
        }
        _ = try await store.counts()
    }
}
