import ArgumentParser
import SafeBackupAgent

struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show what is saved, what waits, and what cannot be saved.",
        discussion: """
            Reads the state, beside a running agent or without one. The state directory is --state, else that \
            of the configuration, else systemd's \
            STATE_DIRECTORY, else $XDG_STATE_HOME/safebackup, else /var/lib/safebackup for root and \
            ~/.local/state/safebackup for others. Exit code 0: all well, 3: something is stuck or fuzzy, 4: held.
            """)

    @OptionGroup var state: AgentOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func run() async throws {
        let report = try StatusReport(try state.directory())
        Console.print(json ? try report.json() : report.text)
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
