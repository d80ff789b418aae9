import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupCapacity
import SafeBackupConfiguration
import SafeBackupCore
import SystemPackage

struct CleanCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clean",
        abstract: "Make room: in the agent's destinations, or in a directory of other backups.",
        discussion: """
            Without DIR: older copies go from the agent's destinations as they do by themselves when little is free, oldest \
            versions first, then what deleted files left, until the configured limits hold (the free-space target, max-size, \
            max-usage), or those that are given instead for the destination that --destination names. The newest good copy \
            of a path that the source has never goes, and without a running agent only versions do. --plan only tells what \
            would go, and why the rest stays; view v_cleaned has each removal. Exit code 0: the limits hold, 3: not, as \
            nothing else may go; it is told what went and why, 4: a destination is not there.
            With DIR: a directory that other programs write their backups to, such as dumps. The oldest files go, no more than \
            needed; --plan only says what would go. If everything that may be removed were not enough, nothing is \
            removed. Links are not followed, other file systems below DIR are left alone, and a file with another hard \
            link elsewhere stays. Refused are a directory that holds an agent's backup (.safebackup) or lies in one, the \
            agent's sources and state, and the home directory itself.
            Exit code 0: the limits are kept, 1: they are not, 2: refused, 3: they are kept, but something could not be \
            looked at or removed; it is listed.
            """)

    @Argument(help: "The directory of other backups to clean.")
    var directory: ArgumentBytes?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "One of the agent's destinations, by its name or path; may be repeated. Without it all of them, as configured.",
            valueName: "name"))
    var destination: [ArgumentBytes] = []

    @Option(
        name: .long, help: ArgumentHelp("So much must be free on its disk, as in 20GiB.", valueName: "size"),
        transform: MeasuredArgument.read)
    var minFree: MeasuredArgument<ByteCount>?

    @Option(
        name: .long, help: ArgumentHelp("At most so much of its disk may be used, as in 80%.", valueName: "percentage"),
        transform: MeasuredArgument.read)
    var maxUsage: MeasuredArgument<Percent>?

    @Option(
        name: .long,
        help: ArgumentHelp("Its files, or the backup, may hold at most so much, as in 500GiB.", valueName: "size"),
        transform: MeasuredArgument.read)
    var maxSize: MeasuredArgument<ByteCount>?

    @Option(name: .long, help: "What a file's age is: 'modified', or 'stored' for when it came here.")
    var by = AgeArgument.modified

    @Flag(name: .long, help: "Only say what would go; with --verbose each file.")
    var plan = false

    @Flag(name: .long, help: "Also remove directories that become empty.")
    var removeEmptyDirectories = false

    @Flag(name: .long, help: "DIR lies in a source of the agent, and its files may go all the same.")
    var inSource = false

    @Flag(name: .long, help: "Remove what may be removed also when that is not enough.")
    var whatIsPossible = false

    @Option(name: .long, help: "How many threads look at files and remove them.")
    var concurrency = 2

    @Flag(name: .shortAndLong, help: "Name each file and directory that goes.")
    var verbose = false

    @OptionGroup var state: AgentOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    private var limits: CleaningLimits {
        CleaningLimits(
            minFree: minFree?.value, maxUsagePercent: maxUsage.map { Double($0.value.hundredths) / 100 },
            maxSize: maxSize?.value)
    }

    func validate() throws {
        if directory != nil {
            if destination.isEmpty { return }
            throw ValidationError(
                "DIR is a directory of other backups, --destination one of the agent's: name one of them")
        }
        if by != .modified || removeEmptyDirectories || inSource || whatIsPossible || verbose {
            throw ValidationError(
                "--by, --remove-empty-directories, --in-source, --what-is-possible and --verbose are for a directory of "
                    + "other backups: name DIR")
        }
        // A variable of a script that is empty must not turn DIR into everything that the agent has.
        if destination.isEmpty && !plan && limits != CleaningLimits() {
            throw ValidationError(
                "Name what the limit is for: a directory of other backups, or one of the agent's destinations with "
                    + "--destination")
        }
    }

    func run() async throws {
        guard let directory else { return try await cleanDestinations() }
        var configuration = CleaningConfiguration(limits)
        configuration.order = by == .stored ? .stored : .modified
        configuration.removesEmptyDirectories = removeEmptyDirectories
        configuration.removesWhatItCan = whatIsPossible
        configuration.concurrency = concurrency
        if verbose {
            let isJSON = json
            configuration.onEvent = { event in
                guard let line = event.line else { return }
                if isJSON { Console.error(line) } else { Console.print(line) }
            }
        }
        configuration.protected = try CleanReport.protected(
            by: try stateDirectory(), home: getenv("HOME"), coversSources: !inSource)
        let report = try CleanReport.make(
            FilePath(bytes: directory.bytes), configuration, isPlan: plan, lists: verbose)
        if json {
            Console.print(try ReportText.json(report))
        } else {
            for line in report.lines { Console.print(line) }
        }
        for line in report.complaints { Console.error(line) }
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}

extension CleanCommand {
    private func cleanDestinations() async throws {
        let cleaning = DestinationCleaning(
            try state.directory(), names: try state.paths(of: destination),
            limits: limits == CleaningLimits() ? nil : limits)
        let reports = plan ? try cleaning.plan() : try await cleaning.run()
        if json {
            Console.print(try ReportText.json(["destinations": reports]))
        } else {
            for report in reports { for line in report.lines { Console.print(line) } }
        }
        for complaint in reports.compactMap(\.complaint) { Console.error(complaint) }
        // The worst first.
        let codes = reports.map(\.exitCode)
        for code: Int32 in [4, 1, 2, 3] where codes.contains(code) { throw ExitCode(code) }
    }

    /// A service may have no home, and then no agent.
    private func stateDirectory() throws(SafeBackupError) -> StateDirectory? {
        do {
            return try state.directory()
        } catch {
            if state.isNamed { throw error }
            return nil
        }
    }
}

/// What counts as a file's age.
enum AgeArgument: String, ExpressibleByArgument, CaseIterable {
    case modified, stored
}

/// A value of the kinds that the configuration has too, such as `20GiB` or `80%`.
struct MeasuredArgument<Value: ConfigurationValue>: Sendable {
    let value: Value

    @Sendable
    static func read(_ text: String) throws -> MeasuredArgument {
        do {
            return MeasuredArgument(value: try Value.read(Array(text.utf8)))
        } catch {
            throw ValidationError("\(text) \(error.message)")
        }
    }
}
