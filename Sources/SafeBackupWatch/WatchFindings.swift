import SafeBackupCore

/// What the digest has found and nobody has taken yet. Bounded in every part.
struct WatchFindings: Sendable {
    /// Reasons that carry a path are told this often, entries that are not saved a hundred times as often.
    private static let reasonLimit = 64

    var changes: ChangeSet
    private(set) var desynced: [DesyncReason] = []
    private(set) var rootEvent: RootEvent?
    private(set) var notSaved: [RelativePath: (reason: SkipReason, kind: EntryKind?)] = [:]

    init(limit: Int) { changes = ChangeSet(limit: limit) }

    var isEmpty: Bool { changes.isEmpty && desynced.isEmpty && rootEvent == nil && notSaved.isEmpty }

    mutating func desync(_ reason: DesyncReason) {
        if desynced.contains(reason) { return }
        // Past the limit one reason stands for the rest: it asks for the same.
        if desynced.count < Self.reasonLimit {
            desynced.append(reason)
        } else if !desynced.contains(.bufferFull) {
            desynced.append(.bufferFull)
        }
    }

    /// The event that tells most stays: several follow from one cause, and their order depends on who has it open.
    mutating func rootChanged(_ event: RootEvent) {
        let weight: [RootEvent] = [.selfIgnored, .unreachable, .moved, .deleted, .unmounted]
        if let known = rootEvent, weight.firstIndex(of: known) ?? 0 > weight.firstIndex(of: event) ?? 0 { return }
        rootEvent = event
    }

    mutating func skip(_ path: RelativePath, _ reason: SkipReason, _ kind: EntryKind?) {
        if notSaved.count >= Self.reasonLimit * 100 && notSaved[path] == nil { return desync(.bufferFull) }
        notSaved[path] = (reason, kind)
    }

    /// Adds what was found later.
    mutating func merge(_ other: WatchFindings) {
        if isEmpty {
            self = other
            return
        }
        changes.merge(other.changes)
        for reason in other.desynced { desync(reason) }
        if let event = other.rootEvent { rootChanged(event) }
        for (path, skipped) in other.notSaved { skip(path, skipped.reason, skipped.kind) }
    }

    /// Takes everything out.
    mutating func drain() -> WatchBatch {
        if changes.isOverfull { desync(.bufferFull) }
        var batch = WatchBatch()
        let drained = changes.drain()
        batch.changes = drained.changes
        batch.renames = drained.renames
        for directory in drained.crowded { desync(.crowded(directory)) }
        batch.desynced = desynced
        batch.rootEvent = rootEvent
        batch.notSaved = notSaved.sorted { $0.key < $1.key }.map { ($0.key, $0.value.reason, $0.value.kind) }
        desynced = []
        rootEvent = nil
        notSaved = [:]
        return batch
    }
}
