import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupCore

struct PlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Tell what a run would do now, and write nothing.",
        usage: """
            safebackup plan SOURCE DESTINATION [--exclude PATTERN]... [--exclude-from FILE]... [--state DIR] [--json]
            safebackup plan --config FILE [--state DIR] [--json]
            """,
        discussion: """
            Walks the source as a run does, and tells how much would be saved, what would be left out and why, what is new, \
            changed, renamed or deleted since the last save, and whether there is room for it. Exit code 0: everything can \
            be saved, 3: something cannot, or there is no room for it, 4: something is held, 2: wrong usage or configuration.
            """)

    @OptionGroup var pair: PairOptions

    @Flag(name: .long, help: "Print JSON, for programs.")
    var json = false

    func validate() throws { try pair.check(mayBeEmpty: false) }

    func run() throws {
        guard let (settings, notes) = try pair.settings() else { return }
        let counter = WalkCounter()
        var plan = try DrainPlanner(settings).plan(tell: counter.show)
        counter.erase()
        plan.notes += notes
        Console.print(json ? try ReportText.json(plan) : plan.text)
        if plan.exitCode != 0 { throw ExitCode(plan.exitCode) }
    }
}

/// One line on a terminal while a walk goes on.
struct WalkCounter {
    private let isTerminal = isatty(2) == 1

    func show(_ seen: Int) { if isTerminal { Console.write("\r\u{1B}[K\(grouped(seen)) entries seen", to: 2) } }

    func erase() { if isTerminal { Console.write("\r\u{1B}[K", to: 2) } }
}
