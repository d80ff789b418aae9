package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
package import SafeBackupSystem
import SafeBackupWatch

/// What `safebackup why` tells: everything that is known of one path, the answer first.
package struct WhyReport: Sendable, Encodable {
    package struct Verdict: Sendable, Encodable {
        /// See `PathVerdict.Code`.
        package var code: String
        package var text: String
    }

    /// What is at the source now.
    package struct Now: Sendable, Encodable {
        /// `present`, `absent` or `unclear`.
        package var state: String
        package var message: String?
        package var kind: String?
        package var size: Int64?
        package var modifiedAt: String?
        package var mode: String?
    }

    package struct Rule: Sendable, Encodable {
        package var source: String
        package var line: Int
        package var pattern: String
        package var isExcluded: Bool

        private enum CodingKeys: String, CodingKey {
            case source, line, pattern
            case isExcluded = "excluded"
        }
    }

    package struct NotSaved: Sendable, Encodable {
        /// The path itself, or a directory of it.
        package var path: String
        package var reason: String
        package var seenAt: String
    }

    package struct Job: Sendable, Encodable {
        package var state: String
        /// `saving`, `settling`, `queued`, `failing`, `stuck`, `held`, `paused` or `fuzzy`.
        package var phase: String
        package var action: String
        package var generation: Int64
        package var since: String
        package var notBefore: String
        package var leasedAt: String?
        package var attempts: Int
        package var errorCode: String?
        package var error: String?
    }

    package struct Event: Sendable, Encodable {
        package var at: String
        package var level: String
        package var event: String
        package var message: String
    }

    package struct Result: Sendable, Encodable {
        package var sourcePath: String
        package var destination: String
        package var path: String
        package var pathHex: String?
        package var verdict: Verdict
        package var now: Now
        package var rule: Rule?
        package var notSaved: NotSaved?
        package var job: Job?
        /// Newest first; the current state, if there is one, is the first.
        package var versions: [VersionsReport.Version]
        package var below: VersionsReport.Below?
        /// Newest first.
        package var events: [Event]
        fileprivate var exitCode: Int32

        private enum CodingKeys: String, CodingKey {
            case sourcePath, destination, path, pathHex, verdict, now, rule, notSaved, job, versions, below, events
        }
    }

    package var agent: StatusReport.Agent
    package var results: [Result] = []

    private enum CodingKeys: String, CodingKey { case agent, results }

    private static let versionLimit = 50
    private static let eventLimit = 20

    /// Reads the state beside a running agent, or without one, and looks at the source; nothing is changed.
    package init(_ argument: [UInt8], _ directory: StateDirectory, clock: WallClock = .system) throws(SafeBackupError) {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        agent = StatusReport.Agent(directory)
        let places = try OwnPlaces(directory, reader)
        let destinations = try reader.destinations()
        let pairs = try reader.pairs()
        for target in try SourcePath.targets(argument, in: try reader.sources()) {
            let rules = try ExcludeRules(try reader.excludeRules(target.source.id))
            let look = SourceLook(target.source, rules: rules, own: places.all)
            var own = pairs.filter { $0.source == target.source.id }
            if own.contains(where: \.isActive) { own.removeAll { !$0.isActive } }
            for pair in own {
                guard let destination = destinations.first(where: { $0.id == pair.destination }) else { continue }
                // The state first: what the source shows then is no older.
                let now = clock.now
                let found = try reader.job(target.source.id, pair.destination, target.path, now: now)
                var facts = PathFacts(
                    source: target.source, destination: destination, path: target.path, now: now,
                    isAgentRunning: agent.running, finding: .absent,
                    notSaved: try reader.notSaved(target.source.id, target.path), job: found?.job, phase: found?.phase,
                    versions: try reader.versions(target, pair, limit: Self.versionLimit),
                    below: try reader.summary(target.source.id, pair.destination, below: target.path))
                if facts.live == nil, facts.versions.first?.name != nil {
                    // Below the source's own copies, or its versions.
                    facts.cleaned = try reader.lastCleaned(
                        pair.destination, target.path,
                        below: pair.prefix.isRoot ? [.root] : [pair.prefix, Layout.versions.appending(pair.prefix)])
                }
                facts.finding = look.find(target.path)
                facts.link = look.link(above: target.path)
                facts.obstacle = look.obstacle(target.path, isDirectory: facts.isDirectory)
                results.append(
                    Result(
                        facts, rules,
                        try reader.journal(target.source.id, target.path, limit: Self.eventLimit)))
            }
        }
        // A relative path is asked of each source; those that never heard of it say nothing useful.
        let known = results.filter { $0.verdict.code != PathVerdict.Code.unknown.rawValue }
        if !known.isEmpty { results = known }
        if results.isEmpty {
            throw SafeBackupError(
                .stateFailed, "This state knows no destination of that source yet; run the agent first",
                disposition: .permanent)
        }
    }

    /// The worst of the results: 4 held, 3 not saved, else 0.
    package var exitCode: Int32 { results.map(\.exitCode).max() ?? 3 }

    package var text: String {
        var lines: [String] = []
        for result in results {
            if !lines.isEmpty { lines.append("") }
            lines.append("\(result.path) of \(result.sourcePath), at \(result.destination)")
            lines.append(result.verdict.text)
            lines += result.details
        }
        return lines.joined(separator: "\n")
    }
}

extension PathFacts {
    /// What the source says, else what was saved.
    fileprivate var isDirectory: Bool {
        if case .present(let status) = finding { return status.kind == .directory }
        return live?.name?.kind == .directory
    }
}

extension WhyReport.Result {
    fileprivate init(_ facts: PathFacts, _ rules: ExcludeRules, _ events: [JournalEntry]) {
        let verdict = PathVerdict(facts)
        let finding = rules.finding(for: facts.path, isDirectory: facts.isDirectory)
        self.init(
            sourcePath: printable(facts.source.path), destination: printable(facts.destination.location),
            path: facts.path.description, pathHex: ReportText.hex(ifNeeded: facts.path),
            verdict: WhyReport.Verdict(code: verdict.code.rawValue, text: verdict.text),
            now: WhyReport.Now(facts.finding),
            rule: finding.map {
                WhyReport.Rule(
                    source: $0.pattern.source, line: $0.pattern.line, pattern: printable($0.pattern.bytes),
                    isExcluded: $0.isExcluded)
            },
            notSaved: facts.notSaved.map {
                WhyReport.NotSaved(path: $0.path.description, reason: $0.reason, seenAt: $0.seenAt.iso8601)
            },
            job: facts.job.map { WhyReport.Job($0, phase: facts.phase ?? $0.state.rawValue) },
            versions: facts.versions.map(VersionsReport.Version.init),
            below: facts.below.isEmpty ? nil : VersionsReport.Below(facts.below),
            events: events.map {
                WhyReport.Event(
                    at: $0.at.iso8601, level: $0.level.rawValue, event: $0.event, message: $0.message)
            }, exitCode: verdict.exitCode)
    }

    fileprivate var details: [String] {
        var lines = ["  now       \(now.text)"]
        if let rule {
            lines.append(
                "  rule      \(rule.source):\(rule.line):\(rule.pattern)"
                    + (rule.isExcluded ? "" : " includes it again"))
        }
        if let job {
            var text = "\(job.phase), \(job.action), generation \(job.generation), since \(job.since)"
            if job.attempts > 0 { text += ", \(ReportText.count(job.attempts, "failed try", "failed tries"))" }
            text += job.leasedAt.map { ", under way since \($0)" } ?? ", not before \(job.notBefore)"
            lines.append("  job       \(text)")
            if let error = job.error { lines.append("            \(error) (\(job.errorCode ?? "unknown"))") }
        }
        if !versions.isEmpty {
            lines.append("  versions")
            for version in versions { lines += version.lines }
        }
        lines += below?.lines ?? []
        if !events.isEmpty {
            lines.append("  events")
            for event in events { lines.append("    \(event.at) \(event.event): \(event.message)") }
        }
        return lines
    }
}

extension WhyReport.Now {
    fileprivate init(_ finding: SourceLook.Finding) {
        switch finding {
        case .present(let status):
            self.init(
                state: "present", kind: status.kind.rawValue, size: status.size,
                modifiedAt: Timestamp(microseconds: status.fingerprint.mtime.nanoseconds / 1_000).iso8601,
                mode: String(status.mode, radix: 8))
        case .absent: self.init(state: "absent")
        case .unclear(let message): self.init(state: "unclear", message: message)
        }
    }

    fileprivate var text: String {
        switch state {
        case "present":
            "\(kind ?? "entry")\(kind == "file" ? ", \(ByteCount(size ?? 0))" : ""), modified \(modifiedAt ?? "-"), mode "
                + (mode ?? "-")
        case "absent": "nothing is at this path of the source"
        default: message ?? "not known"
        }
    }
}

extension WhyReport.Job {
    fileprivate init(_ job: QueuedJob, phase: String) {
        self.init(
            state: job.state.rawValue, phase: phase, action: job.action.rawValue, generation: job.generation,
            since: job.firstSeenAt.iso8601, notBefore: job.notBefore.iso8601, leasedAt: job.leasedAt?.iso8601,
            attempts: job.attempts, errorCode: job.errorCode, error: job.error)
    }
}
