package import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

extension AgentSettings {
    /// What a person should know of a configuration that can be used.
    package struct Notes: Sendable, Hashable {
        /// What lies inside a source and is not saved with it; nobody else tells.
        package var leftOut: [String] = []
        /// What the running agent tells when it matters.
        package var others: [String] = []

        package init() {}

        fileprivate mutating func add(_ notes: Notes) {
            // A destination has several sources, and a source several destinations.
            for note in notes.leftOut where !leftOut.contains(note) { leftOut.append(note) }
            for note in notes.others where !others.contains(note) { others.append(note) }
        }
    }

    /// What a configuration asks for, with the file system asked whether it can be done.
    ///
    /// Paths that are not there now are no fault: what is configured may be away, and is waited for. `notes` tells of
    /// them, and of what else a person should know.
    /// Throws everything that cannot be done, with its place.
    package init(
        _ configuration: Configuration, state: StateDirectory, isOnce: Bool, notes: inout Notes
    ) throws(ConfigurationFailure) {
        var problems: [ConfigurationProblem] = []
        // All at once: several that do not answer are waited for together.
        TimedLooks.shared.begin(
            (configuration.sources.map(\.path) + configuration.destinations.map(\.path)).map(FilePath.init))
        var sources: [Source] = []
        for source in configuration.sources {
            sources.append(
                Source(
                    path: FilePath(bytes: source.path), excludes: Self.rules(source.excludes, source.place, &problems),
                    reconcileInterval: source.reconcileInterval))
        }
        var destinations: [Destination] = []
        for destination in configuration.destinations {
            var read = Destination(
                path: FilePath(bytes: destination.path), s3: destination.s3, members: [], settle: destination.settle,
                idleTime: destination.idleTime, mirrorsDeletions: destination.onDelete == .mirror,
                lanes: destination.concurrency, bandwidth: destination.bandwidth, room: destination.room,
                retention: RetentionPolicy(destination.retention))
            for (index, source) in configuration.sources.enumerated()
            where source.destinations.contains(destination.name) {
                do throws(SafeBackupError) {
                    let preflight =
                        destination.s3 == nil
                        ? try Preflight(
                            source: source.path, destination: destination.path, state: state.path, mayBeAway: true)
                        : try Preflight(bucketFor: source.path, state: state.path)
                    sources[index].path = preflight.source
                    read.path = preflight.destination
                    read.members.append(
                        Member(source: index, prefix: source.prefix, isSameDevice: preflight.isSameDevice))
                    notes.add(Self.notes(preflight, source, destination))
                } catch {
                    problems.append(ConfigurationProblem(destination.place, error.message))
                }
            }
            destinations.append(read)
        }
        problems += Self.overlaps(sources, destinations, configuration)
        if !problems.isEmpty { throw ConfigurationFailure(problems) }
        self.init(sources: sources, destinations: destinations, state: state, isOnce: isOnce)
        awaitsNewDestinations = true
    }

    private static func rules(
        _ excludes: [Configuration.Exclude], _ place: ConfigurationPlace, _ problems: inout [ConfigurationProblem]
    ) -> ExcludeRules {
        var patterns: [ExcludePattern] = []
        for exclude in excludes {
            switch exclude {
            case .pattern(let pattern, let place):
                do throws(SafeBackupError) {
                    // A line of a file of patterns may be without effect, as git has it; here it is a mistake.
                    if let idle = try ExcludeRules([pattern]).idle.first {
                        let shown = printable(pattern.bytes)
                        problems.append(
                            ConfigurationProblem(place, "exclude: '\(shown)' \(idle.reason); see gitignore(5)"))
                    }
                    patterns.append(pattern)
                } catch {
                    problems.append(ConfigurationProblem(place, error.message))
                }
            case .file(let path, let place):
                do throws(SafeBackupError) {
                    let lines = try ExcludeFile.patterns(path)
                    _ = try ExcludeRules(lines)
                    patterns += lines
                } catch {
                    problems.append(ConfigurationProblem(place, error.message))
                }
            }
        }
        do throws(SafeBackupError) {
            return try ExcludeRules(patterns)
        } catch {
            // Each by itself was right.
            problems.append(ConfigurationProblem(place, error.message))
            return ExcludeRules()
        }
    }

    private static func notes(
        _ preflight: Preflight, _ source: Configuration.Source, _ destination: Configuration.Destination
    ) -> Notes {
        let (from, to) = ("[source \"\(source.name)\"]", "[destination \"\(destination.name)\"]")
        var notes = Notes()
        if preflight.isDestinationInside { notes.leftOut.append("\(to) lies inside \(from) and is left out of it") }
        if preflight.isStateInside {
            notes.leftOut.append("the state directory lies inside \(from) and is left out of it")
        }
        if preflight.isSameDevice {
            notes.others.append("\(from) and \(to) lie on the same file system: one failing disk takes both")
        }
        for (isSilent, name) in [(preflight.isSourceSilent, from), (preflight.isDestinationSilent, to)] where isSilent {
            notes.others.append("\(name): its file system does not answer now, as that of a server that is gone")
        }
        if !preflight.sourceExists && !preflight.isSourceSilent {
            notes.others.append("\(from): \(printable(source.path)) is not there now; one that was never saved must be")
        }
        if !preflight.destinationExists && !preflight.isDestinationSilent {
            notes.others.append(
                "\(to): \(printable(destination.path)) is not there now; it is made if its parent is there, else waited for"
            )
        }
        return notes
    }

    /// Lines of files of `exclude-from` that match nothing.
    package var idleRules: [String] {
        sources.flatMap(\.excludes.idle).map { "\($0.pattern.place): '\(printable($0.pattern.bytes))' \($0.reason)" }
    }

    /// Paths that turn out to be one, or destinations that lie in each other, by another spelling or a link.
    private static func overlaps(
        _ sources: [Source], _ destinations: [Destination], _ configuration: Configuration
    ) -> [ConfigurationProblem] {
        var problems: [ConfigurationProblem] = []
        for (index, source) in sources.enumerated() {
            guard let first = sources[..<index].firstIndex(where: { $0.path == source.path }) else { continue }
            problems.append(
                ConfigurationProblem(
                    configuration.sources[index].place,
                    "path: this is the directory of [source \"\(configuration.sources[first].name)\"] too, by another "
                        + "name; one source may have several destinations"))
        }
        for (index, destination) in destinations.enumerated() {
            let other = destinations[..<index].firstIndex {
                $0.s3 == nil && destination.s3 == nil
                    && ($0.path.starts(with: destination.path) || destination.path.starts(with: $0.path))
            }
            guard let other else { continue }
            problems.append(
                ConfigurationProblem(
                    configuration.destinations[index].place,
                    "path: this is the directory of [destination \"\(configuration.destinations[other].name)\"] too, or "
                        + "one lies in the other; give each a directory of its own"))
        }
        return problems
    }
}

extension RetentionPolicy {
    init(_ retention: Configuration.Retention) {
        self.init()
        (last, within, daily) = (retention.last, retention.within, retention.daily)
        (weekly, monthly, yearly) = (retention.weekly, retention.monthly, retention.yearly)
    }
}
