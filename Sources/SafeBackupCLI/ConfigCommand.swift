import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SystemPackage

struct CheckConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-config",
        abstract: "Look for mistakes in a configuration, without starting anything.",
        discussion: """
            Tells everything that is wrong at once, each with its file, line and column, and exits with 2 then. Also \
            looks whether the paths can be used together on this machine, and whether the state and the destinations, as far \
            as you may read them, let an agent start with it.
            """)

    @Argument(
        help: "The configuration (default: /etc/safebackup/agent.conf; ~/.config/safebackup/agent.conf if not root).")
    var file: ArgumentBytes?

    @OptionGroup var state: StateOption

    func run() throws {
        let path = ConfiguredRun.path(file)
        let read = try ConfiguredRun(of: path, state: state, isOnce: false)
        let settings = read.settings
        let refusals = settings.refusals(read.configuration)
        if !refusals.isEmpty { throw ConfigurationFailure(refusals).error }
        for note in read.notes.leftOut + read.notes.others + settings.idleRules { Console.print("note: \(note)") }
        let pairs = settings.destinations.reduce(0) { $0 + $1.members.count }
        Console.print(
            "\(printable(path.bytes)): no mistakes; sources: \(settings.sources.count), destinations: "
                + "\(settings.destinations.count), pairs: \(pairs)")
    }
}

struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config", abstract: "Show a configuration, or an example of one.",
        subcommands: [ConfigShowCommand.self, ConfigExampleCommand.self])
}

struct ConfigShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Print what a configuration and its drop-ins say together.")

    @Flag(name: .long, help: "Also what is not written, with its default.")
    var effective = false

    @Option(name: .long, help: ArgumentHelp("The configuration (default: as of check-config).", valueName: "file"))
    var config: ArgumentBytes?

    func run() throws {
        do {
            let configuration = try ConfigurationFiles.load(ConfiguredRun.path(config))
            Console.write(bytes: effective ? configuration.effective : configuration.written, to: 1)
        } catch {
            throw error.error
        }
    }
}

struct ConfigExampleCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "example", abstract: "Print a configuration with every key, its meaning and its default.")

    func run() { Console.write(ConfigurationKeys.example, to: 1) }
}
