package import SafeBackupCapacity
package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// `safebackup clean` for the agent's destinations: a plan is made by the verb's own process, which only looks; a running
/// agent, or the verb under its lock, removes.
package struct DestinationCleaning: Sendable {
    private let directory: StateDirectory
    private let names: [[UInt8]]
    private let limits: CleaningLimits?

    /// - Parameters:
    ///   - names: the destinations' paths; none means all that the agent saves to.
    ///   - limits: instead of those that the agent keeps to: its target, and what the backup may hold and use.
    package init(_ directory: StateDirectory, names: [[UInt8]], limits: CleaningLimits?) {
        self.directory = directory
        self.names = names
        self.limits = limits
    }

    /// What would go now. Writes nothing.
    /// - Throws: what is wrong with the limits or the names, or with the state; each destination tells of itself.
    package func plan() throws(SafeBackupError) -> [RoomCleanReport] {
        let reader = try reader()
        var reports: [RoomCleanReport] = []
        for record in try records(reader) {
            var report = RoomCleanReport(record.location, isPlan: true)
            do throws(SafeBackupError) {
                try foresee(record, reader, &report)
            } catch {
                if error.isOfState { throw error }
                report.fail(error)
            }
            reports.append(report)
        }
        return reports
    }

    private func foresee(
        _ record: DestinationRecord, _ reader: StateReader, _ report: inout RoomCleanReport
    ) throws(SafeBackupError) {
        let place = try look(at: record, reader)
        if begin(&report, place) == nil { return }
        var forecast = RoomForecast(directory, reader, place)
        try forecast.make(&report)
    }

    /// Removes until the limits hold.
    /// - Throws: as `plan`.
    package func run() async throws(SafeBackupError) -> [RoomCleanReport] {
        let reader = try reader()
        var reports: [RoomCleanReport] = []
        for record in try records(reader) {
            var report = RoomCleanReport(record.location, isPlan: false)
            do throws(SafeBackupError) {
                try await clean(record, reader, &report)
            } catch {
                if error.isOfState { throw error }
                report.fail(error)
            }
            reports.append(report)
        }
        return reports
    }

    /// A destination that is there, and what is to hold in it.
    struct Place {
        var record: DestinationRecord
        var root: ConfinedDirectory
        var capabilities: Capabilities
        var usage: DiskUsage
        /// Of all copies, where that is a limit.
        var size: Int64?
        var limits: CleaningLimits
        /// What the agent knew at its last look.
        var capacity: CapacityRecord?
    }

    private func reader() throws(SafeBackupError) -> StateReader {
        try limits?.validate()
        try directory.requireState()
        return try StateReader(in: directory.path)
    }

    private func records(_ reader: StateReader) throws(SafeBackupError) -> [DestinationRecord] {
        let all = try reader.destinations()
        if names.isEmpty {
            let used = Set(try reader.pairs().filter(\.isActive).map(\.destination))
            let found = all.filter { used.contains($0.id) }
            if !found.isEmpty { return found }
            throw SafeBackupError(
                .invalidConfiguration,
                "The agent saves to no destination; name one that it saved to with --destination, or a directory of other "
                    + "backups as DIR", disposition: .permanent)
        }
        // A path may be one pair's source too.
        var status = try reader.status()
        status.sources = []
        var found: [DestinationRecord] = []
        for name in names {
            let path = try NamedSide.path(name, in: status)
            for record in all where record.location == path && !found.contains(where: { $0.id == record.id }) {
                found.append(record)
            }
        }
        return found
    }

    private func look(at record: DestinationRecord, _ reader: StateReader) throws(SafeBackupError) -> Place {
        let root = try VerifiedDestination.open(record, for: "clean")
        let found = try LocalDestination.inspect(FilePath(bytes: record.location))
        guard let sentinel = found.sentinel, sentinel.id == record.sentinel, let statistics = found.statistics else {
            throw SafeBackupError(
                .sentinelMissing,
                "\(printable(record.location)) does not hold the backup that this state knows; mount its disk",
                disposition: .destinationUnavailable)
        }
        let usage = DiskUsage(statistics)
        let capacity = try reader.capacity(record.id)
        var wanted = limits ?? CleaningLimits()
        if limits == nil {
            let standard = try CapacityLimits(disk: usage.total)
            wanted.minFree = capacity?.target ?? standard.target
            (wanted.maxUsagePercent, wanted.maxSize) = (capacity?.maxUsagePercent, capacity?.maxSize)
        }
        try wanted.check(against: usage)
        let size = try wanted.maxSize == nil ? nil : reader.storedBytes(record.id)
        return Place(
            record: record, root: root, capabilities: sentinel.capabilities, usage: usage, size: size, limits: wanted,
            capacity: capacity)
    }

    /// What must go; `nil`: nothing.
    private func begin(_ report: inout RoomCleanReport, _ place: Place) -> CleaningNeed? {
        let need = place.limits.need(usage: place.usage, size: place.size)
        report.limits = RoomCleanReport.Limits(place.limits)
        report.before = CleanReport.Usage(place.usage)
        (report.limit, report.need) = (need?.limit.rawValue, need?.bytes ?? 0)
        return need
    }

    private func clean(
        _ record: DestinationRecord, _ reader: StateReader, _ report: inout RoomCleanReport
    ) async throws(SafeBackupError) {
        let place = try look(at: record, reader)
        if begin(&report, place) == nil { return }
        let request = CleanRequest(destination: place.record.id, limits: place.limits)
        let outcome = try await RequestVerb.ask(
            "clean", request.arguments, in: directory, within: .seconds(120),
            progress: { () throws(SafeBackupError) in try reader.newestRemoval() })
        guard case .done(let text) = outcome, let answer = CleanAnswer(text) else {
            throw SafeBackupError(
                .stateFailed, "The agent's answer is not understood; is it another release?", disposition: .permanent)
        }
        report.note(answer.totals)
        if answer.outcome != .held { report.after = CleanReport.Usage(try look(at: record, reader).usage) }
        switch answer.outcome {
        case .reached: return
        case .short:
            let held = try heldSources(place.record.id, reader).map { printable($0) }.joined(separator: ", ")
            let also = held.isEmpty ? "" : "; of \(held), which is held, what deleted files had last stays too"
            throw SafeBackupError(
                .cannotFreeEnough, answer.message + also, disposition: .destinationFull)
        case .held:
            throw SafeBackupError(.destinationMissing, answer.message, disposition: .destinationUnavailable)
        case .failed: throw SafeBackupError(.destinationFailed, answer.message, disposition: .transient)
        }
    }

    private func heldSources(
        _ destination: DestinationID, _ reader: StateReader
    ) throws(SafeBackupError) -> [[UInt8]] {
        let pairs = Set(try reader.pairs().filter { $0.destination == destination }.map(\.source))
        return try reader.sources().filter { $0.hold != nil && pairs.contains($0.id) }.map(\.path)
    }
}

extension SafeBackupError {
    /// No destination can be asked about.
    fileprivate var isOfState: Bool {
        [.stateFailed, .stateDamaged, .stateLocked, .stateNewer].contains(code)
    }
}
