import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite("Deletions that are mirrored, in the catalogue")
struct RetirementTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    private func delete(_ path: String) async throws {
        try await scene.enqueue([try scene.change(path, .delete)])
        let leases = try await scene.leaseDue(only: try RelativePath(path))
        try await scene.complete(leases, .ended(namesUpTo: try await scene.store.newestSequence()))
    }

    private func begin(wait: Duration = .seconds(600)) async throws -> [String] {
        try await scene.store.beginRetirement(scene.destination, limit: 100, now: scene.clock.now, wait: wait) {
            RelativePath(unchecked: Array(".safebackup/versions/".utf8) + $0.location.bytes + Array("@d".utf8))
        }.map(\.copy.location.description)
    }

    private func finish(_ outcome: (Retirement) -> RetirementOutcome) async throws -> [CopyRecord] {
        let begun = try await scene.store.retirements(scene.destination, limit: 100)
        return try await scene.store.finishRetirement(scene.destination, begun.map { ($0, outcome($0)) })
    }

    private func moved(_ retirement: Retirement) -> RetirementOutcome {
        let copy = retirement.copy
        return .moved(
            Displacement(
                from: copy.location, to: retirement.version, reason: .kept, kind: copy.kind, inode: copy.inode ?? 0,
                size: copy.size, mtime: copy.mtime ?? FileTime(nanoseconds: 0)))
    }

    private func copies() throws -> [String] {
        try fixture.rows("SELECT location, role FROM copy ORDER BY location")
    }

    @Test("What is deleted alone or with its directory becomes a version with its history, and nothing else does")
    func becomesVersion() async throws {
        try await scene.store.setMirroring([scene.destination])
        for path in ["a", "d/b", "d/e/c", "stays"] { try await scene.save(path, file(UInt8(path.utf8.count))) }
        try await delete("a")
        try await delete("d")
        #expect(Set(try await begin()) == ["a", "d/b", "d/e/c"])
        #expect(try await begin().isEmpty, "each is begun once")
        let before = try await scene.store.newestSequence()
        #expect(try await finish(moved).isEmpty)
        let after = try await scene.store.newestSequence()
        #expect(after > before, "the catalogue copy beside the backups is older now")
        #expect(
            try copies() == [
                ".safebackup/versions/a@d|kept", ".safebackup/versions/d/b@d|kept", ".safebackup/versions/d/e/c@d|kept",
                "stays|current",
            ])
        #expect(try await scene.store.retirements(scene.destination, limit: 10).isEmpty)
        #expect(try fixture.rows("SELECT count(*) FROM retiring") == ["0"])
        #expect(
            try fixture.rows(
                "SELECT leaf, end_reason FROM name WHERE copy_id IS NOT NULL AND ended_at IS NOT NULL ORDER BY 1")
                == ["a|deleted", "b|deleted", "c|deleted"])
        try fixture.audit()
    }

    @Test("A path that came back, or may, keeps its copy in its place")
    func comesBack() async throws {
        try await scene.store.setMirroring([scene.destination])
        for path in ["back", "maybe", "replaced"] { try await scene.save(path, file(UInt8(path.utf8.count))) }
        for path in ["back", "maybe", "replaced"] { try await delete(path) }
        try await scene.save("back", file(4).kept(9))
        try await scene.save("replaced", file(99))
        try await scene.enqueue([try scene.change("maybe")])
        #expect(try await begin().isEmpty)
        scene.clock.advance(.seconds(601))
        #expect(try await begin().isEmpty, "a job still waits")
        try await scene.complete(try await scene.leaseDue(), .ended(namesUpTo: 0))
        scene.clock.advance(.seconds(601))
        #expect(try await begin() == ["maybe"])
    }

    @Test("Nothing of a source that is held, paused or emptied goes, and all of it when it is over")
    func holds() async throws {
        try await scene.store.setMirroring([scene.destination])
        try await scene.save("a", file(1))
        try await scene.save("b", file(2))
        try await delete("a")
        let error = SafeBackupError(.rootEmptied, "empty", disposition: .destinationUnavailable)
        _ = try await scene.store.hold(.source(scene.source), error)
        #expect(try await scene.store.nextRetirement(scene.destination) == nil)
        #expect(try await begin().isEmpty)
        _ = try await scene.store.clearHold(.source(scene.source))
        _ = try await scene.store.setPaused(.source(scene.source), true)
        #expect(try await scene.store.nextRetirement(scene.destination) == nil)
        _ = try await scene.store.setPaused(.source(scene.source), false)
        let connection = try Connection(fixture.database, .readWrite)
        try connection.execute("UPDATE source SET emptied_at = 1")
        #expect(try await begin().isEmpty)
        try connection.execute("UPDATE source SET emptied_at = NULL")
        #expect(try await begin() == ["a"])
    }

    @Test("A path has one version per ten minutes, also when it is deleted again and again")
    func churn() async throws {
        try await scene.store.setMirroring([scene.destination])
        for number in 1...30 as ClosedRange<UInt8> {
            // What lies there as a tombstone is replaced, as the planner has it where the newest version is young.
            try await scene.save("lock", file(number))
            try await delete("lock")
            if try await begin().count == 1 { _ = try await finish(moved) }
            scene.clock.advance(.seconds(60))
        }
        let versions = try fixture.rows("SELECT count(*) FROM copy WHERE role = 'kept'")
        // Their names are one in this test; a second one takes the first one's place.
        #expect(versions == ["1"])
        let times = try fixture.rows("SELECT versioned_at FROM copy WHERE role = 'kept'")
        #expect(times.count == 1)
        #expect(try fixture.rows("SELECT count(*) FROM copy WHERE role = 'current'") == ["1"], "the last one waits")
        scene.clock.advance(.seconds(600))
        #expect(try await begin() == ["lock"])
    }

    @Test("What was not moved stays as it was, and is tried again only where there was no room")
    func notMoved() async throws {
        try await scene.store.setMirroring([scene.destination])
        for path in ["full", "gone", "odd"] { try await scene.save(path, file(UInt8(path.utf8.count), size: 5)) }
        for path in ["full", "gone", "odd"] { try await delete(path) }
        #expect(try await begin().count == 3)
        let refusal = SafeBackupError(.destinationFailed, "immutable", disposition: .permanent)
        let excess = try await finish {
            switch $0.copy.location.description {
            case "full": .postponed
            case "gone": .notThere
            default: .refused(refusal)
            }
        }
        #expect(excess.isEmpty)
        #expect(try copies() == ["full|current", "gone|current", "odd|current"])
        #expect(try await begin().isEmpty)
        scene.clock.advance(.seconds(601))
        #expect(try await begin() == ["full"])
    }

    @Test("Turned on later, it finds what was deleted before; turned off, it forgets what it has not begun")
    func turnedOnAndOff() async throws {
        for number in 1...20 as ClosedRange<UInt8> { try await scene.save("\(number)", file(number)) }
        for number in 1...7 { try await delete("\(number)") }
        try await scene.save("7", file(50))
        #expect(try fixture.rows("SELECT count(*) FROM retiring") == ["0"])
        try await scene.store.setMirroring([scene.destination])
        var last: Int64? = 0
        var pages = 0
        while let after = last {
            last = try await scene.store.noteTombstones(scene.destination, after: after, limit: 3)
            pages += 1
        }
        #expect(pages > 3)
        #expect(try fixture.rows("SELECT count(*) FROM retiring") == ["6"])
        _ = try await scene.store.beginRetirement(scene.destination, limit: 2, now: scene.clock.now, wait: .zero) {
            RelativePath(unchecked: Array(".safebackup/versions/".utf8) + $0.location.bytes)
        }
        try await scene.store.setMirroring([])
        #expect(try fixture.rows("SELECT count(*) FROM retiring WHERE version IS NOT NULL") == ["2"])
        #expect(try fixture.rows("SELECT count(*) FROM retiring") == ["2"])
        #expect(try await finish(moved).isEmpty)
        try await delete("20")
        #expect(try fixture.rows("SELECT count(*) FROM retiring") == ["0"])
    }
}
