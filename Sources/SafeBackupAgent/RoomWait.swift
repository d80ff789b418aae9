import SafeBackupCore

/// When a destination without room is tried again: ever more rarely, and at once when room is seen to have come. Pure: the
/// times come in.
///
/// It counts for the destination and not for each job, as one full disk is one failure, however many files wait for it.
struct RoomWait: Sendable {
    private static let (initial, maximum) = (Duration.seconds(1), Duration.seconds(60))
    /// What others write and remove beside us is no room yet.
    private static let least: Int64 = 1 << 20
    private static let leastInodes: Int64 = 16

    private var failures = 0
    /// Until then nothing is tried that was refused.
    private var until: ContinuousClock.Instant?
    /// What was free when it was looked first after the last refusal.
    private var available: Int64?
    /// And how many more files fitted.
    private var inodes: Int64?

    /// Something waits for room.
    func isWaiting(at now: ContinuousClock.Instant) -> Bool { until.map { now < $0 + .seconds(2) } ?? false }

    /// A job was refused for want of room; how long it is to wait. Those of one try are one refusal.
    mutating func refused(at now: ContinuousClock.Instant) -> Duration {
        if let until, now < until { return until - now }
        // After a long time with room it is another story.
        if let until, now - until > Self.maximum * 5 { failures = 0 }
        let wait = min(Self.initial * (1 << min(failures, 10)), Self.maximum)
        failures += 1
        (until, available, inodes) = (now + wait, nil, nil)
        return wait
    }

    /// So much is free, and so many more files fit, where that is limited. Whether that is more than when it was refused: then what waits is to be tried now.
    mutating func look(available now: Int64, inodes inodesNow: Int64? = nil) -> Bool {
        guard until != nil else { return false }
        guard let before = available else {
            (available, inodes) = (now, inodesNow)
            return false
        }
        // Less than at the last look counts from there: of what is taken and given back, the giving back is news.
        available = min(before, now)
        let more = (inodesNow ?? 0) - (inodes ?? inodesNow ?? 0)
        inodes = inodesNow.map { min(inodes ?? $0, $0) }
        if now - before < Self.least && more < Self.leastInodes { return false }
        self = RoomWait()
        return true
    }
}
