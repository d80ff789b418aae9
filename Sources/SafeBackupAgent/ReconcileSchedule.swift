/// When a source is compared with the catalogue. Pure: instants come in.
///
/// A storm that makes the kernel drop events does so many times a second. One walk makes up for all of it, if it begins
/// when the storm is over; a storm that does not end is answered by walks that grow rarer, and never take more than half
/// of the time.
struct ReconcileSchedule: Sendable {
    typealias Instant = ContinuousClock.Instant

    enum Reason: String, Sendable {
        case start
        /// Events were lost.
        case desynced
        /// Nothing is known to be missing; it is looked for.
        case periodic
    }

    /// The first walk of a storm does not wait longer for its end; each further one twice as long.
    static let firstPatience = Duration.seconds(1)
    static let longestPatience = Duration.seconds(60)
    /// No loss for this part of the patience: the storm is over.
    private static let calm = 10

    private let period: Duration
    private var patience = Self.firstPatience
    /// The first and the last loss that no walk has made up for.
    private var losses: (first: Instant, last: Instant)?
    private var lastEnd: Instant
    private var lastDuration = Duration.zero

    /// As after a walk that has ended just now.
    /// - Parameter period: from the end of one walk to the next, if nothing is lost.
    init(period: Duration, now: Instant) {
        self.period = period
        lastEnd = now
    }

    mutating func noteLoss(at now: Instant) {
        if losses == nil && now - lastEnd > patience * 2 { patience = Self.firstPatience }
        losses = (losses?.first ?? now, now)
    }

    mutating func noteBegin() {
        if losses != nil { patience = min(patience * 2, Self.longestPatience) }
        // What is lost from now on needs another walk.
        losses = nil
    }

    mutating func noteEnd(at now: Instant, after duration: Duration) {
        lastEnd = now
        lastDuration = duration
    }

    var next: (at: Instant, reason: Reason) {
        guard let losses else { return (lastEnd + period, .periodic) }
        let rested = lastEnd + min(lastDuration, Self.longestPatience)
        return (max(min(losses.last + patience / Self.calm, losses.first + patience), rested), .desynced)
    }
}
