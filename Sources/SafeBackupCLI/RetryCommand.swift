import ArgumentParser
import SafeBackupAgent

struct RetryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retry",
        abstract: "Try stuck and failing paths again now.",
        discussion: "Exit code 3: no path that was named is stuck or failing.")

    @Argument(help: "Paths, absolute or relative to the source, with all below them; none means all.")
    var paths: [ArgumentBytes] = []

    @OptionGroup var state: AgentOptions

    func run() async throws {
        try Console.show(try await RequestVerb.ask("retry", paths.map(\.bytes), in: try state.directory()))
    }
}

extension Console {
    /// Prints what came of a request; that there was nothing to do is exit code 3.
    static func show(_ outcome: RequestVerb.Outcome) throws {
        switch outcome {
        case .done(let text): Console.print(text)
        case .nothing(let text):
            Console.error(text)
            throw ExitCode(3)
        }
    }
}
