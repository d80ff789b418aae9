import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite struct QueueTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    private func job(_ path: String = "f") throws -> [String] {
        try fixture.rows(
            """
            SELECT state, action, generation, attempts, not_before, ifnull(last_error_code, '') FROM job
            WHERE path = '\(path)'
            """)
    }

    private func notBefore() throws -> Timestamp {
        Timestamp(microseconds: try #require(Int64(try fixture.rows("SELECT not_before FROM job").first ?? "")))
    }

    private func change(settlesIn wait: Duration, limit: Duration = .seconds(60)) throws -> QueuedChange {
        QueuedChange(
            path: try RelativePath("f"), action: .store, notBefore: scene.clock.now + wait, settleLimit: limit)
    }

    // MARK: - Settling

    @Test("Changes move a pending job's time, but never beyond the settle limit after the first one")
    func settle() async throws {
        let start = scene.clock.now
        try await scene.enqueue([try change(settlesIn: .seconds(2))])
        for _ in 0..<100 {
            scene.clock.advance(.seconds(1))
            try await scene.enqueue([try change(settlesIn: .seconds(2))])
            #expect(try notBefore() == min(scene.clock.now + .seconds(2), start + .seconds(60)))
        }
        #expect(try fixture.rows("SELECT count(*) FROM job") == ["1"])
    }

    @Test("A close brings the time of a written file forward")
    func closing() async throws {
        try await scene.enqueue([try change(settlesIn: .seconds(2))])
        try await scene.enqueue([try change(settlesIn: .milliseconds(100))])
        #expect(try notBefore() == scene.clock.now + .milliseconds(100))
    }

    @Test("A change that was found, not seen, does not pull a later change forward")
    func foundThenChanged() async throws {
        try await scene.enqueue([try scene.change("f")])
        scene.clock.advance(.seconds(300))
        try await scene.enqueue([try change(settlesIn: .seconds(2))])
        #expect(try notBefore() == scene.clock.now + .seconds(2))
    }

    @Test("Nothing is due before its time, and the batch tells when to ask again")
    func nextDue() async throws {
        try await scene.enqueue([try change(settlesIn: .seconds(5))])
        var batch = try await scene.due()
        #expect(batch.jobs.isEmpty)
        #expect(batch.nextDue == scene.clock.now + .seconds(5))
        scene.clock.advance(.seconds(5))
        batch = try await scene.due()
        #expect(batch.jobs.map(\.path.description) == ["f"])
        #expect(batch.nextDue == nil)
    }

    @Test("After a jump of the clock back by a year everything is due again within the hour")
    func clockJump() async throws {
        try await scene.enqueue([try change(settlesIn: .seconds(5))])
        scene.clock.advance(.seconds(-365 * 86_400))
        #expect(try await scene.due().jobs.count == 1)
    }

    // MARK: - Order and limits

    @Test("Jobs come by their time, then in the order they were queued, up to both limits")
    func order() async throws {
        try await scene.enqueue(try (0..<10).map { try scene.change("f\($0)", size: 100) })
        scene.clock.advance(.seconds(-1))
        try await scene.enqueue([try scene.change("early", size: 100)])
        scene.clock.advance(.seconds(1))
        #expect(try await scene.due(limit: 3).jobs.map(\.path.description) == ["early", "f0", "f1"])
        #expect(try await scene.due(byteLimit: 399).jobs.count == 3)
        #expect(try await scene.due(byteLimit: 1).jobs.count == 1, "the first one comes whatever its size")
        let batch = try await scene.due(limit: 3)
        #expect(try #require(batch.nextDue) <= scene.clock.now, "there is more at once")
    }

    @Test("A held or inactive source delays no other, and a held destination gives nothing")
    func holds() async throws {
        let other = try await Scene(scene.store, scene.clock, path: "/other")
        try await scene.enqueue(try (0..<5).map { try scene.change("held\($0)") })
        try await other.enqueue([try other.change("free")])
        #expect(try await scene.due().jobs.count == 6)
        let error = SafeBackupError(.rootMissing, "Not there", disposition: .transient)
        try await scene.store.hold(.source(scene.source), error)
        #expect(try await scene.due(limit: 1).jobs.map(\.path.description) == ["free"])
        try await scene.store.clearHold(.source(scene.source))
        try await scene.store.activate(pairs: [(scene.source, scene.destination)])
        let jobs = try await scene.due().jobs
        #expect(jobs.count == 5)
        #expect(try await scene.store.counts().pending == 5, "inactive pairs are not counted")
        try await scene.store.hold(.destination(scene.destination), error)
        let batch = try await scene.due()
        #expect(batch.jobs.isEmpty && batch.nextDue == nil)
        let leases = jobs.map { LeasedJob(job: $0, plan: LeasePlan(stageName: "s", final: .absent)) }
        #expect(try await scene.store.lease(scene.destination, leases) == [], "the hold came between due and lease")
        try await scene.store.clearHold(.destination(scene.destination))
        try await scene.store.hold(.source(scene.source), error)
        #expect(try await scene.store.lease(scene.destination, leases) == [])
        try await scene.store.hold(.destination(scene.destination), error)
        let held = try #require(try await scene.store.destinations().first)
        #expect(held.hold == Hold(reason: .rootMissing, message: "Not there", at: scene.clock.now))
    }

    // MARK: - Generations

    @Test("A change during a lease leaves the lease as it is and the job pending after it")
    func changeDuringLease() async throws {
        try await scene.enqueue([try scene.change("f", size: 1)])
        let leases = try await scene.leaseDue()
        let before = try fixture.rows("SELECT leased_generation, leased_action, stage_name, final_kind FROM job")
        scene.clock.advance(.seconds(1))
        try await scene.enqueue([try scene.change("f", .delete)])
        #expect(try fixture.rows("SELECT leased_generation, leased_action, stage_name, final_kind FROM job") == before)
        #expect(try await scene.due().jobs.isEmpty, "a leased job is not due")
        #expect(try await scene.store.leases(scene.destination, limit: 10).map(\.plan) == leases.map(\.plan))
        #expect(try await scene.store.leases(scene.destination, limit: 10).first?.job.action == .store)

        let result = try await scene.complete(leases, .stored(file(1)))
        #expect(result.finished == 0 && result.pending == 1)
        let next = try #require(try await scene.due().jobs.first)
        #expect(next.action == .delete)
        #expect(next.live?.fingerprint == fingerprint(1), "what was stored is catalogued all the same")
        #expect(next.sequence > leases[0].job.sequence, "it is another job than the one that is done")
        try fixture.audit()
    }

    @Test("A change between looking and leasing is not lost")
    func changeBeforeLease() async throws {
        try await scene.enqueue([try scene.change("f")])
        let job = try #require(try await scene.due().jobs.first)
        try await scene.enqueue([try scene.change("f")])
        let lease = LeasedJob(job: job, plan: LeasePlan(stageName: "s", final: .absent))
        #expect(try await scene.store.lease(scene.destination, [lease]) == [lease])
        #expect(try await scene.complete([lease], .stored(file(1))).pending == 1)
        #expect(try await scene.due().jobs.count == 1)
    }

    @Test("A job that is leased already cannot be leased again")
    func leaseTwice() async throws {
        try await scene.enqueue([try scene.change("f")])
        let lease = try #require(try await scene.leaseDue().first)
        let other = LeasedJob(job: lease.job, plan: LeasePlan(stageName: "other", final: .absent))
        #expect(try await scene.store.lease(scene.destination, [other]) == [])
        try fixture.audit()
    }

    @Test("Leases whose commit was reported as failed and stands are taken when they are asked for once more")
    func leaseRepeated() async throws {
        try await scene.enqueue([try scene.change("f"), try scene.change("g")])
        let leases = try await scene.leaseDue()
        try await scene.enqueue([try scene.change("g")])
        #expect(try await scene.store.lease(scene.destination, leases) == leases)
        // Nobody else would ever end them.
        try await scene.store.setPaused(.destination(scene.destination), true)
        #expect(try await scene.store.lease(scene.destination, leases) == leases)
        try fixture.audit()
    }

    @Test("A released lease is pending at its new time without a failure; a newer change keeps its own time")
    func release() async throws {
        try await scene.enqueue([try scene.change("f"), try scene.change("g")])
        let leases = try await scene.leaseDue()
        try await scene.enqueue([try scene.change("g")])
        let later = scene.clock.now + .seconds(10)
        try await scene.store.release(scene.destination, leases.map { ($0.job, later) })
        #expect(try await scene.due().jobs.map(\.path.description) == ["g"])
        #expect(try await scene.due().nextDue == later)
        #expect(try await scene.store.leases(scene.destination, limit: 9).isEmpty)
        try fixture.audit()
    }

    // MARK: - Failures

    private func fail(_ code: SafeBackupError.Code, _ disposition: Disposition, _ verdict: BackoffPolicy.Verdict)
        async throws
    {
        let leases = try await scene.leaseDue()
        try #require(!leases.isEmpty)
        try await scene.complete(leases, .failed(SafeBackupError(code, "No", disposition: disposition), verdict))
    }

    @Test("A failure waits for its back-off; a real change tries again at once and forgets the failures")
    func backoff() async throws {
        try await scene.enqueue([try scene.change("f")])
        try await fail(.unreadable, .transient, .retry(after: .seconds(100), countsAttempt: true))
        #expect(try await scene.due().jobs.isEmpty)
        #expect(try await scene.due().nextDue == scene.clock.now + .seconds(100))
        try await scene.enqueue([try change(settlesIn: .seconds(1))])
        #expect(try notBefore() == scene.clock.now + .seconds(1))
        scene.clock.advance(.seconds(1))
        #expect(try await scene.due().jobs.map(\.attempts) == [0])
        try fixture.audit()
    }

    @Test("A torn file that changes all the time reaches the attempt that keeps a fuzzy copy")
    func tornLog() async throws {
        try await scene.enqueue([try change(settlesIn: .seconds(1))])
        let policy = BackoffPolicy()
        var attempts = 0
        while attempts < policy.tornLimit {
            // The log is written every tenth of a second, during the wait and during the read.
            for _ in 0..<100 {
                scene.clock.advance(.milliseconds(100))
                try await scene.enqueue([try change(settlesIn: .seconds(2))])
            }
            let leases = try await scene.leaseDue()
            guard let job = leases.first?.job else { continue }
            #expect(job.attempts == attempts)
            attempts += 1
            try await scene.enqueue([try change(settlesIn: .seconds(2))])
            let error = SafeBackupError(.torn, "Changed", disposition: .transient)
            try await scene.complete(
                leases, .failed(error, policy.verdict(for: .transient, attempts: attempts, jitter: 1)))
        }
        #expect(attempts == policy.tornLimit)
        try fixture.audit()
    }

    @Test("A change does not hurry a job that waits for its destination")
    func destinationBackoff() async throws {
        try await scene.enqueue([try scene.change("f")])
        try await fail(.destinationFull, .destinationFull, .retry(after: .seconds(100), countsAttempt: false))
        let due = scene.clock.now + .seconds(100)
        try await scene.enqueue([try change(settlesIn: .seconds(1))])
        #expect(try notBefore() == due)
        #expect(try job().first?.contains("|0|") == true, "no attempt is counted")
    }

    @Test("A stuck job blocks nothing, is tried daily, at a change, and by a person")
    func stuck() async throws {
        let verdict = BackoffPolicy.Verdict.stuck(retryAfter: .seconds(86_400))
        try await scene.enqueue([try scene.change("f", size: 7)])
        try await fail(.nameTooLong, .permanent, verdict)
        #expect(try await scene.due().jobs.isEmpty)
        #expect(try await scene.due().nextDue == scene.clock.now + .seconds(86_400))
        var counts = try await scene.store.counts(scene.destination)
        #expect(counts.stuck == 1 && counts.pending == 0 && counts.pendingBytes == 0)
        #expect(try await scene.store.unsavedReport(limit: 9).map(\.code) == ["nameTooLong"])
        try fixture.audit()

        scene.clock.advance(.seconds(86_400))
        #expect(try await scene.due().jobs.map(\.attempts) == [1], "the daily try keeps the failures")
        try await fail(.nameTooLong, .permanent, verdict)
        try await scene.enqueue([try scene.change("f")])
        #expect(try await scene.due().jobs.map(\.attempts) == [0])
        try await fail(.nameTooLong, .permanent, verdict)
        #expect(try await scene.store.retry() == 1)
        #expect(try await scene.due().jobs.map(\.attempts) == [0])
        counts = try await scene.store.counts()
        #expect(counts.stuck == 0 && counts.pending == 1)
        try fixture.audit()
    }

    @Test("Retry takes the named paths with all below them, and no neighbour")
    func retryPaths() async throws {
        try await scene.enqueue(try ["d", "d/a", "d/b/c", "d0", "d!", "e"].map { try scene.change($0) })
        try await fail(.unreadable, .transient, .retry(after: .seconds(100), countsAttempt: true))
        #expect(try await scene.store.retry(source: scene.source, paths: [try RelativePath("d")]) == 3)
        #expect(Set(try await scene.due().jobs.map(\.path.description)) == ["d", "d/a", "d/b/c"])
        #expect(try await scene.store.retry(paths: [.root]) == 3, "the root is everything that still fails")
        try fixture.audit()
    }

    @Test("A job whose plan fails needs no lease")
    func failedPlan() async throws {
        try await scene.enqueue([try scene.change("f")])
        let job = try #require(try await scene.due().jobs.first)
        let error = SafeBackupError(.reservedName, "Ours", disposition: .permanent)
        let result = try await scene.store.complete(
            scene.destination,
            [Completion(job: job, outcome: .failed(error, .stuck(retryAfter: .seconds(9))))])
        #expect(result.stuck == 1)
        try fixture.audit()
    }

    // MARK: - Waiting for a set of jobs

    @Test("Outstanding are the known jobs that are neither done, fuzzy nor stuck")
    func outstanding() async throws {
        try await scene.enqueue([try scene.change("done"), try scene.change("log"), try scene.change("bad")])
        let known = try await scene.store.newestSequence()
        #expect(try await scene.store.outstanding(scene.destination, upTo: known).hasUntried)
        let leases = try await scene.leaseDue()
        #expect(try await scene.store.outstanding(scene.destination, upTo: known).hasUntried, "leased counts")
        // The log changes again and again, and its copy is fuzzy.
        try await scene.enqueue([try scene.change("log")])
        let torn = SafeBackupError(.unreadable, "No", disposition: .transient)
        _ = try await scene.store.complete(
            scene.destination,
            [
                Completion(job: leases[0].job, outcome: .stored(file(1))),
                Completion(
                    job: leases[1].job, outcome: .stored(file(2).fuzzy()), requeueAt: scene.clock.now + .seconds(60)),
                Completion(
                    job: leases[2].job, outcome: .failed(torn, .retry(after: .seconds(1), countsAttempt: true))),
            ])
        #expect(
            try await scene.store.outstanding(scene.destination, upTo: known)
                == Outstanding(hasUntried: false, hasFailed: true))
        scene.clock.advance(.seconds(1))
        try await fail(.unreadable, .transient, .stuck(retryAfter: .seconds(86_400)))
        #expect(try await scene.store.outstanding(scene.destination, upTo: known).isEmpty)
        #expect(
            Set(try await scene.store.unsavedReport(limit: 9).map { "\($0.path) \($0.state)" })
                == ["bad stuck", "log fuzzy"])
        #expect(try await scene.due().nextDue == scene.clock.now + .seconds(59), "the log is read again")
        try fixture.audit()
    }

    @Test("What was put off for another group is due when that ends, but not before a change since has settled")
    func resumes() async throws {
        try await scene.enqueue(["a", "b", "c"].map { try scene.change($0) })
        let jobs = try await scene.due().jobs
        let until = scene.clock.now + .seconds(2)
        try await scene.store.postpone(scene.destination, jobs, until: until)
        #expect(try await scene.due().jobs.isEmpty)
        // It is written to just now.
        var change = try scene.change("b")
        change.notBefore = until + .seconds(1)
        change.settleLimit = .seconds(60)
        try await scene.enqueue([change])
        let waiting = jobs.filter { $0.path.description != "c" }.map {
            PostponedJob(sequence: $0.sequence, until: until)
        }
        try await scene.store.resume(scene.destination, waiting, at: scene.clock.now)
        #expect(try await scene.due().jobs.map(\.path.description) == ["a"])
        scene.clock.advance(.seconds(2))
        #expect(try await scene.due().jobs.map(\.path.description) == ["a", "c"])
        scene.clock.advance(.seconds(1))
        #expect(try await scene.due().jobs.count == 3)
    }
}
