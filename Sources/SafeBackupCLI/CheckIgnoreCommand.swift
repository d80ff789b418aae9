import ArgumentParser
import SafeBackupAgent

struct CheckIgnoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-ignore",
        abstract: "Tell which rule leaves a path out of the backup.",
        discussion: """
            Prints SOURCE:LINE:PATTERN, a tab and the path for each PATH that is left out: SOURCE is the file of the rule, \
            or --exclude, and LINE its line, or which --exclude it is. What no rule leaves out, such as a FIFO, has \
            safebackup::REASON there. The rules are those that the agent was last started with, or those given here. \
            Exit code 0: at least one path is left out, 1: none is.
            """)

    @Argument(help: "Absolute, or relative to the source; a slash at the end tells that a directory is meant.")
    var paths: [ArgumentBytes]

    @OptionGroup var excludes: ExcludeOptions

    @OptionGroup var state: AgentOptions

    @Flag(name: .shortAndLong, help: "Also paths that a rule includes again, and a sentence for each.")
    var verbose = false

    @Flag(name: .shortAndLong, help: "Also paths that are saved, with '::' for the rule.")
    var nonMatching = false

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func run() async throws {
        let report = try IgnoreReport(
            paths.map(\.bytes), state: try state.directory(), rules: try excludes.patterns())
        if json {
            Console.print(try ReportText.json(report))
        } else {
            for line in report.lines(isVerbose: verbose, showsOthers: nonMatching) { Console.print(line) }
        }
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
