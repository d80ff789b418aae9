/// A token bucket: when the next bytes may be read, so that no more than so many are read in a second. Pure: the time
/// comes in.
///
/// It is exact over time: whoever takes bytes waits for as long as these bytes take, and what a wait was too long by is
/// given back to the next. What was not used for longer than `patience` is lost.
package struct ReadingPace: Sendable {
    /// At least 1.
    package let bytesPerSecond: Int64
    /// Idle time that still counts: the waits of a thread are not exact.
    static let patience = Duration.milliseconds(100)

    /// The bytes that were taken are paid for then.
    private var paidUntil: ContinuousClock.Instant?
    /// In bytes times 10⁹: what less than a nanosecond was left of.
    private var remainder: Int64 = 0

    package init(_ bandwidth: ByteCount) { bytesPerSecond = max(1, bandwidth.bytes) }

    /// Takes bytes that were just read, and tells how long to wait before more are read.
    /// - Parameter count: at most 1 GiB.
    package mutating func take(_ count: Int, at now: ContinuousClock.Instant) -> Duration {
        let earliest = now - Self.patience
        var start = paidUntil ?? now
        if start < earliest { (start, remainder) = (earliest, 0) }
        let (time, rest) = (Int128(count) * 1_000_000_000 + Int128(remainder))
            .quotientAndRemainder(dividingBy: Int128(bytesPerSecond))
        remainder = Int64(rest)
        let end = start + .nanoseconds(Int64(time))
        paidUntil = end
        return max(.zero, end - now)
    }
}
