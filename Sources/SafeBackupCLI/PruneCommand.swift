import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupCore

struct PruneCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prune",
        abstract: "Remove older versions by age and number.",
        discussion: """
            Lists what would be removed, and asks. A version stays if one of the rules keeps it; the current copy of a file \
            counts as its newest one. Never removed are the last good copy of a path, what lay in the destination before, \
            and the last state of a deleted file, unless --keep-deleted is given. Each removal is noted in the state (view \
            v_cleaned). Exit code 1: nothing was removed, as you did not agree; 2: nobody could be asked, and nothing was removed; 3: something is removed only when its disk is there again, or could not be removed.
            """)

    @Argument(help: "Absolute, or relative to the source, with all below them; none means all.")
    var paths: [ArgumentBytes] = []

    @Option(name: .long, help: ArgumentHelp("Keep the newest N versions of each file.", valueName: "n"))
    var keepLast: Int?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Keep every version that was the current one in this time, as 30d, 12h or 4w.", valueName: "time"))
    var keepWithin: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Keep the newest version of each of the last N days that have one.", valueName: "n"))
    var keepDaily: Int?

    @Option(name: .long, help: ArgumentHelp("The same by weeks, which begin on Monday.", valueName: "n"))
    var keepWeekly: Int?

    @Option(name: .long, help: ArgumentHelp("The same by months.", valueName: "n"))
    var keepMonthly: Int?

    @Option(name: .long, help: ArgumentHelp("The same by years.", valueName: "n"))
    var keepYearly: Int?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Remove what was deleted at the source longer ago, with all its versions.", valueName: "time"))
    var keepDeleted: String?

    @Flag(name: [.customShort("n"), .long], help: "Only list what would be removed.")
    var dryRun = false

    @Flag(name: .long, help: "Remove without being asked.")
    var yes = false

    @OptionGroup var state: AgentOptions

    @Flag(name: .long, help: "Print JSON, for programs; removes only with --yes.")
    var json = false

    private func policy() throws -> RetentionPolicy {
        var policy = RetentionPolicy()
        policy.last = keepLast
        policy.within = try keepWithin.map { try duration($0, "--keep-within") }
        policy.daily = keepDaily
        policy.weekly = keepWeekly
        policy.monthly = keepMonthly
        policy.yearly = keepYearly
        policy.deletedWithin = try keepDeleted.map { try duration($0, "--keep-deleted") }
        return policy
    }

    private func duration(_ text: String, _ option: String) throws -> Duration {
        guard let duration = TimeExpression.duration(text) else {
            throw ValidationError("\(option) is a time as 30d, 12h or 4w")
        }
        return duration
    }

    func validate() throws {
        let counts = [keepLast, keepDaily, keepWeekly, keepMonthly, keepYearly].compactMap { $0 }
        guard counts.allSatisfy({ (0...1_000_000).contains($0) }) else {
            throw ValidationError("the number of a --keep-… rule is from 0 to 1,000,000")
        }
        let policy = try policy()
        guard policy.hasRules || policy.deletedWithin != nil else {
            throw ValidationError("without a --keep-… rule everything is kept; name at least one")
        }
        // Nobody means to have no version at all by a typing mistake.
        if policy.hasRules && counts.allSatisfy({ $0 == 0 }) && policy.within == nil && !counts.isEmpty {
            throw ValidationError("these rules keep no version; name one that keeps some, as --keep-last 1")
        }
        if dryRun && yes { throw ValidationError("--dry-run removes nothing, --yes removes: name one of them") }
    }

    func run() async throws {
        let pruning = Pruning(try state.directory(), paths: paths.map(\.bytes), policy: try policy())
        let plan = try show(pruning)
        if plan.removed == 0 || dryRun || (json && !yes) { return }
        guard try yes || isAgreed(plan) else {
            // As nobody would run it to be told so: what follows in a script is not to go on as if it were done.
            Console.error("safebackup: nothing was removed, as you did not agree")
            throw ExitCode(1)
        }
        let totals = try await pruning.run { line throws(SafeBackupError) in
            Console.error("could not be removed, and is kept: \(line.text)")
        }
        if !json { Console.print(text(totals, "removed")) }
        if totals.failed > 0 {
            Console.error(
                "\(counted(totals.failed, "older state")) could not be removed: the files are protected (lsattr), or "
                    + "what is newer is not in the destination as it was stored; 'safebackup status' tells which")
        }
        for destination in totals.waiting {
            Console.error("\(destination): what is left is removed by the agent as soon as it is there")
        }
        if !totals.waiting.isEmpty || totals.failed > 0 { throw ExitCode(3) }
    }

    private func show(_ pruning: Pruning) throws -> Pruning.Totals {
        if !json {
            let totals = try pruning.plan { line throws(SafeBackupError) in Console.print(line.text) }
            Console.print(text(totals, yes ? "to be removed" : "would be removed"))
            return totals
        }
        Console.write(#"{"removals":["#, to: 1)
        var isFirst = true
        let totals = try pruning.plan { line throws(SafeBackupError) in
            Console.write((isFirst ? "\n" : ",\n") + (try ReportText.json(line, isPretty: false)), to: 1)
            isFirst = false
        }
        Console.print(#"],"totals":\#(try ReportText.json(totals, isPretty: false))}"#)
        return totals
    }

    private func text(_ totals: Pruning.Totals, _ what: String) -> String {
        "\(counted(totals.removed, "older state")) \(what) (\(ByteCount(totals.removedBytes))); "
            + "\(counted(totals.kept, "older state")) of \(counted(totals.paths, "path")) kept"
    }

    private func isAgreed(_ plan: Pruning.Totals) throws -> Bool {
        guard isatty(0) == 1 else {
            // What a timer's script asked for was not done, and must not look as if it were.
            Console.error("safebackup: nothing was removed: nobody can be asked here; with --yes it is removed")
            throw ExitCode(2)
        }
        Console.write("Remove? [y/N] ", to: 1)
        return ["y", "yes"].contains(readLine()?.lowercased())
    }
}
