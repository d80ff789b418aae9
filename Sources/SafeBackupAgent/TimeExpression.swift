package import SafeBackupCore

/// A time as a person writes it: `2026-11-23T14:05:00+01:00`, `2026-11-23 14:05`, `2026-11-23`, `14:05`, `yesterday`,
/// `2h ago`, `-90min`, or the stamp in the name of a version, `20261123T140500.123456Z`. Pure.
package struct TimeExpression: Sendable, Hashable {
    package var time: Timestamp
    /// It was written without a zone, and is meant where this machine is.
    package var isLocal: Bool

    /// - Parameters:
    ///   - now: what relative times count back from.
    ///   - zone: where times without a zone are meant.
    /// - Throws: `invalidConfiguration` for what is no time, with the forms that are.
    package init(_ text: String, now: Timestamp, zone: LocalZone) throws(SafeBackupError) {
        var scan = TimeScanner(text)
        if let relative = scan.relative(before: now) {
            (time, isLocal) = (relative, false)
            return
        }
        scan = TimeScanner(text)
        if let stamp = scan.versionStamp() {
            (time, isLocal) = (stamp, false)
            return
        }
        scan = TimeScanner(text)
        guard let written = scan.written(today: zone.civil(now), yesterday: zone.civil(now + .seconds(-86_400))) else {
            throw SafeBackupError(
                .invalidConfiguration,
                "'\(printable(text.utf8))' is no time; write it as 2026-11-23, '2026-11-23 14:05', "
                    + "2026-11-23T14:05:00+01:00, 14:05, yesterday, '2h ago' or -30min",
                disposition: .permanent)
        }
        isLocal = written.offset == nil
        if let offset = written.offset {
            time = LocalZone.fixed(secondsEastOfUTC: offset).timestamp(written.civil)
        } else {
            time = zone.timestamp(written.civil)
        }
    }
}

extension TimeExpression {
    /// `30d`, `1h 30min`; `nil` for what is no length of time, and for none.
    package static func duration(_ text: String) -> Duration? {
        var scan = TimeScanner(text)
        return scan.duration()
    }
}

/// A date and a time of day in some zone.
package struct CivilTime: Sendable, Hashable {
    package var year: Int64
    package var month: Int64
    package var day: Int64
    package var hour: Int64 = 0
    package var minute: Int64 = 0
    package var second: Int64 = 0
    package var microsecond: Int64 = 0

    package init(
        _ year: Int64, _ month: Int64, _ day: Int64, _ hour: Int64 = 0, _ minute: Int64 = 0, _ second: Int64 = 0,
        microsecond: Int64 = 0
    ) {
        (self.year, self.month, self.day) = (year, month, day)
        (self.hour, self.minute, self.second, self.microsecond) = (hour, minute, second, microsecond)
    }

    /// Days from 1970-01-01. See: Howard Hinnant, "chrono-compatible low-level date algorithms".
    package var dayNumber: Int64 {
        let shiftedYear = month <= 2 ? year - 1 : year
        let era = (shiftedYear >= 0 ? shiftedYear : shiftedYear - 399) / 400
        let yearOfEra = shiftedYear - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return era * 146_097 + dayOfEra - 719_468
    }

    /// Whether there is such a day and such a time of day.
    var isPossible: Bool {
        guard (1...9_999).contains(year), (1...12).contains(month), (0...23).contains(hour), (0...59).contains(minute),
            (0...60).contains(second)
        else { return false }
        let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
        let days: [Int64] = [31, isLeap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        return (1...days[Int(month - 1)]).contains(day)
    }
}

/// Reads a time from left to right.
private struct TimeScanner {
    private var rest: Substring

    init(_ text: String) {
        rest = text.lowercased()[...]
        skipSpaces()
        while rest.last == " " { rest = rest.dropLast() }
    }

    // MARK: Relative

    /// `2h ago`, `1h30min ago`, `-2h`, `now`.
    mutating func relative(before now: Timestamp) -> Timestamp? {
        if rest == "now" { return now }
        let isNegative = take("-")
        guard let seconds = parts() else { return nil }
        if !isNegative { guard takeWord() == "ago" else { return nil } }
        return rest.isEmpty ? now + .seconds(-seconds) : nil
    }

    /// `1h30min`.
    mutating func duration() -> Duration? {
        guard let seconds = parts(), seconds > 0, rest.isEmpty else { return nil }
        return .seconds(seconds)
    }

    /// Numbers with their units, in seconds.
    private mutating func parts() -> Int64? {
        var seconds: Int64 = 0
        var hasPart = false
        while let count = number(), count <= 1_000_000_000 {
            skipSpaces()
            guard let unit = Self.unit(takeWord()) else { return nil }
            let (part, overflow) = count.multipliedReportingOverflow(by: unit)
            guard !overflow, part <= 10_000_000_000 else { return nil }
            seconds += part
            hasPart = true
            skipSpaces()
        }
        return hasPart && seconds <= 10_000_000_000 ? seconds : nil
    }

    /// In seconds.
    private static func unit(_ word: Substring) -> Int64? {
        switch word {
        case "s", "sec", "second", "seconds": 1
        case "m", "min", "minute", "minutes": 60
        case "h", "hour", "hours": 3_600
        case "d", "day", "days": 86_400
        case "w", "week", "weeks": 604_800
        case "y", "year", "years": 31_557_600
        default: nil
        }
    }

    // MARK: Written out

    /// `20261123t140500.123456z`.
    mutating func versionStamp() -> Timestamp? {
        guard rest.count >= 16, let year = number(digits: 4), let month = number(digits: 2),
            let day = number(digits: 2),
            take("t"), let hour = number(digits: 2), let minute = number(digits: 2), let second = number(digits: 2)
        else { return nil }
        let micro = fraction()
        guard take("z"), rest.isEmpty else { return nil }
        let civil = CivilTime(year, month, day, hour, minute, second, microsecond: micro)
        return civil.isPossible ? LocalZone.utc.timestamp(civil) : nil
    }

    /// A day, a time of day or both, and the offset of the zone in seconds if one was written.
    mutating func written(today: CivilTime, yesterday: CivilTime) -> (civil: CivilTime, offset: Int64?)? {
        var civil = CivilTime(today.year, today.month, today.day)
        var hasDay = true
        if take("yesterday") {
            civil = CivilTime(yesterday.year, yesterday.month, yesterday.day)
        } else if !take("today") {
            hasDay = takeDay(&civil)
        }
        if rest.isEmpty { return hasDay && civil.isPossible ? (civil, nil) : nil }
        if hasDay { guard take("t") || take(" ") else { return nil } }
        skipSpaces()
        guard let hour = number(digits: 2), take(":"), let minute = number(digits: 2) else { return nil }
        (civil.hour, civil.minute) = (hour, minute)
        if take(":") {
            guard let second = number(digits: 2) else { return nil }
            civil.second = second
            civil.microsecond = fraction()
        }
        skipSpaces()
        guard civil.isPossible else { return nil }
        if rest.isEmpty { return (civil, nil) }
        guard let offset = offset(), rest.isEmpty else { return nil }
        return (civil, offset)
    }

    private mutating func takeDay(_ civil: inout CivilTime) -> Bool {
        let start = rest
        guard let year = number(digits: 4), take("-"), let month = number(digits: 2), take("-"),
            let day = number(digits: 2)
        else {
            rest = start
            return false
        }
        (civil.year, civil.month, civil.day) = (year, month, day)
        return true
    }

    /// `z`, `utc`, `+01:00`, `+0100` or `+01`, in seconds east of UTC.
    private mutating func offset() -> Int64? {
        if take("z") || take("utc") { return 0 }
        let sign: Int64
        if take("+") { sign = 1 } else if take("-") { sign = -1 } else { return nil }
        guard let hours = number(digits: 2), hours <= 23 else { return nil }
        if rest.isEmpty { return sign * hours * 3_600 }
        _ = take(":")
        guard let minutes = number(digits: 2), minutes <= 59 else { return nil }
        return sign * (hours * 3_600 + minutes * 60)
    }

    // MARK: Characters

    private mutating func take(_ text: String) -> Bool {
        guard rest.hasPrefix(text) else { return false }
        rest = rest.dropFirst(text.count)
        return true
    }

    private mutating func takeWord() -> Substring {
        let word = rest.prefix { ("a"..."z").contains($0) }
        rest = rest.dropFirst(word.count)
        return word
    }

    private mutating func skipSpaces() { while rest.first == " " { rest = rest.dropFirst() } }

    private mutating func number() -> Int64? {
        let digits = rest.prefix { ("0"..."9").contains($0) }
        guard let value = Int64(digits) else { return nil }
        rest = rest.dropFirst(digits.count)
        return value
    }

    private mutating func number(digits count: Int) -> Int64? {
        let digits = rest.prefix(count)
        guard digits.count == count, digits.allSatisfy({ ("0"..."9").contains($0) }) else { return nil }
        rest = rest.dropFirst(count)
        return Int64(digits)
    }

    /// `.123456` in microseconds; what is finer is cut off.
    private mutating func fraction() -> Int64 {
        guard take(".") || take(",") else { return 0 }
        let digits = rest.prefix { ("0"..."9").contains($0) }
        rest = rest.dropFirst(digits.count)
        let micro = (digits.prefix(6) + "000000").prefix(6)
        return Int64(micro) ?? 0
    }
}
