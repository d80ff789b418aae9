import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupCore

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

    @Argument(help: "The path or URL of the source or the destination, or its name in the configuration.")
    var name: ArgumentBytes

    @Flag(name: .long, help: "Agree without being asked.")
    var yes = false

    @OptionGroup var state: AgentOptions

    @OptionGroup var bucket: BucketOptions

    func run() async throws {
        let directory = try state.directory()
        let (options, agent) = (bucket, state)
        let open: @Sendable ([UInt8]) throws(SafeBackupError) -> BucketBackup = { (url) throws(SafeBackupError) in
            try options.open(url, of: agent)
        }
        let known = try state.bucketURL(named: name) ?? state.paths(of: [name])[0]
        let acceptance = try await Acceptance.look(of: known, in: directory, bucket: open)
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
                "accept", [acceptance.path, Array(acceptance.token.utf8)], in: directory, within: .seconds(300),
                bucket: open))
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
