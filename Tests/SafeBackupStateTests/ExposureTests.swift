import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

/// What is exposed, against a scripted state; the reader and the view must agree.
@Suite struct ExposureTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    /// `reason files directories bytes unknown`, sorted; also checked against the view, which has the same rows.
    private func parts(sourceLocation: SourceLocation = #_sourceLocation) throws -> [String] {
        let parts = try StateReader(in: fixture.directory).exposure(now: scene.clock.now)
        let view = try fixture.rows("SELECT reason, files, directories, bytes, unknown_size FROM v_exposure ORDER BY 1")
        let read = parts.map { "\($0.reason)|\($0.files)|\($0.directories)|\($0.bytes)|\($0.filesOfUnknownSize)" }
            .sorted()
        // The view asks the machine's clock, the test has its own: what settles by one may be queued by the other.
        #expect(
            read.filter { !$0.hasPrefix("settling") && !$0.hasPrefix("queued") }
                == view.filter { !$0.hasPrefix("settling") && !$0.hasPrefix("queued") }, sourceLocation: sourceLocation)
        return read
    }

    private func fail(_ path: String, _ verdict: BackoffPolicy.Verdict) async throws {
        let leases = try await scene.leaseDue(only: try RelativePath(path))
        try #require(leases.count == 1)
        try await scene.complete(
            leases, .failed(SafeBackupError(.sourceFailed, "It failed", disposition: .transient), verdict))
    }

    @Test("Each job counts once, by what keeps it waiting; a delete and what is saved expose nothing")
    func phases() async throws {
        try await scene.save("saved", file(1))
        try await scene.save("deleted", file(2))
        for (path, size) in [("stuck", 1), ("failing", 2), ("saving", 4), ("queued", 8)] {
            try await scene.enqueue([try scene.change(path, size: Int64(size))])
        }
        try await fail("stuck", .stuck(retryAfter: .seconds(86_400)))
        try await fail("failing", .retry(after: .seconds(5), countsAttempt: true))
        try await scene.leaseDue(only: try RelativePath("saving"))
        let oldest = scene.clock.now
        scene.clock.advance(.seconds(1))
        try await scene.enqueue([
            QueuedChange(path: try RelativePath("settling"), action: .store, notBefore: scene.clock.now + .seconds(2)),
            QueuedChange(path: try RelativePath("dir"), action: .store, notBefore: scene.clock.now, isDirectory: true),
            try scene.change("deleted", .delete),
        ])
        #expect(
            try parts() == [
                "failing|1|0|2|0", "queued|1|1|8|0", "saving|1|0|4|0", "settling|1|0|0|1", "stuck|1|0|1|0",
            ])
        let reader = try StateReader(in: fixture.directory)
        let queued = try #require(try reader.exposure(now: scene.clock.now).first { $0.reason == "queued" })
        #expect(queued.oldestAt == oldest)
        scene.clock.advance(.seconds(2))
        #expect(try parts().contains("queued|2|1|8|1"), "what has settled is queued")
        let unknown = try reader.jobsOfUnknownSize(
            scene.source, scene.destination, after: 0, limit: 10, now: scene.clock.now)
        #expect(unknown.map(\.path.description) == ["settling"] && unknown.map(\.reason) == ["queued"])
    }

    @Test("What waits to be saved is exposed also when its directory went and came back")
    func lookedBelow() async throws {
        try await scene.save("d", directory())
        for path in ["d/same", "d/changed"] { try await scene.save(path, file(1)) }
        try await scene.enqueue([try scene.change("d/never", size: 3), try scene.change("d/changed", size: 5)])
        try await fail("d/never", .retry(after: .seconds(5), countsAttempt: true))
        let leases = try await scene.leaseDue()
        try await scene.store.lookBelow(
            try RelativePath("d"), scene.source, scene.destination, notBefore: scene.clock.now)
        #expect(try parts() == ["queued|1|0|3|0", "saving|1|0|5|0"])
        try await scene.store.release(scene.destination, leases.map { ($0.job, scene.clock.now) })
        #expect(try parts() == ["queued|2|0|8|0"])
        #expect(
            try fixture.rows("SELECT path, action FROM job ORDER BY path") == [
                "d/changed|store", "d/never|store", "d/same|delete",
            ])
        try fixture.audit()
    }

    @Test("A path that was told to be gone, is there and cannot be stored is exposed, unless it is told once more")
    func deleteThatFailedToStore() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f", .delete)])
        var leases = try await scene.leaseDue()
        leases[0].job.action = .store
        let failure = Completion.Outcome.failed(
            SafeBackupError(.sourceFailed, "It failed", disposition: .transient),
            .retry(after: .zero, countsAttempt: true))
        try await scene.complete(leases, failure)
        #expect(try parts() == ["failing|1|0|0|1"])
        leases = try await scene.leaseDue()
        try await scene.enqueue([try scene.change("f", .delete)])
        try await scene.complete(leases, failure)
        #expect(try parts().isEmpty)
    }

    @Test("A hold or a pause is the reason for all that waits, not for what is stuck")
    func stopped() async throws {
        for path in ["stuck", "a", "b"] { try await scene.enqueue([try scene.change(path, size: 3)]) }
        try await fail("stuck", .stuck(retryAfter: .seconds(86_400)))
        try await scene.store.write { (connection) throws(SafeBackupError) in
            try connection.execute("UPDATE destination SET paused_at = 1")
        }
        #expect(try parts() == ["paused|2|0|6|0", "stuck|1|0|3|0"])
        try await scene.store.hold(
            .source(scene.source), SafeBackupError(.rootMissing, "Away", disposition: .transient))
        #expect(try parts() == ["held|2|0|6|0", "stuck|1|0|3|0"])
    }

    @Test("A fuzzy copy counts once, whether its path waits to be read again or not; under any name")
    func fuzzy() async throws {
        let odd = try RelativePath([0x64, 0xFF, 0x2F, 0xFE])
        for path in [odd, try RelativePath("dir/torn"), try RelativePath("top")] {
            try await scene.save(path, file(1, size: 5).fuzzy())
        }
        try await scene.save("dir/good", file(1))
        #expect(try parts() == ["fuzzy|3|0|15|0"])
        // Read again, and torn again.
        for path in [odd, try RelativePath("top")] {
            try await scene.enqueue([QueuedChange(path: path, action: .store, notBefore: scene.clock.now, size: 7)])
            let leases = try await scene.leaseDue(only: path)
            try await scene.complete(
                leases,
                .failed(
                    SafeBackupError(.torn, "It changed", disposition: .transient),
                    .retry(after: .seconds(60), countsAttempt: true)))
        }
        let rows = try StateReader(in: fixture.directory).exposure(now: scene.clock.now)
        #expect(rows.allSatisfy { $0.reason == "fuzzy" } && rows.map(\.files).reduce(0, +) == 3)
        #expect(rows.map(\.bytes).reduce(0, +) == 19)
    }

    @Test("A fuzzy copy is listed once, also when no job is left to read the file again, until a good one is there")
    func fuzzyListed() async throws {
        let odd = try RelativePath([0xFF, UInt8(ascii: "/"), 0xFE])
        for path in [odd, try RelativePath("dir/torn")] { try await scene.save(path, file(1).fuzzy()) }
        func listed() async throws -> [String] {
            try await scene.store.unsavedReport(limit: 9).map { "\($0.path) \($0.state) \($0.code)" }.sorted()
        }
        #expect(try await listed() == ["\(odd) fuzzy torn", "dir/torn fuzzy torn"])
        try await scene.enqueue([QueuedChange(path: odd, action: .store, notBefore: scene.clock.now)])
        #expect(try await listed().count == 2, "a job that was not tried yet")
        try await scene.complete(
            try await scene.leaseDue(),
            .failed(
                SafeBackupError(.torn, "It changed", disposition: .transient),
                .retry(after: .seconds(60), countsAttempt: true)))
        #expect(try await listed().count == 2, "a job that failed")
        scene.clock.advance(.seconds(61))
        for path in [odd, try RelativePath("dir/torn")] { try await scene.save(path, file(2)) }
        #expect(try await listed() == [])
    }

    @Test("What is not saved counts for each destination of its source; an inactive pair counts for nothing")
    func pairs() async throws {
        let other = try await scene.store.registerDestination(location: Array("/other".utf8), kind: "local").id
        try await scene.store.setPair(scene.source, other, prefix: .root)
        try await scene.store.activate(pairs: [(scene.source, scene.destination), (scene.source, other)])
        try await scene.store.recordNotSaved(
            scene.source,
            [
                (try RelativePath("p"), .special, .fifo), (try RelativePath("q"), .unreadable, .directory),
                (try RelativePath("r"), .unreadable, .file),
            ])
        try await scene.enqueue([try scene.change("f", size: 3)])
        let reader = try StateReader(in: fixture.directory)
        let rows = try reader.exposure(now: scene.clock.now)
        #expect(rows.filter { $0.reason == "unreadable" }.map(\.destination.rawValue).sorted() == [1, 2])
        #expect(rows.filter { $0.reason == "unreadable" }.allSatisfy { $0.files == 1 && $0.directories == 1 })
        #expect(rows.filter { $0.reason == "queued" }.map(\.destination) == [scene.destination])
        try await scene.store.activate(pairs: [(scene.source, other)])
        #expect(try Set(reader.exposure(now: scene.clock.now).map(\.destination)) == [other])
    }

    @Test("The last sign of life is the newest of what an agent wrote")
    func lastSign() async throws {
        let reader = try StateReader(in: fixture.directory)
        #expect(try reader.lastSignOfLife() == nil)
        try await scene.enqueue([try scene.change("f")])
        let first = scene.clock.now
        scene.clock.advance(.seconds(5))
        // What a verb asked, with no agent, is no sign of one.
        try await scene.store.recordRequest("retry", [], .done("0 jobs"))
        #expect(try reader.lastSignOfLife() == first)
        let walk = try await scene.store.beginReconcile(scene.source, reason: "start")
        scene.clock.advance(.seconds(5))
        try await scene.store.finishReconcile(walk, complete: false)
        #expect(try reader.lastSignOfLife() == scene.clock.now)
        scene.clock.advance(.seconds(5))
        try await scene.store.record(level: "notice", event: "stopped", message: "m")
        #expect(try reader.lastSignOfLife() == scene.clock.now)
    }

    @Test("The queue is told in the order in which it is done, up to a limit, and what is stuck last")
    func order() async throws {
        for path in ["stuck", "leased", "late", "early", "later"] {
            try await scene.enqueue([try scene.change(path, size: 1)])
        }
        try await fail("stuck", .stuck(retryAfter: .seconds(86_400)))
        try await scene.leaseDue(only: try RelativePath("leased"))
        for (path, wait) in [("late", 5), ("early", 1), ("later", 5)] {
            try await fail(path, .retry(after: .seconds(wait), countsAttempt: true))
        }
        let reader = try StateReader(in: fixture.directory)
        let all = try reader.jobs(scene.destination, limit: 10)
        #expect(all.map(\.path.description) == ["leased", "early", "late", "later", "stuck"])
        #expect(all.map(\.state) == [.leased, .pending, .pending, .pending, .stuck])
        #expect(all[1].attempts == 1 && all[1].errorCode == "sourceFailed" && all[1].error == "It failed")
        #expect(try reader.jobs(scene.destination, limit: 3).map(\.path.description) == ["leased", "early", "late"])
        #expect(try reader.jobs(scene.destination, limit: 0) == [])
        #expect(try reader.jobs(scene.destination, onlyStuck: true, limit: 3).map(\.path.description) == ["stuck"])
    }
}
