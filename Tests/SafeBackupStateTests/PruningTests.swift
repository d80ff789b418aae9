import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite("Pruning, in the catalogue")
struct PruningTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    /// Saves `count` states of a path, each but the last kept as a version.
    private func save(_ path: String, _ count: Int) async throws {
        for number in 1...count {
            scene.clock.advance(.seconds(600))
            let entry = file(UInt8(number))
            let version = "\(path)@\(number)"
            try await scene.save(
                path, number == 1 ? entry : entry.displacing(try displacement(path, version, .kept, UInt8(number - 1))))
        }
    }

    private func delete(_ path: String) async throws {
        try await scene.enqueue([try scene.change(path, .delete)])
        let leases = try await scene.leaseDue(only: try RelativePath(path))
        try await scene.complete(leases, .ended(namesUpTo: try await scene.store.newestSequence()))
    }

    private func histories(_ path: RelativePath = .root, limit: Int = 2) throws -> [PathHistory] {
        let reader = try StateReader(in: fixture.directory)
        var found: [PathHistory] = []
        var cursor: HistoryCursor?
        repeat {
            let page = try reader.histories(scene.source, scene.destination, within: path, after: cursor, limit: limit)
            found += page.histories
            cursor = page.next
        } while cursor != nil
        return found
    }

    private func all(_ history: PathHistory, isExpired: Bool = false) -> [PruneChoice] {
        history.states.map { PruneChoice(copy: $0.copy, isExpired: isExpired) }
    }

    private func removing() throws -> [String] {
        try fixture.rows("SELECT location FROM copy WHERE removing IS NOT NULL ORDER BY 1")
    }

    @Test("Each path with older states comes once, with all of them, newest first, whatever the size of a page")
    func pages() async throws {
        try await save("a", 4)
        try await save("d/b", 3)
        try await save("d/c", 1)
        try await save("d/deeper/e", 2)
        try await delete("d/deeper/e")
        let odd = try RelativePath([0x64, 0x2F, 0xFF])
        try await scene.save(odd, file(1))
        try await scene.save(odd, file(2).displacing(try displacement("x", "odd@1", .kept, 1)))
        for limit in [1, 2, 3, 100] {
            let found = try histories(limit: limit)
            #expect(
                found.map { "\($0.path) \($0.states.count)" } == ["a 4", "d/b 3", "d/deeper/e 2"], "limit \(limit)")
        }
        #expect(try histories(try RelativePath("d")).map(\.path.description) == ["d/b", "d/deeper/e"])
        #expect(try histories(try RelativePath("d/b")).map(\.path.description) == ["d/b"])
        let a = try #require(try histories(try RelativePath("a")).first)
        #expect(a.isAlive && a.deletedAt == nil)
        #expect(a.states.map(\.endedAt).first == .some(nil))
        #expect(
            a.states.map(\.location.description).dropFirst() == [
                ".safebackup/versions/a@4", ".safebackup/versions/a@3", ".safebackup/versions/a@2",
            ])
        let e = try #require(try histories(try RelativePath("d/deeper/e")).first)
        #expect(!e.isAlive && e.deletedAt == scene.clock.now)
    }

    @Test("Whatever is asked for, what a live path has stays; versions go, with their reason")
    func live() async throws {
        try await save("f", 4)
        let history = try #require(try histories().first)
        let (count, bytes) = try await scene.store.beginPruning(
            scene.destination, all(history, isExpired: true), reason: "r")
        #expect(count == 3 && bytes == 30)
        #expect(try await scene.store.beginPruning(scene.destination, all(history), reason: "r").count == 0)
        // A crash here leaves them to be removed by the next start.
        try await scene.store.reopen()
        let removals = try await scene.store.removals(scene.destination, limit: 9)
        #expect(removals.count == 3)
        #expect(try await scene.store.tombstoneRemovals(scene.destination, limit: 9).isEmpty)
        try await scene.store.finishRemoval(scene.destination, removals.map(\.copy.id))
        #expect(try fixture.rows("SELECT path, reason FROM v_cleaned") == ["f|r", "f|r", "f|r"])
        #expect(try fixture.rows("SELECT location FROM copy") == ["f"])
        try fixture.audit()
    }

    @Test("The last good state of a live path stays where the current one is fuzzy or damaged")
    func lastGood() async throws {
        try await save("f", 3)
        try await save("g", 3)
        let current = try #require(try await scene.look("f").occupant)
        let found = try #require(try await scene.store.suspect(scene.destination, current.id).suspect)
        _ = try await scene.store.markDamaged(scene.destination, found, storesAgain: false)
        for history in try histories() {
            _ = try await scene.store.beginPruning(scene.destination, all(history), reason: "r")
        }
        #expect(
            try removing() == [
                ".safebackup/versions/f@2", ".safebackup/versions/g@2", ".safebackup/versions/g@3",
            ])
    }

    @Test("A deleted path keeps its last state, until it was deleted long enough ago")
    func deleted() async throws {
        try await save("f", 3)
        try await delete("f")
        let history = try #require(try histories().first)
        #expect(try await scene.store.beginPruning(scene.destination, all(history), reason: "r").count == 2)
        #expect(try removing() == [".safebackup/versions/f@2", ".safebackup/versions/f@3"])
        #expect(
            try await scene.store.beginPruning(scene.destination, all(history, isExpired: true), reason: "r").count == 1
        )
        let removals = try await scene.store.tombstoneRemovals(scene.destination, limit: 9)
        #expect(removals.map(\.copy.location.description) == ["f"])
        try await scene.store.finishRemoval(scene.destination, removals.map(\.copy.id))
        #expect(try fixture.rows("SELECT count(*) FROM copy WHERE role = 'current'") == ["0"])
        try fixture.audit()
    }

    @Test("What is being removed is no state any more, and what could not be removed is one again")
    func keptAfterAll() async throws {
        try await save("f", 4)
        try await delete("f")
        let states = try #require(try histories().first).states
        let choices = [states[1], states[2]].map { PruneChoice(copy: $0.copy, isExpired: false) }
        #expect(try await scene.store.beginPruning(scene.destination, choices, reason: "r").count == 2)
        let left = try #require(try histories().first)
        #expect(left.states.map(\.copy) == [states[0].copy, states[3].copy])
        #expect(left.deletedAt == scene.clock.now)
        // Another destination has no say.
        try await scene.store.keepAfterAll(DestinationID(rawValue: 77), states[1].copy)
        #expect(try removing().count == 2)
        try await scene.store.keepAfterAll(scene.destination, states[1].copy)
        #expect(try histories().first?.states.map(\.copy) == [states[0].copy, states[1].copy, states[3].copy])
        #expect(try await scene.store.removals(scene.destination, limit: 9).map(\.copy.id) == [states[2].copy])
        // Whatever is then told of it, it is not forgotten.
        try await scene.store.finishRemoval(scene.destination, states.map(\.copy))
        #expect(try histories().first?.states.map(\.copy) == [states[0].copy, states[1].copy, states[3].copy])
        #expect(try fixture.rows("SELECT reason FROM v_cleaned") == ["r"])
        try fixture.audit()
    }

    @Test("A deleted path whose newest state is gone, or is going, is deleted all the same, and its older states go")
    func newestIsGone() async throws {
        try await save("f", 3)
        try await delete("f")
        let deleted = scene.clock.now
        let states = try #require(try histories().first).states
        let newest = [PruneChoice(copy: states[0].copy, isExpired: true)]
        #expect(try await scene.store.beginPruning(scene.destination, newest, reason: "r").count == 1)
        for isForgotten in [false, true] {
            if isForgotten { try await scene.store.finishRemoval(scene.destination, [states[0].copy]) }
            let history = try #require(try histories().first)
            #expect(history.deletedAt == deleted && history.states.map(\.copy) == states.dropFirst().map(\.copy))
            #expect(history.states.allSatisfy { history.mayGo($0, isExpired: true) })
        }
        // There again, it is not deleted; replaced, and not deleted, it never was.
        try await scene.save("f", file(9))
        #expect(try histories().first?.deletedAt == nil)
        try await save("g", 2)
        #expect(try histories(try RelativePath("g")).first?.deletedAt == nil)
        let history = try #require(try histories(try RelativePath("f")).first)
        #expect(
            try await scene.store.beginPruning(scene.destination, all(history, isExpired: true), reason: "r").count == 2
        )
        #expect(try removing() == [".safebackup/versions/f@2", ".safebackup/versions/f@3"])
        try fixture.audit()
    }

    @Test("A deleted path that waits to be saved again, or came back, keeps its last state after all")
    func cameBack() async throws {
        for path in ["waits", "back", "adopted"] {
            try await save(path, 1)
            try await delete(path)
        }
        let choices = try histories().flatMap { all($0, isExpired: true) }
        try await scene.enqueue([try scene.change("waits")])
        #expect(try await scene.store.beginPruning(scene.destination, choices, reason: "r").count == 2)
        // Before the files go, one path is stored again, and of one the copy is found to be good as it is.
        try await scene.save("back", file(2).displacing(try displacement("back", "back@1", .kept, 1)))
        try await scene.save("adopted", file(1).kept(3))
        #expect(try await scene.store.tombstoneRemovals(scene.destination, limit: 9).isEmpty)
        #expect(
            try await scene.store.removals(scene.destination, limit: 9).map(\.copy.location.description) == [
                ".safebackup/versions/back@1"
            ])
        #expect(
            try fixture.rows("SELECT location FROM copy WHERE removing IS NULL ORDER BY 1") == [
                "adopted", "back", "waits",
            ])
        try fixture.audit()
    }
}
