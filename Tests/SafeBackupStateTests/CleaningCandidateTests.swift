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
        try await scene.store.markDesynced(scene.source, false)
    }

    /// Saves the path's next state, and keeps the one before under this name.
    private func save(
        _ path: String, _ number: UInt8, keeping version: String? = nil, _ reason: VersionReason = .kept,
        fuzzy: Bool = false
    ) async throws {
        scene.clock.advance(.seconds(600))
        var entry = file(number, size: Int64(number))
        if fuzzy { entry = entry.fuzzy() }
        if let version {
            entry = entry.displacing(
                try displacement(path, version, reason, number - 1, size: Int64(number) - 1))
        }
        try await scene.save(path, entry)
    }

    private func delete(_ path: String) async throws {
        scene.clock.advance(.seconds(600))
        try await scene.enqueue([try scene.change(path, .delete)])
        let leases = try await scene.leaseDue(only: try RelativePath(path))
        try await scene.complete(leases, .ended(namesUpTo: try await scene.store.newestSequence()))
    }

    private func damage(_ location: String) throws {
        try Connection(fixture.database, .readWrite).execute(
            "UPDATE copy SET damaged = 1 WHERE location IN ('\(location)', '.safebackup/versions/\(location)')")
    }

    /// All candidates of a stage, in pages of this size.
    private func found(_ stage: CleaningStage = .versions, limit: Int = 99) async throws -> [CleaningCandidate] {
        var (found, cursor) = ([CleaningCandidate](), CleaningCursor?.some(CleaningCursor()))
        while let next = cursor {
            let page = try await scene.store.cleaningCandidates(
                scene.destination, stage, looked: [scene.source], after: next, bytes: .max, limit: limit)
            found += page.candidates
            cursor = page.next
        }
        return found
    }

    /// `what goes<what is kept instead`.
    private func candidates(_ stage: CleaningStage = .versions, limit: Int = 99) async throws -> [String] {
        func name(_ copy: CataloguedCopy?) -> String {
            guard let copy else { return "nothing" }
            let text = copy.expected.location.description
            return text.hasPrefix(".safebackup/versions/") ? String(text.dropFirst(21)) : text
        }
        return try await found(stage, limit: limit).map { found in
            "\(name(found.copy))<\(name(found.keeper))" + (found.newest == nil ? "" : "+\(name(found.newest))")
        }
    }

    private func begin(_ candidates: [CleaningCandidate], _ stage: CleaningStage) async throws -> Int {
        try await scene.store.beginCleaning(
            scene.destination, candidates, stage, looked: [scene.source], reason: "space"
        ).count
    }

    @Test("Versions of all paths, those that were stored first before others; never a current copy")
    func order() async throws {
        try await save("f", 1)
        try await save("g", 11)
        try await save("g", 12, keeping: "g@11")
        try await save("f", 2, keeping: "f@1")
        try await save("f", 3, keeping: "f@2")
        for limit in [1, 2, 99] { #expect(try await candidates(limit: limit) == ["f@1<f", "g@11<g", "f@2<f"]) }
        let page = try await scene.store.cleaningCandidates(
            scene.destination, .versions, looked: [], after: CleaningCursor(), bytes: 4_097, limit: 99)
        #expect(page.candidates.count == 2 && page.next != nil, "no more than is needed, in whole blocks")
        #expect(try await begin(Array(page.candidates), .versions) == 2)
        #expect(try await candidates() == ["f@2<f"])
        try await scene.store.finishRemoval(scene.destination, page.candidates.map(\.copy.id))
        #expect(try fixture.rows("SELECT path, reason FROM v_cleaned") == ["f|space", "g|space"])
        try fixture.audit()
    }

    @Test("The newest good state of a path stays, whatever is newer: fuzzy, damaged, or not compared since a crash")
    func lastGood() async throws {
        try await save("f", 1)
        try await save("f", 2, keeping: "f@1")
        try await save("f", 3, keeping: "f@2", fuzzy: true)
        #expect(try await candidates() == ["f@1<f@2"])
        try damage("f@2")
        #expect(try await candidates() == [])

        try await save("g", 11)
        try await save("g", 12, keeping: "g@11")
        try await save("g", 13, keeping: "g@12")
        #expect(try await candidates() == ["g@11<g", "g@12<g"])
        try damage("g")
        #expect(try await candidates() == ["g@11<g@12"])
        try damage("g@12")
        #expect(try await candidates() == [])

        try await save("h", 21)
        try await save("h", 22, keeping: "h@21")
        try Connection(fixture.database, .readWrite).execute("UPDATE copy SET inode = NULL WHERE location = 'h'")
        #expect(try await candidates() == [])
    }

    @Test("Of a file that is always torn older fuzzy versions may go; the newest good and the newest fuzzy state stay")
    func alwaysTorn() async throws {
        try await save("f", 1)
        for number in 2...5 {
            try await save("f", UInt8(number), keeping: "f@\(number - 1)", fuzzy: true)
        }
        #expect(try await candidates() == ["f@2<f@1+f", "f@3<f@1+f", "f@4<f@1+f"], "oldest first")
        // The newest fuzzy one is damaged: the one before it stays.
        try damage("f")
        #expect(try await candidates() == ["f@2<f@1+f@4", "f@3<f@1+f@4"])
        // What is good is not what the path keeps any more: nothing goes for it.
        try Connection(fixture.database, .readWrite).execute(
            "UPDATE copy SET inode = NULL WHERE location LIKE '%f@1'")
        #expect(try await candidates() == [])

        // It was never good.
        try await save("g", 11, fuzzy: true)
        try await save("g", 12, keeping: "g@11", fuzzy: true)
        try await save("g", 13, keeping: "g@12", fuzzy: true)
        #expect(try await candidates() == ["g@11<nothing+g", "g@12<nothing+g"])
        let all = try await found()
        #expect(try await begin(all, .versions) == 2)
        let keepers = try await scene.store.keepers(scene.destination, of: all.map(\.copy.id))
        #expect(keepers.count == 2, "after a crash, too, it is looked at what stays")
        try fixture.audit()
    }

    @Test("What could be freed is what may go now: nothing of held sources, nothing that is the newest good state")
    func canFree() async throws {
        try await save("f", 1)
        try await save("f", 2, keeping: "f@1")
        try await save("f", 3, keeping: "f@2")
        for (number, path) in ["gone", "away"].enumerated() {
            try await save(path, UInt8(10 + number))
            try await save(path, UInt8(11 + number), keeping: "\(path)@1")
            try await delete(path)
        }
        let (destination, source) = (scene.destination, scene.source)
        func blocks(_ looked: Set<SourceID>) throws -> Int {
            let reader = try StateReader(in: fixture.directory)
            return try (1...20).first { try !reader.canFree(Int64($0) * 4_096, destination, deletedOf: looked) } ?? 0
        }
        #expect(try blocks([]) == 5, "two versions of f, one each of what was deleted")
        #expect(try blocks([source]) == 7, "and in the end what was deleted")
        try await scene.store.hold(
            .source(source), SafeBackupError(.rootMissing, "away", disposition: .destinationUnavailable))
        #expect(try blocks([source]) == 5)
        try damage("f")
        try damage("f@2")
        #expect(try blocks([source]) == 3)
    }

    @Test("What was there before us, what stood in the way, and the last good one are no candidates")
    func others() async throws {
        for (number, reason) in [VersionReason.foreign, .inTheWay, .lastGood].enumerated() {
            try await save("f\(number)", 1)
            try await save("f\(number)", 2, keeping: "f\(number)@1", reason)
        }
        try await save("adopted", 1)
        try Connection(fixture.database, .readWrite).execute("UPDATE copy SET adopted = 1 WHERE location = 'adopted'")
        try await save("adopted", 2, keeping: "adopted@1")
        try await delete("adopted")
        for path in ["f0", "f1", "f2"] { try await delete(path) }
        #expect(try await candidates() == [])
        #expect(try await candidates(.deleted) == ["f0<nothing", "f1<nothing"])
    }

    @Test("Of a deleted path the newest good copy goes last, also where it is a version under a damaged one")
    func deleted() async throws {
        try await save("f", 1)
        try await save("f", 2, keeping: "f@1")
        try await save("g", 11)
        try await save("live", 5)
        try await delete("f")
        try await delete("g")
        try damage("f")
        #expect(try await candidates() == [])
        #expect(try await candidates(.deleted) == ["f<f@1", "g<nothing"])
        let all = try await found(.deleted)
        #expect(try await begin(all, .deleted) == 2)
        try await scene.store.finishRemoval(scene.destination, all.map(\.copy.id))
        #expect(try await candidates(.deleted, limit: 1) == ["f@1<nothing"])
        try fixture.audit()
    }

    @Test(
        "While its source is held, paused, emptied or not walked, or its copies were not looked for, no deleted path goes"
    )
    func stopped() async throws {
        try await save("f", 1)
        try await save("live", 2)
        try await delete("f")
        let all = try await found(.deleted)
        #expect(all.count == 1)
        func expectNone(_ comment: Comment) async throws {
            #expect(try await candidates(.deleted) == [], comment)
            #expect(try await begin(all, .deleted) == 0, comment)
        }
        let store = scene.store
        try await store.hold(
            .source(scene.source), SafeBackupError(.rootMissing, "away", disposition: .destinationUnavailable))
        try await expectNone("held")
        try await store.clearHold(.source(scene.source))
        try await store.setPaused(.source(scene.source), true)
        try await expectNone("paused")
        try await store.setPaused(.source(scene.source), false)
        try await store.markDesynced(scene.source, true)
        try await expectNone("not walked")
        try await store.markDesynced(scene.source, false)
        let connection = try Connection(fixture.database, .readWrite)
        try connection.execute("UPDATE source SET emptied_at = 1")
        try await expectNone("emptied")
        try connection.execute("UPDATE source SET emptied_at = NULL")
        let unseen = try await store.cleaningCandidates(
            scene.destination, .deleted, looked: [], after: CleaningCursor(), bytes: .max, limit: 9)
        #expect(unseen.candidates.isEmpty, "not looked for")
        #expect(try await begin(all, .deleted) == 1)
    }

    @Test("What came back, waits to be saved, or lies in a directory that is to be looked at, is not deleted")
    func cameBack() async throws {
        for path in ["f", "d/g", "u/h", "n"] {
            try await save(path, 1)
            try await delete(path)
        }
        let all = try await found(.deleted)
        #expect(all.count == 4)
        try await scene.enqueue([try scene.change("f"), try scene.change("d")])
        try Connection(fixture.database, .readWrite).execute(
            "INSERT INTO not_saved VALUES (\(scene.source.rawValue), 'u', 'unreadable', 'directory', 1, 1)")
        #expect(try await candidates(.deleted) == ["n<nothing"])
        try await save("n", 2)
        #expect(try await begin(all, .deleted) == 0)
    }

    @Test("A copy is not given up for one that is another now than the one that was looked at")
    func changedMeanwhile() async throws {
        try await save("f", 1)
        try await save("f", 2, keeping: "f@1")
        let all = try await found()
        try await save("f", 3, keeping: "f@2")
        #expect(try await begin(all, .versions) == 0)
        let again = try await found()
        try damage("f")
        #expect(try await begin(again, .versions) == 0)
    }

    @Test("Versions beyond the limit go where they lie close together; the newest and the oldest stay")
    func thinning() {
        let now = Timestamp(microseconds: 1_000_000_000_000_000)
        var versions: [Timestamp] = []
        // One in ten minutes for a year.
        for step in stride(from: 52_560, through: 0, by: -1) {
            let time = now + .seconds(-600 * step)
            versions.insert(time, at: 0)
            let gone = VersionThinning.excess(versions, limit: VersionThinning.limit, now: time)
            for index in gone.sorted(by: >) { versions.remove(at: index) }
        }
        #expect(versions.count == VersionThinning.limit)
        #expect(versions.first == now)
        #expect(versions.last == now + .seconds(-600 * 52_560))
        let ages = versions.map { (now - $0).components.seconds }
        for (day, least) in [(1, 10), (7, 20), (31, 25), (366, 40)] {
            #expect(ages.count { $0 <= Int64(day) * 86_400 } >= least, "\(ages)")
        }
        #expect(VersionThinning.excess(versions, limit: 1, now: now).count == VersionThinning.limit - 1)
    }
}
