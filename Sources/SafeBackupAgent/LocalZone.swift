import Glibc
package import SafeBackupCore

/// Where times without a zone are meant, and days begin.
package struct LocalZone: Sendable {
    /// The time that these numbers stand for; of one that a change of the clocks skips, or has come twice, one that is
    /// near. See: man 3 mktime.
    package let timestamp: @Sendable (CivilTime) -> Timestamp
    /// Seconds east of UTC at that time.
    package let offset: @Sendable (Timestamp) -> Int64

    /// This machine's, or that of `TZ`.
    package static let system = LocalZone(
        timestamp: { civil in
            var parts = tm()
            parts.tm_year = Int32(clamping: civil.year - 1_900)
            parts.tm_mon = Int32(clamping: civil.month - 1)
            parts.tm_mday = Int32(clamping: civil.day)
            parts.tm_hour = Int32(clamping: civil.hour)
            parts.tm_min = Int32(clamping: civil.minute)
            parts.tm_sec = Int32(clamping: civil.second)
            parts.tm_isdst = -1
            return Timestamp(microseconds: Int64(mktime(&parts)) * 1_000_000 + civil.microsecond)
        },
        offset: { time in
            var seconds = time_t(time.microseconds / 1_000_000)
            var parts = tm()
            // Ignored if it fails, as for a year that no calendar has: then the time is told in UTC.
            return localtime_r(&seconds, &parts) == nil ? 0 : Int64(parts.tm_gmtoff)
        })

    package static let utc = fixed(secondsEastOfUTC: 0)

    package static func fixed(secondsEastOfUTC offset: Int64) -> LocalZone {
        LocalZone(
            timestamp: { civil in
                let seconds =
                    civil.dayNumber * 86_400 + civil.hour * 3_600 + civil.minute * 60 + civil.second - offset
                return Timestamp(microseconds: seconds * 1_000_000 + civil.microsecond)
            },
            offset: { _ in offset })
    }

    /// The date and the time of day here.
    package func civil(_ time: Timestamp) -> CivilTime {
        let (year, month, day, hour, minute, second) = (time + .seconds(offset(time))).utc
        return CivilTime(year, month, day, hour, minute, second)
    }

    /// `2026-11-23T14:05:00+01:00`.
    package func text(_ time: Timestamp) -> String {
        let offset = offset(time)
        let stamp = (time + .seconds(offset)).iso8601.dropLast()
        let minutes = abs(offset) / 60
        func two(_ number: Int64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return stamp + (offset < 0 ? "-" : "+") + two(minutes / 60) + ":" + two(minutes % 60)
    }
}
