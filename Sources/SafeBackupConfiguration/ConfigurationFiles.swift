import Glibc
import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

/// Reads a configuration file and its drop-ins.
package enum ConfigurationFiles {
    private static let limit = 1 << 20

    /// Where an agent's configuration is looked for when none is named: `/etc/safebackup/agent.conf` for root, else
    /// `$XDG_CONFIG_HOME/safebackup/agent.conf` or `~/.config/safebackup/agent.conf`.
    package static func standard(environment: [String: String], uid: UInt32) -> FilePath {
        // The base directory specification has relative paths ignored.
        if uid != 0, let base = environment["XDG_CONFIG_HOME"], base.hasPrefix("/") {
            return FilePath(base).appending("safebackup/agent.conf")
        }
        if uid != 0, let home = environment["HOME"], home.hasPrefix("/") {
            return FilePath(home).appending(".config/safebackup/agent.conf")
        }
        return "/etc/safebackup/agent.conf"
    }

    /// The configuration of the file at `path` and of `path.d/*.conf`, in the order of their names.
    /// Throws all that is wrong, also with files that cannot be read.
    /// - Parameter adding: a file that is not there yet, as if it were the last one.
    package static func load(
        _ path: FilePath, adding: (path: FilePath, content: [UInt8])? = nil
    ) throws(ConfigurationFailure) -> Configuration {
        var problems: [ConfigurationProblem] = []
        var files: [(path: [UInt8], content: [UInt8])] = []
        func read(_ file: FilePath) {
            do throws(ConfigurationFault) {
                files.append((bytes(of: file), try content(of: file)))
            } catch {
                problems.append(ConfigurationProblem(beginning(of: file), error.message))
            }
        }
        if adding?.path != path { read(path) }
        do throws(ConfigurationFailure) {
            for file in try dropIns(of: path) { read(file) }
        } catch {
            // What keeps the file itself from being read often keeps its drop-ins too, and is the cause to be told.
            if problems.isEmpty { problems = error.problems }
        }
        if !problems.isEmpty { throw ConfigurationFailure(problems) }
        if let adding { files.append((bytes(of: adding.path), adding.content)) }
        let configuration = try Configuration(files)
        let exposed = exposedSecrets(configuration)
        if !exposed.isEmpty { throw ConfigurationFailure(exposed) }
        return configuration
    }

    private static func beginning(of file: FilePath) -> ConfigurationPlace {
        ConfigurationPlace(file: bytes(of: file), line: 1, column: 1)
    }

    private static func bytes(of path: FilePath) -> [UInt8] {
        path.withPlatformString { Array(UnsafeRawBufferPointer(start: $0, count: strlen($0))) }
    }

    private static func content(of path: FilePath) throws(ConfigurationFault) -> [UInt8] {
        do throws(Errno) {
            let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK)
            guard try file.status().kind == .file else { throw Errno.isDirectory }
            let content = try file.readAll(limit: limit + 1)
            if content.count > limit { throw Errno.fileTooLarge }
            return content
        } catch {
            switch error {
            case .isDirectory: throw ConfigurationFault("this is not a regular file")
            case .fileTooLarge: throw ConfigurationFault("the file has more than 1 MiB; is it a configuration?")
            case .noSuchFileOrDirectory:
                throw ConfigurationFault("the file is not there; 'safebackup config example' shows what stands in it")
            case .permissionDenied:
                if let directory = closedDirectory(above: path) {
                    throw ConfigurationFault(
                        "the file cannot be read: the directory \(printable(bytes(of: directory))) may not be entered by this "
                            + "user: \(error.explanation)")
                }
                throw ConfigurationFault("the file cannot be read: \(error.explanation)")
            default: throw ConfigurationFault("the file cannot be read: \(error.explanation)")
            }
        }
    }

    /// The outermost directory of the path that this process may not search.
    private static func closedDirectory(above path: FilePath) -> FilePath? {
        var directories: [FilePath] = []
        var directory = path.removingLastComponent()
        while !directory.isEmpty {
            directories.append(directory)
            let parent = directory.removingLastComponent()
            if parent == directory { break }
            directory = parent
        }
        return directories.reversed().first { $0.withPlatformString { access($0, X_OK) } != 0 }
    }

    /// Names that begin with a dot are an editor's.
    private static func dropIns(of path: FilePath) throws(ConfigurationFailure) -> [FilePath] {
        guard let leaf = path.lastComponent else { return [] }
        let directory = path.removingLastComponent().appending(leaf.string + ".d")
        var names: [[UInt8]] = []
        do throws(Errno) {
            let open = try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
            try open.forEachEntry { name, _ in
                if name.suffix(5).elementsEqual(".conf".utf8), name.first != UInt8(ascii: ".") { names.append(name) }
            }
        } catch {
            if error == .noSuchFileOrDirectory || error == .notDirectory { return [] }
            throw ConfigurationFailure([
                ConfigurationProblem(beginning(of: directory), "the directory cannot be read: \(error.explanation)")
            ])
        }
        names.sort { $0.lexicographicallyPrecedes($1) }
        let start = bytes(of: directory) + [UInt8(ascii: "/")]
        return names.map { name in withCString(start + name) { FilePath(platformString: $0) } }
    }
}
