import ArgumentParser
import SafeBackupAgent

struct VersionsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "versions",
        abstract: "Show every state of a path that the backup holds, and where it lies.",
        discussion: """
            Newest first, each with the time from and to which the path was so. Of a directory also what lies below it. \
            Exit code 3: the backup holds nothing of this path.
            """)

    @Argument(help: "Absolute, or relative to the source.")
    var path: ArgumentBytes

    @OptionGroup var state: AgentOptions

    @Option(name: .long, help: "How many states at each destination, at most 10,000.")
    var limit = 100

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func validate() throws {
        guard (1...10_000).contains(limit) else { throw ValidationError("--limit is from 1 to 10,000") }
    }

    func run() async throws {
        let report = try VersionsReport(path.bytes, try state.directory(), limit: limit)
        Console.print(json ? try ReportText.json(report) : report.text)
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
