package import SafeBackupCore

/// Which replaced copies are kept as versions. Pure.
///
/// A file that is rewritten each second would push the versions of all others out of the room that there is. (The agent
/// thins out those of a path that has too many.)
package struct VersionPolicy: Sendable, Hashable {
    /// At most one version of a path is kept in this time.
    package var interval: Duration = .seconds(600)

    package init() {}

    /// Whether a copy that is replaced now is kept, where the newest version of its path became one at `newest`.
    /// A newest version in the future, after the clock was set back, counts by its distance.
    package func keeps(newest: Timestamp?, now: Timestamp) -> Bool {
        guard let newest else { return true }
        return (newest > now ? newest - now : now - newest) >= interval
    }
}

/// When it is asked whether somebody still writes a file, before it is read. Advice only, and pure.
package struct WriterProbe: Sendable, Hashable {
    /// A file that was not written for this time is read, whoever has it open.
    package var quiet: Duration
    /// No change waits longer than this for its writer.
    package var limit: Duration

    package init(quiet: Duration, limit: Duration) {
        self.quiet = quiet
        self.limit = limit
    }

    /// Whether the answer would matter. A file from the future says nothing about when it was written.
    package func asks(mtime: FileTime, firstSeen: Timestamp?, now: Timestamp) -> Bool {
        guard let firstSeen, now - firstSeen < limit else { return false }
        let age = now.fileTime.nanoseconds.subtractingReportingOverflow(mtime.nanoseconds).partialValue
        return age >= 0 && Duration.nanoseconds(age) < quiet
    }

    /// When a file that has a writer is tried again: its writer's close is told sooner.
    package func retry(firstSeen: Timestamp?, now: Timestamp) -> Timestamp {
        min(now + quiet, max(now, (firstSeen ?? now) + limit))
    }
}
