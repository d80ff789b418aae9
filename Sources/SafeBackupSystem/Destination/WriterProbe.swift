package import SafeBackupCore

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
