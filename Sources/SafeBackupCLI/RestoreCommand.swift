import ArgumentParser
import SafeBackupAgent
import SafeBackupCore
import SystemPackage

struct RestoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Get files back, with their times, modes, owners and attributes.",
        discussion: """
            Each PATH is put under DIR with its path relative to the source: 'restore docs/a.txt --to /tmp/back' makes \
            /tmp/back/docs/a.txt. '.' means everything. Nothing is overwritten unless --overwrite is given, and nothing \
            is written through a link. A deleted file comes back when it is named exactly, or with --deleted. With --at \
            everything comes back as the backup had it then: what had been deleted by then is left out, what was replaced \
            since comes from the versions. Exit code 3: something did not come back whole, or is not available any more; \
            it is listed.
            """)

    @Argument(help: "What to get back: absolute, or relative to the source; a directory with all below it.")
    var paths: [ArgumentBytes]

    @Option(name: .long, help: "The directory to put it in; it is made if its parent exists.")
    var to: ArgumentBytes

    @OptionGroup var state: AgentOptions

    @Option(name: .long, help: "The backup itself, when there is no state: on a new machine, or after its loss.")
    var from: ArgumentBytes?

    @Flag(name: .long, help: "Replace files that exist in DIR.")
    var overwrite = false

    @Flag(name: .long, help: "Also get back what was deleted at the source.")
    var deleted = false

    @OptionGroup var time: TimeOption

    @OptionGroup var bucket: BucketOptions

    func validate() throws {
        if deleted && time.at != nil {
            throw ValidationError("--deleted tells of now; with --at TIME name a time at which the file was there")
        }
    }

    func run() async throws {
        let at = try time.expression()
        var plan = RestorePlan(
            paths: paths.map(\.bytes), target: FilePath(bytes: to.bytes), overwrites: overwrite,
            includesDeleted: deleted, time: at?.time)
        let (options, agent) = (bucket, state)
        plan.bucket = { (url) throws(SafeBackupError) in try options.open(url, of: agent) }
        // A bucket's answers are waited for.
        let work = plan
        let thread = try OneThread("sb.restore")
        let result = try await thread.run { () throws(SafeBackupError) in
            guard let from else { return try work.run(state: try agent.directory()) }
            if let url = try agent.bucketURL(named: from) {
                return try work.run(from: try options.open(url, of: agent))
            }
            return try work.run(from: try agent.backup(named: from))
        }
        if let at { Console.error("As the backup had it at \(at.description)") }
        for note in result.notes { Console.error(note) }
        for problem in result.report.problems { Console.error("\(problem.path): \(problem.reason)") }
        let report = result.report
        Console.print(
            "Restored \(counted(report.files, "file")) (\(ByteCount(report.bytes))), "
                + "\(counted(report.directories, "directory", "directories")), \(counted(report.links, "link"))")
        let isNothing = report.files + report.directories + report.links == 0
        if !report.problems.isEmpty || isNothing { throw ExitCode(3) }
    }
}
