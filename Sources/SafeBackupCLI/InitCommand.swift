import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

struct InitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Set up a backup: look, save, restore a file, write the configuration.",
        discussion: """
            Tells what would be saved and asks. Then saves it, restores one file and compares it, writes the configuration \
            (or, where one is, a file beside it in agent.conf.d/), and says how the agent is started, or starts it. Each \
            step may be repeated: after an interruption run it again. Run by root where the package is installed, it sets \
            up the system's service. Exit code 0: all is set up, 2: nobody could be asked, or wrong usage, 3: something \
            could not be saved, or there is no room, 4: something is held, 5: an agent is at work with this state.
            """)

    @Argument(help: "The directory to save.")
    var source: ArgumentBytes

    @Argument(help: "The directory that holds the backup; it is made if its parent exists.")
    var destination: ArgumentBytes

    @Option(
        name: .long, help: ArgumentHelp("The configuration to write (default: as of check-config).", valueName: "file"))
    var config: ArgumentBytes?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "A directory of the destination for this source's copies (default: none, or the source's name where the "
                + "destination holds other sources).", valueName: "path"))
    var prefix: ArgumentBytes?

    @OptionGroup var state: StateOption

    @OptionGroup var excludes: ExcludeOptions

    @Flag(name: .long, help: "Do it without asking; starts the service too, where it is installed.")
    var yes = false

    func run() async throws {
        let main = config.map(ConfiguredRun.absolutePath) ?? ConfiguredRun.path(nil)
        let setup = try Setup(
            source: source.bytes, destination: destination.bytes, prefix: try prefix?.prefix(), main: main,
            stateOption: state, excludes: excludes)
        if setup.isConfigured, let process = setup.running {
            Console.print(
                "This is set up already in \(printable(main.bytes)), and an agent runs (process \(process)). "
                    + "'safebackup status' tells how it is.")
            return
        }
        if let process = setup.running { throw setup.isRunning(process) }
        let plan = try look(setup)
        try decide(setup, plan)
        let isComplete = try await save(setup)
        try check(setup)
        try writeConfiguration(setup)
        try offerStart(setup)
        if !isComplete { throw ExitCode(3) }
    }

    // MARK: 1. Looking

    private func look(_ setup: Setup) throws -> DrainPlan {
        Console.print("1. What would be saved\n")
        let counter = WalkCounter()
        var plan = try DrainPlanner(setup.settings).plan(tell: counter.show)
        counter.erase()
        plan.notes += setup.notes
        Console.print(plan.text + "\n")
        if plan.isHeld { throw ExitCode(4) }
        if plan.isTooLarge {
            Console.error("safebackup: nothing was done, because there is not enough room")
            throw ExitCode(3)
        }
        return plan
    }

    private func decide(_ setup: Setup, _ plan: DrainPlan) throws {
        Console.print("What comes next:")
        for line in setup.intentions { Console.print("  - \(line)") }
        if yes { return }
        guard isatty(0) == 1 else {
            Console.error("safebackup: nobody can be asked here; with --yes it is done")
            throw ExitCode(2)
        }
        guard Self.isAgreed("Go on?") else {
            Console.print("Nothing was done.")
            throw ExitCode(2)
        }
    }

    static func isAgreed(_ question: String) -> Bool {
        Console.write("\(question) [y/N] ", to: 1)
        return ["y", "yes"].contains(readLine()?.lowercased())
    }

    // MARK: 2. Saving

    /// Whether everything was saved.
    private func save(_ setup: Setup) async throws -> Bool {
        Console.print("\n2. Saving" + (setup.isService ? " as the user \(ServiceUnit.userName)" : ""))
        if setup.isService {
            try ServiceSave.prepare(setup.destination, setup.settings.state)
            let code = try ServiceSave.run(setup.runArguments)
            if code != 0 && code != 3 { throw ExitCode(code) }
            return code == 0
        }
        return try await OnceSave(settings: setup.settings).run()
    }

    // MARK: 3. Restoring

    private func check(_ setup: Setup) throws {
        Console.print("\n3. Restoring one file, to see that it comes back")
        guard let result = try setup.restore() else {
            Console.print("There is no file that could be restored for a trial: none yet, or none below 1 GiB.")
            return
        }
        let name = "\(result.path) (\(ByteCount(result.size)))"
        guard result.differences.isEmpty else {
            throw SafeBackupError(
                .damaged,
                "\(name) did not come back as it was saved: \(result.differences.joined(separator: "; ")); look at the "
                    + "destination's disk, and run 'safebackup verify'", disposition: .permanent)
        }
        Console.print(
            "\(name) came back with its content, time and mode"
                + (result.isComparedWithSource ? ", the same as in the source." : "."))
    }

    // MARK: 4. Configuring

    private func writeConfiguration(_ setup: Setup) throws {
        Console.print("\n4. Configuration")
        guard let new = setup.new else {
            Console.print("\(printable(setup.main.bytes)) has it already, and stays as it is.")
            return
        }
        try new.write()
        Console.print("Written: \(printable(new.file.bytes))")
        if new.isDropIn {
            Console.print("An agent that runs reads it when it is told to: systemctl reload safebackup, or kill -HUP.")
        }
    }

    // MARK: 5. Starting

    private func offerStart(_ setup: Setup) throws {
        Console.print("\n5. The agent")
        if setup.isService && ServiceUnit.isManagerRunning {
            if yes || (isatty(0) == 1 && Self.isAgreed("Start the service now, and at each boot?")) {
                try ServiceUnit.enable()
                Console.print(
                    "safebackup.service runs, and starts with the system. 'safebackup status' tells how it is.")
                return
            }
        }
        Console.print("It saves every change from now on when it runs:\n")
        for line in setup.startCommands { Console.print("    \(line)") }
        Console.print("\n'safebackup status' tells how it is, 'safebackup doctor' looks for what is wrong.")
    }
}
