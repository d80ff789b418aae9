/// A number of bytes.
public struct ByteCount: Sendable, Hashable, Comparable {
    /// The number.
    public var bytes: Int64

    /// A number of bytes.
    public init(_ bytes: Int64) { self.bytes = bytes }

    /// `count` × 2³⁰ bytes.
    public static func gibibytes(_ count: Int64) -> ByteCount { ByteCount(count << 30) }

    /// `count` × 2²⁰ bytes.
    public static func mebibytes(_ count: Int64) -> ByteCount { ByteCount(count << 20) }

    /// Smaller.
    public static func < (left: ByteCount, right: ByteCount) -> Bool { left.bytes < right.bytes }
}

extension ByteCount: CustomStringConvertible {
    /// In the largest unit that leaves at least 1, with one decimal below 100: `512 B`, `1.5 MiB`, `230 GiB`.
    public var description: String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var index = 0
        var scaled = Double(bytes)
        while abs(scaled) >= 1024 && index < units.count - 1 {
            scaled /= 1024
            index += 1
        }
        if index == 0 { return "\(bytes) B" }
        if abs(scaled) >= 99.95 { return "\(Int64(scaled.rounded())) \(units[index])" }
        let tenths = Int64((abs(scaled) * 10).rounded())
        return "\(scaled < 0 ? "-" : "")\(tenths / 10).\(tenths % 10) \(units[index])"
    }
}
