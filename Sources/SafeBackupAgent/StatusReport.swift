package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

/// What `safebackup status` tells, as text for people and as JSON for programs. Fields may be added to the JSON;
/// those that are there keep their meaning.
package struct StatusReport: Sendable, Encodable {
    package struct Source: Sendable, Encodable {
        package var path: String
        package var isActive: Bool
        package var files: Int
        package var bytes: Int64
        package var isDesynced: Bool
        package var held: Held?
        package var pausedAt: String?
        package var lastReconcileAt: String?
        /// By reason: how many entries are not saved.
        package var notSaved: [String: Int]
        /// Entries that the rules leave out, as of the last complete walk; a directory is one, whatever is in it.
        package var excluded: Int?
        /// `nil`: nobody watches it.
        package var coverage: Coverage?
        /// `nil` before the first periodic walk.
        package var drift: Drift?
        /// It had files, and has none any more; nothing is removed for that.
        package var emptied: Emptied?

        enum CodingKeys: String, CodingKey {
            case path, files, bytes, held, pausedAt, lastReconcileAt, notSaved, excluded, coverage, drift, emptied
            case isActive = "active"
            case isDesynced = "desynced"
        }
    }

    package struct Destination: Sendable, Encodable {
        package var location: String
        package var kind: String
        /// Something is saved to it; else the agent was not told to run it.
        package var isActive: Bool
        package var held: Held?
        package var pausedAt: String?
        /// Jobs that wait because the destination is full.
        package var full: Full?
        /// `nil` before its disk was first looked at.
        package var room: RoomReport?
        package var pending: Int
        package var leased: Int
        package var stuck: Int
        package var fuzzy: Int
        /// Of those whose size is known; `nil` if none is.
        package var pendingBytes: Int64?
        /// How many of the first thousands that wait have a size that is not known.
        package var pendingUnknownSize: Int
        package var oldestPendingAt: String?
        package var catalogueExportedAt: String?
        /// How the last verification of each of its sources ended; without those that never had one.
        package var verified: [Verified]
        /// Sources that are saved to it and were never verified there.
        fileprivate var neverVerified = 0

        enum CodingKeys: String, CodingKey {
            case location, kind, held, pausedAt, full, room, pending, leased, stuck, fuzzy, pendingBytes,
                oldestPendingAt
            case catalogueExportedAt, verified
            case isActive = "active"
        }
    }

    package struct Held: Sendable, Encodable {
        package var reason: String
        package var message: String
        package var since: String
        /// `safebackup accept` can release it; else it goes when its cause is gone.
        package var isAcceptable: Bool

        enum CodingKeys: String, CodingKey {
            case reason, message, since
            case isAcceptable = "acceptable"
        }
    }

    package struct Full: Sendable, Encodable {
        package var jobs: Int
        /// What they take, as far as it is known.
        package var bytes: Int64

        /// What waits, and what to do.
        var text: String {
            "\(counted(jobs, "change waits", "changes wait")) for room"
                + "\(bytes > 0 ? " (\(ByteCount(bytes)) or more)" : ""); make some there"
        }
    }

    /// The last file was deleted.
    package struct Emptied: Sendable, Encodable {
        package var files: Int
        package var since: String
        package var message: String
    }

    /// How the agent learns of changes.
    package struct Coverage: Sendable, Encodable {
        /// `events`, `partly` (the rest is looked at again and again) or `polled`.
        package var extent: String
        package var directories: Int
        package var watched: Int
        /// Why not all by events, and what to do.
        package var message: String?
    }

    /// Changes that no event had told of.
    package struct Drift: Sendable, Encodable {
        package var count: Int
        package var foundAt: String
    }

    package struct Agent: Sendable, Encodable {
        package var running: Bool
        package var pid: Int32?
        /// Without an agent: the newest thing that one is known to have done.
        package var lastSignOfLifeAt: String?
    }

    /// A path that is not, or not wholly, saved.
    package struct Problem: Sendable, Encodable {
        package var path: String
        package var pathHex: String?
        package var sourcePath: String
        package var state: String
        package var code: String
        package var message: String?
        package var since: String
    }

    /// What happened, as the journal has it.
    package struct Event: Sendable, Encodable {
        package var at: String
        package var level: String
        package var event: String
        package var message: String
    }

    package var agent: Agent
    package var sources: [Source]
    package var destinations: [Destination]
    package var problems: [Problem]
    /// The newest that are more than the course of things, newest first.
    package var events: [Event]

    /// Something of the user's fails, or may not be read.
    private var hasUnsaved = false

    private enum CodingKeys: String, CodingKey { case agent, sources, destinations, problems, events }

    /// Reads the state beside a running agent, or without one.
    package init(_ directory: StateDirectory) throws(SafeBackupError) {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let status = try reader.status()
        agent = Agent(directory)
        if !agent.running { agent.lastSignOfLifeAt = try reader.lastSignOfLife()?.iso8601 }
        let isRunning = agent.running
        sources = status.sources.map { source in
            Source(
                path: printable(source.record.path), isActive: source.record.isActive, files: source.files,
                bytes: source.bytes, isDesynced: source.record.isDesynced, held: source.record.hold.map(Held.init),
                pausedAt: source.record.pausedAt?.iso8601, lastReconcileAt: source.record.lastReconcileAt?.iso8601,
                notSaved: source.notSaved, excluded: source.excluded,
                coverage: isRunning ? source.coverage.map(Coverage.init) : nil,
                drift: source.drift.map { Drift(count: $0.count, foundAt: $0.at.iso8601) },
                emptied: source.emptied.map {
                    Emptied(files: $0.files, since: $0.at.iso8601, message: $0.advice(source.record.path))
                })
        }
        let verifications = try reader.verifications()
        destinations = status.destinations.map { destination in
            Destination(
                location: printable(destination.record.location), kind: destination.record.kind,
                isActive: status.pairs.contains {
                    $0.record.isActive && $0.record.destination == destination.record.id
                },
                held: destination.record.hold.map(Held.init), pausedAt: destination.record.pausedAt?.iso8601,
                full: destination.waitingForRoom.map { Full(jobs: $0.jobs, bytes: $0.bytes) },
                room: destination.capacity.map(RoomReport.init),
                pending: destination.counts.pending,
                leased: destination.counts.leased, stuck: destination.counts.stuck, fuzzy: destination.counts.fuzzy,
                pendingBytes: destination.pendingBytes, pendingUnknownSize: destination.unknownSizes,
                oldestPendingAt: destination.oldestPending?.iso8601,
                catalogueExportedAt: destination.record.catalogueExportedAt?.iso8601,
                verified: Verified.of(destination.record.id, verifications, status),
                neverVerified: Verified.missing(destination.record.id, verifications, status))
        }
        let unsaved = try reader.unsavedReport(limit: 100)
        hasUnsaved = !UnsavedReport(unsaved).isComplete
        problems = unsaved.map { entry in
            Problem(
                path: entry.path.description, pathHex: ReportText.hex(ifNeeded: entry.path),
                sourcePath: printable(
                    status.sources.first { $0.record.id == entry.source }?.record.path ?? []),
                state: entry.state.rawValue, code: entry.code,
                message: entry.message ?? SkipReason(rawValue: entry.code).map { "It \($0.explanation)" },
                since: entry.since.iso8601)
        }
        events = try reader.remarkableEvents(limit: 20).map {
            Event(at: $0.at.iso8601, level: $0.level.rawValue, event: $0.event, message: $0.message)
        }
    }

    package func json() throws(SafeBackupError) -> String { try ReportText.json(self) }

    /// 4 when something is held, 3 when something is stuck or fuzzy, or waits because it is paused, else 0.
    package var exitCode: Int32 {
        let destinations = destinations.filter(\.isActive)
        let isHeld = sources.contains { $0.isActive && $0.held != nil } || destinations.contains { $0.held != nil }
        if isHeld { return 4 }
        if destinations.contains(where: { $0.stuck > 0 || $0.fuzzy > 0 }) { return 3 }
        // A pause is no error; that something waits because of it must not be forgotten.
        let isPaused = (sources.filter(\.isActive).map(\.pausedAt) + destinations.map(\.pausedAt)).contains {
            $0 != nil
        }
        if isPaused && destinations.contains(where: { $0.pending + $0.leased > 0 }) { return 3 }
        return hasUnsaved ? 3 : 0
    }

    private static func pausedLine(_ since: String) -> String {
        "  PAUSED        since \(since); 'safebackup resume' goes on"
    }

    package var text: String {
        var lines: [String] = []
        if agent.running {
            lines.append("Agent: running" + (agent.pid.map { ", process \($0)" } ?? ""))
        } else {
            let since = agent.lastSignOfLifeAt.map { "; what changed since \($0) is not known" } ?? ""
            lines.append("Agent: not running\(since); changes are found by its next start")
        }
        for source in sources {
            lines.append("")
            lines.append("Source \(source.path)" + (source.isActive ? "" : " (inactive)"))
            lines.append("  saved         \(counted(source.files, "file")), \(ByteCount(source.bytes))")
            lines.append("  last walk     \(source.lastReconcileAt ?? "never finished")")
            if let coverage = source.coverage { lines.append(contentsOf: coverage.lines) }
            if let drift = source.drift, drift.count > 0 {
                lines.append(
                    "  drift         \(counted(drift.count, "change")) that no event had told of, found \(drift.foundAt) and saved "
                        + "then; please report it")
            }
            if source.isDesynced { lines.append("  desynced      a walk is due or running") }
            if let paused = source.pausedAt { lines.append(Self.pausedLine(paused)) }
            if let held = source.held { lines.append(contentsOf: held.lines) }
            if let emptied = source.emptied {
                lines.append("  EMPTIED       \(emptied.message)")
                lines.append("                (since \(emptied.since))")
            }
            for (reason, count) in source.notSaved.sorted(by: { $0.key < $1.key }) {
                lines.append("  not saved     \(count) × \(reason)")
            }
            if let excluded = source.excluded, excluded > 0 {
                lines.append(
                    "  excluded      \(counted(excluded, "entry", "entries")) by rule (a directory counts as one)")
            }
        }
        for destination in destinations {
            lines.append("")
            lines.append("Destination \(destination.location)" + (destination.isActive ? "" : " (inactive)"))
            if let paused = destination.pausedAt { lines.append(Self.pausedLine(paused)) }
            if let held = destination.held { lines.append(contentsOf: held.lines) }
            if let full = destination.full {
                lines.append("  FULL          \(full.text)")
            }
            if let room = destination.room { lines += room.lines }
            let waiting = destination.pending + destination.leased
            if waiting == 0 {
                lines.append("  queue         empty")
            } else {
                lines.append(
                    "  queue         \(grouped(waiting)) waiting, "
                        + ReportText.size(destination.pendingBytes, unknown: destination.pendingUnknownSize)
                        + (destination.oldestPendingAt.map { ", oldest since \($0)" } ?? ""))
            }
            if destination.stuck > 0 {
                lines.append("  stuck         \(destination.stuck) ('safebackup retry' tries again)")
            }
            if destination.fuzzy > 0 { lines.append("  fuzzy         \(destination.fuzzy)") }
            lines.append(
                "  catalogue     \(destination.catalogueExportedAt.map { "copied \($0)" } ?? "not copied yet")")
            lines += Verified.lines(destination.verified, never: destination.neverVerified)
        }
        if problems.contains(where: { $0.code != SafeBackupError.Code.destinationFull.rawValue }) {
            lines.append("")
            lines.append("Not saved, or not wholly:")
            // What waits for room is told above, in one line.
            for problem in problems where problem.code != SafeBackupError.Code.destinationFull.rawValue {
                lines.append("  \(problem.state)  \(problem.path)  \(problem.message ?? problem.code)")
            }
            lines.append("  ('safebackup why PATH' tells everything that is known of one)")
        }
        if !events.isEmpty {
            lines.append("")
            lines.append("Lately:")
            for event in events.prefix(5) { lines.append("  \(event.at)  \(event.event)  \(event.message)") }
        }
        return lines.joined(separator: "\n")
    }
}

extension StatusReport.Coverage {
    init(_ coverage: SourceCoverage) {
        self.init(
            extent: coverage.extent.rawValue, directories: coverage.directories, watched: coverage.watched,
            message: coverage.message)
    }

    fileprivate var lines: [String] {
        let all = directories == 1 ? "its directory is" : "all \(grouped(directories)) directories are"
        return ["  coverage      \(message ?? "\(all) watched")"]
    }
}

extension EmptiedSource {
    /// What happened, what it means, and what to do.
    func advice(_ path: [UInt8]) -> String {
        "\(message); 'safebackup restore \(printable(path)) --deleted --to DIR' gets all of it"
    }
}

extension StateStatus.Destination {
    /// `nil`: of nothing that waits the size is known.
    var pendingBytes: Int64? { counts.pendingBytes == 0 && unknownSizes > 0 ? nil : counts.pendingBytes }
}

extension StatusReport.Held {
    init(_ hold: Hold) {
        self.init(
            reason: hold.reason.rawValue, message: hold.message, since: hold.at.iso8601,
            isAcceptable: [.rootReplaced, .rootEmptied, .sentinelMissing].contains(hold.reason))
    }

    fileprivate var lines: [String] {
        ["  HELD          \(message)", "                (\(reason), since \(since))"]
    }
}
