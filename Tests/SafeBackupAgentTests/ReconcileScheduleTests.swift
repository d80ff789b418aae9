import Testing

@testable import SafeBackupAgent

@Suite("When a source is compared with the catalogue")
struct ReconcileScheduleTests {
    private let start = ContinuousClock.now

    private func at(_ milliseconds: Int) -> ContinuousClock.Instant { start + .milliseconds(milliseconds) }

    /// Plays losses against the schedule; walks take `walk`. Returns when walks began, in milliseconds.
    private func play(losses: [Int], walk: Duration, until end: Int) -> [Int] {
        var schedule = ReconcileSchedule(period: .seconds(86_400), now: start)
        var began: [Int] = []
        var now = 0
        var rest = losses[...]
        while now <= end {
            while let loss = rest.first, loss <= now {
                schedule.noteLoss(at: at(loss))
                rest = rest.dropFirst()
            }
            if schedule.next.at <= at(now) {
                began.append(now)
                schedule.noteBegin()
                // Losses of the meantime are told when it has ended.
                now += Int(walk / .milliseconds(1))
                schedule.noteEnd(at: at(now), after: walk)
            }
            now += 1
        }
        return began
    }

    @Test("One walk makes up for a short storm, right after it")
    func shortStorm() {
        let losses = stride(from: 5_000, to: 5_900, by: 10).map { $0 }
        let walks = play(losses: losses, walk: .milliseconds(200), until: 60_000)
        #expect(walks == [5_990])
    }

    @Test("In a storm that lasts, walks grow rarer, to one a minute, and every loss has a walk after it")
    func longStorm() throws {
        let losses = stride(from: 5_000, to: 3_605_000, by: 50).map { $0 }
        let walks = play(losses: losses, walk: .milliseconds(200), until: 3_700_000)
        #expect(walks.first == 6_000)
        #expect(walks.count < 75, "an hour of overflows: \(walks.count) walks")
        #expect(try #require(walks.last) > 3_604_950)
        for (walk, next) in zip(walks.dropFirst(10), walks.dropFirst(11)) { #expect(next - walk >= 59_000) }
    }

    @Test("Walks that take long take at most half of the time")
    func slowWalks() {
        let losses = stride(from: 5_000, to: 605_000, by: 50).map { $0 }
        let walks = play(losses: losses, walk: .seconds(20), until: 700_000)
        for (walk, next) in zip(walks, walks.dropFirst()) { #expect(next - walk >= 40_000) }
    }

    @Test("After a long calm the first loss is answered as quickly as ever")
    func calm() throws {
        let storm = stride(from: 5_000, to: 65_000, by: 50).map { $0 }
        let walks = play(losses: storm + [1_000_000], walk: .milliseconds(200), until: 1_100_000)
        #expect(walks.last == 1_000_100)
    }

    @Test("What is lost during a walk needs another")
    func lossDuringWalk() {
        #expect(play(losses: [5_000, 5_200], walk: .milliseconds(500), until: 60_000).count == 2)
    }

    @Test("Without a loss the next walk is a period after the last")
    func periodic() {
        var schedule = ReconcileSchedule(period: .seconds(100), now: start)
        #expect(schedule.next.at == start + .seconds(100) && schedule.next.reason == .periodic)
        schedule.noteBegin()
        schedule.noteEnd(at: start + .seconds(110), after: .seconds(10))
        #expect(schedule.next.at == start + .seconds(210))
        schedule.noteLoss(at: start + .seconds(120))
        #expect(schedule.next.reason == .desynced)
    }
}
