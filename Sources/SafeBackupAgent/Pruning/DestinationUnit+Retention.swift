import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// The configured policy at work: once a day, a part at a time.
struct RetentionKeeping: Sendable {
    /// Of the round that is under way: the sources that are left, and where the first of them goes on.
    var left: [SourceID]?
    var cursor: HistoryCursor?
    var removed = 0
    var bytes: Int64 = 0
    /// `nil`: it was not asked yet when the last round was.
    var nextAt: ContinuousClock.Instant?
}

extension DestinationUnit {
    private static let retentionPeriod = Duration.seconds(86_400)

    /// Whether a part of a round is to be done. Only when all stored copies were looked for: what a path keeps must be
    /// there before older versions go.
    var isRetentionDue: Bool {
        if !policy.hasRules || copyCheck.withLock({ $0.whole.isEmpty }) { return false }
        return retention.withLock { $0.left != nil || $0.nextAt.map { ContinuousClock.now >= $0 } ?? true }
    }

    /// Applies the policy to the next few paths; `false`: nothing is to be done now. After a crash a round begins anew.
    func applyRetention() async throws(SafeBackupError) -> Bool {
        guard isRetentionDue else { return false }
        let (id, directory) = (id, roomSettings.stateDirectory)
        var round = retention.withLock { $0 }
        if round.left == nil {
            let (last, now) = (
                try await state.durably { (store) throws(SafeBackupError) in try store.capacity(id)?.prunedAt },
                clock.now
            )
            // A clock that was set back must not stop it.
            if let last, now - last < Self.retentionPeriod, now >= last {
                retention.withLock { $0.nextAt = .now + (Self.retentionPeriod - (now - last)) }
                return false
            }
            round = RetentionKeeping(left: sources.keys.sorted { $0.rawValue < $1.rawValue })
        }
        if let source = round.left?.first {
            let cursor = round.cursor
            let page = try await io.run { () throws(SafeBackupError) in
                try StateReader(in: directory).histories(source, id, within: .root, after: cursor, limit: 500)
            }
            let (now, zone, policy) = (clock.now, LocalZone.system, policy)
            let copies = page.histories.flatMap { history in
                policy.givesUp(history, now: now, zone: zone).map(\.copy)
            }
            let work = RoomWork(id: id, target: target, state: state, reason: "policy: \(policy.text)")
            let (count, bytes) = try await work.remove(versions: copies)
            round.removed += count
            round.bytes += bytes
            round.cursor = page.next
            if page.next == nil { round.left?.removeFirst() }
            let next = round
            retention.withLock { $0 = next }
            return true
        }
        retention.withLock { $0 = RetentionKeeping(nextAt: .now + Self.retentionPeriod) }
        try await state.durably { (store) throws(SafeBackupError) in try store.setPruned(id) }
        if round.removed == 0 { return true }
        let text =
            "\(counted(round.removed, "older version")) of \(ByteCount(round.bytes)) removed from "
            + "\(printable(target.location)), as the policy \(policy.text) says"
        logger.info(
            .pruned, "Older versions were removed by the configured policy",
            metadata: ["copies": "\(round.removed)", "bytes": "\(round.bytes)", "policy": "\(policy.text)"])
        try await state.durably { (store) throws(SafeBackupError) in
            try store.record(level: "info", event: "pruned", message: text, destination: id)
        }
        return true
    }
}

extension RetentionPolicy {
    /// The older states of a path that no rule keeps, and that may go.
    func givesUp(_ history: PathHistory, now: Timestamp, zone: LocalZone) -> [PathState] {
        let states = history.states.map { RetentionPolicy.State(stored: $0.storedAt, ended: $0.endedAt) }
        let keeps = keeps(states, now: now, zone: zone)
        return zip(history.states, keeps).filter { !$1 && history.mayGo($0, isExpired: false) }.map(\.0)
    }
}
