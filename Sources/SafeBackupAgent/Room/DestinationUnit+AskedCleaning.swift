import Logging
import SafeBackupCapacity
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// A cleaning that a person asked for, beside those that the guard decides: by the same rules, one at a time, towards other
/// limits. The request is answered at its end; one that a crash or a stop cut off is begun again by the next agent.
extension DestinationUnit {
    func cleaningWasAsked(_ asked: AskedCleaning) {
        askedCleanings.withLock { $0.append(asked) }
        wake.signal()
    }

    /// Begins the next one, if none is under way; `false`: as soon as no group is in flight, as it must be judged before
    /// anything goes who took what is missing.
    func beginAskedCleaning(inUse: Int) async throws(SafeBackupError) -> Bool {
        guard let asked = askedCleanings.withLock({ $0.first }),
            keeping.withLock({ $0.capacity != nil && $0.cleaning == nil })
        else { return true }
        if asked.waitsForCopies && isLookingForCopies { return true }
        if inUse > 0 { return false }
        let limits = asked.request.limits
        let usage = DiskUsage(try await target.room())
        let size = try await limits.maxSize == nil ? nil : storedBytes()
        guard let need = limits.need(usage: usage, size: size) else {
            try await answer(asked, CleanAnswer(.reached, asked.done))
            return true
        }
        var cleaning = RoomCleaning(limits, before: usage, need: need, size: size)
        cleaning.asked = asked
        let begun = cleaning
        keeping.withLock { room in
            room.capacity?.cleaningWasAsked()
            (room.cleaning, room.isTaken) = (begun, nil)
        }
        try await judge()
        logger.info(
            .cleaning, "A person asked for room in the destination; what may go is removed",
            metadata: ["limits": "\(limits.text)", "need": "\(ByteCount(need.bytes))"])
        return true
    }

    /// The stored copies were not looked for yet, and will be.
    private var isLookingForCopies: Bool { copyCheck.withLock { $0.whole.isEmpty && $0.isDue(at: .now) } }

    /// The one that was asked for has ended, `why` without having reached its limits.
    func end(
        _ known: AskedCleaning, _ cleaning: RoomCleaning, _ usage: DiskUsage, _ why: String?
    ) async throws(SafeBackupError) {
        let now = clock.now
        keeping.withLock { room in
            // What the destination itself lacks is as it was, until the next look.
            let shortfall = room.capacity?.shortfall
            room.capacity?.cleaned(usage, shortfall: shortfall)
            room.capacity?.mayHaveChanged()
            room.note(cleaning, usage, at: now)
            if cleaning.removed > 0 { room.notBefore = nil }
        }
        try await noteCleaned(cleaning)
        var asked = known
        asked.done = asked.done.adding(cleaning)
        if why != nil && isLookingForCopies {
            asked.waitsForCopies = true
            let waiting = asked
            return askedCleanings.withLock { all in
                if let index = all.firstIndex(where: { $0.number == waiting.number }) { all[index] = waiting }
            }
        }
        let message = why.map { "\(cleaning.wanted(usage)): \($0)" } ?? ""
        try await answer(asked, CleanAnswer(why == nil ? .reached : .short, asked.done, message))
    }

    /// The destination cannot be used: whoever asked is not kept waiting.
    func answerAsked(failure: SafeBackupError) async throws(SafeBackupError) {
        if failure.code == .stateFailed || failure.code == .stateDamaged { return }
        let cleaning = keeping.withLock { $0.cleaning }
        let isAway = failure.holdsDestination
        for asked in askedCleanings.withLock({ $0 }) {
            let own = cleaning?.asked?.number == asked.number ? cleaning : nil
            try await answer(
                asked, CleanAnswer(isAway ? .held : .failed, asked.done.adding(own), failure.message))
        }
    }

    private func answer(_ asked: AskedCleaning, _ answer: CleanAnswer) async throws(SafeBackupError) {
        let (given, limits) = (Answer.done(answer.text), Array(asked.request.limits.text.utf8))
        try await state.durably { (store) throws(SafeBackupError) in
            try store.answer(asked.number, given)
            try store.recordRequest("clean", [limits], RequestWork.told(given))
        }
        askedCleanings.withLock { all in all.removeAll { $0.number == asked.number } }
        logger.notice(
            .cleaned, "Older copies were removed, as a person asked",
            metadata: [
                "copies": "\(answer.totals.copies)", "bytes": "\(answer.totals.bytes)",
                "outcome": "\(answer.outcome.rawValue)", "missing": "\(answer.message)",
            ])
    }
}

extension RequestDesk {
    /// After this time nobody waits any more who would see what goes.
    private static let cleaningLimit = Duration.seconds(3_600)

    /// Hands a cleaning over to the destination's unit, which answers it. Returns an answer that can be given at once.
    func hand(_ request: Request) async throws(SafeBackupError) -> Answer? {
        let clean = try CleanRequest(request.arguments)
        let record = try await state.durably { (store) throws(SafeBackupError) in
            try store.destinations().first { $0.id == clean.destination }
        }
        guard let record else { throw NamedSide.unknown([]) }
        if WallClock.system.now - request.createdAt > Self.cleaningLimit {
            return .done(
                CleanAnswer(
                    .failed, CleanedTotals(),
                    "It was asked for at \(request.createdAt.iso8601), and not done before the agent ended; ask again"
                ).text)
        }
        if record.pausedAt != nil { throw VerifiedDestination.paused(record) }
        if let hold = record.hold { return .done(CleanAnswer(.held, CleanedTotals(), hold.message).text) }
        handed.set(handed.value.union([request.id]))
        if cleaningWasAsked(AskedCleaning(number: request.id, clean)) { return nil }
        throw SafeBackupError(
            .invalidConfiguration, "\(printable(record.location)) is not among what the agent saves to",
            disposition: .permanent)
    }
}

extension RequestWork {
    /// Without an agent. Only versions go: what was deleted at the source, or has come back there, is known to whoever has
    /// walked it since.
    func clean(_ arguments: [[UInt8]]) async throws(SafeBackupError) -> Answer {
        let request = try CleanRequest(arguments)
        let record = try await state.durably { (store) throws(SafeBackupError) in
            try store.destinations().first { $0.id == request.destination }
        }
        guard let record, let sentinel = record.sentinel else { throw NamedSide.unknown([]) }
        if record.pausedAt != nil { throw VerifiedDestination.paused(record) }
        try record.refuseBucket("clean")
        let target = LocalDestination(path: FilePath(bytes: record.location), io: io)
        do throws(SafeBackupError) {
            try await target.attach(expecting: sentinel)
        } catch {
            guard error.holdsDestination else { throw error }
            return .done(CleanAnswer(.held, CleanedTotals(), error.message).text)
        }
        let result: Result<CleanAnswer, SafeBackupError>
        do throws(SafeBackupError) {
            result = .success(try await clean(target, request))
        } catch {
            result = .failure(error)
        }
        await target.detach()
        return .done(try result.get().text)
    }

    private func clean(_ target: any Destination, _ request: CleanRequest) async throws(SafeBackupError) -> CleanAnswer
    {
        let (id, limits, directory) = (request.destination, request.limits, directory)
        var usage = DiskUsage(try await target.room())
        var size: Int64?
        if limits.maxSize != nil {
            size = try await io.run { () throws(SafeBackupError) in try StateReader(in: directory.path).storedBytes(id)
            }
        }
        guard let need = limits.need(usage: usage, size: size) else { return CleanAnswer(.reached) }
        var cleaning = RoomCleaning(limits, before: usage, need: need, size: size)
        cleaning.keepsDeleted = RoomCleaning.withoutAgent
        cleaning.asked = AskedCleaning(number: 0, request)
        let work = RoomWork(id: id, target: target, state: state, reason: request.reason)
        var why: String?
        while let left = cleaning.needNow(usage) {
            if cleaning.isInVain(usage) { why = RoomCleaning.inVain }
            if cleaning.cursor == nil { why = why ?? cleaning.whatStays }
            if why != nil { break }
            try await work.part(&cleaning, left, looked: [])
            usage = DiskUsage(try await target.room())
        }
        let (cleaned, now) = (cleaning, usage)
        if cleaned.removed > 0 {
            try await state.durably { (store) throws(SafeBackupError) in
                if var record = try store.capacity(id) {
                    record.note(cleaned, now, at: WallClock.system.now)
                    try store.setCapacity(id, record, isChecked: false)
                }
                _ = try store.retryNow(id, failedWith: .destinationFull)
            }
        }
        let message = why.map { "\(cleaned.wanted(now)): \($0)" } ?? ""
        return CleanAnswer(why == nil ? .reached : .short, CleanedTotals().adding(cleaned), message)
    }
}

extension CapacityRecord {
    /// A cleaning has ended.
    mutating func note(_ cleaning: RoomCleaning, _ usage: DiskUsage, at now: Timestamp) {
        available = usage.available
        stored -= cleaning.freed
        if cleaning.removed == 0 { return }
        (cleanedAt, cleanedCopies, cleanedBytes) = (now, cleaning.removed, cleaning.freed)
    }
}

extension RoomKeeping {
    /// The cleaning has ended.
    mutating func note(_ cleaning: RoomCleaning, _ usage: DiskUsage, at now: Timestamp) {
        (self.cleaning, isTaken) = (nil, nil)
        record?.note(cleaning, usage, at: now)
    }
}
