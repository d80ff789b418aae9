import Glibc
import SafeBackupCapacity
import SafeBackupConfiguration
package import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// Finds out what a run with these settings would do, with the same walk, rules and comparison, and without writing
/// anything. Works beside a running agent. Blocks.
package struct DrainPlanner {
    private let settings: AgentSettings
    /// `nil`: no agent ever ran with this state.
    private let reader: StateReader?
    private let status: StateStatus?
    private let machine: String

    /// - Throws: `stateFailed` or `stateNewer` for a state that cannot be read.
    package init(_ settings: AgentSettings) throws(SafeBackupError) {
        self.settings = settings
        if settings.state.hasState {
            let reader = try StateReader(in: settings.state.path)
            (self.reader, status) = (reader, try reader.status())
        } else {
            (reader, status) = (nil, nil)
        }
        machine = try StateDirectory.machineIdentifier()
    }

    /// A destination of the settings, as it is found.
    private struct Place {
        let path: FilePath
        let room: Configuration.Room
        var shown: DrainPlan.Destination
        /// `nil`: it could not be looked at.
        var inspection: LocalDestination.Inspection?
        var record: DestinationRecord?
        /// The copy of the catalogue that would be read, because the state knows nothing of the destination.
        var copy: CatalogueFileReader?
        var sparseNeed: Int64 = 0

        mutating func add(
            _ comparison: PairComparison, of source: AgentSettings.Source, prefix: RelativePath?, stuck: Int
        ) {
            var pair = DrainPlan.Pair(
                source: printable(source.path.bytes), prefix: prefix.flatMap { $0.isRoot ? nil : $0.description },
                basis: !comparison.isCompared ? "nothing" : copy == nil ? "catalogue" : "catalogueCopy")
            (pair.new, pair.changed, pair.compared) = (comparison.new, comparison.changed, comparison.compared)
            (pair.moved, pair.deleted) = (comparison.moved, comparison.gone)
            pair.unchanged = comparison.unchanged
            pair.stuck = stuck
            shown.pairs.append(pair)
            shown.neededBytes += comparison.need
            sparseNeed += comparison.sparseNeed
        }
    }

    /// - Parameter tell: called now and then with the number of entries seen so far.
    /// - Throws: `invalidConfiguration` or `destinationTaken` when sources and destinations cannot go together.
    package func plan(tell: (Int) -> Void = { _ in }) throws(SafeBackupError) -> DrainPlan {
        try requireSources()
        var places: [Place] = []
        for destination in settings.destinations { places.append(try look(at: destination)) }
        var plan = DrainPlan(sources: [], destinations: [], notes: [])
        var seen = 0
        for index in settings.sources.indices {
            plan.sources.append(
                try walk(index, &places) { count in
                    seen += count
                    tell(seen)
                })
        }
        for index in places.indices { judgeRoom(&places[index]) }
        plan.destinations = places.map(\.shown)
        plan.estimate = DrainPlan.estimate(
            files: plan.pairs.reduce(0) { $0 + $1.new.files + $1.changed.files },
            bytes: plan.pairs.reduce(0) { $0 + $1.new.bytes + $1.changed.bytes })
        return plan
    }

    /// One that nothing is known of must be there, where somebody named it just now.
    private func requireSources() throws(SafeBackupError) {
        if settings.awaitsNewDestinations { return }
        for source in settings.sources {
            let path = source.path
            if status?.sources.contains(where: { $0.record.path == path.bytes }) == true { continue }
            do throws(SafeBackupError) {
                _ = try SourceRoot(path: path, known: nil)
            } catch {
                if error.code != .rootMissing { continue }
                throw SafeBackupError(
                    .invalidConfiguration, "The source \(printable(path.bytes)) is not there; check the path",
                    disposition: .permanent)
            }
        }
    }

    // MARK: Destinations

    private func look(at destination: AgentSettings.Destination) throws(SafeBackupError) -> Place {
        if destination.s3 != nil {
            throw SafeBackupError(
                .invalidConfiguration,
                "\(printable(destination.location)) is a bucket, of which 'plan' knows nothing yet; 'safebackup run' saves to it",
                disposition: .permanent)
        }
        let path = destination.path
        let record = status?.destinations.first { $0.record.location == path.bytes }?.record
        var place = Place(
            path: path, room: destination.room, shown: DrainPlan.Destination(path: printable(path.bytes)),
            record: record)
        do throws(SafeBackupError) {
            let inspection = try LocalDestination.inspect(path)
            place.inspection = inspection
            try check(destination, inspection, &place)
        } catch {
            if !error.holdsDestination { throw error }
            place.shown.held = error.message
        }
        place.shown.exists = place.inspection?.exists ?? false
        note(destination, &place)
        return place
    }

    /// That what is found there is what the agent would go on with.
    private func check(
        _ destination: AgentSettings.Destination, _ inspection: LocalDestination.Inspection, _ place: inout Place
    ) throws(SafeBackupError) {
        let path = destination.path
        let sentinel = inspection.sentinel
        if let known = place.record?.sentinel {
            guard inspection.exists else { throw Self.missing(path) }
            let isOurs = sentinel.map { $0.id == known || $0.id == place.record?.accepted } ?? false
            if !isOurs {
                throw SafeBackupError(
                    .sentinelMissing,
                    "\(printable(path.bytes)) is not the destination that is known: its disk is probably not mounted; "
                        + "mount it, or look at it with 'safebackup accept \(printable(path.bytes))'",
                    disposition: .destinationUnavailable)
            }
        }
        guard let sentinel else { return try checkPermission(path, exists: inspection.exists) }
        if inspection.statistics?.isReadOnly == true {
            throw SafeBackupError(
                .destinationReadOnly, "\(printable(path.bytes)) is mounted read-only; mount it for writing",
                disposition: .destinationUnavailable)
        }
        let entries = destination.members.map { member in
            SentinelSource(
                id: "", machine: machine, path: settings.sources[member.source].path.bytes, identity: nil,
                prefix: member.prefix)
        }
        let new = try PairSetup.unlisted(entries, in: sentinel.sources, at: path.bytes)
        if place.record?.sentinel != nil { return }
        guard new.count < entries.count else {
            if let other = sentinel.sources.first { throw PairSetup.taken(by: other, entries, at: path.bytes) }
            return
        }
        let catalogue = path.appending(".safebackup").appending("catalogue")
        place.copy =
            CatalogueFile.newestFinished(of: [catalogue.appending("a.db"), catalogue.appending("b.db")]).newest
    }

    private static func missing(_ path: FilePath) -> SafeBackupError {
        SafeBackupError(
            .destinationMissing, "The destination \(printable(path.bytes)) is not there; mount its disk",
            disposition: .destinationUnavailable)
    }

    /// Of a directory that is to become a destination, or of the one that it is to be made in.
    private func checkPermission(_ path: FilePath, exists: Bool) throws(SafeBackupError) {
        let directory = exists ? path : path.removingLastComponent()
        do throws(Errno) {
            try Descriptor.open(directory, O_RDONLY | O_DIRECTORY).checkWriting()
        } catch {
            if !exists && error == .noSuchFileOrDirectory { throw Self.missing(path) }
            let name = printable(directory.bytes)
            switch error {
            case .permissionDenied, .notPermitted:
                throw SafeBackupError(
                    .destinationForbidden,
                    "This user may not write to \(name); let it write there, as with 'sudo install -d -o \"$USER\" "
                        + "\(printable(path.bytes))', or run it as one who may",
                    disposition: .destinationUnavailable, systemError: error.rawValue)
            case .readOnlyFileSystem:
                throw SafeBackupError(
                    .destinationReadOnly, "The file system of \(name) is mounted read-only; mount it for writing",
                    disposition: .destinationUnavailable, systemError: error.rawValue)
            default:
                throw SafeBackupError(
                    .destinationFailed, "\(name) cannot be used: \(error.explanation)",
                    disposition: .destinationUnavailable, systemError: error.rawValue)
            }
        }
    }

    private func note(_ destination: AgentSettings.Destination, _ place: inout Place) {
        for member in destination.members where member.isSameDevice {
            place.shown.notes.append(
                "It lies on the same file system as \(printable(settings.sources[member.source].path.bytes)): one "
                    + "failing disk takes both; another disk is better")
        }
        guard place.shown.held == nil, let inspection = place.inspection else { return }
        if inspection.exists && inspection.sentinel == nil && !inspection.isEmpty {
            place.shown.notes.append(
                "It holds files already: identical ones are taken over and take no room, what differs is kept below "
                    + ".safebackup/versions, and the rest is left as it is")
        }
        if let copy = place.copy {
            place.shown.notes.append(
                "It is known to an earlier state; compared with its catalogue copy of \(copy.header.exportedAt.iso8601)"
            )
        }
        if inspection.sentinel != nil && place.record?.sentinel == nil && place.copy == nil {
            place.shown.notes.append(
                "It is known to an earlier state, and has no catalogue copy: what is there is compared file by file")
        }
        if place.record?.pausedAt != nil {
            place.shown.notes.append("It is paused: nothing is saved to it before 'safebackup resume'")
        }
    }

    private func judgeRoom(_ place: inout Place) {
        var statistics = place.inspection?.statistics
        if place.inspection?.exists == false {
            let parent = place.path.removingLastComponent()
            guard TimedLooks.shared.answers(parent) else { return }
            do throws(Errno) {
                statistics = try VolumeStatistics(Descriptor.open(parent, O_RDONLY | O_DIRECTORY))
            } catch {
                return  // ignored because it is told as held
            }
        }
        guard let statistics, place.shown.held == nil else { return }
        let floor: Int64
        do throws(SafeBackupError) {
            floor = try place.room.limits(disk: statistics.total).floor.bytes
        } catch {
            place.shown.held = error.message
            return
        }
        place.shown.availableBytes = statistics.available.bytes
        place.shown.totalBytes = statistics.total.bytes
        place.shown.fileSystem = statistics.type.name
        place.shown.floorBytes = floor
        let room = statistics.available.bytes - floor
        place.shown.fits = place.shown.neededBytes == 0 || place.sparseNeed <= room
        if place.shown.fits == false && place.record?.sentinel != nil {
            place.shown.notes.append(
                "Older versions are removed there when room gets scarce, which may be enough; it is not counted here")
        }
        if place.shown.fits == true && place.shown.neededBytes > room && place.shown.neededBytes > 0 {
            place.shown.notes.append(
                "It fits only because some files are sparse or compressed: \(ByteCount(place.sparseNeed)) on the "
                    + "source's disk")
        }
    }

    // MARK: Sources

    private func walk(
        _ index: Int, _ places: inout [Place], tell: (Int) -> Void
    ) throws(SafeBackupError) -> DrainPlan.Source {
        let source = settings.sources[index]
        var shown = DrainPlan.Source(path: printable(source.path.bytes))
        let record = status?.sources.first { $0.record.path == source.path.bytes }?.record
        do throws(SafeBackupError) {
            try walk(index, source, record, &places, &shown, tell)
        } catch {
            if error.code == .stateFailed || error.code == .stateDamaged { throw error }
            shown.held = error.message
        }
        return shown
    }

    private func walk(
        _ index: Int, _ source: AgentSettings.Source, _ record: SourceRecord?, _ places: inout [Place],
        _ shown: inout DrainPlan.Source, _ tell: (Int) -> Void
    ) throws(SafeBackupError) {
        let began = ContinuousClock.now
        let root = try SourceRoot(path: source.path, known: record?.identity)
        let tree = try root.opened()
        var scanner = Scanner(root: tree, filter: filter(source, root))
        let rules = ComparisonRules(inodesAreStable: root.identity.type.hasStableInodes, hashRacy: true)
        let members = members(of: index, in: places)
        var comparisons: [(place: Int, comparison: PairComparison)] = []
        var hasNames = false
        for (place, _) in members {
            let catalogue = try catalogue(of: source, record, places[place])
            if record != nil, let catalogue, try catalogue.hasNames() { hasNames = true }
            let links = places[place].inspection?.sentinel?.capabilities.hardLinks ?? true
            comparisons.append((place, PairComparison(catalogue, rules: rules, moves: links)))
        }
        var survey = SourceSurvey()
        while let batch = try scanner.next(entryLimit: 4_096) {
            var count = 0
            for listed in batch {
                let listed = survey.add(listed, in: tree)
                for place in comparisons.indices { try comparisons[place].comparison.add(listed, in: tree) }
                count += listed.entries.count
            }
            tell(count)
        }
        survey.finish()
        try root.verify()
        shown.take(survey)
        let (seconds, attoseconds) = (ContinuousClock.now - began).components
        shown.seconds = Double(seconds) + Double(attoseconds / 1_000_000_000_000_000) / 1_000
        if survey.isEmpty && hasNames && record?.accepted != .rootEmptied {
            throw SafeBackupError(
                .rootEmptied,
                "The source is empty, and was not before: nothing is removed from the backup; if it was emptied on purpose, "
                    + "'safebackup accept \(shown.path)' goes on after the next run has found it so",
                disposition: .transient)
        }
        for (place, var comparison) in comparisons {
            comparison.finish()
            guard places[place].shown.held == nil else { continue }
            let prefix = members.first { $0.place == place }?.prefix
            places[place].add(
                comparison, of: source, prefix: prefix, stuck: stuck(record, places[place].record))
        }
        if record?.pausedAt != nil, let place = comparisons.first?.place {
            places[place].shown.notes.append(
                "\(shown.path) is paused: nothing of it is saved before 'safebackup resume'")
        }
    }

    private func members(of source: Int, in places: [Place]) -> [(place: Int, prefix: RelativePath)] {
        settings.destinations.indices.compactMap { place in
            settings.destinations[place].members.first { $0.source == source }.map { (place, $0.prefix) }
        }
    }

    private func stuck(_ source: SourceRecord?, _ destination: DestinationRecord?) -> Int {
        status?.pairs.first { $0.record.source == source?.id && $0.record.destination == destination?.id }?.counts.stuck
            ?? 0
    }

    private func catalogue(
        of source: AgentSettings.Source, _ record: SourceRecord?, _ place: Place
    ) throws(SafeBackupError) -> CatalogueComparison? {
        if let reader, let record, let destination = place.record, destination.sentinel != nil {
            return reader.comparison(record.id, destination.id)
        }
        guard let copy = place.copy else { return nil }
        let listed = try copy.catalogueSources().first { $0.path == source.path.bytes }
        return listed.map { copy.comparison($0.id) }
    }

    private func filter(_ source: AgentSettings.Source, _ root: SourceRoot) -> TreeFilter {
        let own = TreeFilter.ownPlaces(
            state: settings.state.path, destinations: settings.destinations.map(\.path), in: source.path)
        return TreeFilter(root: root.status, rules: source.excludes, own: own)
    }
}

extension DrainPlan {
    fileprivate var pairs: [Pair] { destinations.flatMap(\.pairs) }
}

extension DrainPlan.Source {
    fileprivate mutating func take(_ survey: SourceSurvey) {
        (files, bytes, directories, links) = (survey.files, survey.bytes, survey.directories, survey.links)
        allocatedBytes = survey.allocated
        // What is ours is no news.
        skipped = SkipReason.allCases.filter { $0 != .ownState && $0 != .ownDestination }.compactMap { reason in
            survey.skipped[reason].map { skip in
                DrainPlan.Skipped(
                    reason: reason.rawValue, count: skip.count, explanation: reason.explanation,
                    paths: skip.paths.map(\.description), isMissing: reason == .unreadable || reason == .reservedName)
            }
        }
        largest = survey.largestDirectories.map {
            DrainPlan.Directory(path: $0.path.description, files: $0.files, bytes: $0.bytes)
        }
    }
}
