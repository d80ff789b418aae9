import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite("A source that loses its last file")
struct EmptiedTests {
    /// Saves `count` files and a directory.
    private func save(_ count: UInt8, _ scene: Scene) async throws {
        try await scene.save("d", directory())
        for number in 0..<count { try await scene.save("d/\(number)", file(number)) }
    }

    /// Deletes one path, as after a confirmed absence. Returns the files that a source emptied by it had had.
    private func delete(_ path: String, _ scene: Scene) async throws -> [Int] {
        try await scene.enqueue([try scene.change(path, .delete)])
        let batch = try await scene.due()
        let job = try #require(batch.jobs.first { $0.path.description == path })
        return try await scene.store.complete(
            scene.destination, [Completion(job: job, outcome: .ended(namesUpTo: batch.newestName))]
        ).emptied.map(\.files)
    }

    private func noted(_ fixture: StateFixture) throws -> Int? {
        try StateReader(in: fixture.directory).status().sources[0].emptied?.files
    }

    @Test("By single deletes it is noted once, with a line in the journal, until it has files again")
    func single() async throws {
        let fixture = try StateFixture()
        let scene = try await fixture.scene()
        try await save(12, scene)
        for number in 0..<11 { #expect(try await delete("d/\(number)", scene).isEmpty) }
        #expect(try noted(fixture) == nil)
        #expect(try await delete("d/11", scene) == [12])
        // A directory that goes too, and a file that was never there, are nothing new.
        #expect(try await delete("d", scene).isEmpty)
        #expect(try await delete("never", scene).isEmpty)
        #expect(try noted(fixture) == 12)
        let events = try fixture.rows("SELECT level, source_id FROM journal WHERE event = 'emptied'")
        #expect(events == ["warning|\(scene.source.rawValue)"])
        try fixture.audit()

        try await scene.save("new", file(1))
        #expect(try noted(fixture) == nil)
        // One file that comes and goes is no loss of many.
        #expect(try await delete("new", scene).isEmpty)
        #expect(try noted(fixture) == nil)
    }

    @Test("The note outlives a restart, and the first file after it takes it back")
    func restart() async throws {
        let fixture = try StateFixture()
        var scene = try await fixture.scene()
        try await save(10, scene)
        for number in 0..<10 { _ = try await delete("d/\(number)", scene) }
        try await scene.store.close()
        scene = try await fixture.scene()
        #expect(try noted(fixture) == 10)
        try await scene.save("new", file(1))
        #expect(try noted(fixture) == nil)
    }

    @Test("A directory that takes all files along is the same; few files, and a source that is renamed, are not")
    func wholesale() async throws {
        let fixture = try StateFixture()
        let scene = try await fixture.scene()
        try await save(9, scene)
        #expect(try await delete("d", scene).isEmpty)
        #expect(try noted(fixture) == nil)
        try await save(10, scene)
        #expect(try await delete("d", scene) == [10])
        #expect(try noted(fixture) == 10)
    }

    @Test("Two destinations are told of it once")
    func twoDestinations() async throws {
        let fixture = try StateFixture()
        let first = try await fixture.scene()
        let second = try await Scene(first.store, fixture.clock, location: "/other")
        try await save(10, first)
        try await save(10, second)
        var told: [Int] = []
        for number in 0..<10 {
            told += try await delete("d/\(number)", first)
            told += try await delete("d/\(number)", second)
        }
        #expect(told == [10])
    }
}
