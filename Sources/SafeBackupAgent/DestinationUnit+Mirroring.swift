import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// `on-delete = mirror`: what was deleted at the source goes to the versions.
extension DestinationUnit {
    /// A rename is an absence and a new path, which may be told a moment apart.
    private static let patience = Duration.seconds(2)
    /// Until a source that has no file left but excluded ones is looked at again.
    private static let pauseWhileEmptied = Duration.seconds(60)

    /// Moves what is due. To be called while no group is in flight: a path that comes back is stored at the same place.
    /// - Returns: when the next is due.
    func retireDeleted() async throws(SafeBackupError) -> Timestamp? {
        guard mirrorsDeletions else { return nil }
        try await noteTombstones()
        let id = id
        // Looked at only when something is due.
        var emptied: Set<SourceID>?
        while true {
            let except = emptied ?? []
            let next = try await state.durably { (store) throws(SafeBackupError) in
                try store.nextRetirement(id, except: except)
            }
            guard let next else { return except.isEmpty ? nil : clock.now + Self.pauseWhileEmptied }
            // A single run has seen everything when it comes here.
            let patience = requeuesFuzzy ? Self.patience : .zero
            let now = clock.now + (.zero - patience)
            if next > now { return next + patience }
            if emptied == nil {
                emptied = await emptiedSources(of: sources.keys)
                continue
            }
            let (time, target) = (clock.now, target)
            let wait = target.versionInterval
            let begun = try await state.durably { (store) throws(SafeBackupError) in
                try store.beginRetirement(id, limit: 500, now: now, wait: wait, except: except) {
                    (copy) throws(SafeBackupError) in
                    try target.versionName(of: copy, at: time)
                }
            }
            Faults.reach("retiring")
            try await finish(begun)
            if stop.isRequested { return nil }
        }
    }

    /// What a crash has left begun, whatever the key says now.
    func finishRetirements() async throws(SafeBackupError) {
        let id = id
        while true {
            let begun = try await state.durably { (store) throws(SafeBackupError) in
                try store.retirements(id, limit: 500)
            }
            if begun.isEmpty { return }
            try await finish(begun)
        }
    }

    /// Whether something is due while nothing is open.
    func isRetirementDue() async throws(SafeBackupError) -> Bool {
        guard mirrorsDeletions else { return false }
        let id = id
        let next = try await state.durably { (store) throws(SafeBackupError) in try store.nextRetirement(id) }
        guard let next else { return false }
        return next + Self.patience <= clock.now
    }

    private func finish(_ begun: [Retirement]) async throws(SafeBackupError) {
        if begun.isEmpty { return }
        lastWork.set(.now)
        let outcomes = try await target.retire(begun)
        Faults.reach("retiredDurably")
        let (id, versionLimit) = (id, versionLimit)
        let excess = try await state.durably { (store) throws(SafeBackupError) in
            for (retirement, outcome) in zip(begun, outcomes) {
                guard case .refused(let error) = outcome else { continue }
                try store.record(
                    level: "warning", event: "retirementFailed",
                    message: "The copy of a deleted file stays at \(retirement.copy.location): \(error.message)",
                    destination: id)
            }
            let copies = try store.finishRetirement(
                id, Array(zip(begun, outcomes)), versionLimit: versionLimit
            ).map(\.id)
            return copies.isEmpty ? 0 : try store.beginRemoval(id, copies, reason: "versionLimit").count
        }
        let moved = outcomes.count { if case .moved = $0 { true } else { false } }
        if moved > 0 {
            logger.info(.retired, "Deleted files became versions", metadata: ["files": "\(moved)"])
        }
        if excess > 0 { try await finishRemovals() }
    }

    /// What was deleted before this agent was told to mirror.
    private func noteTombstones() async throws(SafeBackupError) {
        if hasNotedTombstones.value { return }
        let id = id
        var last: Int64? = 0
        while let after = last {
            last = try await state.durably { (store) throws(SafeBackupError) in
                try store.noteTombstones(id, after: after)
            }
        }
        hasNotedTombstones.set(true)
    }
}

/// The earlier of two times that there may be.
func earlier(_ left: Timestamp?, _ right: Timestamp?) -> Timestamp? {
    guard let left, let right else { return left ?? right }
    return min(left, right)
}
