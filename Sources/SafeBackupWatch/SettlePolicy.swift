package import SafeBackupCore

/// When a changed path is quiet enough to be saved. Pure, and one per destination.
package struct SettlePolicy: Sendable, Hashable {
    /// After a change that is complete as far as we know. S3 takes 2 s, so that a burst is one request.
    package var closeDelay: Duration = .milliseconds(100)
    /// After a write to a file that was not closed.
    package var quiet: Duration = .seconds(2)
    /// After a path vanished. A rename is told as an absence and as a new path: the new one comes first, so that the copy
    /// moves there and no name ends as deleted in between, also when the agent is stopped just then.
    package var absence: Duration = .seconds(1)
    /// No change waits longer than this for quiet, so that a log that is never closed is saved too.
    package var limit: Duration = .seconds(60)

    package init() {}

    /// Not before this time. `firstSeen`: when the oldest change of the path that is not saved yet was seen.
    package func notBefore(for kind: Change.Kind, now: Timestamp, firstSeen: Timestamp? = nil) -> Timestamp {
        let delay =
            switch kind {
            case .modified: quiet
            case .vanished: absence
            case .closed, .attributes, .found: closeDelay
            }
        // Of a clock that was set back, `firstSeen` is in the future: then the delay from now on counts.
        return min(now + delay, (firstSeen ?? now) + limit)
    }
}
