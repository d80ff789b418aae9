import SafeBackupCore

/// When a destination without room is tried again: ever more rarely, and at once when room is seen to have come. Pure: the
/// times come in.
///
/// It counts for the destination and not for each job, as one full disk is one failure, however many files wait for it.
struct RoomWait: Sendable {
    private static let (initial, maximum) = (Duration.seconds(1), Duration.seconds(60))
    /// What others write and remove beside us is no room yet.
    private static let least: Int64 = 1 << 20

    private var failures = 0
    /// Until then nothing is tried that was refused.
    private var until: ContinuousClock.Instant?
    /// What was free when it was looked first after the last refusal.
    private var available: Int64?

    /// Something waits for room.
    func isWaiting(at now: ContinuousClock.Instant) -> Bool { until.map { now < $0 + .seconds(2) } ?? false }

    /// A job was refused for want of room; how long it is to wait. Those of one try are one refusal.
    mutating func refused(at now: ContinuousClock.Instant) -> Duration {
        if let until, now < until { return until - now }
        // After a long time with room it is another story.
        if let until, now - until > Self.maximum * 5 { failures = 0 }
        let wait = min(Self.initial * (1 << min(failures, 10)), Self.maximum)
        failures += 1
        (until, available) = (now + wait, nil)
        return wait
    }

    /// So much is free. Whether that is more than when it was refused: then what waits is to be tried now.
    mutating func look(available now: Int64) -> Bool {
        guard until != nil else { return false }
        guard let before = available else {
            available = now
            return false
        }
        // Less than at the last look counts from there: of what is taken and given back, the giving back is news.
        available = min(before, now)
        if now - before < Self.least { return false }
        self = RoomWait()
        return true
    }
}
