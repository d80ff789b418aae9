/// A file system's time stamp: nanoseconds since 1970, saturating in the years 1677 and 2262.
public struct FileTime: Sendable, Hashable, Comparable {
    /// Since the beginning of 1970 in UTC.
    public var nanoseconds: Int64

    /// A time of so many nanoseconds since 1970.
    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    package init(seconds: Int64, nanoseconds: Int64) {
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, carried) = product.addingReportingOverflow(nanoseconds)
        self.nanoseconds = overflow || carried ? (seconds < 0 ? .min : .max) : sum
    }

    /// Whole seconds, rounded down, so that `remainder` is never negative.
    package var seconds: Int64 {
        nanoseconds >= 0 ? nanoseconds / 1_000_000_000 : (nanoseconds + 1) / 1_000_000_000 - 1
    }

    /// Nanoseconds within the second, 0 to 999,999,999.
    package var remainder: Int64 {
        let rest = nanoseconds % 1_000_000_000
        return rest < 0 ? rest + 1_000_000_000 : rest
    }

    /// Earlier.
    public static func < (left: FileTime, right: FileTime) -> Bool { left.nanoseconds < right.nanoseconds }
}

/// Wall-clock time of an event of ours: microseconds since 1970, as the columns `…_at` of the state hold it.
package struct Timestamp: Sendable, Hashable, Comparable {
    package var microseconds: Int64

    package init(microseconds: Int64) { self.microseconds = microseconds }

    package static func < (left: Timestamp, right: Timestamp) -> Bool { left.microseconds < right.microseconds }

    package static func + (left: Timestamp, right: Duration) -> Timestamp {
        let (seconds, attoseconds) = right.components
        return Timestamp(microseconds: left.microseconds &+ seconds &* 1_000_000 &+ attoseconds / 1_000_000_000_000)
    }

    package static func - (left: Timestamp, right: Timestamp) -> Duration {
        .microseconds(left.microseconds - right.microseconds)
    }

    package var fileTime: FileTime {
        FileTime(seconds: 0, nanoseconds: microseconds.multipliedReportingOverflow(by: 1_000).partialValue)
    }

    /// Year, month, day, hour, minute, second in UTC. See: Howard Hinnant, "chrono-compatible low-level date algorithms".
    package var utc: (year: Int64, month: Int64, day: Int64, hour: Int64, minute: Int64, second: Int64) {
        let total = microseconds >= 0 ? microseconds / 1_000_000 : (microseconds + 1) / 1_000_000 - 1
        var days = total / 86_400
        var rest = total % 86_400
        if rest < 0 { (rest, days) = (rest + 86_400, days - 1) }
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        let day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        return (year, month, day, rest / 3_600, rest / 60 % 60, rest % 60)
    }

    /// `20261123T034512.123456Z`: sorts by time and suits a file name.
    package var compact: String {
        let (year, month, day, hour, minute, second) = utc
        let micro = ((microseconds % 1_000_000) + 1_000_000) % 1_000_000
        return padded(year, 4) + padded(month, 2) + padded(day, 2) + "T" + padded(hour, 2) + padded(minute, 2)
            + padded(second, 2) + "." + padded(micro, 6) + "Z"
    }

    /// `2026-11-23T03:45:12Z`, for people and `--json`.
    package var iso8601: String {
        let (year, month, day, hour, minute, second) = utc
        return padded(year, 4) + "-" + padded(month, 2) + "-" + padded(day, 2) + "T" + padded(hour, 2) + ":"
            + padded(minute, 2) + ":" + padded(second, 2) + "Z"
    }
}

private func padded(_ number: Int64, _ width: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
}
