package import SafeBackupCore

/// When a destination is looked at, and what must hold there.
package struct CapacityLimits: Sendable, Hashable {
    /// After so many stored bytes the disk is looked at.
    package var checkInterval: ByteCount
    /// With less free space than this a cleaning begins,
    package var threshold: ByteCount
    /// and frees until so much is free.
    package var target: ByteCount
    /// Under this no job is done that makes the backup larger.
    package var floor: ByteCount
    /// The backup may hold at most so much.
    package var maxSize: ByteCount?
    /// Of the disk at most so much may be used, in percent as df(1) counts it.
    package var maxUsagePercent: Double?

    /// What is not given comes from the size of the disk: a threshold of 10 % but at most 10 GiB, a target of twice the
    /// threshold, a floor of 1 % but at most 1 GiB, and never above the threshold, and a check interval of 1 GiB, or less
    /// where that would be too late. Throws `invalidConfiguration` for
    /// values that cannot be together, with the value and the reason.
    package init(
        disk total: ByteCount, checkInterval: ByteCount? = nil, threshold: ByteCount? = nil,
        target: ByteCount? = nil, floor: ByteCount? = nil, maxSize: ByteCount? = nil, maxUsagePercent: Double? = nil
    ) throws(SafeBackupError) {
        // Of a target alone, the half; it must not be missed by a threshold of the disk's size.
        let usual = min(total.bytes / 10, ByteCount.gibibytes(10).bytes)
        self.threshold = threshold ?? ByteCount(min(usual, target.map { $0.bytes / 2 } ?? .max))
        self.target = target ?? ByteCount(self.threshold.bytes.addingClamped(self.threshold.bytes))
        self.floor = floor ?? ByteCount(min(total.bytes / 100, ByteCount.gibibytes(1).bytes, self.threshold.bytes))
        self.checkInterval =
            checkInterval ?? ByteCount(max(1, min(ByteCount.gibibytes(1).bytes, self.threshold.bytes / 4)))
        self.maxSize = maxSize
        self.maxUsagePercent = maxUsagePercent
        try validate(total)
    }

    private func validate(_ total: ByteCount) throws(SafeBackupError) {
        if checkInterval.bytes <= 0 { throw invalid("The check interval is \(checkInterval); give more than nothing") }
        if floor.bytes < 0 || threshold < floor {
            throw invalid(
                "The free-space threshold of \(threshold) is below the floor of \(floor), under which saving stops; "
                    + "give a threshold above it")
        }
        if target < threshold {
            throw invalid(
                "The free-space target of \(target) is below the threshold of \(threshold): a cleaning would never end; "
                    + "give a target above it")
        }
        if target > total {
            throw invalid("The free-space target of \(target) is more than the whole disk of \(total); give less")
        }
        if let maxSize, maxSize.bytes < 0 { throw invalid("The size to keep to is negative") }
        if let percent = maxUsagePercent, !(percent > 0 && percent < 100) {
            throw invalid("A usage of \(percent) % is no limit; give more than 0 and less than 100")
        }
    }

    private func invalid(_ message: String) -> SafeBackupError { CleaningLimits.invalid(message) }
}
