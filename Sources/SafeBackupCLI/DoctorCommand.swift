import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Look for what is wrong, or soon will be, and tell what to do.",
        usage: """
            safebackup doctor [--state DIR] [--json]
            safebackup doctor SOURCE DESTINATION [--exclude PATTERN]... [--state DIR] [--json]
            safebackup doctor s3://BUCKET/PREFIX [--endpoint URL] [--region NAME] [--config FILE] [--json]
            safebackup doctor --config FILE [--state DIR] [--json]
            """,
        discussion: """
            Looks at the machine's limits and clock, at the state, and at sources and destinations: those that are named, \
            else those that the agent ran with last, else those of the usual configuration. Stores a small file in each \
            destination, and restores one that was saved; both are removed again. Works beside a running agent. Exit code \
            0: no problem was found (there may be warnings), 3: one was, 2: wrong usage or configuration.
            Of a bucket it finds out, with at most 12 requests, what its server can do and what the keys may do there, and \
            prints the policy that allows them what they need and no more. A bucket alone is looked at as the configuration \
            says, if it has that bucket, else with the keys that the environment or the profiles of AWS give.
            """)

    @OptionGroup var pair: PairOptions

    @OptionGroup var bucket: BucketOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    /// The bucket that is named alone.
    private var url: [UInt8]? {
        guard pair.destination == nil, let named = pair.source?.bytes else { return nil }
        return BucketURL.isMeant(by: named) ? named : nil
    }

    func validate() throws {
        if url != nil {
            if !pair.excludes.exclude.isEmpty || !pair.excludes.excludeFrom.isEmpty {
                throw ValidationError("What is left out is a SOURCE's; a bucket alone has none.")
            }
            return
        }
        if !bucket.isEmpty && !(pair.destination.map { BucketURL.isMeant(by: $0.bytes) } ?? false) {
            throw ValidationError("--endpoint and --region are of s3://BUCKET/PREFIX on the command line.")
        }
        try pair.check(mayBeEmpty: true)
    }

    func run() throws {
        if let url { return try show(try examine(url), notes: []) }
        let (settings, notes) = try pair.settings(bucket: bucket) ?? usual() ?? (nil, [])
        let directory = try settings?.state ?? pair.state.directory()
        let counter = WalkCounter()
        let doctor = Doctor(directory, settings: settings, configured: configured, tell: counter.show)
        let report = doctor.examine()
        counter.erase()
        try show(report, notes: notes)
    }

    /// As it is configured, unless the command line says how it is spoken to.
    private func examine(_ url: [UInt8]) throws -> DoctorReport {
        let named = try bucket.bucket(url)
        let known = bucket.isEmpty ? try configured(named.location).get() : nil
        return Doctor(try pair.state.directory(), settings: nil).examine(known ?? named)
    }

    /// What the configuration that was named, else the usual one, says of a bucket.
    private func configured(_ location: [UInt8]) -> Result<Configuration.S3?, SafeBackupError> {
        let file = ConfiguredRun.path(pair.config)
        if pair.config == nil, file.withPlatformString({ access($0, R_OK) }) != 0 { return .success(nil) }
        do throws(ConfigurationFailure) {
            let buckets = try ConfigurationFiles.load(file).destinations.compactMap(\.s3)
            return .success(buckets.first { $0.location == location })
        } catch {
            return .failure(error.error)
        }
    }

    private func show(_ report: DoctorReport, notes: [String]) throws {
        if json {
            Console.print(try ReportText.json(report))
        } else {
            Console.print(report.text)
            for note in notes { Console.print("note: \(note)") }
        }
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }

    /// The usual configuration, where no state tells more.
    private func usual() throws -> (settings: AgentSettings?, notes: [String])? {
        if try pair.state.directory().hasState { return nil }
        let file = ConfiguredRun.path(nil)
        do throws(Errno) {
            _ = try Descriptor.status(of: file)
        } catch {
            return nil  // there is none, or not for this user
        }
        let read = try ConfiguredRun(of: file, state: pair.state, isOnce: true)
        return (read.settings, read.notes.leftOut)
    }
}
