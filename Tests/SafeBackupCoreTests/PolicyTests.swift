import Testing

@testable import SafeBackupCore

@Suite("Policies and values")
struct PolicyTests {
    @Test("The wait doubles up to its maximum and jitter never shortens it below half")
    func backoffGrows() {
        let policy = BackoffPolicy()
        var last = Duration.zero
        for attempt in 1..<policy.attemptLimit {
            guard case .retry(let wait, true) = policy.verdict(for: .transient, attempts: attempt, jitter: 1) else {
                Issue.record("attempt \(attempt) is not a retry")
                return
            }
            #expect(wait == min(policy.initial * (1 << (attempt - 1)), policy.maximum))
            #expect(wait >= last)
            last = wait
            guard case .retry(let short, _) = policy.verdict(for: .transient, attempts: attempt, jitter: 0) else {
                return
            }
            #expect(short * 2 == wait)
        }
    }

    @Test("Refused is stuck at once, used-up retries are stuck, an absent destination never is")
    func verdicts() {
        let policy = BackoffPolicy()
        #expect(policy.verdict(for: .permanent, attempts: 1, jitter: 0) == .stuck(retryAfter: policy.stuckRetry))
        #expect(
            policy.verdict(for: .transient, attempts: policy.attemptLimit, jitter: 0)
                == .stuck(retryAfter: policy.stuckRetry))
        for disposition in [Disposition.destinationUnavailable, .destinationFull, .auth] {
            for attempts in [1, 100, 10_000] {
                guard
                    case .retry(_, countsAttempt: false) = policy.verdict(
                        for: disposition, attempts: attempts, jitter: 0.5)
                else {
                    Issue.record("\(disposition) counts attempts")
                    return
                }
            }
        }
    }

    @Test(
        "A time stamp becomes the calendar's date",
        arguments: [
            (0, "1970-01-01T00:00:00Z"), (951_782_400, "2000-02-29T00:00:00Z"), (1_795_405_512, "2026-11-23T03:45:12Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"), (-1, "1969-12-31T23:59:59Z"),
        ])
    func calendar(seconds: Int64, text: String) {
        #expect(Timestamp(microseconds: seconds * 1_000_000).iso8601 == text)
    }

    @Test("The compact form sorts as the time does")
    func compact() {
        let stamp = Timestamp(microseconds: 1_795_405_512_123_456)
        #expect(stamp.compact == "20261123T034512.123456Z")
        #expect((stamp + .microseconds(1)).compact > stamp.compact)
        #expect((stamp + .seconds(1)) - stamp == .seconds(1))
    }

    @Test("File times before 1970 and beyond 2262 are whole seconds and a remainder, saturated")
    func fileTimes() {
        let old = FileTime(seconds: -2, nanoseconds: 5)
        #expect(old.seconds == -2)
        #expect(old.remainder == 5)
        #expect(FileTime(seconds: .max, nanoseconds: 0).nanoseconds == .max)
        #expect(FileTime(seconds: .min, nanoseconds: 0).nanoseconds == .min)
    }

    @Test(
        "Sizes are shown in the unit that fits",
        arguments: [
            (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (230 << 30, "230 GiB"),
        ])
    func sizes(bytes: Int64, text: String) {
        #expect(ByteCount(bytes).description == text)
    }
}
