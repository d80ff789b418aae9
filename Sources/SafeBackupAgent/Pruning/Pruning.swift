package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

/// Removes older states by a policy. The verb's own process decides by what it reads; a running agent, or the verb under
/// its lock, looks at each choice once more and removes.
package struct Pruning: Sendable {
    /// A state that goes.
    package struct Line: Sendable, Encodable {
        package var path: String
        package var pathHex: String?
        package var destination: String
        package var location: String
        package var locationHex: String?
        package var size: Int64
        package var storedAt: String
        /// `policy`, or `deleted`: its path was deleted at the source long enough ago.
        package var reason: String

        package var text: String {
            "\(path)  of \(storedAt)  \(ByteCount(size))"
                + (reason == "deleted" ? "  (deleted at the source)" : "") + "\n    \(location)"
        }
    }

    package struct Totals: Sendable, Encodable {
        /// Paths that have older states.
        package var paths = 0
        /// Older states that are kept.
        package var kept = 0
        package var removed = 0
        package var removedBytes: Int64 = 0
        /// The destinations that are not there: what is removed of them is removed when they are.
        package var waiting: [String] = []
        /// Those that could not be removed, and are kept after all. Not of a plan.
        package var failed = 0

        private enum CodingKeys: String, CodingKey { case paths, kept, removed, removedBytes, waiting }
    }

    private let directory: StateDirectory
    private let paths: [[UInt8]]
    private let policy: RetentionPolicy
    private let zone: LocalZone
    private let now: Timestamp

    /// - Parameter paths: absolute, below a source, or relative to one, with all below them; none means all.
    package init(
        _ directory: StateDirectory, paths: [[UInt8]], policy: RetentionPolicy, zone: LocalZone = .system,
        now: Timestamp = WallClock.system.now
    ) {
        self.directory = directory
        self.paths = paths
        self.policy = policy
        self.zone = zone
        self.now = now
    }

    /// What the policy says, without a change: `tell` is called for each state that goes.
    package func plan(_ tell: (Line) throws(SafeBackupError) -> Void) throws(SafeBackupError) -> Totals {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        var totals = Totals()
        for part in try parts(reader) {
            var cursor: HistoryCursor?
            repeat {
                let page = try page(part, reader, after: cursor, &totals)
                for (history, state, isExpired) in page.choices {
                    totals.removed += 1
                    totals.removedBytes += state.size
                    try tell(line(history, state, isExpired, part.destination))
                }
                cursor = page.next
            } while cursor != nil
        }
        return totals
    }

    /// Removes what the policy gives up; `tell` is called for each state that could not be removed.
    package func run(_ tell: (Line) throws(SafeBackupError) -> Void) async throws(SafeBackupError) -> Totals {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        var totals = Totals()
        for part in try parts(reader) {
            var cursor: HistoryCursor?
            let before = totals.removed
            let failedBefore = try reader.newestFailedRemoval(part.destination.id)
            repeat {
                let page = try page(part, reader, after: cursor, &totals)
                cursor = page.next
                if page.choices.isEmpty { continue }
                var request = PruneRequest(destination: part.destination.id, reason: policy.text)
                request.choices = page.choices.map { PruneChoice(copy: $0.state.copy, isExpired: $0.isExpired) }
                let outcome = try await RequestVerb.ask(
                    "prune", request.arguments, in: directory, within: .seconds(120))
                guard case .done(let text) = outcome else { continue }
                let (count, bytes) = PruneRequest.totals(text)
                totals.removed += count
                totals.removedBytes += bytes
            } while cursor != nil
            if totals.removed > before, try await !isDone(part.destination.id, reader) {
                totals.waiting.append(printable(part.destination.location))
            }
            if totals.removed > before, try reader.newestFailedRemoval(part.destination.id) != failedBefore {
                let failed = totals.failed
                try tellFailed(part, reader, &totals, tell)
                // Of a path whose newer state was found missing, the policy now keeps the older one.
                let untold =
                    try reader.failedRemovals(part.destination.id, after: failedBefore)
                    - (totals.failed - failed)
                if untold > 0 {
                    totals.failed += untold
                    totals.removed -= untold
                }
            }
        }
        return totals
    }

    /// What was to go and is still there, and not marked as going: the same policy at the same time gives it up again. To
    /// ask that again costs a second look at the catalogue, and no memory.
    private func tellFailed(
        _ part: Part, _ reader: StateReader, _ totals: inout Totals, _ tell: (Line) throws(SafeBackupError) -> Void
    ) throws(SafeBackupError) {
        var cursor: HistoryCursor?
        var again = Totals()
        repeat {
            let page = try page(part, reader, after: cursor, &again)
            for (history, state, isExpired) in page.choices {
                totals.failed += 1
                totals.removed -= 1
                totals.removedBytes -= state.size
                try tell(line(history, state, isExpired, part.destination))
            }
            cursor = page.next
        } while cursor != nil
    }

    private struct Part {
        var destination: DestinationRecord
        var source: SourceID
        var path: RelativePath
    }

    private func parts(_ reader: StateReader) throws(SafeBackupError) -> [Part] {
        let pairs = try reader.pairs()
        let destinations = try reader.destinations()
        let sources = try reader.sources()
        var targets = sources.map { PathTarget(source: $0, path: .root) }
        if !paths.isEmpty {
            targets = []
            for argument in paths { targets += try SourcePath.targets(argument, in: sources) }
        }
        var parts: [Part] = []
        for target in targets {
            for pair in pairs where pair.source == target.source.id {
                guard let destination = destinations.first(where: { $0.id == pair.destination }) else { continue }
                parts.append(Part(destination: destination, source: pair.source, path: target.path))
            }
        }
        return parts
    }

    private typealias Choice = (history: PathHistory, state: PathState, isExpired: Bool)

    private func page(
        _ part: Part, _ reader: StateReader, after cursor: HistoryCursor?, _ totals: inout Totals
    ) throws(SafeBackupError) -> (choices: [Choice], next: HistoryCursor?) {
        let page = try reader.histories(
            part.source, part.destination.id, within: part.path, after: cursor, limit: 1_000)
        var choices: [Choice] = []
        for history in page.histories {
            let found = choose(history)
            totals.paths += 1
            totals.kept += history.states.count { $0.endedAt != nil } - found.count
            choices += found
        }
        return (choices, page.next)
    }

    private func choose(_ history: PathHistory) -> [Choice] {
        if let deletedAt = history.deletedAt, !history.isAlive, policy.isExpired(deleted: deletedAt, now: now) {
            return history.states.filter { history.mayGo($0, isExpired: true) }.map { (history, $0, true) }
        }
        return policy.givesUp(history, now: now, zone: zone).map { (history, $0, false) }
    }

    private func line(
        _ history: PathHistory, _ state: PathState, _ isExpired: Bool, _ destination: DestinationRecord
    ) -> Line {
        Line(
            path: history.path.description, pathHex: ReportText.hex(ifNeeded: history.path),
            destination: printable(destination.location), location: state.location.description,
            locationHex: ReportText.hex(ifNeeded: state.location), size: state.size,
            storedAt: zone.text(state.storedAt), reason: isExpired ? "deleted" : "policy")
    }

    /// Waits a while for the agent to have removed what is marked.
    private func isDone(_ destination: DestinationID, _ reader: StateReader) async throws(SafeBackupError) -> Bool {
        let deadline = ContinuousClock.now + .seconds(15)
        while true {
            if try reader.removalsLeft(destination) == 0 { return true }
            if ContinuousClock.now >= deadline || !directory.holder().isHeld { return false }
            do {
                try await Task.sleep(for: .milliseconds(100))
            } catch {
                return false  // cancelled: nobody waits any more
            }
        }
    }
}
