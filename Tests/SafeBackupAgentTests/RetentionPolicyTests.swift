import SafeBackupCore
import Testing

@testable import SafeBackupAgent

@Suite("A policy of retention")
struct RetentionPolicyTests {
    private let zone = LocalZone.utc
    private let now = LocalZone.utc.timestamp(CivilTime(2026, 11, 23, 12, 0, 0))

    /// States at these times, newest first, each until the next one.
    private func keeps(_ policy: RetentionPolicy, _ times: [CivilTime], deleted: Bool = false) -> [Int] {
        var states: [RetentionPolicy.State] = []
        for (index, time) in times.enumerated() {
            let ended = index == 0 ? (deleted ? now : nil) : zone.timestamp(times[index - 1])
            states.append(RetentionPolicy.State(stored: zone.timestamp(time), ended: ended))
        }
        return policy.keeps(states, now: now, zone: zone).enumerated().filter(\.element).map(\.offset)
    }

    private func policy(_ change: (inout RetentionPolicy) -> Void) -> RetentionPolicy {
        var policy = RetentionPolicy()
        change(&policy)
        return policy
    }

    /// Twice a day, at 6 and 18 o'clock, for 40 days back.
    private var halfDays: [CivilTime] {
        (0..<80).map { index in
            zone.civil(zone.timestamp(CivilTime(2026, 11, 22, 18)) + .seconds(-Int64(index) * 43_200))
        }
    }

    @Test("Without a rule everything is kept")
    func none() { #expect(keeps(RetentionPolicy(), halfDays).count == 80) }

    @Test("The newest few, the current one among them")
    func last() { #expect(keeps(policy { $0.last = 3 }, halfDays) == [0, 1, 2]) }

    @Test("Of each day the newest, also when days are missing, and the oldest while there are too few")
    func daily() {
        #expect(keeps(policy { $0.daily = 3 }, halfDays) == [0, 2, 4])
        let sparse = [
            CivilTime(2026, 11, 20, 9), CivilTime(2026, 11, 20, 8), CivilTime(2026, 11, 3), CivilTime(2026, 10, 1, 2),
            CivilTime(2026, 10, 1, 1),
        ]
        #expect(keeps(policy { $0.daily = 2 }, sparse) == [0, 2])
        #expect(keeps(policy { $0.daily = 9 }, sparse) == [0, 2, 3, 4])
    }

    @Test("A day begins where the person is")
    func zones() {
        let states = [CivilTime(2026, 11, 20, 23), CivilTime(2026, 11, 20, 1), CivilTime(2026, 11, 18)].map {
            RetentionPolicy.State(stored: zone.timestamp($0), ended: nil)
        }
        let policy = policy { $0.daily = 2 }
        #expect(policy.keeps(states, now: now, zone: .utc) == [true, false, true])
        #expect(policy.keeps(states, now: now, zone: .fixed(secondsEastOfUTC: -7_200)) == [true, true, false])
    }

    @Test("Weeks begin on Monday; months and years are the calendar's")
    func calendar() {
        let days = [
            // Monday, Sunday, Monday before, Sunday before that.
            CivilTime(2026, 11, 23, 1), CivilTime(2026, 11, 22), CivilTime(2026, 11, 16), CivilTime(2026, 11, 15),
            CivilTime(2026, 11, 1), CivilTime(2026, 10, 31), CivilTime(2025, 12, 31), CivilTime(2025, 1, 1),
            CivilTime(1969, 12, 31), CivilTime(1969, 12, 28),
        ]
        #expect(keeps(policy { $0.weekly = 3 }, days) == [0, 1, 3])
        #expect(keeps(policy { $0.monthly = 3 }, days) == [0, 5, 6])
        #expect(keeps(policy { $0.yearly = 3 }, days) == [0, 6, 8])
    }

    @Test("What was current at some time in a span is kept, however old it is")
    func within() {
        let times = [
            CivilTime(2026, 11, 23, 11), CivilTime(2026, 11, 21), CivilTime(2026, 9, 1), CivilTime(2026, 8, 1),
        ]
        #expect(keeps(policy { $0.within = .seconds(7 * 86_400) }, times) == [0, 1, 2])
        #expect(keeps(policy { $0.within = .seconds(3_600) }, times) == [0, 1])
    }

    @Test("Each rule looks for itself; one that keeps a state is enough")
    func together() {
        let policy = policy {
            $0.last = 2
            $0.daily = 2
            $0.weekly = 2
        }
        // Sunday 18:00 and 06:00; Saturday 18:00; the Sunday before.
        #expect(keeps(policy, halfDays) == [0, 1, 2, 14])
    }

    @Test("A deleted path has its time only where a rule says so")
    func deleted() {
        let then = now + .seconds(-100)
        #expect(!RetentionPolicy().isExpired(deleted: then, now: now))
        #expect(!policy { $0.deletedWithin = .seconds(100) }.isExpired(deleted: then, now: now))
        #expect(policy { $0.deletedWithin = .seconds(99) }.isExpired(deleted: then, now: now))
    }
}
