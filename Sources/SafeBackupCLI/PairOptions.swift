import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupWatch

/// What a verb is about: SOURCE and DESTINATION, or what a configuration says.
struct PairOptions: ParsableArguments {
    @Argument(help: "The directory to save.")
    var source: ArgumentBytes?

    @Argument(help: "The directory that holds the backup.")
    var destination: ArgumentBytes?

    @Option(
        name: .long, help: ArgumentHelp("What this configuration says; see 'config example'.", valueName: "file"))
    var config: ArgumentBytes?

    @OptionGroup var state: StateOption

    @OptionGroup var excludes: ExcludeOptions

    /// Both paths, the configuration alone, or nothing at all.
    func check(mayBeEmpty: Bool) throws {
        let hasExcludes = !excludes.exclude.isEmpty || !excludes.excludeFrom.isEmpty
        switch (config, source, destination) {
        case (nil, .some, .some),
            (.some, nil, nil) where !hasExcludes:
            break
        case (nil, nil, nil) where mayBeEmpty && !hasExcludes: break
        case (.some, nil, nil): throw ValidationError("With --config, what is left out stands in the file (exclude =).")
        case (nil, _, _): throw ValidationError("Name SOURCE and DESTINATION, or a configuration with --config FILE.")
        default: throw ValidationError("SOURCE and DESTINATION stand in the file that --config names.")
        }
    }

    /// What an agent would be told, and what a person should know of it; `nil` if nothing was named.
    /// - Parameter bucket: how a bucket is spoken to, for a verb that knows buckets.
    func settings(bucket: BucketOptions? = nil) throws -> (settings: AgentSettings, notes: [String])? {
        if let config {
            let read = try ConfiguredRun(of: ConfiguredRun.absolutePath(config), state: state, isOnce: true)
            return (read.settings, read.notes.leftOut + read.settings.idleRules)
        }
        guard let source, let destination else { return nil }
        let directory = try state.directory()
        let rules = try ExcludeRules(try excludes.patterns() ?? [])
        let s3 = BucketURL.isMeant(by: destination.bytes) ? try bucket?.bucket(destination.bytes) : nil
        let preflight =
            s3 == nil
            ? try Preflight(
                source: source.bytes, destination: destination.bytes, state: directory.path,
                known: directory.knownDestinations())
            : try Preflight(bucketFor: source.bytes, state: directory.path)
        let settings = AgentSettings(
            preflight: preflight, bucket: s3, state: directory, excludes: rules, isOnce: true)
        return (settings, preflight.leftOut + settings.idleRules)
    }
}

extension Preflight {
    /// What of ours lies inside the source.
    var leftOut: [String] {
        [(isStateInside, "state directory"), (isDestinationInside, "destination")].compactMap {
            $0.0 ? "The \($0.1) lies inside the source and is left out" : nil
        }
    }
}
