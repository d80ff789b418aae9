import ArgumentParser
import SafeBackupAgent

struct QueueCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "queue",
        abstract: "Show what waits to be saved, in the order it will be done, and what is stuck.",
        discussion: """
            Reads the state, beside a running agent or without one. Exit code 0: nothing is stuck, 3: something is, or \
            waits because it is paused or because the destination is full, 4: a destination is held.
            """)

    @OptionGroup var state: AgentOptions

    @Flag(name: .long, help: "Only what is stuck.")
    var stuck = false

    @Option(name: .long, help: "How many jobs of each destination, at most 10,000.")
    var limit = 50

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func validate() throws {
        guard (0...QueueReport.largestLimit).contains(limit) else {
            throw ValidationError("--limit is from 0 to \(QueueReport.largestLimit); the view v_pending shows all")
        }
    }

    func run() async throws {
        let report = try QueueReport(try state.directory(), onlyStuck: stuck, limit: limit)
        Console.print(json ? try ReportText.json(report) : report.text)
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
