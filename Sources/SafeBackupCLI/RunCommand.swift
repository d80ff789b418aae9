import ArgumentParser
import Glibc
import Logging
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Save a directory, then keep it saved.",
        usage: """
            safebackup run SOURCE DESTINATION [--endpoint URL] [--region NAME] [--once] [--exclude PATTERN]... [--exclude-from FILE]... [--state DIR]
            safebackup run --config FILE [--once] [--state DIR]
            """,
        discussion: """
            Saves everything below SOURCE to DESTINATION as plain files, then watches SOURCE and saves each change \
            within seconds, until it is stopped. What is deleted in SOURCE stays in DESTINATION.
            With --config the file says which sources go to which destinations.
            """)

    @Argument(help: "The directory to save.")
    var source: ArgumentBytes?

    @Argument(
        help:
            "The directory that holds the backup, made if its parent exists; or s3://BUCKET/PREFIX, with keys from the environment."
    )
    var destination: ArgumentBytes?

    @Option(
        name: .long,
        help: ArgumentHelp("Save what FILE says; see 'safebackup config example'.", valueName: "file"))
    var config: ArgumentBytes?

    @OptionGroup var state: StateOption

    @OptionGroup var excludes: ExcludeOptions

    @OptionGroup var bucket: BucketOptions

    @Flag(name: .long, help: "Save what differs and end, instead of watching.")
    var once = false

    /// For the first save of `init`, as the service's user.
    @Option(name: .long, help: .hidden)
    var prefix: ArgumentBytes?

    /// For tests, which cannot wait for long.
    @Option(name: .long, help: .hidden)
    var idleMilliseconds = 10_000

    /// For tests too.
    @Option(name: .long, help: .hidden)
    var reconcileEverySeconds = 86_400

    @Option(name: .long, help: "How the log on standard error is written: text, or json for programs.")
    var logFormat = LogFormat.text

    @Flag(name: .shortAndLong, help: "Log every step.")
    var verbose = false

    func validate() throws {
        let hasExcludes = !excludes.exclude.isEmpty || !excludes.excludeFrom.isEmpty
        if config != nil && !bucket.isEmpty {
            throw ValidationError("With --config, where a bucket is stands in the file (endpoint =, region =).")
        }
        switch (config, source, destination) {
        case (nil, .some, .some),
            (.some, nil, nil) where !hasExcludes:
            break
        case (nil, _, _): throw ValidationError("Name SOURCE and DESTINATION, or a configuration with --config FILE.")
        case (.some, nil, nil): throw ValidationError("With --config, what is left out stands in the file (exclude =).")
        default: throw ValidationError("SOURCE and DESTINATION stand in the file that --config names.")
        }
    }

    func run() async throws {
        let isTerminal = isatty(1) == 1
        let log = try StderrLog.sink(format: logFormat, isVerbose: verbose)
        defer { log.finish() }
        let logger = StderrLog.logger(to: log, level: verbose ? .debug : isTerminal ? .warning : .info)
        var configured: ConfiguredRun?
        // Also to look at a path may take for ever.
        let paths = [config, source, destination].compactMap { $0.map { printable($0.bytes) } }
        let notice = WaitNotice(for: paths.joined(separator: ", "), logger: logger)
        defer { notice.over() }
        if let config { configured = try readConfiguration(config, logger) }
        let settings = try configured?.settings ?? named(logger)
        for rules in settings.sources.map(\.excludes) { warn(of: rules, logger) }
        notice.over()
        // All paths are absolute by now; a current directory in the source or the destination would keep it busy.
        _ = chdir("/")
        let agent = try Agent(settings: settings, logger: logger, ioThreads: min(4 + 2 * settings.sources.count, 24))
        let service = ServiceReport(to: manager(logger), logger: logger)
        let desk = SignalDesk(
            agent: agent, service: service, configured: once ? nil : configured,
            endsWithTerminal: isTerminal && (once || configured == nil), logger: logger)
        let signals = Task { await desk.run() }
        defer { signals.cancel() }
        let display = isTerminal ? TerminalProgress(agent: agent) : nil
        display?.start()
        let result: AgentResult
        do {
            let ready: @Sendable () -> Void = {
                if isTerminal { display?.becameReady() } else { Console.print("ready") }
            }
            if let service {
                result = try await service.report({ await agent.summary() }) { try await agent.run(ready: ready) }
            } else {
                result = try await agent.run(ready: ready)
            }
        } catch {
            await display?.stop()
            throw error
        }
        await display?.stop()
        if desk.isLeaving { throw ExitCode(SignalDesk.leavingCode) }
        switch result {
        case .complete: return
        case .incomplete(let unsaved):
            for line in unsaved.lines { Console.error(line) }
            throw ExitCode(3)
        case .paused(let jobs):
            Console.error(
                "safebackup: paused: \(counted(jobs, "change waits", "changes wait")) for 'safebackup resume'")
            if jobs > 0 { throw ExitCode(3) }
        case .stopped(let jobs):
            Console.error(
                "safebackup: stopped before everything was saved: \(jobs) changes that are known of wait; the next run "
                    + "goes on from there")
            throw ExitCode(3)
        case .held(let reason):
            Console.error("safebackup: held: \(reason.message)")
            if once { Console.error("safebackup: this run has ended; start it again when that is gone") }
            throw ExitCode(4)
        }
    }

    /// The service manager that started us, if it wants to be told how we are.
    private func manager(_ logger: Logger) -> ServiceManager? {
        if once { return nil }
        do throws(Errno) {
            return try ServiceManager.ofThisProcess()
        } catch {
            logger.warning(
                .managerUnreachable, "The service manager cannot be told how the agent is: NOTIFY_SOCKET is not usable",
                metadata: ["error": "\(error.explanation)"])
            return nil
        }
    }

    private func warn(of rules: ExcludeRules, _ logger: Logger) {
        for idle in rules.idle {
            logger.warning(
                .ruleIdle, "A line of an exclude file matches nothing, as in git",
                metadata: [
                    "pattern": "\(printable(idle.pattern.bytes))", "place": "\(idle.pattern.place)",
                    "reason": "it \(idle.reason)",
                ])
        }
    }

    /// SOURCE and DESTINATION of the command line.
    private func named(_ logger: Logger) throws -> AgentSettings {
        let directory = try state.directory()
        let rules = try ExcludeRules(try excludes.patterns() ?? [])
        let named = destination?.bytes ?? []
        let s3 = BucketURL.isMeant(by: named) ? try bucket.bucket(named) : nil
        if s3 == nil && !bucket.isEmpty {
            throw ValidationError("--endpoint and --region are of a DESTINATION s3://BUCKET/PREFIX.")
        }
        let preflight =
            s3 == nil
            ? try Preflight(
                source: source?.bytes ?? [], destination: named, state: directory.path,
                known: directory.knownDestinations())
            : try Preflight(bucketFor: source?.bytes ?? [], state: directory.path)
        for (isInside, name) in [
            (preflight.isStateInside, "state directory"), (preflight.isDestinationInside, "destination"),
        ] where isInside {
            logger.warning(.leftOut, "The \(name) lies inside the source and is left out")
        }
        var settings = AgentSettings(
            preflight: preflight, bucket: s3, state: directory, excludes: rules, isOnce: once)
        for index in settings.destinations.indices {
            settings.destinations[index].idleTime = .milliseconds(idleMilliseconds)
            if let prefix { settings.destinations[index].members[0].prefix = try prefix.prefix() }
        }
        for index in settings.sources.indices {
            settings.sources[index].reconcileInterval = .seconds(max(1, reconcileEverySeconds))
        }
        return settings
    }

    /// What the configuration file says.
    private func readConfiguration(_ file: ArgumentBytes, _ logger: Logger) throws -> ConfiguredRun {
        // It is read again from another current directory.
        let read = try ConfiguredRun(of: ConfiguredRun.absolutePath(file), state: state, isOnce: once)
        for note in read.notes.leftOut { logger.warning(.leftOut, "\(note)") }
        return read
    }
}
