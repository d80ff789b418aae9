import ArgumentParser
import SafeBackupAgent

struct PauseCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause",
        abstract: "Stop saving until 'resume', over restarts too.",
        discussion: """
            A paused destination is not touched at all; of a paused source nothing is saved. Changes are still noticed, \
            and are saved after 'safebackup resume'. 'safebackup status' shows what is paused, with exit code 3 when \
            changes wait for it.
            """)

    @Argument(help: "Paths of sources or destinations, or their names in the configuration; none means all.")
    var names: [ArgumentBytes] = []

    @OptionGroup var state: AgentOptions

    func run() async throws {
        try Console.show(try await RequestVerb.ask("pause", try state.paths(of: names), in: try state.directory()))
    }
}

struct ResumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume", abstract: "Go on saving what was paused.")

    @Argument(help: "Paths of sources or destinations, or their names in the configuration; none means all.")
    var names: [ArgumentBytes] = []

    @OptionGroup var state: AgentOptions

    func run() async throws {
        try Console.show(try await RequestVerb.ask("resume", try state.paths(of: names), in: try state.directory()))
    }
}
