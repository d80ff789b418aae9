import ArgumentParser
import SafeBackupAgent

struct RetryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retry",
        abstract: "Try stuck and failing paths again now.")

    @Argument(help: "Paths, absolute or relative to the source, with all below them; none means all.")
    var paths: [ArgumentBytes] = []

    @OptionGroup var state: StateOption

    func run() async throws {
        Console.print(try await RequestVerb.ask("retry", paths.map(\.bytes), in: try state.directory()))
    }
}
