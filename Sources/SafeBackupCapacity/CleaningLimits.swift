public import SafeBackupCore
package import SafeBackupSystem

/// What must hold after a cleaning. Of several, all must.
public struct CleaningLimits: Sendable, Hashable {
    /// So much must be free for a user without privileges.
    public var minFree: ByteCount?
    /// Of the space that such a user may have, at most so much may be used, in percent as df(1) counts it.
    public var maxUsagePercent: Double?
    /// The directory's files may hold at most so much; also where the disk cannot be asked.
    public var maxSize: ByteCount?
    /// So many more files must fit, where that is limited: an agent's, which knows which small files may go.
    package var minFreeInodes: Int64?

    /// At least one must be given.
    public init(minFree: ByteCount? = nil, maxUsagePercent: Double? = nil, maxSize: ByteCount? = nil) {
        self.minFree = minFree
        self.maxUsagePercent = maxUsagePercent
        self.maxSize = maxSize
    }

    /// Throws `invalidConfiguration`, which names the value and says why.
    package func validate() throws(SafeBackupError) {
        if minFree == nil && maxUsagePercent == nil && maxSize == nil {
            throw Self.invalid("No limit was given: give the free space, the usage or the size to keep to")
        }
        if let minFree, minFree.bytes < 0 { throw Self.invalid("The free space to keep is negative") }
        if let maxSize, maxSize.bytes < 0 { throw Self.invalid("The size to keep to is negative") }
        if let percent = maxUsagePercent, !(percent > 0 && percent < 100) {
            throw Self.invalid("A usage of \(percent) % is no limit; give more than 0 and less than 100")
        }
    }

    static func invalid(_ message: String) -> SafeBackupError {
        SafeBackupError(.invalidConfiguration, message, disposition: .permanent)
    }

    /// Whether the limits can be judged without the disk's usage.
    var needsUsage: Bool { minFree != nil || maxUsagePercent != nil }

    /// How much must go, and for which limit; `nil` if all that can be judged hold. What is not known is not judged.
    package func need(usage: DiskUsage?, size: Int64?) -> CleaningNeed? {
        var needs: [CleaningNeed] = []
        if let usage, let minFree {
            needs.append(CleaningNeed(bytes: minFree.bytes - usage.available.bytes, limit: .minFree))
        }
        if let usage, let maxUsagePercent {
            let allowed = Double(usage.used.bytes.addingClamped(usage.available.bytes)) * maxUsagePercent / 100
            needs.append(CleaningNeed(bytes: usage.used.bytes - Int64(allowed), limit: .maxUsage))
        }
        if let size, let maxSize { needs.append(CleaningNeed(bytes: size - maxSize.bytes, limit: .maxSize)) }
        if let need = needs.filter({ $0.bytes > 0 }).max(by: { $0.bytes < $1.bytes }) { return need }
        guard let minFreeInodes, let inodes = usage?.inodes, inodes.available < minFreeInodes else { return nil }
        var need = CleaningNeed(bytes: 0, limit: .minInodes)
        need.inodes = minFreeInodes - inodes.available
        return need
    }

    /// Throws `invalidConfiguration` for a limit that this disk can never keep.
    package func check(against usage: DiskUsage) throws(SafeBackupError) {
        let possible = usage.used.bytes.addingClamped(usage.available.bytes)
        if let minFree, minFree.bytes > possible {
            throw Self.invalid(
                "\(minFree) cannot be free on a disk of \(ByteCount(possible)); give less, nothing was removed")
        }
    }
}

/// One of `CleaningLimits`, by its name in `--json`.
public enum CleaningLimit: String, Sendable, Hashable {
    /// `CleaningLimits.minFree`.
    case minFree
    /// `CleaningLimits.maxUsagePercent`.
    case maxUsage
    /// `CleaningLimits.maxSize`.
    case maxSize
    /// The file system can hold only so many files, and few more fit. Only an agent cleans for that.
    case minInodes
}

/// What must be freed, and why.
public struct CleaningNeed: Sendable, Hashable {
    /// More than none, except for `minInodes`.
    public var bytes: Int64
    /// The one that asks for the most.
    public var limit: CleaningLimit
    /// For `minInodes`: so many files.
    package var inodes: Int64 = 0

    package init(bytes: Int64, limit: CleaningLimit) {
        self.bytes = bytes
        self.limit = limit
    }
}

/// The space on a file system.
public struct DiskUsage: Sendable, Hashable {
    /// The size of the file system.
    public var total: ByteCount
    /// What is taken.
    public var used: ByteCount
    /// What a user without privileges may still take.
    public var available: ByteCount
    /// Where the number of files is limited.
    package var inodes: InodeCount?

    /// As a quota or another machine may tell it.
    public init(total: ByteCount, used: ByteCount, available: ByteCount) {
        self.total = total
        self.used = used
        self.available = available
    }

    package init(_ volume: VolumeStatistics) {
        self.init(
            total: volume.total, used: ByteCount(volume.total.bytes - volume.free.bytes), available: volume.available)
        inodes = volume.inodes
    }
}
