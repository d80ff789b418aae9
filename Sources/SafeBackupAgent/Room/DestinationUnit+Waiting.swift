import SafeBackupCapacity
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

/// What the smallest job that waits for room asks for.
enum RoomWish: Sendable, Hashable {
    /// No job waits.
    case nothing
    /// It would fit, or a cleaning begins without it.
    case fits
    /// It fits when copies that may go now have gone.
    case grows(Int64)
    /// It does not fit then either: nothing goes for it.
    case impossible

    var growth: Int64 {
        if case .grows(let size) = self { return size }
        return 0
    }
}

/// Jobs that found no room.
extension DestinationUnit {
    private static let pauseAfterImpossible = Duration.seconds(60)

    /// Asked before a run ends that waits for nobody: whether what found no room must be judged first, and is now.
    func checksRoomFirst() -> Bool {
        guard target.traits.hasVolume else { return false }
        return keeping.withLock { room in
            guard room.isWaiting, room.isUnchecked else { return false }
            room.capacity?.mayHaveChanged()
            room.impossible = nil
            return true
        }
    }

    /// Of groups that ask for room at once each may be refused for the others: before a run ends, what would fit now is
    /// tried once more. Whether that is so.
    func triesWhatFits() async throws(SafeBackupError) -> Bool {
        let isNew = keeping.withLock { room in
            guard room.isWaiting, room.fits, !room.wasTried else { return false }
            room.wasTried = true
            return true
        }
        if !isNew { return false }
        room.withLock { $0 = RoomWait() }
        let id = id
        let count = try await state.durably { (store) throws(SafeBackupError) in
            try store.retryNow(id, failedWith: .destinationFull)
        }
        if count > 0 { wake.signal() }
        return count > 0
    }

    /// What the smallest job that waits for room asks for. The newest state of a file comes before older ones, but only
    /// what may go now counts: for a file that does not fit anyway nothing goes.
    func waitingGrowth(
        _ usage: DiskUsage, _ limits: CapacityLimits, inUse: Int
    ) async throws(SafeBackupError) -> RoomWish {
        if !keeping.withLock({ $0.isWaiting }) { return .nothing }
        let id = id
        let waiting = try await state.durably { (store) throws(SafeBackupError) in
            try store.smallestWaitingForRoom(id)
        }
        guard let waiting else { return .nothing }
        // Too many files: how large they are matters not.
        if let inodes = usage.inodes, inodes.available <= inodes.floor { return .impossible }
        let missing = limits.floor.bytes + waiting - usage.available.bytes
        if missing <= 0 || usage.available < limits.threshold { return .fits }
        let isKnown = keeping.withLock { room in
            room.impossible.map { waiting >= $0.size && ContinuousClock.now < $0.until } ?? false
        }
        if isKnown { return .impossible }
        var looked: Set<SourceID> = []
        if inUse == 0 {
            keeping.withLock { $0.isTaken = nil }
            try await judge()
            if whyDeletedStay(unlessTaken: true) == nil {
                looked = copyCheck.withLock { $0.whole }
                looked.subtract(await emptiedSources(of: looked))
            }
        }
        let (directory, deleted) = (roomSettings.stateDirectory, looked)
        let isPossible = try await io.run { () throws(SafeBackupError) in
            try StateReader(in: directory).canFree(missing, id, deletedOf: deleted)
        }
        if isPossible { return .grows(waiting) }
        if inUse == 0 {
            keeping.withLock { $0.impossible = (waiting, .now + Self.pauseAfterImpossible) }
        }
        return .impossible
    }
}
