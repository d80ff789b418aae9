/// When a failed job is tried again. Pure: randomness is passed in.
package struct BackoffPolicy: Sendable, Hashable {
    /// The wait after the first failure.
    package var initial: Duration = .seconds(1)
    /// No wait is longer.
    package var maximum: Duration = .seconds(300)
    /// A job that failed this often, with a disposition that counts attempts, is stuck.
    package var attemptLimit = 8
    /// A torn read is kept, flagged `fuzzy`, at this attempt.
    package var tornLimit = 4
    /// A stuck job is tried again after this time.
    package var stuckRetry: Duration = .seconds(86_400)

    package init() {}

    /// What follows a failure.
    package enum Verdict: Sendable, Hashable {
        /// Pending again, not before this wait is over.
        case retry(after: Duration, countsAttempt: Bool)
        /// Stuck, and tried again after this wait.
        case stuck(retryAfter: Duration)
    }

    /// - Parameters:
    ///   - attempts: failures so far, this one included.
    ///   - jitter: from 0 up to 1; spreads the retries of jobs that failed together.
    package func verdict(for disposition: Disposition, attempts: Int, jitter: Double) -> Verdict {
        switch disposition {
        case .permanent:
            return .stuck(retryAfter: stuckRetry)
        case .destinationUnavailable, .destinationFull, .auth:
            return .retry(after: wait(attempts: attempts, jitter: jitter), countsAttempt: false)
        case .throttled:
            return .retry(after: wait(attempts: attempts, jitter: jitter), countsAttempt: true)
        case .transient, .sourceGone:
            if attempts >= attemptLimit { return .stuck(retryAfter: stuckRetry) }
            return .retry(after: wait(attempts: attempts, jitter: jitter), countsAttempt: true)
        }
    }

    /// Doubles from `initial` to `maximum`; between half of that and all of it.
    private func wait(attempts: Int, jitter: Double) -> Duration {
        let doublings = min(max(attempts - 1, 0), 20)
        let full = min(initial * (1 << doublings), maximum)
        return full * (0.5 + 0.5 * min(max(jitter, 0), 1))
    }
}
