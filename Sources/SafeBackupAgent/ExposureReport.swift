import Glibc
package import SafeBackupCore
import SafeBackupState
package import SafeBackupSystem
import SystemPackage

/// What `safebackup exposure` tells: what would be lost if a source's disk died now, and what is not known about that.
package struct ExposureReport: Sendable, Encodable {
    package struct Part: Sendable, Encodable {
        /// `saving`, `settling`, `queued`, `failing`, `stuck`, `held`, `paused`, `fuzzy`, or why entries are not saved.
        package var reason: String
        package var files: Int
        package var directories: Int
        package var bytes: Int64
        package var filesOfUnknownSize: Int
        package var oldestAt: String
        /// Whether it is part of the sums: what holds no content, or lies on another disk, is not.
        package var isCounted: Bool
        fileprivate var oldest: Timestamp

        private enum CodingKeys: String, CodingKey {
            case reason, files, directories, bytes, filesOfUnknownSize, oldestAt
            case isCounted = "counted"
        }
    }

    /// Why the numbers may be too small.
    package struct Gap: Sendable, Encodable {
        /// `agentNotRunning`, `neverWalked`, `desynced`, `sourceHeld`, `notWatched`, `polled`, `unreadableDirectories` or
        /// `inactive`.
        package var code: String
        package var message: String
        package var since: String?
    }

    package struct Sums: Sendable, Encodable {
        package var files = 0
        package var directories = 0
        /// Of the files whose size is known.
        package var bytes: Int64 = 0
        package var filesOfUnknownSize = 0
        package var oldestAt: String?
        fileprivate var oldest: Timestamp?

        private enum CodingKeys: String, CodingKey { case files, directories, bytes, filesOfUnknownSize, oldestAt }

        fileprivate mutating func add(_ other: Sums) {
            files += other.files
            directories += other.directories
            bytes += other.bytes
            filesOfUnknownSize += other.filesOfUnknownSize
            see(other.oldest)
        }

        fileprivate mutating func add(_ part: Part) {
            files += part.files
            directories += part.directories
            bytes += part.bytes
            filesOfUnknownSize += part.filesOfUnknownSize
            see(part.oldest)
        }

        private mutating func see(_ time: Timestamp?) {
            guard let time else { return }
            oldest = oldest.map { min($0, time) } ?? time
            oldestAt = oldest?.iso8601
        }
    }

    package struct Destination: Sendable, Encodable {
        package var location: String
        package var sums: Sums
        package var parts: [Part]
        package var held: StatusReport.Held?
        /// It lies on the source's own file system: a failing disk takes both.
        package var isOnSourceDisk: Bool

        private enum CodingKeys: String, CodingKey {
            case location, sums, parts, held
            case isOnSourceDisk = "onSourceFileSystem"
        }
    }

    package struct Source: Sendable, Encodable {
        package var path: String
        package var isActive: Bool
        /// Nothing stands in `gaps`.
        package var isKnown: Bool
        package var gaps: [Gap]
        /// Entries that the rules leave out, as the last whole walk counted them.
        package var excluded: Int?
        package var held: StatusReport.Held?
        package var destinations: [Destination]

        private enum CodingKeys: String, CodingKey {
            case path, gaps, excluded, held, destinations
            case isActive = "active"
            case isKnown = "known"
        }
    }

    package var agent: StatusReport.Agent
    package var isKnown: Bool
    /// Of each active source at the destination that lacks least of it: what is at one of them is not lost.
    package var total: Sums
    package var sources: [Source]
    private let now: Timestamp

    private enum CodingKeys: String, CodingKey {
        case agent, total, sources
        case isKnown = "known"
    }

    /// A look at so many files whose size no change told.
    private static let lookLimit = 20_000

    /// Reads the state beside a running agent, or without one, and looks at waiting files whose size it does not know.
    package init(_ directory: StateDirectory, clock: WallClock = .system) throws(SafeBackupError) {
        try directory.requireState()
        let reader = try StateReader(in: directory.path)
        let now = clock.now
        self.now = now
        agent = StatusReport.Agent(directory)
        var lastSign: Timestamp?
        if !agent.running { lastSign = try reader.lastSignOfLife() }
        let parts = try reader.exposure(now: now)
        let status = try reader.status()
        sources = []
        for known in status.sources {
            let record = known.record
            let own = parts.filter { $0.source == record.id }
            let gaps = Self.gaps(
                known, own, isRunning: agent.running, lastSign: lastSign, now: now)
            var source = Source(
                path: printable(record.path), isActive: record.isActive, isKnown: gaps.isEmpty, gaps: gaps,
                excluded: known.excluded, held: record.hold.map(StatusReport.Held.init), destinations: []
            )
            for pair in status.pairs.map(\.record) where pair.isActive && pair.source == record.id {
                guard let destination = status.destinations.first(where: { $0.record.id == pair.destination })?.record
                else { continue }
                var rows = own.filter { $0.destination == pair.destination }
                try Self.findSizes(of: &rows, in: record, pair.destination, reader, now: now)
                let parts = rows.map(Part.init).sorted { $0.order < $1.order }
                var sums = Sums()
                for part in parts where part.isCounted { sums.add(part) }
                source.destinations.append(
                    Destination(
                        location: printable(destination.location), sums: sums, parts: parts,
                        held: destination.hold.map(StatusReport.Held.init),
                        isOnSourceDisk: Self.isSameDisk(record.path, destination)))
            }
            sources.append(source)
        }
        total = Sums()
        for source in sources where source.isActive {
            if let least = source.destinations.map(\.sums).min(by: { ($0.files, $0.bytes) < ($1.files, $1.bytes) }) {
                total.add(least)
            }
        }
        isKnown = sources.contains(where: \.isActive) && sources.allSatisfy { !$0.isActive || $0.isKnown }
    }

    private static func isSameDisk(_ source: [UInt8], _ destination: DestinationRecord) -> Bool {
        if destination.kind != "local" { return false }
        do throws(Errno) {
            let devices = try [source, destination.location].map { (path) throws(Errno) in
                try Descriptor.open(FilePath(bytes: path), O_RDONLY | O_DIRECTORY).status().device
            }
            return devices[0] == devices[1]
        } catch {
            return false  // ignored because what is not there is on no disk
        }
    }

    private static func gaps(
        _ known: StateStatus.Source, _ parts: [ExposurePart], isRunning: Bool, lastSign: Timestamp?, now: Timestamp
    ) -> [Gap] {
        let source = known.record
        var gaps: [Gap] = []
        func add(_ code: String, _ message: String, since: Timestamp? = nil) {
            gaps.append(Gap(code: code, message: message, since: since?.iso8601))
        }
        guard source.isActive else {
            add(
                "inactive",
                "The agent was last started without this source; nothing is known of it since its last walk",
                since: source.lastReconcileAt)
            return gaps
        }
        if !isRunning {
            add(
                "agentNotRunning",
                "No agent runs: what changed \(lastSign.map { "since \(ReportText.ago($0, now))" } ?? "at all") is not known; "
                    + "start it", since: lastSign)
        }
        if let hold = source.hold {
            add(
                "sourceHeld",
                "The source is held since \(ReportText.ago(hold.at, now)), and not looked at: \(hold.message)",
                since: hold.at)
        }
        if source.lastReconcileAt == nil {
            add("neverWalked", "The first walk has not ended: files that it has not seen yet are not counted")
        } else if source.isDesynced {
            add(
                "desynced",
                "Changes may have been missed since the walk \(source.lastReconcileAt.map { ReportText.ago($0, now) } ?? ""); "
                    + "the next one \(isRunning ? "is due or running" : "comes with the agent")",
                since: source.lastReconcileAt)
        }
        if isRunning {
            if let coverage = known.coverage {
                if coverage.extent != .events {
                    let all = counted(coverage.directories, "directory", "directories")
                    add(
                        "polled",
                        coverage.message ?? "\(grouped(coverage.watched)) of \(all) are watched; the others are polled")
                }
            } else if source.hold == nil {
                add("notWatched", "The agent does not watch the source now: what changes is found by its next walk")
            }
        }
        let unreadable = parts.filter { $0.reason == SkipReason.unreadable.rawValue }.map(\.directories).max() ?? 0
        if unreadable > 0 {
            add(
                "unreadableDirectories",
                "\(ReportText.count(unreadable, "directory", "directories")) cannot be read; nobody knows what is below"
            )
        }
        return gaps
    }

    /// Adds the sizes that no change told, of as many files as can be looked at in a moment.
    private static func findSizes(
        of parts: inout [ExposurePart], in source: SourceRecord, _ destination: DestinationID, _ reader: StateReader,
        now: Timestamp
    ) throws(SafeBackupError) {
        guard parts.contains(where: { $0.filesOfUnknownSize > 0 }) else { return }
        let tree: ConfinedDirectory
        do throws(SafeBackupError) {
            tree = try SourceRoot(path: FilePath(bytes: source.path), known: source.identity).opened()
        } catch {
            return  // ignored because the sizes stay unknown, and are counted as such
        }
        var directories = DirectoryCache(tree)
        var last: Int64 = 0
        var looks = 0
        while looks < lookLimit {
            let jobs = try reader.jobsOfUnknownSize(
                source.id, destination, after: last, limit: min(1_000, lookLimit - looks), now: now)
            guard let end = jobs.last else { return }
            last = end.sequence
            looks += jobs.count
            for job in jobs {
                guard let index = parts.firstIndex(where: { $0.reason == job.reason && $0.filesOfUnknownSize > 0 })
                else { continue }
                do throws(Errno) {
                    let status = try directories.directory(job.path.parent).status(of: job.path.leaf)
                    if status.kind != .directory { parts[index].bytes += status.size.countedSize }
                    parts[index].filesOfUnknownSize -= 1
                } catch {
                    continue  // ignored because its size stays unknown: it went, or may not be looked at
                }
            }
        }
    }

    /// 4: a source or destination is held; 3: something cannot be saved or is fuzzy, or not everything is known.
    package var exitCode: Int32 {
        let active = sources.filter(\.isActive)
        if active.contains(where: { $0.held != nil || $0.destinations.contains { $0.held != nil } }) { return 4 }
        let isBad = active.contains { source in
            source.destinations.contains { $0.parts.contains { $0.isCounted && !$0.goesBy } }
        }
        return isBad || !isKnown ? 3 : 0
    }

    // MARK: - Text

    package var text: String {
        var lines = [verdict]
        for source in sources {
            lines.append("")
            lines.append("Source \(source.path)" + (source.isActive ? "" : " (inactive)"))
            for gap in source.gaps { lines.append("  not known     \(gap.message)") }
            if let excluded = source.excluded, excluded > 0 {
                lines.append(
                    "  left out      \(ReportText.count(excluded, "entry", "entries")) by exclude rules, on purpose")
            }
            for destination in source.destinations {
                lines.append(
                    "  at \(destination.location)"
                        + (destination.isOnSourceDisk ? " (the source's own file system)" : ""))
                if destination.parts.isEmpty { lines.append("    nothing is missing that is known of") }
                for part in destination.parts { lines.append("    \(line(part))") }
            }
        }
        return lines.joined(separator: "\n")
    }

    private func line(_ part: Part) -> String {
        var what: [String] = []
        if part.files > 0 || part.directories == 0 { what.append(ReportText.count(part.files, "file")) }
        if part.directories > 0 { what.append(ReportText.count(part.directories, "directory", "directories")) }
        if part.files > part.filesOfUnknownSize { what.append(ByteCount(part.bytes).description) }
        if part.filesOfUnknownSize > 0 { what.append("\(grouped(part.filesOfUnknownSize)) of unknown size") }
        what.append("oldest \(ReportText.ago(part.oldest, now))")
        if !part.isCounted { what.append("not part of the sum") }
        return ReportText.padded(part.reason + " ", 14) + what.joined(separator: ", ")
    }

    private var verdict: String {
        var what = "\(ReportText.count(total.files, "file")) (\(ByteCount(total.bytes))"
        if total.filesOfUnknownSize > 0 {
            what += " and \(grouped(total.filesOfUnknownSize)) of unknown size"
        }
        what += ")"
        if total.files == 0 && total.directories > 0 {
            what = ReportText.count(total.directories, "directory", "directories")
        }
        let isNothing = total.files == 0 && total.directories == 0
        let oldest = total.oldest.map { "; the oldest change was seen \(ReportText.ago($0, now))" } ?? ""
        // What is gone with the source's own disk is no backup of it.
        let isTaken = sources.contains { source in
            source.isActive && !source.destinations.isEmpty && source.destinations.allSatisfy(\.isOnSourceDisk)
        }
        let warning = isTaken ? " But the backup lies on the source's own file system: a failing disk takes both." : ""
        let isAway = sources.contains { source in
            source.isActive && !source.destinations.isEmpty && source.destinations.allSatisfy { $0.held != nil }
        }
        let doubt = isAway ? " But the destination is held: whether the copies there still exist is not known now." : ""
        return known(what, isNothing, oldest) + doubt + warning
    }

    private func known(_ what: String, _ isNothing: Bool, _ oldest: String) -> String {
        switch (isNothing, isKnown) {
        case (true, true): return "Nothing would be lost if the source's disk died now."
        case (true, false): return "What would be lost if the source's disk died now is not known."
        case (false, true): return "If the source's disk died now, \(what) would be lost\(oldest)."
        case (false, false):
            return "If the source's disk died now, at least \(what) would be lost\(oldest). More is not known."
        }
    }
}

extension ExposureReport.Part {
    fileprivate init(_ part: ExposurePart) {
        let holdsNothing = [SkipReason.special, .otherFileSystem].map(\.rawValue)
        self.init(
            reason: part.reason, files: part.files, directories: part.directories, bytes: part.bytes,
            filesOfUnknownSize: part.filesOfUnknownSize, oldestAt: part.oldestAt.iso8601,
            isCounted: !holdsNothing.contains(part.reason), oldest: part.oldestAt)
    }

    private static let words = ["saving", "queued", "settling", "failing", "paused", "held", "fuzzy", "stuck"]

    /// What goes by soonest first, then the rest by name.
    fileprivate var order: String {
        let place = Self.words.firstIndex(of: reason) ?? Self.words.count
        return "\(isCounted ? 0 : 1)\(place)\(reason)"
    }

    /// In the course of things, without anybody's help.
    fileprivate var goesBy: Bool { ["saving", "queued", "settling"].contains(reason) }
}
