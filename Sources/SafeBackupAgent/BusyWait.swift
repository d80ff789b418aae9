/// How long jobs wait that need what another group has in work. Each wait is a durable write, so that they grow while
/// nothing comes free: a file of an hour costs one every two seconds.
struct BusyWait: Sendable {
    private static let shortest = Duration.milliseconds(50)
    static let longest = Duration.seconds(2)

    private var last = Duration.zero
    private var end: ContinuousClock.Instant?

    /// The next wait, from `now` on: longer than the one before, if that ended a short time ago.
    mutating func next(now: ContinuousClock.Instant) -> Duration {
        if let end, now < end + Self.longest {
            last = min(last * 2, Self.longest)
        } else {
            last = Self.shortest
        }
        end = now + last
        return last
    }

    /// Something came free.
    mutating func reset() { end = nil }
}
