import Glibc
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
        // It is read again from another current directory.
        self.state = state.absolute
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

    /// The same file, read again.
    /// - Throws: everything that is wrong, in one error.
    func readAgain() throws(SafeBackupError) -> ConfiguredRun {
        try ConfiguredRun(of: file, state: state, isOnce: settings.isOnce)
    }

    /// What is other than in `former`, each in a sentence.
    func changes(since former: ConfiguredRun) -> [String] {
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
