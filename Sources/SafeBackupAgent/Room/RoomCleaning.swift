import SafeBackupCapacity
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// A cleaning of a destination that is under way. Pure.
struct RoomCleaning: Sendable {
    /// What must hold at its end.
    let limits: CleaningLimits
    let before: DiskUsage
    /// What had to go at first.
    let need: CleaningNeed
    /// Of the whole backup, where that is a limit.
    var size: Int64?
    /// Why copies of deleted paths stay; `nil`: they may go when no version is left.
    var keepsDeleted: String?
    var stage = CleaningStage.versions
    /// `nil`: the stage is at its end.
    var cursor: CleaningCursor? = CleaningCursor()
    /// Copies that are gone, and what a look said that they give back.
    var removed = 0
    var freed: Int64 = 0
    /// What they held, which is less than they gave back where they are small, and more where they have holes.
    var removedSize: Int64 = 0
    /// What was stored since it began.
    var stored: Int64 = 0
    var storedCopies = 0
    /// Most of the disk's files are the backup's; `nil`: that was not counted.
    var hasMostInodes: Bool?
    /// Copies that stay, because what their paths would keep is not in the destination as it was stored.
    var unsure = 0
    /// Copies that stay, because somebody changed them, or because they cannot be removed.
    var unremovable = 0
    /// When the oldest and the newest of those that are gone were stored.
    var span: (oldest: Timestamp, newest: Timestamp)?
    /// The request that a person made; `nil`: the limits of the destination.
    var asked: AskedCleaning?
    /// In the stage as it is.
    private var removedInStage = 0

    init(_ limits: CleaningLimits, before: DiskUsage, need: CleaningNeed, size: Int64?) {
        self.limits = limits
        self.before = before
        self.need = need
        self.size = size
    }

    /// Not one that has limits.
    static let none = RoomCleaning(
        CleaningLimits(), before: DiskUsage(total: ByteCount(0), used: ByteCount(0), available: ByteCount(0)),
        need: CleaningNeed(bytes: 0, limit: .minFree), size: nil)

    /// What must still go; `nil`: nothing.
    func needNow(_ usage: DiskUsage) -> CleaningNeed? {
        // By itself a cleaning rather removes too little at once: what small files gave back counts for what they held, and
        // the next look goes on.
        let gone = asked == nil ? freed : removedSize
        return limits.need(usage: usage, size: size.map { $0.addingReportingOverflow(stored - gone).partialValue })
    }

    /// What was removed does not show: going on would remove everything for nothing.
    func isInVain(_ usage: DiskUsage) -> Bool {
        if need.limit == .maxSize { return false }
        if need.limit == .minInodes {
            guard let now = usage.inodes, let before = before.inodes else { return false }
            let shown = now.available - before.available + Int64(storedCopies)
            return removed >= Int(need.inodes) + storedCopies && shown < removed / 2
        }
        let shown = usage.available.bytes - before.available.bytes + stored
        return freed >= need.bytes + stored && shown < freed / 2
    }

    /// One is gone, and gave back so many bytes.
    /// - Parameter wasAbsent: it was not there any more: it is forgotten, and made no room.
    mutating func note(_ candidate: CleaningCandidate, freeing bytes: Int64, wasAbsent: Bool) {
        removedInStage += 1
        if wasAbsent {
            removedSize += candidate.copy.expected.held
            return
        }
        removed += 1
        freed += bytes
        removedSize += candidate.copy.expected.held
        let storedAt = candidate.storedAt
        span = (min(span?.oldest ?? storedAt, storedAt), max(span?.newest ?? storedAt, storedAt))
    }

    /// Goes over to the next stage at the end of one; `false`: there is none.
    mutating func goOn() -> Bool {
        if stage == .versions {
            // Versions whose paths are to be stored again may go then, before what deleted paths had last.
            if keepsDeleted != nil || unsure > 0 { return false }
            (stage, cursor, removedInStage) = (.deleted, CleaningCursor(), 0)
            return true
        }
        // The last good copy of a deleted path goes only when nothing else of it is left: in another pass.
        if removedInStage == 0 { return false }
        (cursor, removedInStage) = (CleaningCursor(), 0)
        return true
    }

    /// Why it was not enough.
    var whatStays: String {
        var text = "nothing is left that may be removed: the newest good copy of each path stays"
        if let keepsDeleted { text += ", and of deleted ones too, because \(keepsDeleted)" }
        if unsure > 0 {
            text += "; \(counted(unsure, "copy stays", "copies stay")) because what is newer is not in the destination"
        }
        if unremovable > 0 { text += "; \(counted(unremovable, "copy", "copies")) could not be removed" }
        return text
    }

    static let withoutAgent = "no agent runs that knows what the source has"

    static let taken = "something else than the backup filled the disk"

    static let inVain =
        "what was removed did not make room; something else takes it, or a snapshot of the disk still holds it"
}

extension ExpectedCopy {
    /// What it counts towards the size of the backup; a sum of these does not overflow.
    var held: Int64 { kind == .directory ? 0 : min(size, 1 << 44) }
}

/// Looks at candidates, and removes those that may go.
struct RoomWork: Sendable {
    let id: DestinationID
    let target: any Destination
    let state: StateAccess
    /// Stands with each removal.
    var reason = "space"

    /// Versions of one part, which is one transaction each for the beginning and the end.
    private static let partLimit = 500
    /// Rows that are looked at for a part of the deleted.
    private static let scanLimit = 2_000

    /// Removes the next few, about as many as are needed at most. In the stage of the deleted no group may be in flight.
    ///
    /// What each path keeps is looked at first: where it is not as it was stored, that is noted, so that it is stored again
    /// where the source has it, and what is older stays. After a crash the removal is done, or given up.
    func part(
        _ cleaning: inout RoomCleaning, _ need: CleaningNeed, looked: Set<SourceID>
    ) async throws(SafeBackupError) {
        guard let cursor = cleaning.cursor else { return }
        let (id, stage, reason) = (id, cleaning.stage, reason)
        var (limit, bytes) = (stage == .versions ? Self.partLimit : Self.scanLimit, need.bytes)
        if need.limit == .minInodes {
            (limit, bytes) = (min(limit, Int(clamping: max(need.inodes, 50))), .max)
        }
        let (most, enough) = (limit, bytes)
        let page = try await state.durably { (store) throws(SafeBackupError) in
            try store.cleaningCandidates(id, stage, looked: looked, after: cursor, bytes: enough, limit: most)
        }
        cleaning.cursor = page.next
        if page.candidates.isEmpty { return }
        let (chosen, frees, absent) = try await choose(from: page.candidates, &cleaning)
        if chosen.isEmpty { return }
        let marked = try await state.durably { (store) throws(SafeBackupError) in
            try store.beginCleaning(id, chosen, stage, looked: looked, reason: reason, absent: absent)
        }
        Faults.reach("cleaning")
        if marked.isEmpty { return }
        let work = RemovalWork(id: id, target: target, state: state)
        var gone = try await work.removeVersions(looked: Set(marked))
        if stage == .deleted { gone.formUnion(try await work.removeTombstones()) }
        let removed = Set(marked.filter(gone.contains))
        cleaning.unremovable += marked.count - removed.count
        for candidate in chosen where removed.contains(candidate.copy.id) {
            cleaning.note(
                candidate, freeing: frees[candidate.copy.id] ?? 0, wasAbsent: absent.contains(candidate.copy.id))
        }
    }

    /// Removes these versions, in parts. How many are gone, and what that gives back.
    func remove(versions copies: [Int64]) async throws(SafeBackupError) -> (count: Int, bytes: Int64) {
        var (count, bytes, rest) = (0, Int64(0), copies[...])
        while !rest.isEmpty {
            let (id, part, reason) = (id, Array(rest.prefix(Self.partLimit)), reason)
            rest = rest.dropFirst(part.count)
            let candidates = try await state.durably { (store) throws(SafeBackupError) in
                try store.cleaningCandidates(id, of: part)
            }
            var cleaning = RoomCleaning.none
            let (chosen, frees, absent) = try await choose(from: candidates, &cleaning)
            if chosen.isEmpty { continue }
            let marked = try await state.durably { (store) throws(SafeBackupError) in
                try store.beginCleaning(id, chosen, .versions, looked: [], reason: reason, absent: absent)
            }
            Faults.reach("pruning")
            if marked.isEmpty { continue }
            let gone = try await RemovalWork(id: id, target: target, state: state).removeVersions(
                looked: Set(marked))
            for copy in marked where gone.contains(copy) {
                if !absent.contains(copy) { count += 1 }
                bytes += frees[copy] ?? 0
            }
        }
        return (count, bytes)
    }

    /// Those that are there, or gone already, and whose paths have what they keep.
    private func choose(
        from candidates: [CleaningCandidate], _ cleaning: inout RoomCleaning
    ) async throws(SafeBackupError) -> (chosen: [CleaningCandidate], frees: [Int64: Int64], absent: Set<Int64>) {
        var keepers: [Int64: CataloguedCopy] = [:]
        for candidate in candidates {
            for keeper in [candidate.keeper, candidate.newest].compactMap(\.self) { keepers[keeper.id] = keeper }
        }
        let kept = Array(keepers.values)
        let looks = try await target.look(at: kept.map(\.expected) + candidates.map(\.copy.expected))
        var sound: Set<Int64> = []
        for (copy, look) in zip(kept, looks) {
            if case .same = look { sound.insert(copy.id) } else { try await noteUnsound(copy) }
        }
        var (chosen, frees, absent): ([CleaningCandidate], [Int64: Int64], Set<Int64>) = ([], [:], [])
        for (candidate, look) in zip(candidates, looks.dropFirst(kept.count)) {
            if [candidate.keeper, candidate.newest].contains(where: { $0.map { !sound.contains($0.id) } ?? false }) {
                cleaning.unsure += 1
                continue
            }
            switch look {
            case .same(let bytes): frees[candidate.copy.id] = bytes
            case .missing:
                frees[candidate.copy.id] = 0
                absent.insert(candidate.copy.id)
            case .other:
                // Somebody else's now.
                cleaning.unremovable += 1
                continue
            }
            chosen.append(candidate)
        }
        return (chosen, frees, absent)
    }

    /// The catalogue relied on it: it is noted as damaged, and stored again where the source has it.
    func noteUnsound(_ copy: CataloguedCopy) async throws(SafeBackupError) {
        let id = id
        try await state.durably { (store) throws(SafeBackupError) in
            guard let suspect = try store.suspect(id, copy.id).suspect,
                suspect.copy.location == copy.expected.location
            else { return }
            _ = try store.markDamaged(id, suspect, storesAgain: true)
        }
    }
}
