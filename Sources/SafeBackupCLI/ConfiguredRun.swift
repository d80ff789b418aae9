import Glibc
import Logging
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupWatch
import SystemPackage

/// A configuration file, and what an agent is to do by it.
struct ConfiguredRun: Sendable {
    let file: FilePath
    let configuration: Configuration
    let settings: AgentSettings
    let notes: AgentSettings.Notes
    private let state: StateOption

    /// - Throws: everything that is wrong, in one error.
    init(of file: FilePath, state: StateOption, isOnce: Bool) throws(SafeBackupError) {
        self.file = file
        self.state = state
        var notes = AgentSettings.Notes()
        do throws(ConfigurationFailure) {
            configuration = try ConfigurationFiles.load(file)
        } catch {
            throw error.error
        }
        let directory = try state.directory(configured: configuration.state)
        do throws(ConfigurationFailure) {
            settings = try AgentSettings(configuration, state: directory, isOnce: isOnce, notes: &notes)
        } catch {
            throw error.error
        }
        self.notes = notes
    }

    /// The file that is named, else where one is looked for.
    static func path(_ file: ArgumentBytes?) -> FilePath {
        if let file { return FilePath(bytes: file.bytes) }
        var environment: [String: String] = [:]
        for name in ["XDG_CONFIG_HOME", "HOME"] {
            if let pointer = getenv(name) { environment[name] = String(cString: pointer) }
        }
        return ConfigurationFiles.standard(environment: environment, uid: getuid())
    }

    /// As it is from any current directory.
    static func absolutePath(_ file: ArgumentBytes) -> FilePath { absolutePath(FilePath(bytes: file.bytes)) }

    static func absolutePath(_ path: FilePath) -> FilePath {
        guard path.isRelative, let current = getcwd(nil, 0) else { return path }
        defer { free(current) }
        return FilePath(platformString: current).pushing(path).lexicallyNormalized()
    }

    // MARK: Reading it again

    /// Reads the file again and has the agent go on with what it says now; with mistakes in it the agent goes on as before.
    /// Returns what holds then.
    func reloaded(by agent: Agent, _ logger: Logger) -> ConfiguredRun {
        let new: ConfiguredRun
        do throws(SafeBackupError) {
            new = try ConfiguredRun(of: file, state: state, isOnce: false)
        } catch {
            logger.error(
                .configurationRefused,
                "The configuration has mistakes; the agent goes on with the one it had ('safebackup check-config' shows them)",
                metadata: ["error": "\(error.message)"])
            return self
        }
        let changes = new.changes(since: self)
        guard !changes.isEmpty || agent.hasRefusedSettings else {
            logger.notice(.configurationChanged, "The configuration was read again; nothing has changed")
            return new
        }
        logger.notice(
            .configurationChanged, "The configuration was read again, and holds from now on",
            metadata: ["changes": "\(changes.joined(separator: "; "))"])
        if new.settings.state.path != settings.state.path {
            logger.warning(
                .configurationChanged, "The state's directory stays as it is until the agent is started anew",
                metadata: ["state.path": "\(printable(settings.state.path.bytes))"])
        }
        agent.reload(new.settings)
        return new
    }

    private func changes(since former: ConfiguredRun) -> [String] {
        var changes = configuration.differences(from: former.configuration)
        let rules = settings.sources.map(\.excludes.patterns.count)
        let isSame =
            settings.sources.map { $0.excludes.patterns.map(\.bytes) }
            == former.settings.sources.map { $0.excludes.patterns.map(\.bytes) }
        if changes.isEmpty && !isSame {
            changes.append("the patterns in files of exclude-from (\(rules.reduce(0, +)) rules now)")
        }
        return changes
    }
}
