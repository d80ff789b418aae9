import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// Somebody else may delete or change stored copies, and no event tells: at each start, when a destination was away, and
/// as often as its sources are walked, every live name's copy is looked for.
extension DestinationUnit {
    /// What is stored from now on is known to be there: a first save, which finds no names, is not looked at again.
    func beginCopyCheck() async throws(SafeBackupError) {
        copyCheck.withLock { $0.restart() }
        // Nobody pays for a request per object to be told what versions and policies of the bucket guard against.
        guard target.traits.looksAreFree else { return copyCheck.withLock { $0.end(at: .now) } }
        for source in sources.keys {
            let id = id
            let copies = try await state.durably { (store) throws(SafeBackupError) in
                try store.copiesToCheck(source, id, after: .root, limit: 1)
            }
            if copies?.isEmpty != true { return }
        }
        // No copy is missing where there is none.
        copyCheck.withLock { check in for source in sources.keys { check.noteWhole(source) } }
        copyCheck.withLock { $0.end(at: .now) }
    }

    /// Looks for the next few copies; to be called while nothing is due and no group is in flight. `false`: nothing is
    /// to be looked for now. What is missing or different is queued to be stored again, from the source; the other file
    /// is kept as a foreign version.
    func checkSomeCopies() async throws(SafeBackupError) -> Bool {
        guard target.traits.looksAreFree, copyCheck.withLock({ $0.isDue(at: .now) }) else { return false }
        // What a walk finds is a change of the source, and needs no other reason to be stored.
        if !sources.values.allSatisfy(\.isWalkedOrAway) { return false }
        let ready = sources.filter { $0.value.knownRoot != nil }.keys.sorted { $0.rawValue < $1.rawValue }
        guard let (source, position) = copyCheck.withLock({ $0.next(ready) }) else {
            endCopyCheck()
            return false
        }
        let id = id
        let copies = try await state.durably { (store) throws(SafeBackupError) in
            try store.copiesToCheck(source, id, after: position, limit: CopyCheck.batch)
        }
        guard let copies else {
            copyCheck.withLock { $0.note(0, upTo: nil) }
            return true
        }
        let differing = try await target.differing(copies).map { copies[$0] }
        if !differing.isEmpty {
            let queued = try await state.durably { (store) throws(SafeBackupError) in
                try store.storeAgain(id, differing)
            }
            copyCheck.withLock { $0.note(differing: queued.map(\.path)) }
        }
        copyCheck.withLock { check in
            if copies.isEmpty { check.noteWhole(source) }
            check.note(copies.count, upTo: copies.last?.path)
        }
        return true
    }

    private func endCopyCheck() {
        let check = copyCheck.withLock { check in
            defer { check.end(at: .now) }
            return check
        }
        // What waits for this may go now.
        roomMayHaveChanged()
        if check.differing == 0 {
            logger.debug(.copiesChecked, "The stored copies were looked for", metadata: ["names": "\(check.looked)"])
            return
        }
        logger.warning(
            .copiesChanged,
            "Stored copies were deleted or changed by somebody else; they are stored again from the source",
            metadata: [
                "copies": "\(check.differing)", "names": "\(check.looked)",
                "examples": "\(check.examples.map(\.description).joined(separator: ", "))",
            ])
    }
}
