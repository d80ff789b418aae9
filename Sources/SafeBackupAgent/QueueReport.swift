package import SafeBackupCore
import SafeBackupState
package import SafeBackupSystem

/// What `safebackup queue` tells: the jobs of each destination in the order they will be done.
package struct QueueReport: Sendable, Encodable {
    package struct Destination: Sendable, Encodable {
        package var location: String
        package var held: StatusReport.Held?
        /// Since when a person stopped it, or a source of it.
        package var pausedAt: String?
        /// Jobs that wait because the destination is full.
        package var full: StatusReport.Full?
        package var pending: Int
        package var leased: Int
        package var stuck: Int
        /// Of pending and leased jobs whose size is known; `nil` if none is.
        package var pendingBytes: Int64?
        /// How many of the first thousands that wait have a size that is not known.
        package var pendingUnknownSize: Int
        /// The first ones; `more` are not shown.
        package var jobs: [Job]
        package var more: Int
    }

    package struct Job: Sendable, Encodable {
        package var path: String
        package var pathHex: String?
        package var sourcePath: String
        /// `pending`, `leased` or `stuck`.
        package var state: String
        package var action: String
        package var size: Int64?
        package var since: String
        package var notBefore: String
        package var attempts: Int
        package var errorCode: String?
        package var error: String?

        /// For the text alone.
        fileprivate var job: QueuedJob

        private enum CodingKeys: String, CodingKey {
            case path, pathHex, sourcePath, state, action, size, since, notBefore, attempts, errorCode, error
        }
    }

    /// No more jobs of one destination are shown: they are held in memory.
    package static let largestLimit = 10_000

    package var agent: StatusReport.Agent
    package var destinations: [Destination]
    private let now: Timestamp
    private let onlyStuck: Bool

    private enum CodingKeys: String, CodingKey { case agent, destinations }

    /// Reads the state beside a running agent, or without one. Up to `limit` jobs of each destination.
    package init(
        _ directory: StateDirectory, onlyStuck: Bool, limit: Int, clock: WallClock = .system
    ) throws(SafeBackupError) {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let status = try reader.status()
        self.onlyStuck = onlyStuck
        now = clock.now
        agent = StatusReport.Agent(directory)
        destinations = []
        for destination in status.destinations {
            // One that no source goes to any more is no part of the queue.
            let id = destination.record.id
            guard status.pairs.contains(where: { $0.record.isActive && $0.record.destination == id }) else { continue }
            let jobs = try reader.jobs(id, onlyStuck: onlyStuck, limit: min(max(limit, 0), Self.largestLimit))
            let counts = destination.counts
            let all = (onlyStuck ? 0 : counts.pending + counts.leased) + counts.stuck
            destinations.append(
                Destination(
                    location: printable(destination.record.location),
                    held: destination.record.hold.map(StatusReport.Held.init),
                    pausedAt: Self.pausedAt(destination.record, status)?.iso8601,
                    full: destination.waitingForRoom.map { StatusReport.Full(jobs: $0.jobs, bytes: $0.bytes) },
                    pending: counts.pending, leased: counts.leased, stuck: counts.stuck,
                    pendingBytes: destination.pendingBytes,
                    pendingUnknownSize: destination.unknownSizes,
                    jobs: jobs.map { job in
                        Job(
                            job,
                            source: status.sources.first { $0.record.id == job.source }?.record.path ?? [])
                    }, more: max(0, all - jobs.count)))
        }
    }

    private static func pausedAt(_ destination: DestinationRecord, _ status: StateStatus) -> Timestamp? {
        let sources = status.pairs.filter { $0.record.isActive && $0.record.destination == destination.id }
            .compactMap { pair in status.sources.first { $0.record.id == pair.record.source }?.record.pausedAt }
        return ([destination.pausedAt].compactMap { $0 } + sources).min()
    }

    /// 4: a destination is held, 3: something is stuck, or waits because it is paused or there is no room, else 0.
    package var exitCode: Int32 {
        if destinations.contains(where: { $0.held != nil }) { return 4 }
        let isBad = destinations.contains {
            $0.stuck > 0 || $0.full != nil || $0.pausedAt != nil && $0.pending + $0.leased > 0
        }
        return isBad ? 3 : 0
    }

    package var text: String {
        var lines: [String] = []
        for destination in destinations {
            if !lines.isEmpty { lines.append("") }
            lines.append("Destination \(destination.location)")
            if let held = destination.held {
                lines.append("  HELD: \(held.message) (\(held.reason), since \(held.since))")
            }
            if let paused = destination.pausedAt {
                lines.append("  PAUSED since \(paused); 'safebackup resume' goes on")
            }
            if let full = destination.full { lines.append("  FULL: \(full.text)") }
            if !agent.running && destination.pending + destination.leased > 0 {
                lines.append("  No agent runs: nothing of this is done until one is started")
            }
            lines.append("  \(summary(destination))")
            for job in destination.jobs { lines += job.lines(now) }
            if destination.more > 0 {
                lines.append("  … and \(ReportText.count(destination.more, "more job")) (--limit shows more)")
            }
        }
        return lines.isEmpty ? "No destination is in use" : lines.joined(separator: "\n")
    }

    private func summary(_ destination: Destination) -> String {
        let waiting = destination.pending + destination.leased
        var parts: [String] = []
        if !onlyStuck {
            parts.append(
                waiting == 0
                    ? "nothing waits"
                    : "\(ReportText.count(waiting, "job")) to do, "
                        + ReportText.size(destination.pendingBytes, unknown: destination.pendingUnknownSize))
        }
        if destination.stuck > 0 {
            parts.append("\(grouped(destination.stuck)) stuck ('safebackup retry' tries again)")
        } else if onlyStuck {
            parts.append("nothing is stuck")
        }
        return parts.joined(separator: ", ")
    }
}

extension QueueReport.Job {
    fileprivate init(_ job: QueuedJob, source: [UInt8]) {
        self.init(
            path: job.path.description, pathHex: ReportText.hex(ifNeeded: job.path), sourcePath: printable(source),
            state: job.state.rawValue, action: job.action.rawValue, size: job.size, since: job.firstSeenAt.iso8601,
            notBefore: job.notBefore.iso8601, attempts: job.attempts, errorCode: job.errorCode, error: job.error,
            job: job)
    }

    fileprivate func lines(_ now: Timestamp) -> [String] {
        let unsized = job.action == .delete ? "-" : "unknown"
        let size = job.isDirectory ? "directory" : job.size.map { ByteCount($0).description } ?? unsized
        var when = "since \(ReportText.span(now - job.firstSeenAt))"
        switch job.state {
        case .pending where job.notBefore > now: when += ", in \(ReportText.span(job.notBefore - now))"
        case .stuck: when += ", next try \(ReportText.ahead(job.notBefore, now))"
        case .pending, .leased: break
        }
        if job.attempts > 0 { when += ", \(ReportText.count(job.attempts, "failed try", "failed tries"))" }
        var lines = [
            "  \(ReportText.padded(job.word(now), 9)) \(ReportText.padded(action, 6)) \(ReportText.padded(size, 10)) "
                + "\(path)  (\(when))"
        ]
        if let error { lines.append("      \(error) (\(errorCode ?? "unknown"))") }
        return lines
    }
}

extension QueuedJob {
    /// What keeps the job waiting, by itself; `held` and `paused` are its destination's or source's.
    func word(_ now: Timestamp) -> String {
        switch state {
        case .leased: "saving"
        case .stuck: "stuck"
        case .pending: errorCode != nil ? "failing" : notBefore > now ? "settling" : "queued"
        }
    }
}

extension StatusReport.Agent {
    init(_ directory: StateDirectory) {
        let holder = directory.holder()
        self.init(running: holder.isHeld, pid: holder.process)
    }
}
