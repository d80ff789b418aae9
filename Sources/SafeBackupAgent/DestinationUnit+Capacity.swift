import Logging
import SafeBackupCapacity
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Keeping room: when little is free, older versions go, those that were stored first before others, until enough is.
///
/// The guard decides whether, the catalogue what; the removal is the one of all versions, which a crash in between
/// repeats. Done by the drain between its groups, a part at a time, so that saving goes on.
struct RoomKeeping: Sendable {
    /// `nil` until the destination was looked at.
    var capacity: CapacityGuard?
    var cleaning: VersionCleaning?
}

/// A cleaning that is under way.
struct VersionCleaning: Sendable {
    /// Stops when so much is free.
    var target: ByteCount
    var availableBefore: ByteCount
    var storedMeanwhile: Int64 = 0
    var removed = 0
    var freed: Int64 = 0

    /// What was removed does not show: going on would remove everything for nothing.
    func isInVain(available: ByteCount) -> Bool {
        freed > target.bytes - availableBefore.bytes
            && available.bytes - availableBefore.bytes + storedMeanwhile < freed / 2
    }
}

extension DestinationUnit {
    /// Versions removed in one part; a part also ends when it should be enough.
    private static let partLimit = 200

    /// Bytes of new copies stand in the catalogue.
    func countStored(_ bytes: Int64) {
        room.withLock { room in
            room.capacity?.stored(ByteCount(bytes))
            room.cleaning?.storedMeanwhile += bytes
        }
    }

    /// A job found no room.
    func foundFull() { room.withLock { $0.capacity?.mayHaveChanged() } }

    /// Looks at the room if that is due, and removes a part of what must go. Returns whether more must.
    func keepRoom() async throws(SafeBackupError) -> Bool {
        if room.withLock({ $0.capacity?.isCheckDue ?? true }) { try await checkRoom() }
        guard let cleaning = room.withLock({ $0.cleaning }) else { return false }
        return try await removePart(cleaning)
    }

    private func usage() async throws(SafeBackupError) -> DiskUsage { DiskUsage(try await local.statistics()) }

    private func checkRoom() async throws(SafeBackupError) {
        let usage = try await usage()
        let (id, isNew) = (id, room.withLock { $0.capacity == nil })
        // Made outside of the lock, as it may throw; nobody else makes it.
        let made = isNew ? CapacityGuard(try CapacityLimits(disk: usage.total)) : nil
        let target = room.withLock { room -> ByteCount? in
            if room.capacity == nil { room.capacity = made }
            guard case .clean(let limits) = room.capacity?.checked(usage), let target = limits.minFree else {
                return nil
            }
            room.cleaning = VersionCleaning(target: target, availableBefore: usage.available)
            return target
        }
        try await state.durably { (store) throws(SafeBackupError) in try store.noteCapacityChecked(id) }
        if let target {
            logger.debug(
                .cleaning, "Little is free in the destination; older versions are removed",
                metadata: ["available": "\(usage.available)", "target": "\(target)"])
        }
    }

    private func removePart(_ cleaning: VersionCleaning) async throws(SafeBackupError) -> Bool {
        let (id, limit) = (id, Self.partLimit)
        let before = try await usage()
        if before.available >= cleaning.target {
            try await end(cleaning, before, nil)
            return false
        }
        if cleaning.isInVain(available: before.available) {
            try await end(
                cleaning, before, "what was removed did not make room: somebody else fills the disk, or a snapshot")
            return false
        }
        let needed = cleaning.target.bytes - before.available.bytes
        let copies = try await state.durably { (store) throws(SafeBackupError) -> [CopyRecord] in
            var (chosen, sum) = ([Int64](), Int64(0))
            for candidate in try store.cleaningCandidates(id, limit: limit) where sum < needed {
                chosen.append(candidate.copy)
                sum += candidate.size
            }
            return try store.beginRemoval(id, chosen, reason: "cleaning")
        }
        if copies.isEmpty {
            try await end(cleaning, before, "no older version is left that may be removed")
            return false
        }
        try await finishRemovals()
        room.withLock { room in
            room.cleaning?.removed += copies.count
            room.cleaning?.freed += copies.reduce(0) { $0 + $1.size }
        }
        return true
    }

    private func end(_ cleaning: VersionCleaning, _ usage: DiskUsage, _ why: String?) async throws(SafeBackupError) {
        let shortfall = why.map {
            SafeBackupError(
                .cannotFreeEnough,
                "\(cleaning.target) should be free in the destination and \(usage.available) are: \($0)",
                disposition: .destinationFull)
        }
        let (path, now) = (printable(local.path.bytes), cleaning)
        let wasShort = room.withLock { room -> Bool in
            defer {
                room.capacity?.cleaned(usage, shortfall: shortfall)
                room.cleaning = nil
            }
            return room.capacity?.shortfall != nil
        }
        // Told once, not at each attempt.
        if now.removed == 0 && (shortfall == nil || wasShort) { return }
        var text =
            "\(counted(now.removed, "older version")) of \(ByteCount(now.freed)) removed from \(path), to make room"
        if let shortfall { text += "; \(shortfall.message); free space there" }
        let (id, message, level) = (id, text, shortfall == nil ? "notice" : "warning")
        logger.log(
            .cleaned, level: shortfall == nil ? .notice : .warning, "Older versions were removed to make room",
            metadata: [
                "versions": "\(now.removed)", "bytes": "\(now.freed)", "available": "\(usage.available)",
                "target": "\(now.target)", "missing": "\(shortfall?.message ?? "nothing")",
            ])
        try await state.durably { (store) throws(SafeBackupError) in
            try store.record(level: level, event: "cleaned", message: message, destination: id)
        }
    }
}
