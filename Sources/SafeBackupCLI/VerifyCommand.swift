import ArgumentParser
import SafeBackupAgent
import SafeBackupCore
import SystemPackage

struct VerifyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Read stored copies again, and compare them with what was saved.",
        discussion: """
            Current copies, tombstones and versions are read from the disk at low priority, and their digests compared. A \
            damaged or missing one is marked, never counts as a last good copy, and is saved again from the source where \
            that still has it; else the newest good version is named. Runs beside an agent or without one. Without paths, destinations that are \
            not configured any more are read too, where they are there; 'safebackup status' tells when all was last read. With --share \
            only a part is read, and the next time the part after it. With --from only the destination is asked, as on a new \
            machine: its copies are compared with its catalogue copy, nothing is written, and what is not in the catalogue \
            copy is told as not known. Of a bucket every object is downloaded, which its provider may charge for. Exit code 3: something is damaged or could not be \
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

    @Option(name: .long, help: "The backup itself, when there is no state: on a new machine, or after its loss.")
    var from: ArgumentBytes?

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    @OptionGroup var bucket: BucketOptions

    /// Between 0 and 1.
    private func part() throws -> Double? {
        guard let share else { return nil }
        guard let percent = Double(share.hasSuffix("%") ? String(share.dropLast()) : share), percent > 0, percent <= 100
        else { throw ValidationError("--share is a part of the backup in percent, as 5%") }
        return percent / 100
    }

    func validate() throws {
        if share != nil && from != nil {
            throw ValidationError(
                "--share goes on where the last one ended, which only the state knows: not with --from")
        }
        if try part() != nil && !paths.isEmpty {
            throw ValidationError("--share goes through the whole backup by and by; leave out the paths, or --share")
        }
    }

    func run() async throws {
        let isQuiet = json
        let tell: @Sendable (String) -> Void = { if !isQuiet { Console.print($0) } }
        let (options, agent) = (bucket, state)
        let report: VerifyReport
        if let from {
            let paths = paths.map(\.bytes)
            if let url = try state.bucketURL(named: from) {
                // A bucket's answers are waited for.
                report = try await OneThread("sb.verify").run { () throws(SafeBackupError) in
                    try BucketVerification.run(from: try options.open(url, of: agent), paths: paths, tell: tell)
                }
            } else {
                report = try await BareVerification(from: try state.backup(named: from), paths: paths, tell: tell).run()
            }
        } else {
            report = try await Verification(
                try state.directory(), paths: paths.map(\.bytes), share: try part(),
                bucket: { (url) throws(SafeBackupError) in try options.open(url, of: agent) }, tell: tell
            ).run()
        }
        Console.print(json ? try ReportText.json(report) : report.text)
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }
}
