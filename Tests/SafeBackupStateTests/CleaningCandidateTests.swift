import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite("What may go when space is needed")
struct CleaningCandidateTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    /// Saves the path's next state, and keeps the one before under this name.
    private func save(_ path: String, _ number: UInt8, keeping version: String? = nil, fuzzy: Bool = false) async throws
    {
        scene.clock.advance(.seconds(600))
        var entry = file(number, size: Int64(number))
        if fuzzy { entry = entry.fuzzy() }
        if let version {
            entry = entry.displacing(
                try displacement(path, version, fuzzy ? .lastGood : .kept, number - 1, size: Int64(number) - 1))
        }
        try await scene.save(path, entry)
    }

    private func candidates(_ limit: Int = 99) async throws -> [String] {
        let ids = try await scene.store.cleaningCandidates(scene.destination, limit: limit).map(\.copy)
        return try ids.map {
            try fixture.rows("SELECT replace(location, '.safebackup/versions/', '') FROM copy WHERE id = \($0)")[0]
        }
    }

    @Test("Versions of all paths, those that were stored first before others; never a current copy")
    func order() async throws {
        try await save("f", 1)
        try await save("g", 11)
        try await save("g", 12, keeping: "g@11")
        try await save("f", 2, keeping: "f@1")
        try await save("f", 3, keeping: "f@2")
        #expect(try await candidates() == ["f@1", "g@11", "f@2"])
        #expect(try await candidates(2) == ["f@1", "g@11"])
        let first = try await scene.store.cleaningCandidates(scene.destination, limit: 1)
        #expect(first.map(\.size) == [1])
        // Begun: it is not chosen again.
        let marked = try await scene.store.beginRemoval(scene.destination, first.map(\.copy), reason: "cleaning")
        #expect(marked.count == 1)
        #expect(try await candidates() == ["g@11", "f@2"])
    }

    @Test("As long as a path's live copy is fuzzy or damaged, none of its versions goes")
    func lastGood() async throws {
        try await save("f", 1)
        try await save("f", 2, keeping: "f@1")
        try await save("f", 3, keeping: "f@2", fuzzy: true)
        try await save("g", 11)
        try await save("g", 12, keeping: "g@11")
        #expect(try await candidates() == ["g@11"])
        let connection = try Connection(fixture.database, .readWrite)
        try connection.execute("UPDATE copy SET damaged = 1 WHERE location = 'g'")
        #expect(try await candidates() == [])
        try connection.execute("UPDATE copy SET damaged = 0 WHERE location = 'g'")
        try await save("f", 4)
        #expect(try await candidates() == ["f@1", "f@2", "g@11"])
    }

    @Test("The bytes stored since the last look are counted, and a look begins anew")
    func accumulated() async throws {
        try await save("f", 40)
        try await save("g", 2)
        #expect(try await scene.store.destinations().first?.accumulatedSize == 42)
        try await scene.store.noteCapacityChecked(scene.destination)
        try await save("h", 5)
        #expect(try await scene.store.destinations().first?.accumulatedSize == 5)
    }
}
