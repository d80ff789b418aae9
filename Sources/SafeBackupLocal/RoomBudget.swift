package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// What may still be written by one group. Whether room is to be made is the capacity guard's matter; here it is seen to
/// that saving never takes the floor, as other groups write at the same time. Pure.
package struct RoomBudget: Sendable, Hashable {
    /// Jobs that grow the backup leave so much free.
    let floor: Int64
    /// What is free, less what was taken since it was asked.
    private(set) var available: Int64
    /// How many more files fit, where that is limited, less those that were made since it was asked.
    private(set) var inodes: InodeCount?

    package init(floor: ByteCount, available: ByteCount, inodes: InodeCount? = nil) {
        (self.floor, self.available, self.inodes) = (floor.bytes, available.bytes, inodes)
    }

    /// Jobs that grow the backup wait.
    package var isScarce: Bool { available < floor || isShortOfInodes }

    /// One file more than there are would not fit, or be one too many.
    package var isShortOfInodes: Bool { inodes.map { $0.available <= $0.floor } ?? false }

    /// Whether a copy of this size, of which `released` bytes are given back later, may be written.
    /// - Parameter isNew: no other file goes for it.
    package func admits(_ size: Int64, releasing released: Int64, isNew: Bool = true) -> Bool {
        if size > available { return false }
        if let inodes, inodes.available <= (isNew ? inodes.floor : 0) { return false }
        return available - size >= floor || size <= released
    }

    /// Whether so large a copy comes near enough to the floor that it matters what others take meanwhile.
    package func isNearFloor(_ size: Int64) -> Bool {
        if let inodes, inodes.available - inodes.floor < Self.inodeNearness { return true }
        return size > Self.nearness || available - size < floor + Self.nearness
    }

    /// What the groups in flight may make between two looks.
    private static let inodeNearness: Int64 = 10_000
    /// What the groups in flight may write between two looks.
    private static let nearness: Int64 = 512 << 20

    /// Counts a file that was written.
    package mutating func take(_ size: Int64) {
        available -= size
        inodes?.available -= 1
    }

    /// What is free was asked again.
    mutating func set(available: Int64, inodes: InodeCount?) {
        self.available = available
        if self.inodes != nil { self.inodes = inodes }
    }
}

/// What all groups of a destination share of its room.
package final class RoomShare: Sendable {
    private struct State {
        var floor: ByteCount?
        var reserved: Int64 = 0
    }

    private let state = Locked(State())

    /// What jobs that grow the backup leave free; `nil`: 1 % of the disk, but at most 1 GiB.
    package func set(floor: ByteCount?) { state.withLock { $0.floor = floor } }

    /// Of a directory that a library session keeps, nothing is kept free.
    func budget(_ root: AttachedRoot) throws(Errno) -> RoomBudget {
        let statistics = try VolumeStatistics(root.base.root)
        let usual = root.isKeyed ? ByteCount(0) : Self.usualFloor(statistics.total)
        return RoomBudget(
            floor: state.withLock { $0.floor } ?? usual, available: statistics.available,
            inodes: root.isKeyed ? nil : statistics.inodes)
    }

    /// 1 % of the disk, but at most 1 GiB.
    package static func usualFloor(_ total: ByteCount) -> ByteCount {
        ByteCount(min(total.bytes / 100, ByteCount.gibibytes(1).bytes))
    }

    /// Of what is free now, what others have not been promised.
    func unpromised(_ statistics: VolumeStatistics) -> Int64 {
        statistics.available.bytes - state.withLock { $0.reserved }
    }

    /// Until `release`, so much is another group's no more.
    func reserve(_ size: Int64) { state.withLock { $0.reserved += size } }

    func release(_ size: Int64) { state.withLock { $0.reserved -= size } }
}
