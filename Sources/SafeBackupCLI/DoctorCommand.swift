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
            safebackup doctor --config FILE [--state DIR] [--json]
            """,
        discussion: """
            Looks at the machine's limits and clock, at the state, and at sources and destinations: those that are named, \
            else those that the agent ran with last, else those of the usual configuration. Stores a small file in each \
            destination, and restores one that was saved; both are removed again. Works beside a running agent. Exit code \
            0: no problem was found (there may be warnings), 3: one was, 2: wrong usage or configuration.
            """)

    @OptionGroup var pair: PairOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func validate() throws { try pair.check(mayBeEmpty: true) }

    func run() throws {
        let (settings, notes) = try pair.settings() ?? usual() ?? (nil, [])
        let directory = try settings?.state ?? pair.state.directory()
        let counter = WalkCounter()
        let report = Doctor(directory, settings: settings, tell: counter.show).examine()
        counter.erase()
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
