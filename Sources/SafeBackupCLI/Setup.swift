import Glibc
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// What `init` knows before it does anything.
struct Setup {
    /// The configuration that the agent is to be started with.
    let main: FilePath
    let settings: AgentSettings
    let notes: [String]
    /// What is to be written; `nil`: the configuration has the pair already.
    let new: NewConfiguration?
    /// The agent is to be the packaged service.
    let isService: Bool
    private let excludes: ExcludeOptions
    private let hasOwnState: Bool

    var source: FilePath { settings.sources[0].path }
    var destination: FilePath { settings.destinations[0].path }
    var isConfigured: Bool { new == nil }

    /// - Throws: everything that is known to be in the way, before anything was changed.
    init(
        source: [UInt8], destination: [UInt8], prefix: RelativePath?, main: FilePath, stateOption: StateOption,
        excludes: ExcludeOptions
    ) throws {
        self.main = main
        self.excludes = excludes
        var existing: ConfiguredRun?
        if NewConfiguration.exists(main) {
            existing = try ConfiguredRun(of: main, state: stateOption, isOnce: true)
        }
        let directory = try existing?.settings.state ?? stateOption.directory()
        try Self.refuseServiceState(directory, main)
        let preflight = try Preflight(
            source: source, destination: destination, state: directory.path, known: directory.knownDestinations())
        var settings = AgentSettings(
            preflight: preflight, state: directory, excludes: try ExcludeRules(try excludes.patterns() ?? []),
            isOnce: true)
        let known = existing?.settings.destinations.first { destination in
            destination.path == preflight.destination
                && destination.members.contains { existing?.settings.sources[$0.source].path == preflight.source }
        }
        hasOwnState = stateOption.state != nil
        var notes: [String] = []
        if let known, let existing {
            // As it is configured, whatever was given here.
            settings.destinations[0].settle = known.settle
            for member in known.members where existing.settings.sources[member.source].path == preflight.source {
                settings.sources[0].excludes = existing.settings.sources[member.source].excludes
                settings.destinations[0].members[0].prefix = member.prefix
                if let prefix, prefix != member.prefix {
                    throw Preflight.refusal(
                        "\(printable(main.bytes)) has this backup already, "
                            + (member.prefix.isRoot ? "at the destination's top" : "under the prefix \(member.prefix)")
                            + "; leave out --prefix, or give another destination")
                }
            }
            new = nil
        } else {
            let shared = existing.flatMap { existing in
                zip(existing.configuration.destinations, existing.settings.destinations)
                    .first { $0.1.path == preflight.destination }
            }
            let added = try NewConfiguration(
                source: preflight.source.bytes, destination: preflight.destination.bytes, prefix: prefix,
                sharing: shared?.0.name, state: hasOwnState ? directory.path.bytes : nil,
                excludes: excludes.assignments(), main: main)
            if let shared {
                // As it is configured, with this source alone.
                let members = settings.destinations[0].members
                settings.destinations[0] = shared.1
                settings.destinations[0].members = members
            }
            settings.destinations[0].members[0].prefix = added.prefix
            if !added.prefix.isRoot {
                notes.append("The copies lie under the prefix \(added.prefix) in the destination")
            }
            new = added
        }
        self.settings = settings
        isService = ServiceSave.applies(state: directory, configuration: main)
        if isService { try ServiceSave.check(preflight.destination) }
        notes += preflight.leftOut + settings.idleRules
        if known != nil && !excludes.assignments().isEmpty {
            notes.append("\(printable(main.bytes)) has this backup already, and its rules hold, not those given here")
        }
        self.notes = notes
    }

    /// Root's own agent must not take the state's directory of the service's user, who could not open what root made there.
    private static func refuseServiceState(_ directory: StateDirectory, _ main: FilePath) throws {
        guard geteuid() == 0, ServiceUnit.isInstalled, directory.path == ServiceUnit.state,
            !ServiceSave.applies(state: directory, configuration: main)
        else { return }
        throw Preflight.refusal(
            "The state directory \(printable(directory.path.bytes)) is the installed service's, whose configuration is "
                + "\(printable(ServiceUnit.configuration.bytes)); leave out --config, or give this backup a state of its own "
                + "with --state DIR")
    }

    /// The process that has the state, if an agent runs; 0 if it cannot be told which.
    var running: Int32? {
        let holder = settings.state.holder()
        return holder.isHeld ? holder.process ?? 0 : nil
    }

    func isRunning(_ process: Int32) -> SafeBackupError {
        let state = printable(settings.state.path.bytes)
        return SafeBackupError(
            .stateLocked,
            "An agent is at work with the state directory \(state) (process \(process)); stop it for the first save "
                + "(systemctl stop safebackup, or Ctrl-C where it runs), run this again, and start it then; or give this "
                + "backup a state of its own with --state DIR and --config FILE", disposition: .permanent)
    }

    /// What would be done, for a person.
    var intentions: [String] {
        var lines = ["save it to \(printable(destination.bytes))"]
        if isService {
            lines[0] += " as the user \(ServiceUnit.userName), to whom the destination then belongs"
        }
        lines.append("restore one file into a temporary directory, and compare it")
        if let new {
            lines.append(
                "write \(printable(new.file.bytes))" + (new.isDropIn ? ", beside \(printable(main.bytes))" : ""))
        }
        if isService && ServiceUnit.isManagerRunning { lines.append("offer to start the service") }
        return lines
    }

    /// `run --once` for a process of its own.
    var runArguments: [[UInt8]] {
        let state = [Array("--state".utf8), settings.state.path.bytes]
        if isConfigured {
            return [Array("run".utf8), Array("--config".utf8), main.bytes, Array("--once".utf8)] + state
        }
        var arguments = [Array("run".utf8), source.bytes, destination.bytes, Array("--once".utf8)]
        arguments += state
        let prefix = settings.destinations[0].members[0].prefix
        if !prefix.isRoot { arguments.append(Array("--prefix=".utf8) + prefix.bytes) }
        for exclude in excludes.assignments() {
            switch exclude {
            case .pattern(let pattern): arguments.append(Array("--exclude=".utf8) + pattern)
            case .file(let path): arguments.append(Array("--exclude-from=".utf8) + path)
            }
        }
        return arguments
    }

    func restore() throws(SafeBackupError) -> RestoreTrial.Result? {
        try RestoreTrial.run(in: settings.state, at: destination, comparesSource: true)
    }

    /// How the agent is started, word for word.
    var startCommands: [String] {
        if isService { return ["systemctl enable --now safebackup"] }
        let program = Self.quoted(printable(ServiceSave.program ?? Array("safebackup".utf8)))
        let file = Self.quoted(printable(main.bytes))
        var commands = ["\(program) run --config \(file)"]
        // What needs quotes for a shell needs others in a unit.
        let isPlain = !(program + file).contains { "'%".contains($0) }
        if ServiceUnit.isManagerRunning && geteuid() != 0 && isPlain && !hasOwnState {
            commands += [
                "",
                "# or as a service of your own, which runs while you are logged in (always: loginctl enable-linger):",
                "mkdir -p ~/.config/systemd/user",
                #"printf '[Service]\nType=notify\nExecStart=%s run --config %s\nRestart=on-failure\n\n[Install]\n"#
                    + #"WantedBy=default.target\n' \#(program) \#(file) >~/.config/systemd/user/safebackup.service"#,
                "systemctl --user enable --now safebackup",
            ]
        }
        return commands
    }

    /// For a shell.
    private static func quoted(_ word: String) -> String {
        let isPlain = word.utf8.allSatisfy { byte in
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                || "/._-+:,@%".utf8.contains(byte)
        }
        return isPlain && !word.isEmpty
            ? word
            : "'"
                + word.split(separator: "'", omittingEmptySubsequences: false)
                .joined(separator: #"'\''"#) + "'"
    }
}
