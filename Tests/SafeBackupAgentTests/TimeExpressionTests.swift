import SafeBackupCore
import Testing

@testable import SafeBackupAgent

@Suite("A time as a person writes it")
struct TimeExpressionTests {
    /// Half an hour past a full hour east of UTC, so that a mistake shows.
    private let zone = LocalZone.fixed(secondsEastOfUTC: 19_800)
    /// 2026-11-23T14:05:06 there.
    private let now = LocalZone.fixed(secondsEastOfUTC: 19_800).timestamp(CivilTime(2026, 11, 23, 14, 5, 6))

    @Test(
        "It is understood in all its forms",
        arguments: [
            ("2026-11-23", "2026-11-22T18:30:00Z", true),
            ("2026-11-23 14:05", "2026-11-23T08:35:00Z", true),
            ("2026-11-23T14:05:07", "2026-11-23T08:35:07Z", true),
            ("2026-11-23t14:05z", "2026-11-23T14:05:00Z", false),
            ("2026-11-23 14:05:07+01:00", "2026-11-23T13:05:07Z", false),
            ("2026-11-23 14:05:07 -0130", "2026-11-23T15:35:07Z", false),
            ("2026-11-23T14:05:07.25+01", "2026-11-23T13:05:07Z", false),
            ("2024-02-29", "2024-02-28T18:30:00Z", true),
            ("14:05", "2026-11-23T08:35:00Z", true),
            ("today", "2026-11-22T18:30:00Z", true),
            ("Yesterday", "2026-11-21T18:30:00Z", true),
            ("yesterday 23:59:59", "2026-11-22T18:29:59Z", true),
            ("now", "2026-11-23T08:35:06Z", false),
            ("2h ago", "2026-11-23T06:35:06Z", false),
            ("-2h", "2026-11-23T06:35:06Z", false),
            ("1 h 30 min ago", "2026-11-23T07:05:06Z", false),
            ("3 days ago", "2026-11-20T08:35:06Z", false),
            ("-1w", "2026-11-16T08:35:06Z", false),
            ("20261123T034512.123456Z", "2026-11-23T03:45:12Z", false),
        ])
    func forms(text: String, utc: String, isLocal: Bool) throws {
        let expression = try TimeExpression(text, now: now, zone: zone)
        #expect(expression.time.iso8601 == utc)
        #expect(expression.isLocal == isLocal)
    }

    @Test(
        "What is none is refused, and never taken for another time",
        arguments: [
            "", " ", "2026-13-01", "2026-02-29", "2026-11-23 24:00", "2026-11-23 14:60", "2026-1-3", "23.11.2026", "2h",
            "-2", "ago", "2h 30 ago", "-2h ago", "2026-11-23 14:05 CET", "2026-11-23T", "tomorrow", "1e3s ago",
            "99999999999999999999h ago", "9999999999h ago", "2026-11-23 14:05:07+25:00", "20261123T034512", "１4:05",
        ])
    func refused(text: String) {
        #expect {
            _ = try TimeExpression(text, now: now, zone: zone)
        } throws: {
            ($0 as? SafeBackupError)?.code == .invalidConfiguration
        }
    }

    @Test("A length of time is a number with its unit, or several")
    func durations() {
        #expect(TimeExpression.duration("30d") == .seconds(2_592_000))
        #expect(TimeExpression.duration(" 1h 30min") == .seconds(5_400))
        for text in ["", "30", "0d", "-1d", "1d ago", "1 month", "99999999999d"] {
            #expect(TimeExpression.duration(text) == nil, "\(text)")
        }
    }

    @Test("A stamp in a version's name is read to the microsecond, as it was written")
    func stamp() throws {
        let time = Timestamp(microseconds: 1_795_000_000_123_456)
        #expect(try TimeExpression(time.compact, now: now, zone: zone).time == time)
    }

    @Test("Each time is told with its offset, and read back as the same")
    func text() throws {
        #expect(zone.text(now) == "2026-11-23T14:05:06+05:30")
        let west = LocalZone.fixed(secondsEastOfUTC: -12_600)
        #expect(west.text(now) == "2026-11-23T05:05:06-03:30")
        #expect(try TimeExpression(west.text(now), now: now, zone: zone).time == now)
        for days in stride(from: Int64(-200_000), through: 200_000, by: 997) {
            let time = Timestamp(microseconds: days * 86_400_000_000 + 3_600_000_000)
            let civil = LocalZone.utc.civil(time)
            #expect(LocalZone.utc.timestamp(civil) == time)
        }
    }

    @Test("This machine's zone gives a time and takes it back")
    func system() {
        let civil = LocalZone.system.civil(now)
        #expect(LocalZone.system.timestamp(civil) == now)
    }
}
