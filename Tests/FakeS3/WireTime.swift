import Glibc

/// Times as S3 spells them, in whole seconds since 1970.
package enum WireTime {
    package static func now() -> Int { time(nil) }

    private static func parts(_ seconds: Int) -> tm {
        var value = time_t(seconds)
        var result = tm()
        gmtime_r(&value, &result)
        return result
    }

    private static func padded(_ number: Int32, _ width: Int = 2) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, width - text.count)) + text
    }

    /// `2026-03-01T12:30:45.000Z`
    package static func iso(_ seconds: Int) -> String {
        let at = parts(seconds)
        return "\(at.tm_year + 1900)-\(padded(at.tm_mon + 1))-\(padded(at.tm_mday))T"
            + "\(padded(at.tm_hour)):\(padded(at.tm_min)):\(padded(at.tm_sec)).000Z"
    }

    /// `Sun, 01 Mar 2026 12:30:45 GMT`
    package static func http(_ seconds: Int) -> String {
        let at = parts(seconds)
        let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        return "\(days[Int(at.tm_wday)]), \(padded(at.tm_mday)) \(months[Int(at.tm_mon)]) \(at.tm_year + 1900) "
            + "\(padded(at.tm_hour)):\(padded(at.tm_min)):\(padded(at.tm_sec)) GMT"
    }

    /// Of `20260301T123045Z`; `nil`: another form.
    package static func parse(_ text: String) -> Int? {
        let bytes = Array(text.utf8)
        guard bytes.count == 16, bytes[8] == UInt8(ascii: "T"), bytes[15] == UInt8(ascii: "Z") else { return nil }
        func number(_ range: Range<Int>) -> Int32? { Int32(String(decoding: bytes[range], as: UTF8.self)) }
        guard let year = number(0..<4), let month = number(4..<6), let day = number(6..<8),
            let hour = number(9..<11), let minute = number(11..<13), let second = number(13..<15)
        else { return nil }
        var value = tm()
        value.tm_year = year - 1900
        value.tm_mon = month - 1
        value.tm_mday = day
        value.tm_hour = hour
        value.tm_min = minute
        value.tm_sec = second
        return timegm(&value)
    }
}
