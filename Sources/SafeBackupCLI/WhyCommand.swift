import ArgumentParser
import SafeBackupAgent

struct WhyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "why",
        abstract: "Tell whether a path is saved, and why if it is not.",
        discussion: """
            One sentence with the answer, then everything that is known: what is at the source now, the rule that leaves it \
            out, its job with its failures, its versions and what happened to it. Exit code 0: it is saved, or about to be, \
            3: it is not, or nothing is known of it, 4: held.
            """)

    @Argument(help: "Absolute, or relative to the source.")
    var path: ArgumentBytes

    @OptionGroup var state: AgentOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func run() async throws {
        let report = try WhyReport(path.bytes, try state.directory())
        Console.print(json ? try ReportText.json(report) : report.text)
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
