import ArgumentParser
import Glibc
import SafeBackupAgent
import SafeBackupCore
import SafeBackupSystem

struct SafeBackup: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "safebackup",
        abstract: "Keeps a directory saved as plain files, while you work.",
        discussion: """
            Start with:  safebackup init ~/Photos /mnt/backup/photos
            Exit codes: 0 all well, 1 failed, 2 usage or configuration, 3 done but something could not be saved,
            4 held (see 'safebackup status'), 5 another agent has the state, 130 second interrupt.
            """,
        version: Release.version,
        subcommands: [
            RunCommand.self, StatusCommand.self, RestoreCommand.self, ListCommand.self, VerifyCommand.self,
            PruneCommand.self,
            RetryCommand.self,
            ExposureCommand.self,
            QueueCommand.self, WhyCommand.self, VersionsCommand.self, CheckIgnoreCommand.self, AcceptCommand.self,
            PauseCommand.self, ResumeCommand.self, CheckConfigCommand.self, ConfigCommand.self, CleanCommand.self,
            InitCommand.self, PlanCommand.self, DoctorCommand.self,
        ])
}

/// The options that every verb has.
struct StateOption: ParsableArguments {
    @Option(
        name: .customLong("state"), help: "Where the agent keeps its state (default: see safebackup status --help).")
    var state: ArgumentBytes?

    /// The same from any current directory.
    var absolute: StateOption {
        guard let state, !state.bytes.isEmpty else { return self }
        var absolute = self
        absolute.state = ArgumentBytes(ConfiguredRun.absolutePath(state).bytes)
        return absolute
    }

    /// - Parameter configured: what a configuration file names, if one is used.
    func directory(configured: [UInt8]? = nil) throws(SafeBackupError) -> StateDirectory {
        var environment: [String: String] = [:]
        for name in ["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"] {
            if let pointer = getenv(name) { environment[name] = String(cString: pointer) }
        }
        return try StateDirectory.resolve(option: state?.bytes ?? configured, environment: environment, uid: getuid())
    }
}

@main
enum Main {
    static func main() async {
        StandardStreams.fillGaps()
        ProcessSignals.ignoreHarmful()
        ProcessMemory.configure()
        do {
            var command = try SafeBackup.parseAsRoot(ArgumentBytes.processArguments())
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            await Console.flush()
        } catch let error as SafeBackupError {
            Console.error("safebackup: \(error.message)")
            await Console.flush()
            exit(exitCode(for: error))
        } catch {
            // 64 is the parser's own code for a usage error; ours is 2.
            let code = SafeBackup.exitCode(for: error).rawValue
            let message = SafeBackup.fullMessage(for: error)
            if code == 0 { Console.print(message) } else if !message.isEmpty { Console.error(message) }
            await Console.flush()
            exit(code == 64 ? 2 : code)
        }
    }

    static func exitCode(for error: SafeBackupError) -> Int32 {
        switch error.code {
        case .invalidConfiguration, .invalidPath: 2
        case .destinationTaken where error.disposition == .permanent: 2
        case .stateLocked: 5
        case _ where error.isHolding: 4
        default: 1
        }
    }
}
