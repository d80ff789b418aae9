import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite("What a verification finds, in the catalogue")
struct VerificationTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    private func copies() throws -> [String] {
        try fixture.rows(
            "SELECT location || ' ' || role || ' ' || damaged || ifnull(' ' || removing, '') FROM copy ORDER BY 1")
    }

    private func suspect(_ path: String) async throws -> SuspectCopy {
        let id = try #require(try await scene.look(path).occupant?.id)
        return try #require(try await scene.store.suspect(scene.destination, id).suspect)
    }

    @Test("A damaged copy that is stored again keeps its row and so its history, and what was left of it goes")
    func mended() async throws {
        try await scene.save("f", file(1))
        let then = scene.clock.now
        scene.clock.advance(.seconds(60))
        try await scene.save("f", file(1).kept(5))
        let found = try await suspect("f")
        #expect(try await scene.store.markDamaged(scene.destination, found, storesAgain: true) == .marked)
        #expect(try copies() == ["f current 1"])
        let leases = try await scene.leaseDue()
        #expect(leases.first?.job.hashFirst == false && leases.first?.job.occupant?.isDamaged == true)
        let result = try await scene.complete(
            leases, .stored(file(1).displacing(try displacement("f", "f@1", .kept, 1))))
        #expect(result.hasRemovals)
        #expect(try copies() == [".safebackup/versions/f@1 kept 1 damaged", "f current 0"])
        let removals = try await scene.store.removals(scene.destination, limit: 9)
        try await scene.store.finishRemoval(scene.destination, removals.map(\.copy.id))
        let page = try StateReader(in: fixture.directory).names(
            scene.source, scene.destination, within: try RelativePath("f"), .at(then), after: nil, limit: 9)
        #expect(page.entries.map { $0.copy?.location.description } == ["f"])
        try fixture.audit()
    }

    @Test(
        "What the destination calls foreign is not what is left of a damaged copy, and stays; the copy is whole again")
    func foreign() async throws {
        try await scene.save("f", file(1))
        _ = try await scene.store.markDamaged(scene.destination, try await suspect("f"), storesAgain: true)
        var move = try displacement("f", "f@1", .foreign, 1)
        move.inode = 5
        let result = try await scene.complete(try await scene.leaseDue(), .stored(file(1).displacing(move)))
        #expect(!result.hasRemovals)
        #expect(try copies() == [".safebackup/versions/f@1 foreign 0", "f current 0"])
        #expect(try fixture.rows("SELECT digest IS NULL FROM copy WHERE role = 'foreign'") == ["1"])
        #expect(try fixture.rows("SELECT path, reason FROM v_history") == ["f|NULL"], "no state of it is lost")
        try fixture.audit()
    }

    @Test("A missing copy that is stored again keeps its row too; with another content it is another copy")
    func missing() async throws {
        for path in ["f", "g"] {
            try await scene.save(path, file(1))
            _ = try await scene.store.markDamaged(scene.destination, try await suspect(path), storesAgain: true)
        }
        let leases = try await scene.leaseDue()
        let before = try fixture.rows("SELECT id FROM copy ORDER BY location")
        try await scene.complete(leases.filter { $0.job.path.description == "f" }, .stored(file(1)))
        try await scene.complete(leases.filter { $0.job.path.description == "g" }, .stored(file(2)))
        let after = try fixture.rows("SELECT id FROM copy ORDER BY location")
        #expect(after[0] == before[0] && after[1] != before[1])
        #expect(try copies() == ["f current 0", "g current 0"])
        #expect(try fixture.rows("SELECT path, reason FROM v_history") == ["f|NULL", "g|replaced", "g|NULL"])
        try fixture.audit()
    }

    @Test("What a lease works on, what was replaced and what is being removed is not marked")
    func inWork() async throws {
        for path in ["a/f", "a/g", "h"] { try await scene.save(path, file(1)) }
        let found = try await suspect("a/f")
        let other = try await suspect("h")
        try await scene.enqueue([try scene.change("a")])
        let leases = try await scene.leaseDue()
        #expect(try await scene.store.suspect(scene.destination, found.copy.id).outcome == .busy)
        #expect(try await scene.store.markDamaged(scene.destination, found, storesAgain: true) == .busy)
        #expect(try await scene.store.markDamaged(scene.destination, other, storesAgain: false) == .marked)
        try await scene.complete(leases, .stored(directory()))
        try await scene.save("a/f", file(2))
        #expect(try await scene.store.markDamaged(scene.destination, found, storesAgain: true) == .gone)
        #expect(try copies() == ["a/f current 0", "a/g current 0", "h current 1"])
        try await scene.store.markSound(scene.destination, [other.copy.id])
        #expect(try copies() == ["a/f current 0", "a/g current 0", "h current 0"])
    }

    @Test("Each copy comes once, a page at a time, whatever its place and its bytes")
    func pages() async throws {
        let odd = try RelativePath([0x64, 0x2F, 0xFF])
        try await scene.save("d", directory())
        for path in ["d/a", "d/b", "d/sub/c", "da", "e"] { try await scene.save(path, file(1)) }
        try await scene.save(odd, file(4))
        try await scene.save("d/a", file(2).displacing(try displacement("d/a", "d/a@1", .kept, 1)))
        let reader = try StateReader(in: fixture.directory)
        func all(_ scope: CopyScope) throws -> [String] {
            var found: [String] = []
            var cursor: CopyCursor?
            repeat {
                let page = try reader.copies(scene.destination, scope, after: cursor, limit: 2)
                #expect(page.copies.count <= 2 || scope == .of(scene.source, odd))
                found += page.copies.map(\.location.description)
                cursor = page.next
            } while cursor != nil
            return found.sorted()
        }
        #expect(
            try all(.all) == [".safebackup/versions/d/a@1", "d/a", "d/b", "d/sub/c", #"d/\xff"#, "da", "e"].sorted())
        #expect(try all(.below(try RelativePath("d"))) == ["d/a", "d/b", "d/sub/c", #"d/\xff"#].sorted())
        #expect(try all(.below(try RelativePath(".safebackup/versions/d"))) == [".safebackup/versions/d/a@1"])
        #expect(try all(.of(scene.source, try RelativePath("d/a"))) == [".safebackup/versions/d/a@1", "d/a"])
        let total = try reader.verifiable(scene.destination)
        #expect(total.copies == 7 && total.bytes == 70)
        #expect(try reader.verifiedUpTo(scene.destination) == 0)
        try await scene.store.setVerified(scene.destination, upTo: 42)
        #expect(try reader.verifiedUpTo(scene.destination) == 42)
    }

    @Test("The last verification is noted for each source, and one that was broken off beside it")
    func noted() async throws {
        func row() throws -> VerificationRecord? { try StateReader(in: fixture.directory).verifications().first }
        #expect(try row() == nil)
        let failed = scene.clock.now
        try await scene.store.noteVerificationFailed(scene.destination, [scene.source], "it was away")
        #expect(try row()?.endedAt == nil && row()?.failedAt == failed)
        scene.clock.advance(.seconds(1))
        let whole = scene.clock.now
        var result = VerificationRecord.Result()
        (result.copies, result.bytes, result.damaged, result.missing, result.unverified) = (9, 90, 3, 2, 1)
        try await scene.store.noteVerified(scene.destination, [scene.source: result], share: nil)
        let all = try #require(try row())
        #expect(all.endedAt == whole && all.scope == .all && all.result == result && all.allAt == whole)
        #expect(all.failedAt == nil && all.failure == nil && all.share == nil)
        scene.clock.advance(.seconds(1))
        try await scene.store.noteVerified(scene.destination, [scene.source: .init()], share: 2.5)
        let part = try #require(try row())
        #expect(part.scope == .share && part.share == 2.5 && part.result.copies == 0 && part.allAt == whole)
        try await scene.store.noteVerificationFailed(scene.destination, [scene.source], "again")
        let again = try #require(try row())
        #expect(again.failure == "again" && again.scope == .share && again.endedAt == part.endedAt)
    }
}
