import ArgumentParser
import SafeBackupAgent

struct ExposureCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exposure",
        abstract: "Show what would be lost if the source's disk died now, and what is not known about that.",
        discussion: """
            Reads the state, beside a running agent or without one. Exit code 0: nothing would be lost but what is about \
            to be saved, 3: something cannot be saved, or not everything is known, 4: held.
            """)

    @OptionGroup var state: AgentOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func run() async throws {
        let report = try ExposureReport(try state.directory())
        Console.print(json ? try ReportText.json(report) : report.text)
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
