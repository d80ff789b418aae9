import Glibc
package import SafeBackupCapacity
package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
package import SystemPackage

/// What `safebackup clean DIR` tells: what would go, or what went, and what is left to do.
package struct CleanReport: Sendable, Encodable {
    package struct Usage: Sendable, Encodable {
        package var total: Int64
        package var used: Int64
        package var available: Int64

        init(_ usage: DiskUsage) {
            (total, used, available) = (usage.total.bytes, usage.used.bytes, usage.available.bytes)
        }
    }

    package struct Scan: Sendable, Encodable {
        package var files: Int
        package var directories: Int
        package var bytes: Int64
        package var linkedElsewhere: Int
        /// Too many inodes have several names: some of these were not counted, and stay.
        package var hasUncountedLinks: Bool
        package var protected: Int
        package var mounts: Int
        package var milliseconds: Int64
    }

    package struct Problem: Sendable, Encodable {
        package var path: String
        package var pathHex: String?
        package var reason: String
    }

    package struct Failure: Sendable, Encodable {
        package var code: String
        package var message: String
    }

    package var directory: String
    /// Nothing was removed, and this is what would be.
    package var isPlan: Bool
    /// A `CleaningLimit`; none if all are kept.
    package var limit: String?
    /// Bytes that must go, or had to.
    package var need: Int64 = 0
    /// Names; of a plan about so many.
    package var files = 0
    package var bytes: Int64 = 0
    package var blocks: Int64 = 0
    package var directories = 0
    package var newestAt: String?
    package var before: Usage?
    package var after: Usage?
    package var scan: Scan?
    package var rounds = 0
    package var deleteMilliseconds: Int64 = 0
    package var problems: [Problem] = []
    package var problemCount = 0
    package var failure: Failure?

    private enum CodingKeys: String, CodingKey {
        case directory, isPlan, limit, need, files, bytes, blocks, directories, newestAt, before, after, scan, rounds
        case deleteMilliseconds, problems, problemCount, failure
    }

    /// What would go.
    package init(plan: CleaningPlan, of directory: [UInt8], isBestEffort: Bool = false) {
        self.init(directory, plan.need, plan.scan, plan.problems, isPlan: true)
        (files, bytes, blocks) = (plan.files, plan.bytes, plan.bytes / 512)
        newestAt = plan.newest.map(Self.text)
        before = plan.usage.map(Usage.init)
        if plan.need != nil && !plan.isEnough {
            failure = Failure(
                code: SafeBackupError.Code.cannotFreeEnough.rawValue,
                message: "All that may be removed holds only \(ByteCount(bytes)); that is not enough"
                    + (isBestEffort ? "" : ", so nothing would be removed without --what-is-possible"))
        }
    }

    /// What went.
    package init(_ report: CleaningReport, of directory: [UInt8]) {
        self.init(directory, report.need, report.scan, report.problems, isPlan: false)
        (files, bytes, blocks, directories) = (report.files, report.freed, report.blocks, report.directories)
        if files > 0 { newestAt = report.newest.map(Self.text) }
        (before, after) = (report.before.map(Usage.init), report.after.map(Usage.init))
        (rounds, deleteMilliseconds) = (report.rounds, report.deleteDuration.milliseconds)
        failure = report.failure.map { Failure(code: $0.code.rawValue, message: $0.message) }
    }

    /// Cleans the directory, or only plans it. Blocks. Throws what `BackupCleaner` throws before anything was removed.
    /// - Parameter lists: the events of a plan name each file that would go.
    package static func make(
        _ directory: FilePath, _ configuration: CleaningConfiguration, isPlan: Bool, lists: Bool
    ) throws(SafeBackupError) -> CleanReport {
        let cleaner = try BackupCleaner(directory, configuration)
        guard isPlan else { return CleanReport(try cleaner.clean(), of: directory.bytes) }
        let plan = try cleaner.plan()
        if lists && (plan.isEnough || configuration.removesWhatItCan) { _ = cleaner.rehearse(plan) }
        return CleanReport(plan: plan, of: directory.bytes, isBestEffort: configuration.removesWhatItCan)
    }

    /// What holds no backups: the agent's sources and its state with all in them, and the home directory itself.
    /// - Parameters:
    ///   - directory: `nil`: there is no place where a state could be.
    ///   - coversSources: `false`: a directory in a source may be cleaned.
    package static func protected(
        by directory: StateDirectory?, home: UnsafePointer<CChar>?, coversSources: Bool
    ) throws(SafeBackupError) -> [ProtectedDirectory] {
        var all: [ProtectedDirectory] = []
        if let home { all.append(ProtectedDirectory(FilePath(platformString: home), "your home", coversInside: false)) }
        guard let directory, directory.hasState else { return all }
        all.append(ProtectedDirectory(directory.path, "the state of the agent"))
        let sources: [SourceRecord]
        let destinations: [DestinationRecord]
        do throws(SafeBackupError) {
            let reader = try StateReader(in: directory.path)
            (sources, destinations) = (try reader.sources(), try reader.destinations())
        } catch {
            // Another user's agent: what that one saves is not this user's to remove either.
            if error.systemError == EACCES { return all }
            throw error
        }
        for source in sources {
            all.append(
                ProtectedDirectory(
                    FilePath(bytes: source.path), "a source of the agent", coversInside: coversSources))
        }
        // Also where its sentinel is lost.
        for destination in destinations {
            all.append(ProtectedDirectory(FilePath(bytes: destination.location), "a destination of the agent"))
        }
        return all
    }

    private init(
        _ directory: [UInt8], _ need: CleaningNeed?, _ scan: CleaningScan, _ problems: CleaningProblems, isPlan: Bool
    ) {
        self.directory = printable(directory)
        self.isPlan = isPlan
        (limit, self.need) = (need?.limit.rawValue, need?.bytes ?? 0)
        // Without a walk there is nothing to tell.
        if scan.duration > .zero {
            self.scan = Scan(
                files: scan.files, directories: scan.directories, bytes: scan.bytes,
                linkedElsewhere: scan.linkedElsewhere, hasUncountedLinks: scan.hasUncountedLinks,
                protected: scan.protected, mounts: scan.mounts,
                milliseconds: scan.duration.milliseconds)
        }
        self.problems = problems.first.map {
            Problem(path: $0.path.description, pathHex: ReportText.hex(ifNeeded: $0.path), reason: $0.reason)
        }
        problemCount = problems.count
    }

    private static func text(_ time: FileTime) -> String { Timestamp(time).iso8601 }

    /// 0: the limits are kept, 1: they are not, 3: they are, but something could not be looked at or removed.
    package var exitCode: Int32 { failure != nil ? 1 : problemCount > 0 ? 3 : 0 }

    /// For people.
    package var lines: [String] {
        var lines: [String] = []
        if limit == nil {
            lines.append("Nothing is to be removed: \(directory) keeps to the limit (\(state))")
        } else {
            lines.append(
                "\(ByteCount(need)) \(isPlan ? "must" : "had to") go from \(directory) (\(Self.state(before, scan)))")
            var what = "\(ReportText.count(files, "file")), \(ByteCount(bytes))"
            if directories > 0 { what += ", and \(ReportText.count(directories, "directory", "directories"))" }
            if let scan { what += ", of \(ReportText.count(scan.files, "file")), \(ByteCount(scan.bytes))" }
            let nothing = !isPlan && files == 0 ? "Nothing was removed" : nil
            lines.append(nothing ?? (isPlan ? "Would remove about \(what)" : "Removed \(what)"))
            if let newestAt, failure == nil || !isPlan {
                lines.append("No file newer than \(newestAt) \(isPlan ? "would go" : "went")")
            }
            if !isPlan, let after { lines.append("Free now: \(ByteCount(after.available))") }
            if let scan, scan.linkedElsewhere > 0 {
                lines.append(
                    "\(ReportText.count(scan.linkedElsewhere, "file")) with another name elsewhere would free nothing: kept"
                )
            }
            if scan?.hasUncountedLinks == true {
                lines.append(
                    "More files have several names than are counted at once: of some it is not known whether all lie here; "
                        + "these are kept")
            }
        }
        return lines
    }

    /// What went wrong, for standard error.
    package var complaints: [String] {
        var lines = problems.map { "\($0.path): \($0.reason)" }
        if problemCount > problems.count { lines.append("and \(problemCount - problems.count) more") }
        if let failure { lines.append("safebackup: \(failure.message)") }
        return lines
    }

    private var state: String { Self.state(after ?? before, scan) }

    private static func state(_ usage: Usage?, _ scan: Scan?) -> String {
        if let usage { return "\(ByteCount(usage.available)) of \(ByteCount(usage.total)) are free" }
        return "it holds \(ByteCount(scan?.bytes ?? 0))"
    }
}

extension Duration {
    fileprivate var milliseconds: Int64 { components.seconds * 1_000 + components.attoseconds / 1_000_000_000_000_000 }
}

extension Timestamp {
    fileprivate init(_ time: FileTime) { self.init(microseconds: time.nanoseconds / 1_000) }
}

extension CleaningEvent {
    /// A line for each file and directory that goes; problems are told at the end.
    package var line: String? {
        switch self {
        case .deletedFile(let path, _): path.description
        case .deletedDirectory(let path): "\(path)/"
        default: nil
        }
    }
}
