import SafeBackupCore
import Testing

@Suite("The bandwidth of reading")
struct ReadingPaceTests {
    /// Threads that read pieces of any size, each waiting for as long as it is told, on a clock of the test's.
    private func duration(
        _ total: Int, at bandwidth: Int64, threads: Int, oversleeping: Duration = .zero
    ) -> Duration {
        var pace = ReadingPace(ByteCount(bandwidth))
        let start = ContinuousClock.now
        var turns = Array(repeating: start, count: threads)
        var generator = SystemRandomNumberGenerator()
        var (left, end) = (total, start)
        while left > 0 {
            let thread = turns.indices.min { turns[$0] < turns[$1] } ?? 0
            let count = min(left, Int.random(in: 1...(128 << 10), using: &generator))
            left -= count
            turns[thread] += pace.take(count, at: turns[thread]) + oversleeping
            end = max(end, turns[thread])
        }
        return end - start
    }

    @Test(
        "It is exact over time, however many threads share it and whatever they read at once",
        arguments: [(1_000_000, 1), (1_000_000, 4), (7, 1), (3 << 30, 16), (1 << 50, 2)])
    func exact(bandwidth: Int64, threads: Int) {
        let total = bandwidth > 1_000 ? 50_000_000 : 500
        let found = duration(total, at: bandwidth, threads: threads)
        let ideal = Duration.seconds(Double(total) / Double(bandwidth))
        #expect(found > ideal - .milliseconds(1) && found < ideal + .milliseconds(1), "\(found) and not \(ideal)")
    }

    @Test("Waits that are too long are made up for")
    func oversleeping() {
        let found = duration(50_000_000, at: 10_000_000, threads: 2, oversleeping: .milliseconds(5))
        #expect(found < .seconds(5) + .milliseconds(20), "\(found)")
    }

    @Test("Idle time is not saved up")
    func idle() {
        var pace = ReadingPace(ByteCount(1_000))
        let start = ContinuousClock.now
        #expect(pace.take(1_000, at: start) == .seconds(1))
        // An hour later only a tenth of a second counts.
        #expect(pace.take(1_000, at: start + .seconds(3_600)) == .milliseconds(900))
    }
}
