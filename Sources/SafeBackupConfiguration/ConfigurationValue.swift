package import SafeBackupCore

/// A type that a key's value can have.
package protocol ConfigurationValue: Sendable, Hashable {
    /// The value that `text`, which is not empty, says. The fault goes on after the value: "is no time, …".
    static func read(_ text: [UInt8]) throws(ConfigurationFault) -> Self

    /// As it stands in a file; read again, it is the same value.
    var written: [UInt8] { get }

    /// What a person writes, for the manual: `time`.
    static var form: String { get }
}

extension Bool: ConfigurationValue {
    package static var form: String { "yes or no" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> Bool {
        switch String(decoding: text, as: UTF8.self).lowercased() {
        case "yes", "true", "on", "1": return true
        case "no", "false", "off", "0": return false
        default: throw ConfigurationFault("is neither yes nor no")
        }
    }

    package var written: [UInt8] { Array((self ? "yes" : "no").utf8) }
}

extension Int: ConfigurationValue {
    package static var form: String { "number" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> Int {
        guard text.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
            let number = Int(String(decoding: text, as: UTF8.self))
        else { throw ConfigurationFault("is no number; write it as in 7") }
        return number
    }

    package var written: [UInt8] { Array("\(self)".utf8) }
}

// MARK: - Numbers with a unit

/// A number with at most nine decimals, and the word behind it.
private struct Measured {
    /// In billionths.
    var billionths: Int128
    var unit: String

    /// `nil` if `text` does not begin with a number, or it has too many digits. What was read is taken from `text`.
    init?(_ text: inout ArraySlice<UInt8>) {
        func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
        let whole = text.prefix(while: isDigit)
        text = text[whole.endIndex...]
        var decimals: ArraySlice<UInt8> = []
        if text.first == UInt8(ascii: ".") {
            decimals = text.dropFirst().prefix(while: isDigit)
            if decimals.isEmpty { return nil }
            text = text[decimals.endIndex...]
        }
        if whole.isEmpty || whole.count > 18 || decimals.count > 9 { return nil }
        billionths = 0
        for digit in whole + decimals { billionths = billionths * 10 + Int128(digit - UInt8(ascii: "0")) }
        for _ in decimals.count..<9 { billionths *= 10 }
        text = text.drop(while: ConfigurationText.isBlank)
        let word = text.prefix { !ConfigurationText.isBlank($0) && !isDigit($0) }
        unit = String(decoding: word, as: UTF8.self)
        text = text[word.endIndex...].drop(while: ConfigurationText.isBlank)
    }
}

extension Duration: ConfigurationValue {
    package static var form: String { "time" }

    private static let units: [(names: [String], nanoseconds: Int64)] = [
        (["w", "week", "weeks"], 604_800_000_000_000), (["d", "day", "days"], 86_400_000_000_000),
        (["h", "hr", "hour", "hours"], 3_600_000_000_000), (["min", "m", "minute", "minutes"], 60_000_000_000),
        (["s", "sec", "second", "seconds"], 1_000_000_000), (["ms", "msec"], 1_000_000),
    ]

    /// As in systemd.time(7): `5min`, `1h 30min`, `500ms`; a number needs a unit.
    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> Duration {
        let noTime = ConfigurationFault("is no time; write a number and its unit (ms, s, min, h, d, w), as in 5min")
        var rest = text[...]
        var total: Int128 = 0
        while !rest.isEmpty {
            guard let part = Measured(&rest) else { throw noTime }
            if part.unit.isEmpty {
                throw ConfigurationFault("has no unit; write it behind the number (ms, s, min, h, d, w), as in 5min")
            }
            guard let unit = units.first(where: { $0.names.contains(part.unit) }) else { throw noTime }
            let product = part.billionths.multipliedReportingOverflow(by: Int128(unit.nanoseconds))
            total += product.partialValue / 1_000_000_000
            // A hundred years; longer ones may overflow where they are added to a time stamp.
            if product.overflow || total > 3_155_760_000 * 1_000_000_000 { throw ConfigurationFault("is too long") }
        }
        return .nanoseconds(Int64(total))
    }

    /// Whole milliseconds, in the largest units that leave none over.
    package var written: [UInt8] {
        let (seconds, attoseconds) = components
        var rest = seconds * 1_000_000_000 + attoseconds / 1_000_000_000
        var parts: [String] = []
        for unit in Self.units where rest >= unit.nanoseconds && unit.names[0] != "w" {
            parts.append("\(rest / unit.nanoseconds)\(unit.names[0])")
            rest %= unit.nanoseconds
        }
        return Array((parts.isEmpty ? "0s" : parts.joined(separator: " ")).utf8)
    }
}

extension ByteCount: ConfigurationValue {
    package static var form: String { "size" }

    private static let units: [(names: [String], bytes: Int64)] = [
        (["EiB", "E"], 1 << 60), (["PiB", "P"], 1 << 50), (["TiB", "T"], 1 << 40), (["GiB", "G"], 1 << 30),
        (["MiB", "M"], 1 << 20), (["KiB", "K"], 1 << 10), (["B"], 1), (["TB"], 1_000_000_000_000),
        (["GB"], 1_000_000_000), (["MB"], 1_000_000), (["kB", "KB"], 1_000),
    ]

    /// `20GiB`, `1.5TiB`; `GB` are 1000³, `G` are 1024³ as `GiB` are; a number needs a unit.
    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> ByteCount {
        var rest = text[...]
        guard let part = Measured(&rest), rest.isEmpty,
            part.unit.isEmpty || units.contains(where: { $0.names.contains(part.unit) })
        else {
            throw ConfigurationFault("is no size; write a number and its unit (KiB, MiB, GiB, TiB), as in 20GiB")
        }
        guard let unit = units.first(where: { $0.names.contains(part.unit) }) else {
            throw ConfigurationFault("has no unit; write it behind the number (B, KiB, MiB, GiB, TiB), as in 20GiB")
        }
        let bytes = part.billionths.multipliedReportingOverflow(by: Int128(unit.bytes))
        let whole = bytes.partialValue / 1_000_000_000
        guard !bytes.overflow, let count = Int64(exactly: whole) else { throw ConfigurationFault("is too large") }
        return ByteCount(count)
    }

    package var written: [UInt8] {
        // The decimal units come last: only those of two are written.
        let unit = Self.units.first { $0.bytes <= max(bytes, 1) && bytes.isMultiple(of: $0.bytes) }
        guard let unit, bytes != 0 else { return Array("0B".utf8) }
        return Array("\(bytes / unit.bytes)\(unit.names[0])".utf8)
    }
}

/// A part of a whole, from 0 to 100, with two decimals.
package struct Percent: ConfigurationValue, Comparable {
    /// Of a hundredth: 10 % are 1,000.
    package var hundredths: Int

    package init(hundredths: Int) { self.hundredths = hundredths }

    package static func < (left: Percent, right: Percent) -> Bool { left.hundredths < right.hundredths }

    package static var form: String { "percentage" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> Percent {
        var rest = text[...]
        guard let part = Measured(&rest), rest.isEmpty, part.unit == "%",
            part.billionths.isMultiple(of: 10_000_000)
        else { throw ConfigurationFault("is no percentage; write it as in 10%") }
        guard part.billionths <= 100_000_000_000 else { throw ConfigurationFault("is more than 100%") }
        return Percent(hundredths: Int(part.billionths / 10_000_000))
    }

    package var written: [UInt8] {
        let decimals = hundredths % 100
        if decimals == 0 { return Array("\(hundredths / 100)%".utf8) }
        return Array("\(hundredths / 100).\(decimals < 10 ? "0" : "")\(decimals)%".utf8)
    }
}
