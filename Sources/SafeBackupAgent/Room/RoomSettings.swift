import SafeBackupCapacity
import SafeBackupConfiguration
import SafeBackupCore
import SystemPackage

/// What a destination is kept to.
struct RoomSettings: Sendable {
    var limits: Configuration.Room
    /// Where the state lies, to be read for sums over all copies.
    var stateDirectory: FilePath
}

extension Configuration.Room {
    /// For a disk of this size. Throws `invalidConfiguration` for what cannot be kept on it.
    func limits(disk total: ByteCount) throws(SafeBackupError) -> CapacityLimits {
        try CapacityLimits(
            disk: total, checkInterval: checkInterval, threshold: threshold, target: target, floor: floor,
            maxSize: maxSize, maxUsagePercent: maxUsage.map { Double($0.hundredths) / 100 })
    }
}
