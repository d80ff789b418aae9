import ArgumentParser
import SafeBackupAgent
import SafeBackupCore
import SystemPackage

struct ListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls",
        abstract: "List what the backup has, or had at some time.",
        discussion: """
            Of a directory its entries, with mode, size and mtime. With --at as the backup had it then. Reads the state, \
            beside a running agent or without one; with --from the catalogue copy in a destination. Exit code 3: nothing \
            in the backup has, or had, this path.
            """)

    @Argument(help: "Absolute, or relative to the source; none means the whole source.")
    var paths: [ArgumentBytes] = []

    @OptionGroup var time: TimeOption

    @Flag(name: [.customShort("R"), .long], help: "Also all below.")
    var recursive = false

    @Flag(name: .long, help: "Also what was deleted at the source and is still in the backup.")
    var deleted = false

    @OptionGroup var state: AgentOptions

    @Option(name: .long, help: "The backup itself, when there is no state: on a new machine, or after its loss.")
    var from: ArgumentBytes?

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    @OptionGroup var bucket: BucketOptions

    func validate() throws {
        if deleted && time.at != nil {
            throw ValidationError("--deleted tells of now; with --at TIME name a time at which the file was there")
        }
    }

    func run() async throws {
        let at = try time.expression()
        let listing = TreeListing(
            paths: paths.map(\.bytes), time: at?.time, timeText: at?.description, isRecursive: recursive,
            includesDeleted: deleted, isJSON: json)
        let (from, options, agent) = (from, bucket, state)
        // A bucket's answers are waited for.
        let thread = try OneThread("sb.list")
        let code = try await thread.run { () throws(SafeBackupError) -> Int32 in
            var waiting = ""
            let write: (String) -> Void = { text in
                waiting += text
                if waiting.utf8.count >= 1 << 16 {
                    Console.write(waiting, to: 1)
                    waiting = ""
                }
            }
            defer { Console.write(waiting, to: 1) }
            guard let from else { return try listing.run(state: try agent.directory(), write) }
            if let url = try agent.bucketURL(named: from) {
                return try listing.run(from: try options.open(url, of: agent), write)
            }
            return try listing.run(from: try agent.backup(named: from), write)
        }
        if code != 0 { throw ExitCode(code) }
    }
}
