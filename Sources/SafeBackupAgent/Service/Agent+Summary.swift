import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

extension Agent {
    /// One line for `systemctl status`: what a person should know first. `nil` while no state is open, or it fails.
    ///
    /// Asks the state, so that an answer also tells that the state's thread works.
    package func summary() async -> String? {
        guard let store = current.withLock({ $0 }) else { return nil }
        do throws(SafeBackupError) {
            return Self.summary(
                try await store.counts(), sources: try await store.sources(),
                destinations: try await store.destinations(), progress.snapshot)
        } catch {
            return nil  // ignored because whoever needs the state says what is wrong with it
        }
    }

    static func summary(
        _ counts: QueueCounts, sources: [SourceRecord], destinations: [DestinationRecord], _ work: Progress.Snapshot
    ) -> String {
        let waiting = counts.pending + counts.leased
        let active = sources.filter(\.isActive)
        let held =
            active.compactMap { record in record.hold.map { (record.path, $0.reason) } }
            + destinations.compactMap { record in record.hold.map { (record.location, $0.reason) } }
        let isPaused = (active.map(\.pausedAt) + destinations.map(\.pausedAt)).contains { $0 != nil }
        var parts: [String] = []
        if let (path, reason) = held.first {
            parts.append("Held: \(printable(path)) (\(reason))")
            if held.count > 1 { parts.append("and \(held.count - 1) more") }
        } else if isPaused {
            parts.append("Paused")
        } else if work.walks == 0 {
            parts.append("Comparing with the catalogue")
            if work.scanned > 0 { parts.append("\(ReportText.count(work.scanned, "entry", "entries")) seen") }
        } else {
            parts.append(waiting > 0 ? "Saving" : "Everything is saved")
        }
        if waiting > 0 { parts.append("\(ReportText.count(waiting, "change")) wait\(waiting == 1 ? "s" : "")") }
        if counts.stuck > 0 { parts.append("\(ReportText.grouped(counts.stuck)) stuck, see 'safebackup status'") }
        return parts.joined(separator: "; ")
    }
}
