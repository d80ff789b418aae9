import Logging
import SafeBackupCapacity
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Keeping room in a destination: what is known, and what is under way.
struct RoomKeeping: Sendable {
    /// `nil` until the destination was looked at.
    var capacity: CapacityGuard?
    var record: CapacityRecord?
    var cleaning: RoomCleaning?
    /// Jobs wait for room.
    var isWaiting = false
    /// A job found none since the last check, or something may go that could not at that time.
    var isUnchecked = false
    /// What waits would fit, as the last check saw.
    var fits = false
    /// That was tried once more.
    var wasTried = false
    /// A job of this size, or a larger one, cannot be made room for, which is not asked again before.
    var impossible: (size: Int64, until: ContinuousClock.Instant)?
    /// One that was in vain is not begun again before.
    var notBefore: ContinuousClock.Instant?
    /// What was released since the last check by copies that were replaced and not kept.
    var released: Int64 = 0
    /// Whether something else than the backup took what is missing; `nil`: it was not judged since there was enough, or
    /// since the last check. Judged while no group is in flight, whose bytes are on the disk and not in the catalogue.
    var isTaken: Bool?
    /// That was told, and is so still.
    var isTold = false
    /// A check for jobs that found no room comes not more often than this allows.
    var lastCheck: ContinuousClock.Instant?
}

/// What the drain does next.
enum RoomStep: Sendable {
    case none
    /// A part was removed, and more may have to go.
    case part
    /// The next part needs that no group is in flight.
    case waitingForGroups
}

/// The guard decides whether, the catalogue what, and the destination is asked before anything goes. Done by the drain
/// between its groups, a part at a time, so that saving goes on.
extension DestinationUnit {
    private static let pauseAfterVain = Duration.seconds(60)
    private static let pauseBetweenChecks = Duration.seconds(2)

    func beginRoom() { keeping.withLock { $0 = RoomKeeping(isTold: $0.isTold) } }

    /// Copies that take so many bytes stand in the catalogue.
    func countStored(_ bytes: Int64, released: Int64, copies: Int) {
        if bytes == 0 && copies == 0 { return }
        keeping.withLock { room in
            room.released += released
            room.capacity?.stored(ByteCount(bytes), copies: copies)
            room.cleaning?.stored += bytes
            room.cleaning?.storedCopies += copies
        }
    }

    /// A job found no room.
    func foundNoRoom() { keeping.withLock { ($0.isWaiting, $0.isUnchecked) = (true, true) } }

    /// Something that kept a cleaning from going on may be over.
    func roomMayHaveChanged() {
        removalsAreDue.set(true)
        keeping.withLock { room in
            if room.capacity?.shortfall == nil && !room.isWaiting { return }
            room.capacity?.mayHaveChanged()
            (room.notBefore, room.impossible) = (nil, nil)
            room.isUnchecked = room.isWaiting
        }
    }

    var isMakingRoom: Bool { keeping.withLock { $0.cleaning != nil } }

    var isRoomCheckDue: Bool { target.traits.hasVolume && keeping.withLock { Self.isDue($0) } }

    private static func isDue(_ room: RoomKeeping) -> Bool {
        if room.capacity?.isCheckDue ?? true { return true }
        guard room.isWaiting, let last = room.lastCheck else { return false }
        return ContinuousClock.now - last >= pauseBetweenChecks
    }

    /// Looks at the room if that is due, and removes a part of what must go.
    func keepRoom(inUse: Int) async throws(SafeBackupError) -> RoomStep {
        guard target.traits.hasVolume else { return .none }
        if isRoomCheckDue { try await checkRoom(inUse: inUse) }
        if inUse == 0 { try await judge() }
        if try await !beginAskedCleaning(inUse: inUse) { return .waitingForGroups }
        guard let cleaning = keeping.withLock({ $0.cleaning }) else { return .none }
        // What may go besides versions is said by a judgement, and lies where groups store.
        if inUse > 0 && (cleaning.stage == .deleted || cleaning.cursor == nil) { return .waitingForGroups }
        return try await removePart(cleaning)
    }

    // MARK: Checking

    private func checkRoom(inUse: Int) async throws(SafeBackupError) {
        let usage = DiskUsage(try await target.room())
        let (id, isNew, now) = (id, keeping.withLock { $0.capacity == nil }, clock.now)
        var record = keeping.withLock { $0.record }
        if isNew {
            let known = try await state.durably { (store) throws(SafeBackupError) in
                (
                    try store.capacity(id), try store.destinations().first { $0.id == id }?.accumulatedSize ?? 0,
                    try store.smallestWaitingForRoom(id) != nil
                )
            }
            record = known.0
            let capacity = CapacityGuard(try roomLimits(usage.total), accumulated: ByteCount(known.1))
            keeping.withLock { room in
                room.capacity = capacity
                room.isWaiting = room.isWaiting || known.2
            }
            target.keepFree(capacity.limits.floor)
        }
        guard let limits = keeping.withLock({ $0.capacity?.limits }) else { return }
        // What is waited for is judged by it.
        keeping.withLock { $0.record = record }
        let waiting = try await waitingGrowth(usage, limits, inUse: inUse)
        let size = try await limits.maxSize == nil ? nil : storedBytes()
        var known =
            record
            ?? CapacityRecord(
                checkedAt: now, total: usage.total, available: usage.available, threshold: limits.threshold,
                target: limits.target, floor: limits.floor, baseline: usage.available)
        let (verdict, accumulated, shortfall) = keeping.withLock {
            room -> (CapacityGuard.Verdict?, Int64, SafeBackupError?) in
            let accumulated = (room.capacity?.accumulated.bytes ?? 0) - room.released
            (room.released, room.isTaken) = (0, nil)
            let shortfall = room.capacity?.shortfall
            room.lastCheck = .now
            if waiting == .nothing { room.isWaiting = false }
            // While groups are in flight it cannot be told what of deleted paths may go.
            if inUse == 0 || waiting != .impossible { room.isUnchecked = false }
            room.fits = waiting == .fits
            return (
                room.capacity?.checked(usage, size: size.map { ByteCount($0) }, growth: ByteCount(waiting.growth)),
                accumulated, shortfall
            )
        }
        (known.checkedAt, known.total, known.available) = (now, usage.total, usage.available)
        (known.threshold, known.target, known.floor) = (limits.threshold, limits.target, limits.floor)
        (known.maxSize, known.maxUsagePercent) = (limits.maxSize, limits.maxUsagePercent)
        known.stored += accumulated
        switch verdict {
        case .enough:
            (known.baseline, known.stored, known.missing) = (usage.available, 0, nil)
            keeping.withLock { ($0.isTold, $0.isTaken) = (false, false) }
        case .clean(let towards):
            let isTooSoon = keeping.withLock { $0.notBefore.map { ContinuousClock.now < $0 } ?? false }
            if let need = towards.need(usage: usage, size: size), !isTooSoon, try await !isPaused() {
                let cleaning = RoomCleaning(towards, before: usage, need: need, size: size)
                keeping.withLock { $0.cleaning = cleaning }
                logger.info(
                    .cleaning, "\(need.limit.cause); what may go is removed",
                    metadata: [
                        "available": "\(usage.available)",
                        "need": "\(need.inodes > 0 ? counted(Int(need.inodes), "file") : "\(ByteCount(need.bytes))")",
                    ])
            } else {
                keeping.withLock { $0.capacity?.cleaned(usage, shortfall: shortfall) }
            }
        case .cleaning, nil: break
        }
        let written = known
        keeping.withLock { $0.record = written }
        try await state.durably { (store) throws(SafeBackupError) in
            try store.setCapacity(id, written, isChecked: true)
        }
    }

    /// As configured, where this disk can keep to it.
    private func roomLimits(_ total: ByteCount) throws(SafeBackupError) -> CapacityLimits {
        do throws(SafeBackupError) {
            return try roomSettings.limits.limits(disk: total)
        } catch {
            logger.error(
                .limitsUnusable, "The configured limits of free space cannot be kept on this disk; the usual ones hold",
                metadata: ["error": "\(error.message)"])
        }
        return try CapacityLimits(disk: total)
    }

    private func isPaused() async throws(SafeBackupError) -> Bool {
        let id = id
        return try await state.durably { (store) throws(SafeBackupError) in
            try store.destinations().first { $0.id == id }?.pausedAt != nil
        }
    }

    func storedBytes() async throws(SafeBackupError) -> Int64 {
        let (id, directory) = (id, roomSettings.stateDirectory)
        return try await io.run { () throws(SafeBackupError) in try StateReader(in: directory).storedBytes(id) }
    }

    /// Whether our growth explains what is missing since there was enough.
    func judge() async throws(SafeBackupError) {
        guard keeping.withLock({ $0.isTaken == nil }) else { return }
        let usage = DiskUsage(try await target.room())
        let judged = keeping.withLock { room -> (cause: SpaceCause, isLow: Bool)? in
            guard let record = room.record, let capacity = room.capacity else { return nil }
            let grown = capacity.accumulated.bytes - room.released - (room.cleaning?.freed ?? 0)
            let cause = SpaceCause(record, available: usage.available, grown: grown)
            room.isTaken = cause.isTaken
            return (cause, record.available < record.threshold)
        }
        guard let judged, judged.cause.isTaken, judged.isLow else { return }
        try await tellTaken(usage, judged.cause)
    }

    private func keepsDeleted(
        _ cleaning: inout RoomCleaning, _ need: CleaningNeed
    ) async throws(SafeBackupError) -> String? {
        // What the backup holds too much of is its own.
        guard need.limit == .minInodes else { return whyDeletedStay(unlessTaken: cleaning.need.limit != .maxSize) }
        if cleaning.hasMostInodes == nil { cleaning.hasMostInodes = try await hasMostInodes() }
        if cleaning.hasMostInodes == false { return "most files on the disk are not the backup's" }
        return whyDeletedStay(unlessTaken: false)
    }

    private func hasMostInodes() async throws(SafeBackupError) -> Bool {
        let (id, directory, inodes) = (id, roomSettings.stateDirectory, try await target.room().inodes)
        let copies = try await io.run { () throws(SafeBackupError) in try StateReader(in: directory).copyCount(id) }
        return inodes.map { copies > ($0.total - $0.available) / 2 } ?? false
    }

    func whyDeletedStay(unlessTaken: Bool) -> String? {
        let isTaken = keeping.withLock { $0.isTaken } ?? true
        if isTaken && unlessTaken { return RoomCleaning.taken }
        if copyCheck.withLock({ $0.whole.isEmpty }) { return "the stored copies were not looked for yet" }
        return nil
    }

    private func tellTaken(_ usage: DiskUsage, _ cause: SpaceCause) async throws(SafeBackupError) {
        let isNew = keeping.withLock { room in
            defer { room.isTold = true }
            return !room.isTold
        }
        if !isNew { return }
        let (id, lost, ours) = (id, cause.lost, ByteCount(max(cause.ours, 0)))
        let message =
            "\(usage.available) are free on the disk of \(printable(target.location)), \(ByteCount(lost)) less than when "
            + "there was enough, and the backup has taken only \(ours) of that; older versions are removed as far as "
            + "needed, and the last copies of deleted files stay; free space there"
        logger.warning(
            .spaceTaken, "Something else than the backup fills the destination's disk",
            metadata: ["available": "\(usage.available)", "lost": "\(ByteCount(lost))", "stored": "\(ours)"])
        try await state.durably { (store) throws(SafeBackupError) in
            try store.record(level: "warning", event: "spaceTaken", message: message, destination: id)
        }
    }

    // MARK: Cleaning

    private func removePart(_ known: RoomCleaning) async throws(SafeBackupError) -> RoomStep {
        var cleaning = known
        let usage = DiskUsage(try await target.room())
        guard let need = cleaning.needNow(usage) else {
            try await end(cleaning, usage, nil)
            return .none
        }
        if cleaning.isInVain(usage) {
            try await end(cleaning, usage, RoomCleaning.inVain)
            return .none
        }
        cleaning.keepsDeleted = try await keepsDeleted(&cleaning, need)
        if cleaning.cursor == nil && !cleaning.goOn() {
            try await end(cleaning, usage, cleaning.whatStays)
            return .none
        }
        if cleaning.stage == .deleted && known.stage == .versions {
            // Groups may be in flight.
            let next = cleaning
            keeping.withLock { $0.cleaning = $0.cleaning.map { next.counting($0) } }
            return .part
        }
        var looked = copyCheck.withLock { $0.whole }
        if cleaning.stage == .deleted { looked.subtract(await emptiedSources(of: looked)) }
        let work = RoomWork(id: id, target: target, state: state, reason: cleaning.asked?.request.reason ?? "space")
        try await work.part(&cleaning, need, looked: looked)
        lastWork.set(.now)
        let next = cleaning
        keeping.withLock { $0.cleaning = $0.cleaning.map { next.counting($0) } }
        return .part
    }

    private func end(_ cleaning: RoomCleaning, _ usage: DiskUsage, _ why: String?) async throws(SafeBackupError) {
        if let asked = cleaning.asked { return try await end(asked, cleaning, usage, why) }
        let (id, now) = (id, clock.now)
        let shortfall = why.map { why in
            SafeBackupError(
                .cannotFreeEnough, "\(cleaning.wanted(usage)): \(why)", disposition: .destinationFull)
        }
        let wasShort = keeping.withLock { room in
            let wasShort = room.record?.missing != nil
            defer {
                room.capacity?.cleaned(usage, shortfall: shortfall)
                room.notBefore = shortfall == nil ? nil : .now + Self.pauseAfterVain
                room.record?.missing = shortfall?.message
                room.note(cleaning, usage, at: now)
            }
            return wasShort
        }
        try await noteCleaned(cleaning)
        // Told once, not at each attempt; and it may not be the end while the stored copies were not looked for.
        let isShort = shortfall != nil && !copyCheck.withLock({ $0.whole.isEmpty })
        if cleaning.removed == 0 && (!isShort || wasShort) { return }
        var text =
            "\(counted(cleaning.removed, "older copy", "older copies")) of \(ByteCount(cleaning.freed)) removed from "
            + "\(printable(target.location)), to make room"
        if isShort, let shortfall { text += "; \(shortfall.message); free space there" }
        let (message, level) = (text, isShort ? "warning" : "notice")
        logger.log(
            .cleaned, level: isShort ? .warning : .notice, "Older copies were removed to make room",
            metadata: [
                "copies": "\(cleaning.removed)", "bytes": "\(cleaning.freed)", "available": "\(usage.available)",
                "missing": "\(shortfall?.message ?? "nothing")",
            ])
        try await state.durably { (store) throws(SafeBackupError) in
            try store.record(level: level, event: "cleaned", message: message, destination: id)
        }
    }

    /// Writes down how it is after a cleaning, and has tried again what waited for room.
    func noteCleaned(_ cleaning: RoomCleaning) async throws(SafeBackupError) {
        let (id, record) = (id, keeping.withLock { $0.record })
        if let record {
            try await state.durably { (store) throws(SafeBackupError) in
                try store.setCapacity(id, record, isChecked: false)
            }
        }
        if cleaning.removed == 0 { return }
        room.withLock { $0 = RoomWait() }
        _ = try await state.durably { (store) throws(SafeBackupError) in
            try store.retryNow(id, failedWith: .destinationFull)
        }
    }
}

extension CleaningLimit {
    /// Why a cleaning begins.
    var cause: String {
        switch self {
        case .minFree: "Little is free in the destination"
        case .maxUsage: "More of the destination's disk is used than max-usage allows"
        case .maxSize: "The backup is larger than max-size allows"
        case .minInodes: "Few more files fit on the destination's disk"
        }
    }
}

extension RoomCleaning {
    /// With what was stored while a part was removed.
    fileprivate func counting(_ known: RoomCleaning) -> RoomCleaning {
        var copy = self
        (copy.stored, copy.storedCopies) = (known.stored, known.storedCopies)
        return copy
    }

    /// What was to be reached, and what is.
    func wanted(_ usage: DiskUsage) -> String {
        switch needNow(usage)?.limit ?? need.limit {
        case .minFree:
            "\(limits.minFree ?? ByteCount(0)) should be free in the destination and \(usage.available) are"
        case .maxUsage:
            "At most \(limits.maxUsagePercent ?? 100) % of the destination's disk should be used; \(usage.available) are "
                + "free"
        case .minInodes:
            "\(limits.minFreeInodes ?? 0) more files of any size (inodes, see df -i) should fit on the destination's disk "
                + "and \(usage.inodes?.available ?? 0) do"
        case .maxSize: "The backup should hold at most \(limits.maxSize ?? ByteCount(0)), and holds more"
        }
    }
}
