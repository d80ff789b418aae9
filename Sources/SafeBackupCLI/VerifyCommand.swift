import ArgumentParser
import SafeBackupAgent

struct VerifyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Read stored copies again, and compare them with what was saved.",
        discussion: """
            Current copies, tombstones and versions are read from the disk at low priority, and their digests compared. A \
            damaged or missing one is marked, never counts as a last good copy, and is saved again from the source where \
            that still has it; else the newest good version is named. Runs beside an agent or without one. With --share \
            only a part is read, and the next time the part after it. Exit code 3: something is damaged or could not be \
            read, 4: the backup is not there.
            """)

    @Argument(help: "Absolute, or relative to the source, with all below them; none means all.")
    var paths: [ArgumentBytes] = []

    @Option(
        name: .long,
        help: ArgumentHelp("Only so much of the backup, where the last share ended; for a timer.", valueName: "percent")
    )
    var share: String?

    @OptionGroup var state: AgentOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    /// Between 0 and 1.
    private func part() throws -> Double? {
        guard let share else { return nil }
        guard let percent = Double(share.hasSuffix("%") ? String(share.dropLast()) : share), percent > 0, percent <= 100
        else { throw ValidationError("--share is a part of the backup in percent, as 5%") }
        return percent / 100
    }

    func validate() throws {
        if try part() != nil && !paths.isEmpty {
            throw ValidationError("--share goes through the whole backup by and by; leave out the paths, or --share")
        }
    }

    func run() async throws {
        let isQuiet = json
        let verification = Verification(
            try state.directory(), paths: paths.map(\.bytes), share: try part(),
            tell: { if !isQuiet { Console.print($0) } })
        let report = try await verification.run()
        Console.print(json ? try ReportText.json(report) : report.text)
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
