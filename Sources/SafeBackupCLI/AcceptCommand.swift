import ArgumentParser
import Glibc
import SafeBackupAgent

struct AcceptCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "accept",
        abstract: "Look at what holds a source or a destination, and agree to it.",
        discussion: """
            Shows what was known, what is found now, and what would follow, and asks. A source that was replaced or \
            emptied on purpose, and a destination whose disk was exchanged, go on only after this. What is only away \
            goes on by itself when it is back. The backup of another agent is never taken over. Exit code 4: it is \
            still held.
            """)

    @Argument(help: "The path of the source or the destination, or its name in the configuration.")
    var name: ArgumentBytes

    @Flag(name: .long, help: "Agree without being asked.")
    var yes = false

    @OptionGroup var state: AgentOptions

    func run() async throws {
        let directory = try state.directory()
        let acceptance = try Acceptance(of: try state.paths(of: [name])[0], in: directory)
        for line in acceptance.lines { Console.print(line) }
        guard acceptance.isPossible else {
            if acceptance.isStillHeld { throw ExitCode(4) }
            return
        }
        guard try yes || isAgreed() else {
            Console.print("Nothing was changed.")
            throw ExitCode(4)
        }
        try Console.show(
            try await RequestVerb.ask(
                "accept", [acceptance.path, Array(acceptance.token.utf8)], in: directory, within: .seconds(300)))
    }

    private func isAgreed() throws -> Bool {
        guard isatty(0) == 1 else {
            Console.error("Nobody can be asked here; with --yes it is accepted")
            return false
        }
        Console.write("Accept? [y/N] ", to: 1)
        return ["y", "yes"].contains(readLine()?.lowercased())
    }
}
