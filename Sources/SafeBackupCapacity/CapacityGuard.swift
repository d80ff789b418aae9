package import SafeBackupCore
import SafeBackupSystem

/// Decides when a destination is looked at, whether a cleaning begins, and whether a job may make the backup larger.
/// What is cleaned is the cleaner's matter. Pure: told what happened, it answers what to do.
///
/// A check is due at the start, each time the bytes stored since the last check reach the check interval, or the copies a
/// quarter of the inodes that are to stay free, and before a job that would not fit. Every check resets the count. One cleaning at a time; saving goes on meanwhile, unless the
/// free space would come under the floor.
package struct CapacityGuard: Sendable, Hashable {
    /// What follows from a check.
    package enum Verdict: Sendable, Hashable {
        /// There is room.
        case enough
        /// A cleaning begins now, towards these limits; `cleaned` tells its end.
        case clean(CleaningLimits)
        /// A cleaning is under way already.
        case cleaning
    }

    /// Whether a job may be done.
    package enum Admission: Sendable, Hashable {
        case go
        /// The disk must be looked at first (`checked`), then ask again.
        case check
        /// The job waits: it would bring the free space under the floor. What does not grow the backup goes on.
        case wait(SafeBackupError)
    }

    package let limits: CapacityLimits
    /// Bytes stored since the last check. The owner keeps it over a restart.
    package private(set) var accumulated: ByteCount
    package private(set) var isCleaning = false
    /// Why the last cleaning did not free enough; `nil` since one did, or since there was room again.
    package private(set) var shortfall: SafeBackupError?
    private var isDue = true
    /// Copies stored since the last check, and at how many the next is due, where the number of files is limited.
    private var copies: Int64 = 0
    private var copyInterval: Int64?
    /// Free at the last check, less what was stored since; others may have written too.
    private var available: ByteCount?

    package init(_ limits: CapacityLimits, accumulated: ByteCount = ByteCount(0)) {
        self.limits = limits
        self.accumulated = accumulated
    }

    /// The disk is to be looked at, and `checked` called.
    package var isCheckDue: Bool { isDue }

    /// Copies of so many bytes together were stored.
    package mutating func stored(_ size: ByteCount, copies count: Int = 1) {
        copies = copies.addingClamped(Int64(max(0, count)))
        if let copyInterval, copies >= copyInterval { isDue = true }
        accumulated.bytes = accumulated.bytes.addingClamped(max(0, size.bytes))
        if let known = available { available = ByteCount(known.bytes.addingClamped(-max(0, size.bytes))) }
        if accumulated >= limits.checkInterval { isDue = true }
    }

    /// Something tells that the disk is not as it was: it was mounted, or a write found it full.
    package mutating func mayHaveChanged() { isDue = true }

    /// Whether a job may be done that makes the backup larger by `growth`, 0 if it does not.
    package func admit(growth: ByteCount) -> Admission {
        if growth.bytes <= 0 { return .go }
        guard let available else { return .check }
        if available.bytes.addingClamped(-growth.bytes) >= limits.floor.bytes { return .go }
        // Nothing was stored since the disk was looked at: another look would tell the same.
        if accumulated.bytes > 0 || isDue { return .check }
        return .wait(
            SafeBackupError(
                .destinationFull,
                "\(growth) more would leave less than the floor of \(limits.floor) free: \(available) are free now"
                    + (isCleaning ? "; older copies are being removed" : shortfall.map { "; \($0.message)" } ?? ""),
                disposition: .destinationFull))
    }

    /// The disk was looked at. `size` is what the backup holds, where that is known; `growth` of a job that waits.
    package mutating func checked(
        _ usage: DiskUsage, size: ByteCount? = nil, growth: ByteCount = ByteCount(0)
    ) -> Verdict {
        accumulated = ByteCount(0)
        copies = 0
        copyInterval = usage.inodes.map { max(1, $0.threshold / 4) }
        isDue = false
        available = usage.available
        if isCleaning { return .cleaning }
        let waiting = max(0, growth.bytes)
        let isLow =
            usage.available < limits.threshold
            || usage.available.bytes.addingClamped(-waiting) < limits.floor.bytes
        let others = CleaningLimits(maxUsagePercent: limits.maxUsagePercent, maxSize: limits.maxSize)
        let isShortOfInodes = usage.inodes.map { $0.available < $0.threshold } ?? false
        guard isLow || isShortOfInodes || others.need(usage: usage, size: size?.bytes) != nil else {
            shortfall = nil
            return .enough
        }
        isCleaning = true
        var towards = others
        if isShortOfInodes { towards.minFreeInodes = usage.inodes?.target }
        if isLow {
            // With the waiting job stored there is still as much free as the threshold, so that it starts no other.
            towards.minFree = max(limits.target, ByteCount(limits.threshold.bytes.addingClamped(waiting)))
        }
        return .clean(towards)
    }

    /// A cleaning that a person asked for begins; no other one begins before `cleaned`.
    package mutating func cleaningWasAsked() { isCleaning = true }

    /// The cleaning ended; `shortfall` tells why it did not free enough. The next one begins at the next check, not
    /// at once, so that a disk that somebody else filled is not cleaned in circles.
    package mutating func cleaned(_ usage: DiskUsage?, shortfall: SafeBackupError? = nil) {
        isCleaning = false
        self.shortfall = shortfall
        if let usage { available = usage.available }
    }
}
