public import SafeBackupCapacity
public import SafeBackupCore
public import SystemPackage

/// What a `LocalBackupSession` saves to, and when it makes room there.
public struct LocalBackupConfiguration: Sendable {
    /// The directory that the copies lie in. It is made if its parent is there; a relative path is taken once, when the
    /// session is opened. Refused is a directory that holds an agent's backup (`.safebackup`), or lies in one.
    public var rootDirectory: FilePath
    /// With less free space on its disk than this, a cleaning begins. `nil`: 10 % of the disk, but at most 10 GiB.
    public var freeSpaceThreshold: ByteCount?
    /// A cleaning frees until so much is free. `nil`: twice the threshold.
    public var freeSpaceTarget: ByteCount?
    /// After so many saved bytes the disk is looked at. It is also looked at when the session is opened, and before a
    /// save that would not fit.
    public var checkInterval = ByteCount.gibibytes(1)
    /// How it cleans: the oldest copies first, by default by the time they were saved. Its `limits` may add a size that
    /// the copies may hold, looked at after each check interval, and a usage of the disk; `limits.minFree` is the
    /// target's, and must not be set. Its `usage` is asked wherever the session asks how full the disk is.
    public var cleaning: CleaningConfiguration

    /// Everything but the directory as it is by default.
    public init(rootDirectory: FilePath) {
        self.rootDirectory = rootDirectory
        cleaning = CleaningConfiguration()
        // A copy has the time of its file, which may be older than everything else here.
        cleaning.order = .stored
    }
}

extension LocalBackupConfiguration {
    /// Throws `invalidConfiguration` for what can never be.
    func validate() throws(BackupSessionError) {
        if rootDirectory.isEmpty {
            throw Self.invalid("rootDirectory", "It is empty; give the directory of the backup")
        }
        if checkInterval.bytes <= 0 {
            throw Self.invalid("checkInterval", "\(checkInterval.bytes) B is no interval; give more than nothing")
        }
        for (name, value) in [("freeSpaceThreshold", freeSpaceThreshold), ("freeSpaceTarget", freeSpaceTarget)] {
            if let value, value.bytes < 0 { throw Self.invalid(name, "\(value.bytes) B is less than nothing") }
        }
        if let threshold = freeSpaceThreshold, let target = freeSpaceTarget, target < threshold {
            throw Self.invalid(
                "freeSpaceTarget",
                "\(target) is below the threshold of \(threshold): a cleaning would never end; give a target above it")
        }
        if cleaning.limits.minFree != nil {
            throw Self.invalid("cleaning.limits.minFree", "The free-space target takes its place; give that")
        }
        if let size = cleaning.limits.maxSize, size.bytes < 0 {
            throw Self.invalid("cleaning.limits.maxSize", "\(size.bytes) B is less than nothing")
        }
        if let percent = cleaning.limits.maxUsagePercent, !(percent > 0 && percent < 100) {
            throw Self.invalid(
                "cleaning.limits.maxUsagePercent", "\(percent) % is no limit; give more than 0 and less than 100")
        }
        if cleaning.concurrency < 1 {
            throw Self.invalid(
                "cleaning.concurrency", "\(cleaning.concurrency) threads remove nothing; give at least 1")
        }
    }

    /// What follows on a disk of this size.
    func limits(disk total: ByteCount) throws(BackupSessionError) -> CapacityLimits {
        do {
            return try CapacityLimits(
                disk: total, checkInterval: checkInterval, threshold: freeSpaceThreshold, target: freeSpaceTarget,
                maxSize: cleaning.limits.maxSize, maxUsagePercent: cleaning.limits.maxUsagePercent)
        } catch {
            let value = freeSpaceTarget == nil ? "freeSpaceThreshold" : "freeSpaceTarget"
            throw .invalidConfiguration(value: value, reason: error)
        }
    }

    /// A value that cannot be used, and a sentence that says why.
    static func invalid(_ value: String, _ reason: String) -> BackupSessionError {
        .invalidConfiguration(
            value: value, reason: SafeBackupError(.invalidConfiguration, reason, disposition: .permanent))
    }
}
