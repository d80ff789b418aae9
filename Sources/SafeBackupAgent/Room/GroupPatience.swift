/// How long saving rests for a cleaning that can go on only when no group is in flight.
///
/// Groups end soon, as a rule, and then the cleaning has its turn. But a file of a terabyte is a group too: while it is
/// copied others are saved, as far as there is room for them; and now and then saving rests again.
struct GroupPatience {
    private static let (rest, work) = (Duration.seconds(5), Duration.seconds(30))
    private var since: ContinuousClock.Instant?

    /// Asked each time when there is a cleaning that waits: whether other files are saved now.
    mutating func letsSaveMeanwhile(now: ContinuousClock.Instant = .now) -> Bool {
        guard let since, now - since < Self.rest + Self.work else {
            self.since = now
            return false
        }
        return now - since >= Self.rest
    }
}
