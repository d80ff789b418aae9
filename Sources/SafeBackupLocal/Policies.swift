package import SafeBackupCore
package import SafeBackupSystem

/// Which replaced copies are kept as versions. Pure. (The agent removes those over 20 of a path.)
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

/// What may still be stored when room gets scarce, until the capacity guard decides. Pure.
package struct SpacePolicy: Sendable, Hashable {
    /// Versions are kept while at least this is free.
    package var versionFloor: ByteCount
    /// Jobs that grow the backup wait while less than this is free.
    package var growthFloor: ByteCount
    /// What is free, less what was taken since it was asked.
    package private(set) var available: ByteCount

    /// min(1 GiB, 5 % of the disk) for versions, half of that for growth.
    package init(_ statistics: VolumeStatistics) {
        self.init(total: statistics.total, available: statistics.available)
    }

    package init(total: ByteCount, available: ByteCount) {
        versionFloor = min(.gibibytes(1), ByteCount(total.bytes / 20))
        growthFloor = ByteCount(versionFloor.bytes / 2)
        self.available = available
    }

    package var keepsVersions: Bool { available >= versionFloor }

    /// Jobs that grow the backup wait.
    package var isScarce: Bool { available < growthFloor }

    /// Whether a copy of this size, of which `released` bytes are given back later, may be written.
    package func admits(_ size: Int64, releasing released: Int64) -> Bool {
        if size > available.bytes { return false }
        return !isScarce || size <= released
    }

    /// Counts what was written.
    package mutating func take(_ size: Int64) { available.bytes -= size }
}
