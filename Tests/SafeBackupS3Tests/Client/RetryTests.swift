import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import Testing

/// How many run, and how many ran at once.
private final class Running: Sendable {
    private let state = Locked((now: 0, most: 0))
    var most: Int { state.withLock { $0.most } }
    func begin() {
        state.withLock { state in
            state.now += 1
            state.most = max(state.most, state.now)
        }
    }
    func end() { state.withLock { $0.now -= 1 } }
}

@Suite("Retries")
struct RetryTests {
    @Test("Retries use a budget up, and only successes fill it")
    func budget() {
        var budget = RetryBudget()
        var paid = 0
        while budget.pay(.transient) { paid += 1 }
        #expect(paid == 500 / 14)
        #expect(budget.tokens == 500 % 14)
        // Asking for fewer requests is cheaper.
        let isPaid = budget.pay(.throttled)
        #expect(isPaid)
        budget.succeeded(after: .transient)
        budget.succeeded(after: nil)
        #expect(budget.tokens == 10 - 5 + 14 + 1)
        for _ in 0..<1_000 { budget.succeeded(after: nil) }
        #expect(budget.tokens == RetryBudget.capacity)
    }

    @Test("Waits double from 50 ms or 1 s up to 20 s, with jitter over all of it")
    func backoff() {
        let backoff = RetryBackoff()
        #expect(
            (0..<4).map { backoff.wait(.transient, retry: $0, random: 1) }
                == [50, 100, 200, 400].map { .milliseconds($0) })
        #expect(
            (0..<6).map { backoff.wait(.throttled, retry: $0, random: 1) } == [1, 2, 4, 8, 16, 20].map { .seconds($0) })
        #expect(backoff.wait(.throttled, retry: 3, random: 0) == .zero)
        #expect(backoff.wait(.throttled, retry: 1_000, random: 0.5) == .seconds(10))
    }

    @Test("What the server asks for counts, within limits")
    func asked() {
        let backoff = RetryBackoff()
        func wait(_ asked: Duration?, _ http: Duration? = nil) -> Duration {
            backoff.wait(.throttled, retry: 0, random: 0.5, asked: asked, askedByHTTP: http)
        }
        #expect(wait(.milliseconds(1)) == .milliseconds(500))
        #expect(wait(.seconds(3)) == .seconds(3))
        #expect(wait(.seconds(3_600)) == .milliseconds(5_500))
        #expect(wait(nil, .seconds(30)) == .seconds(30))
        #expect(wait(nil, .seconds(86_400)) == .seconds(60))
    }

    @Test("A burst of answers that ask for fewer requests halves the limit once, and it recovers by one in ten seconds")
    func limit() {
        let start = ContinuousClock.now
        var limit = RequestLimit(maximum: 16)
        for _ in 0..<16 { _ = limit.halve(requestBegan: start, now: start + .seconds(1)) }
        #expect(limit.current == 8)
        let changed = limit.halve(requestBegan: start + .seconds(2), now: start + .seconds(3))
        #expect(changed && limit.current == 4)
        limit.recover(now: start + .seconds(12))
        #expect(limit.current == 4)
        limit.recover(now: start + .seconds(38))
        #expect(limit.current == 7)
        // The rest of the time counts for the next one.
        limit.recover(now: start + .seconds(43))
        #expect(limit.current == 8)
        limit.recover(now: start + .seconds(10_000))
        #expect(limit.current == 16)
        for step in 0..<20 {
            _ = limit.halve(requestBegan: start + .seconds(20_000 + step), now: start + .seconds(20_000 + step))
        }
        #expect(limit.current == 1)
    }

    @Test("Three different keys must be denied before the bucket is meant, with none allowed between")
    func denials() {
        var count = DenialCount()
        let verdicts = [[1], [1], [1], [2]].map { count.denied($0) }
        #expect(verdicts == [false, false, false, false])
        count.allowed()
        let others = [[3], [4], [5], [5]].map { count.denied($0) }
        #expect(others == [false, false, true, true])
    }

    @Test("No more requests run at once than the gate lets through, and cancelled ones give their turn up")
    func gate() async throws {
        let gate = RequestGate(maximum: 3)
        let running = Running()
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for index in 0..<200 {
                group.addTask {
                    do { try await gate.enter() } catch { return false }
                    running.begin()
                    for _ in 0..<5 { await Task.yield() }
                    running.end()
                    gate.leave()
                    return true
                }
                if index == 150 { _ = try await group.next() }
            }
            var passed = 1
            while let done = try await group.next() { passed += done ? 1 : 0 }
            #expect(passed == 200)
        }
        #expect(running.most == 3)
        // One that waits is cancelled; the others are not held up by it.
        for _ in 0..<3 { try await gate.enter() }
        let waiting = Task { () -> Bool in
            do { try await gate.enter() } catch { return false }
            return true
        }
        waiting.cancel()
        #expect(await !waiting.value)
        for _ in 0..<3 { gate.leave() }
        for _ in 0..<3 { try await gate.enter() }
        let last = Task { () -> SafeBackupError.Code? in
            do throws(SafeBackupError) { try await gate.enter() } catch { return error.code }
            return nil
        }
        last.cancel()
        #expect(await last.value == .interrupted)
    }

    @Test("The times of listings, headers and errors are read")
    func dates() {
        #expect(S3Date.iso("2026-11-23T03:45:12.678Z")?.microseconds == 1_795_405_512_678_000)
        #expect(S3Date.iso("2026-11-23T03:45:12Z")?.microseconds == 1_795_405_512_000_000)
        #expect(S3Date.iso("2024-02-29T23:59:59.1234567Z")?.microseconds == 1_709_251_199_123_456)
        #expect(S3Date.compact("20261123T034512Z")?.microseconds == 1_795_405_512_000_000)
        #expect(S3Date.http("Mon, 23 Nov 2026 03:45:12 GMT")?.microseconds == 1_795_405_512_000_000)
        #expect(S3Date.http("Thu, 01 Jan 1970 00:00:00 GMT")?.microseconds == 0)
    }

    @Test(
        "What is no time is none",
        arguments: ["", "2026-11-23", "2026-13-23T03:45:12Z", "Mon, 23 Now 2026 03:45:12 GMT"])
    func noDates(_ text: String) {
        #expect(S3Date.iso(text) == nil && S3Date.http(text) == nil && S3Date.compact(text) == nil)
    }
}
