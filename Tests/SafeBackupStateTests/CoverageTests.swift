import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite("Coverage, drift and what is excluded")
struct CoverageTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    private func entry(_ leaf: String, _ number: UInt8, at time: Timestamp? = nil) -> ListedEntry {
        var print = fingerprint(number)
        if let time {
            print.mtime = FileTime(nanoseconds: time.microseconds * 1_000)
            print.ctime = print.mtime
        }
        let status = FileStatus(kind: .file, fingerprint: print, mode: 0o644, uid: 1, gid: 2)
        return ListedEntry(leaf: Array(leaf.utf8), finding: .status(status))
    }

    /// The root, with times of long ago or this one.
    private func listing(_ entries: [ListedEntry], changedAt time: Timestamp? = nil) -> [ListedDirectory] {
        let time = FileTime(nanoseconds: (time?.microseconds ?? 1) * 1_000)
        let status = FileStatus(
            kind: .directory, fingerprint: Fingerprint(inode: 2, size: 0, mtime: time, ctime: time), mode: 0o755,
            uid: 0,
            gid: 0)
        return [ListedDirectory(path: .root, status: status, entries: entries, isWhole: true)]
    }

    private func drift(_ directories: [ListedDirectory], since: Timestamp? = nil) async throws -> Int {
        let now = scene.clock.now
        let rules = ComparisonRules(
            hashRacy: true, drift: DriftRule(walkBegan: since ?? now, quietSince: now + .seconds(-180)))
        let id = try await scene.store.beginReconcile(scene.source, reason: "periodic")
        let counts = try await scene.store.reconcile(
            id, scene.source, [scene.destination], directories, rules: rules, notBefore: now)
        try await scene.store.finishReconcile(id, complete: true, drift: counts.drift, excluded: counts.excluded)
        return counts.drift
    }

    private func passTime() { scene.clock.advance(.seconds(600)) }

    @Test("What no event has told of is drift: new, changed and vanished entries")
    func drift() async throws {
        for leaf in ["same", "changed", "gone"] { try await scene.save(leaf, file(1)) }
        passTime()
        let found = try await drift(listing([entry("same", 1), entry("changed", 2), entry("new", 3)]))
        #expect(found == 3)
        let record = try #require(try StateReader(in: fixture.directory).status().sources.first?.drift)
        #expect(record.count == 3 && record.at == scene.clock.now)
        // Each has a job now, and is not counted again.
        #expect(try await drift(listing([entry("same", 1), entry("changed", 2), entry("new", 3)])) == 0)
    }

    @Test("A change that an event told of, or may still tell of, is no drift")
    func noDrift() async throws {
        for leaf in ["told", "recent", "gone"] { try await scene.save(leaf, file(1)) }
        passTime()
        try await scene.enqueue([try scene.change("told")])
        let now = scene.clock.now
        // 'gone' and 'new' changed their directory just now, 'recent' has times of just now.
        let found = try await drift(
            listing([entry("told", 2), entry("recent", 2, at: now), entry("new", 3)], changedAt: now))
        #expect(found == 0)
    }

    @Test("What was saved or ended since the walk began is no drift: the listing is older than that")
    func overtaken() async throws {
        try await scene.save("ended", file(1))
        passTime()
        let began = scene.clock.now
        scene.clock.advance(.seconds(1))
        try await scene.save("saved", file(2))
        let job = try scene.change("ended", .delete)
        try await scene.enqueue([job])
        let due = try await scene.due()
        _ = try await scene.store.complete(
            scene.destination,
            due.jobs.map { Completion(job: $0, outcome: .ended(namesUpTo: due.newestName)) })
        #expect(try await drift(listing([entry("saved", 1), entry("ended", 1)]), since: began) == 0)
    }

    @Test("What the catalogue only wants to be sure of is no drift")
    func uncertain() async throws {
        var racy = file(1)
        racy.isRacy = true
        try await scene.save("racy", racy)
        passTime()
        #expect(try await drift(listing([entry("racy", 1)])) == 0)
        #expect(try fixture.rows("SELECT count(*) FROM job") == ["1"])
    }

    @Test("What the rules leave out is counted by a complete walk")
    func excluded() async throws {
        let skipped = ListedEntry(leaf: Array("cache".utf8), finding: .skipped(.excluded, .directory))
        let fifo = ListedEntry(leaf: Array("pipe".utf8), finding: .skipped(.special, .fifo))
        _ = try await drift(listing([skipped, fifo, entry("f", 1)]))
        let source = try #require(try StateReader(in: fixture.directory).status().sources.first)
        #expect(source.excluded == 1 && source.notSaved == ["special": 1])
        #expect(try fixture.rows("SELECT excluded FROM v_status") == ["1"])
    }

    @Test("A single directory is known when nothing in it differs and no job is open below it")
    func singleDirectories() async throws {
        let rules = ComparisonRules()
        func isKnown(_ entries: [ListedEntry]) async throws -> Bool {
            let now = scene.clock.now
            let result = try await scene.store.compare(
                scene.source, [scene.destination], listing(entries), rules: rules, notBefore: now)
            try fixture.audit()
            return result.isKnown == [true]
        }
        #expect(try await !isKnown([entry("f", 1)]), "it is new")
        #expect(try await !isKnown([entry("f", 1)]), "it waits")
        try await scene.save("f", file(1))
        #expect(try await isKnown([entry("f", 1)]))
        try await scene.enqueue([try scene.change("deep/below")])
        #expect(try await !isKnown([entry("f", 1)]), "a job may still change what is known")
        try await scene.save("deep/below", file(3))
        #expect(try await !isKnown([]), "it vanished")
        #expect(try fixture.rows("SELECT path FROM job WHERE action = 'delete' ORDER BY path") == ["f"])
    }

    @Test("The coverage is shown until nobody watches")
    func coverage() async throws {
        let partly = SourceCoverage(extent: .partly, directories: 10, watched: 3, message: "watched 3 of 10")
        try await scene.store.setCoverage(scene.source, partly)
        #expect(try StateReader(in: fixture.directory).status().sources.first?.coverage == partly)
        #expect(try fixture.rows("SELECT directories, watched, coverage FROM v_status") == ["10|3|partly"])
        try await scene.store.setCoverage(scene.source, nil)
        #expect(try StateReader(in: fixture.directory).status().sources.first?.coverage == nil)
    }
}
