import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Which agent a verb is about: the one with this state, or with this configuration; without either, that of the usual
/// configuration, so that an administrator of the service names nothing.
struct AgentOptions: ParsableArguments {
    @OptionGroup var state: StateOption

    @Option(
        name: .long,
        help: ArgumentHelp(
            "The agent's configuration: says where its state is, and what its names mean (default: as of check-config).",
            valueName: "file"))
    var config: ArgumentBytes?

    /// A person said which.
    var isNamed: Bool { state.state != nil || config != nil }

    /// `--state`, else the key `state` of the configuration, else as for an agent without one.
    /// - Throws: `invalidConfiguration` for a configuration that was named and cannot be read.
    func directory() throws(SafeBackupError) -> StateDirectory {
        if state.state != nil { return try state.directory() }
        let configured = try state.directory(configured: try configuration()?.state)
        if config != nil || configured.hasState { return configured }
        // An agent that runs with SOURCE and DESTINATION asks no configuration for its state.
        let usual = try state.directory()
        return usual.hasState ? usual : configured
    }

    /// Sources and destinations that are named as in the configuration, by their paths; paths as they are.
    /// - Throws: `invalidConfiguration` for a name that is a source's and a destination's.
    func paths(of names: [ArgumentBytes]) throws(SafeBackupError) -> [[UInt8]] {
        if names.allSatisfy({ $0.bytes.contains(UInt8(ascii: "/")) }) { return names.map(\.bytes) }
        guard let configuration = try configuration() else { return names.map(\.bytes) }
        var paths: [[UInt8]] = []
        for name in names {
            let found =
                configuration.sources.filter { Array($0.name.utf8) == name.bytes }.map(\.path)
                + configuration.destinations.filter { Array($0.name.utf8) == name.bytes }.map(\.path)
            if found.count > 1 {
                throw SafeBackupError(
                    .invalidConfiguration,
                    "\(printable(name.bytes)) is the name of a source and of a destination; name the one that is meant by "
                        + "its path: \(found.map { printable($0) }.joined(separator: " or "))", disposition: .permanent)
            }
            paths.append(found.first ?? name.bytes)
        }
        return paths
    }

    /// The backup that `--from` names: a destination of the configuration by its name, else a directory. Where the name is
    /// both, which of them was taken is told on standard error.
    func backup(named name: ArgumentBytes) throws(SafeBackupError) -> FilePath {
        let path = FilePath(bytes: try paths(of: [name])[0])
        let directory = FilePath(bytes: name.bytes)
        if path == directory { return path }
        do throws(Errno) {
            let other = try Preflight.realPath(directory)
            if try other == Preflight.realPath(path) { return path }
        } catch {
            // Also told where the configured one is away.
            if !NewConfiguration.exists(directory) { return path }
        }
        let shown = printable(name.bytes)
        Console.error(
            "note: --from \(shown) is taken for what the configuration calls so, \(printable(path.bytes)); for the directory "
                + "of that name give ./\(shown)")
        return path
    }

    /// What the configuration says of this bucket; `nil`: nothing.
    func bucket(_ url: [UInt8]) throws(SafeBackupError) -> Configuration.S3? {
        try configuration()?.destinations.compactMap(\.s3).first { $0.location == url }
    }

    /// The bucket that a name, of the configuration or in full, is.
    func bucketURL(named name: ArgumentBytes) throws(SafeBackupError) -> [UInt8]? {
        if BucketURL.isMeant(by: name.bytes) {
            do throws(ConfigurationFault) {
                return try BucketURL.read(name.bytes).written
            } catch {
                throw Preflight.refusal("\(printable(name.bytes)) \(error.message)")
            }
        }
        return try paths(of: [name]).first { BucketURL.isMeant(by: $0) }
    }

    /// The one that was named, else the usual one if there is one that this user may read.
    private func configuration() throws(SafeBackupError) -> Configuration? {
        let file = ConfiguredRun.path(config)
        if config == nil, file.withPlatformString({ access($0, R_OK) }) != 0 { return nil }
        do throws(ConfigurationFailure) {
            return try ConfigurationFiles.load(file)
        } catch {
            if config != nil { throw error.error }
            Console.error(
                "note: \(printable(file.bytes)) has mistakes ('safebackup check-config' shows them); the state is looked for "
                    + "at its usual place")
            return nil
        }
    }
}
