package import SafeBackupCore

/// The two ways in which S3 writes a time.
package enum S3Date {
    /// `2026-11-23T03:45:12.000Z`, as in listings. `nil` for anything else.
    package static func iso(_ text: String) -> Timestamp? {
        let bytes = Array(text.utf8)
        guard bytes.count >= 20, bytes[4] == 0x2D, bytes[7] == 0x2D, bytes[10] == 0x54, bytes[13] == 0x3A,
            bytes[16] == 0x3A, bytes.last == 0x5A,
            let year = number(bytes[0..<4]), let month = number(bytes[5..<7]), let day = number(bytes[8..<10]),
            let hour = number(bytes[11..<13]), let minute = number(bytes[14..<16]), let second = number(bytes[17..<19])
        else { return nil }
        var micro: Int64 = 0
        if bytes.count > 20 {
            guard bytes[19] == 0x2E else { return nil }
            let digits = bytes[20..<(bytes.count - 1)]
            guard let fraction = number(digits.prefix(6)), digits.allSatisfy({ (0x30...0x39).contains($0) }) else {
                return nil
            }
            micro = fraction
            for _ in digits.count..<max(6, digits.count) { micro *= 10 }
        }
        return timestamp(year, month, day, hour, minute, second, micro)
    }

    /// `20261123T034512Z`, as in `x-amz-date`. `nil` for anything else.
    package static func compact(_ text: String) -> Timestamp? {
        let bytes = Array(text.utf8)
        guard bytes.count == 16, bytes[8] == 0x54, bytes[15] == 0x5A,
            let year = number(bytes[0..<4]), let month = number(bytes[4..<6]), let day = number(bytes[6..<8]),
            let hour = number(bytes[9..<11]), let minute = number(bytes[11..<13]), let second = number(bytes[13..<15])
        else { return nil }
        return timestamp(year, month, day, hour, minute, second, 0)
    }

    /// `Mon, 23 Nov 2026 03:45:12 GMT`, as in the headers `Date` and `Last-Modified`. `nil` for anything else.
    package static func http(_ text: String) -> Timestamp? {
        let words = text.split(separator: " ").map { Array($0.utf8) }
        guard words.count == 6, words[0].last == 0x2C, words[5] == Array("GMT".utf8), words[4].count == 8,
            words[4][2] == 0x3A, words[4][5] == 0x3A,
            let month = months.firstIndex(of: String(decoding: words[2], as: UTF8.self)),
            let day = number(words[1][...]), let year = number(words[3][...]),
            let hour = number(words[4][0..<2]), let minute = number(words[4][3..<5]),
            let second = number(words[4][6..<8])
        else { return nil }
        return timestamp(year, Int64(month) + 1, day, hour, minute, second, 0)
    }

    private static let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]

    private static func number(_ digits: ArraySlice<UInt8>) -> Int64? {
        guard !digits.isEmpty, digits.count <= 6, digits.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return digits.reduce(0) { $0 * 10 + Int64($1 - 0x30) }
    }

    /// See: Howard Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
    private static func timestamp(
        _ year: Int64, _ month: Int64, _ day: Int64, _ hour: Int64, _ minute: Int64, _ second: Int64, _ micro: Int64
    ) -> Timestamp? {
        guard (1...9_999).contains(year), (1...12).contains(month), (1...31).contains(day), hour < 24, minute < 60,
            second <= 60
        else { return nil }
        let shifted = month <= 2 ? year - 1 : year
        let era = shifted / 400
        let yearOfEra = shifted - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        let days = era * 146_097 + dayOfEra - 719_468
        return Timestamp(microseconds: (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micro)
    }
}
