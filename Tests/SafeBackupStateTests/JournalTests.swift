import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite struct JournalTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    private let full = SafeBackupError(.destinationFull, "No room", disposition: .destinationFull)

    private func fail(_ path: String, _ error: SafeBackupError, _ verdict: BackoffPolicy.Verdict) async throws {
        try await scene.enqueue([try scene.change(path)])
        let leases = try await scene.leaseDue(only: try RelativePath(path))
        try await scene.complete(leases, .failed(error, verdict))
    }

    @Test("The newest 5,000 events about paths and the newest 5,000 others are kept, whichever come more often")
    func bound() async throws {
        try await scene.store.write { (connection) throws(SafeBackupError) in
            try connection.execute(
                """
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
                INSERT INTO journal (at, level, event, message, path)
                SELECT i, 'info', 'e', 'm', CASE WHEN i > 5500 THEN 'p' END FROM n
                """)
        }
        for number in 0..<64 { try await scene.store.record(level: "notice", event: "last \(number)", message: "m") }
        let counts = try fixture.rows(
            "SELECT count(*) FILTER (WHERE path IS NULL), count(*) FILTER (WHERE path IS NOT NULL) FROM journal")
        let parts = counts[0].split(separator: "|").compactMap { Int($0) }
        #expect((5_000...5_064).contains(parts[0]) && parts[1] == 5_000)
        #expect(try fixture.rows("SELECT event FROM journal ORDER BY id DESC LIMIT 1") == ["last 63"])
        #expect(try fixture.rows("SELECT min(at) FROM journal WHERE path IS NOT NULL") == ["7001"])
    }

    @Test("A failure is told once for each reason in a row, and once more when the path is stuck; successes never")
    func failures() async throws {
        let torn = SafeBackupError(.torn, "It changed", disposition: .transient)
        for _ in 0..<3 {
            try await fail("f", torn, .retry(after: .zero, countsAttempt: true))
            scene.clock.advance(.seconds(1))
        }
        try await fail("f", full, .retry(after: .zero, countsAttempt: false))
        scene.clock.advance(.seconds(1))
        try await fail("f", full, .stuck(retryAfter: .seconds(86_400)))
        try await scene.save("g", file(1))
        let reader = try StateReader(in: fixture.directory)
        let told = try reader.journal(scene.source, try RelativePath("f"), limit: 10)
        #expect(told.map(\.event) == ["stuck", "failing", "failing"])
        #expect(told.map(\.message).first == "No room (destinationFull)")
        #expect(told.allSatisfy { $0.destination == scene.destination && $0.source == scene.source })
        #expect(try reader.journal(scene.source, try RelativePath("g"), limit: 10) == [])
    }

    @Test("A full destination with thousands of jobs writes a hundred events in ten minutes, not thousands")
    func budget() async throws {
        let paths = (0..<300).map { "f\($0)" }
        for _ in 0..<2 {
            try await scene.enqueue(try paths.map { try scene.change($0) })
            let leases = try await scene.leaseDue()
            #expect(leases.count == 300)
            try await scene.complete(leases, .failed(full, .retry(after: .zero, countsAttempt: false)))
            scene.clock.advance(.seconds(1))
        }
        #expect(try fixture.rows("SELECT count(*) FROM journal WHERE event = 'failing'") == ["100"])
        scene.clock.advance(.seconds(601))
        try await fail("late", full, .retry(after: .zero, countsAttempt: false))
        #expect(try fixture.rows("SELECT count(*) FROM journal WHERE event = 'failing'") == ["101"])
    }

    @Test("A hold and its end are told once, however often they are repeated; so is a desync")
    func holds() async throws {
        let missing = SafeBackupError(.rootMissing, "It is not there", disposition: .transient)
        try await scene.store.clearHold(.source(scene.source))
        for _ in 0..<3 { try await scene.store.hold(.source(scene.source), missing) }
        for _ in 0..<2 { try await scene.store.clearHold(.source(scene.source)) }
        try await scene.store.hold(.destination(scene.destination), full)
        try await scene.store.markDesynced(scene.source, false)
        for _ in 0..<2 { try await scene.store.markDesynced(scene.source, true) }
        let reader = try StateReader(in: fixture.directory)
        #expect(
            try reader.remarkableEvents(limit: 10).map(\.event) == ["desynced", "held", "released", "held"])
        #expect(try reader.sources()[0].isDesynced)
    }

    @Test("A walk tells its numbers, and drift is a warning")
    func walks() async throws {
        let id = try await scene.store.beginReconcile(scene.source, reason: "daily")
        scene.clock.advance(.seconds(7))
        try await scene.store.finishReconcile(id, complete: true, drift: 2)
        let told = try #require(try StateReader(in: fixture.directory).remarkableEvents(limit: 1).first)
        #expect(told.level == .warning && told.source == scene.source)
        #expect(
            told.message
                == "Walk (daily): 0 entries compared in 7 s, 0 differences queued, 2 of which no event had told (drift)"
        )
    }

    @Test("A request is told with what was asked for, whatever bytes and however much it is")
    func requests() async throws {
        try await scene.store.recordRequest("retry", [], .done("3 jobs are tried again now"))
        try await scene.store.recordRequest(
            "retry", [[0x61, 0x0A, 0xFF]] + (0..<20).map { [UInt8](repeating: 0x62, count: $0) }, .failed("no"))
        let told = try StateReader(in: fixture.directory).remarkableEvents(limit: 2).map(\.message)
        #expect(told[1] == "3 jobs are tried again now")
        #expect(told[0].hasPrefix("Refused: no (a\\x0a\\xff, , b") && told[0].hasSuffix("and 13 more)"))
    }
}
