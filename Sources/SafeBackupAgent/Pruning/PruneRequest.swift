import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// What `safebackup prune` asks of the agent: to remove these states. The words of both sides.
struct PruneRequest: Sendable {
    var destination: DestinationID
    /// Stands with each removal.
    var reason: String
    var choices: [PruneChoice] = []

    init(destination: DestinationID, reason: String) {
        self.destination = destination
        self.reason = reason
    }

    var arguments: [[UInt8]] {
        let words = ["\(destination.rawValue)", reason] + choices.map { "\($0.copy) \($0.isExpired ? 1 : 0)" }
        return words.map { Array($0.utf8) }
    }

    /// Throws `invalidConfiguration` for what is no such request: another release's, perhaps.
    init(_ arguments: [[UInt8]]) throws(SafeBackupError) {
        let refusal = SafeBackupError(
            .invalidConfiguration, "This agent does not understand what 'prune' asks; is it another release?",
            disposition: .permanent)
        let words = arguments.map { String(decoding: $0, as: UTF8.self) }
        guard words.count >= 2, let destination = Int64(words[0]) else { throw refusal }
        self.destination = DestinationID(rawValue: destination)
        reason = words[1]
        for word in words.dropFirst(2) {
            let parts = word.split(separator: " ")
            guard parts.count == 2, let copy = Int64(parts[0]), parts[1] == "0" || parts[1] == "1" else {
                throw refusal
            }
            choices.append(PruneChoice(copy: copy, isExpired: parts[1] == "1"))
        }
    }

    static func answer(count: Int, bytes: Int64) -> String {
        "\(ReportText.count(count, "stored state")) removed (\(ByteCount(bytes)))\n\(count) \(bytes)"
    }

    /// How many states are removed, and their bytes.
    static func totals(_ answer: String) -> (count: Int, bytes: Int64) {
        let numbers = answer.split(separator: "\n").dropFirst().first?.split(separator: " ") ?? []
        guard numbers.count == 2, let count = Int(numbers[0]), let bytes = Int64(numbers[1]) else { return (0, 0) }
        return (count, bytes)
    }
}

extension RequestWork {
    /// Marks what is to be removed; the destination's own unit, or `finishPruning`, removes it.
    func prune(_ arguments: [[UInt8]]) async throws(SafeBackupError) -> Answer {
        let request = try PruneRequest(arguments)
        let (count, bytes) = try await state.durably { (store) throws(SafeBackupError) in
            try store.beginPruning(request.destination, request.choices, reason: "prune: " + request.reason)
        }
        Faults.reach("pruning")
        return .done(PruneRequest.answer(count: count, bytes: bytes))
    }

    /// Without an agent: removes what is marked, at every destination that is there. What is not there, or has work that
    /// a crash cut off, is left to the next agent.
    func finishPruning() async throws(SafeBackupError) {
        let records = try await state.durably { (store) throws(SafeBackupError) in try store.destinations() }
        // What a bucket has is removed by the agent that knows how to reach it, when it runs.
        for record in records where record.hold == nil && record.pausedAt == nil && record.kind == "local" {
            guard let sentinel = record.sentinel else { continue }
            let id = record.id
            let (isDue, hasLeases) = try await state.durably { (store) throws(SafeBackupError) in
                (try store.hasRemovals(id), try store.hasLeases(id))
            }
            if !isDue { continue }
            let target = LocalDestination(path: FilePath(bytes: record.location), io: io)
            do throws(SafeBackupError) {
                try await target.attach(expecting: sentinel)
            } catch {
                if error.disposition == .destinationUnavailable { continue }
                throw error
            }
            let work = RemovalWork(id: id, target: target, state: state)
            try await work.removeVersions()
            if !hasLeases { try await work.removeTombstones() }
            await target.detach()
        }
    }
}

/// Removes the copies whose removal is recorded. A crash in between repeats it.
struct RemovalWork: Sendable {
    let id: DestinationID
    let target: any Destination
    let state: StateAccess

    /// Removes the copies together; if one of them refuses to go, each alone. What cannot be removed, because somebody
    /// made it immutable or put a directory there, is kept after all and told: it must not stop the destination.
    /// - Returns: those that are gone.
    private func removed(
        _ copies: [CopyRecord], _ remove: ([CopyRecord]) async throws(SafeBackupError) -> Void
    ) async throws(SafeBackupError) -> [Int64] {
        do throws(SafeBackupError) {
            try await remove(copies)
            return copies.map(\.id)
        } catch {
            if !Self.isOfOneCopy(error) { throw error }
        }
        var gone: [Int64] = []
        for copy in copies {
            do throws(SafeBackupError) {
                try await remove([copy])
                gone.append(copy.id)
            } catch {
                if !Self.isOfOneCopy(error) { throw error }
                let (id, message) = (id, "\(copy.location) cannot be removed, and is kept: \(error.message)")
                try await state.durably { (store) throws(SafeBackupError) in
                    try store.keepAfterAll(id, copy.id)
                    try store.record(level: "warning", event: "removalFailed", message: message, destination: id)
                }
            }
        }
        return gone
    }

    private static func isOfOneCopy(_ error: SafeBackupError) -> Bool {
        guard let code = error.systemError else { return false }
        return [EPERM, EACCES, EISDIR, ENOTEMPTY, EBUSY].contains(code)
    }

    /// Kept versions, which lie where nothing is stored ever again: at any time. What their paths keep is looked at first,
    /// also after a crash: where it is not as it was stored, that is noted, and the version stays.
    /// - Parameter looked: those for which that was done just now.
    /// - Returns: those that are gone.
    @discardableResult
    func removeVersions(looked: Set<Int64> = []) async throws(SafeBackupError) -> Set<Int64> {
        let id = id
        var gone: Set<Int64> = []
        while true {
            let copies = try await state.durably { (store) throws(SafeBackupError) in
                try store.removals(id, limit: 1_000).map(\.copy)
            }
            if copies.isEmpty { return gone }
            if try await !keepUnsure(copies.map(\.id).filter { !looked.contains($0) }).isEmpty { continue }
            Faults.reach("removing")
            let numbers = try await removed(copies) { (copies) throws(SafeBackupError) in
                try await target.remove(versions: copies.map(\.location))
            }
            Faults.reach("removed")
            try await state.durably { (store) throws(SafeBackupError) in try store.finishRemoval(id, numbers) }
            gone.formUnion(numbers)
        }
    }

    /// Keeps those of these versions whose paths have nothing newer in the destination as it was stored. Returns them.
    private func keepUnsure(_ copies: [Int64]) async throws(SafeBackupError) -> [Int64] {
        if copies.isEmpty { return [] }
        let id = id
        let keepers = try await state.durably { (store) throws(SafeBackupError) in
            try store.keepers(id, of: copies)
        }
        let kept = Array(Dictionary(keepers.values.map { ($0.id, $0) }) { $1 }.values)
        var unsound: Set<Int64> = []
        for (copy, look) in zip(kept, try await target.look(at: kept.map(\.expected))) {
            if case .same = look { continue }
            unsound.insert(copy.id)
            try await RoomWork(id: id, target: target, state: state).noteUnsound(copy)
        }
        let unsure = copies.filter { keepers[$0].map { unsound.contains($0.id) } ?? false }
        if unsure.isEmpty { return [] }
        try await state.durably { (store) throws(SafeBackupError) in
            for copy in unsure {
                guard let keeper = keepers[copy]?.expected else { continue }
                try store.keepAfterAll(id, copy)
                try store.record(
                    level: "warning", event: "removalFailed",
                    message: "An older state of \(keeper.path) is kept: the newer one is not in the destination as it "
                        + "was stored, at \(keeper.location)", destination: id)
            }
        }
        return unsure
    }

    /// Deleted paths' last states, which lie at their paths' own places: only while nothing is leased there. Returns those
    /// that are gone.
    @discardableResult
    func removeTombstones() async throws(SafeBackupError) -> Set<Int64> {
        let id = id
        var gone: Set<Int64> = []
        while true {
            let copies = try await state.durably { (store) throws(SafeBackupError) in
                try store.tombstoneRemovals(id, limit: 1_000).map(\.copy)
            }
            if copies.isEmpty { return gone }
            Faults.reach("removing")
            let numbers = try await removed(copies) { (copies) throws(SafeBackupError) in
                try await target.remove(tombstones: copies)
            }
            Faults.reach("removed")
            try await state.durably { (store) throws(SafeBackupError) in try store.finishRemoval(id, numbers) }
            gone.formUnion(numbers)
        }
    }
}
