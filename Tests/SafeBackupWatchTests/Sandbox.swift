import Glibc
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage
import Testing

/// A directory of its own for one test, on a real file system, removed with the object.
final class Sandbox: Sendable {
    let path: String
    let root: ConfinedDirectory

    /// - Parameter parent: another place than the directory for temporary files.
    init(in parent: String? = nil) throws {
        var template = Array(((parent ?? getenv("TMPDIR").map { String(cString: $0) }) ?? "/tmp").utf8CString)
        template.removeLast()
        template += Array("/safebackup-watch.XXXXXX".utf8CString)
        let made = template.withUnsafeMutableBufferPointer { buffer in buffer.baseAddress.flatMap { mkdtemp($0) } }
        path = String(cString: try #require(made))
        root = try ConfinedDirectory(opening: FilePath(path))
    }

    deinit {
        do {
            if let directory = try? root.openDirectory(.root) { try Self.empty(directory) }
            rmdir(path)
        } catch {
            Issue.record("cannot remove \(path): \(error)")
        }
    }

    /// Removes everything below a directory, whatever the names and however deep.
    static func empty(_ directory: Descriptor) throws {
        var names: [([UInt8], EntryKind?)] = []
        try directory.forEachEntry { names.append(($0, $1)) }
        for (leaf, kind) in names {
            if kind == .directory {
                try directory.open(leaf, O_RDONLY | O_DIRECTORY).setMode(0o700)
                try empty(try directory.open(leaf, O_RDONLY | O_DIRECTORY))
            }
            try directory.remove(leaf, isDirectory: kind == .directory)
        }
    }

    func filter(_ patterns: [String] = []) throws -> TreeFilter {
        try TreeFilter(root: root, rules: try ExcludeRules(patterns: patterns))
    }

    // MARK: Commands, with paths relative to the sandbox

    func write(_ path: RelativePath, _ text: String = "content") throws {
        let parent = try root.openDirectory(path.parent)
        let file = try parent.open(path.leaf, O_WRONLY | O_CREAT | O_TRUNC)
        try file.writeAll(Array(text.utf8))
    }

    func write(_ path: String, _ text: String = "content") throws { try write(RelativePath(path), text) }

    func mkdir(_ path: RelativePath) throws { _ = try root.makeDirectories(path) }

    func mkdir(_ path: String) throws { try mkdir(RelativePath(path)) }

    func remove(_ path: String) throws {
        let path = try RelativePath(path)
        let parent = try root.openDirectory(path.parent)
        let isDirectory = try parent.status(of: path.leaf).kind == .directory
        if isDirectory { try Self.empty(try parent.open(path.leaf, O_RDONLY | O_DIRECTORY)) }
        try parent.remove(path.leaf, isDirectory: isDirectory)
    }

    func move(_ from: String, to other: Sandbox? = nil, _ target: String) throws {
        let (from, target) = (try RelativePath(from), try RelativePath(target))
        try root.openDirectory(from.parent)
            .rename(from.leaf, to: (other ?? self).root.openDirectory(target.parent), target.leaf)
    }

    func link(_ path: String, to target: String) throws {
        let path = try RelativePath(path)
        try root.openDirectory(path.parent).makeSymbolicLink(path.leaf, target: Array(target.utf8))
    }

    func fifo(_ leaf: String) throws { try #require(mkfifo("\(path)/\(leaf)", 0o600) == 0) }

    /// Runs a shell command in the sandbox and returns what it printed.
    func shell(_ command: String) throws -> [UInt8] {
        let pipe = try #require(popen("cd '\(path)' && \(command)", "r"))
        defer { pclose(pipe) }
        var output: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = fread(&buffer, 1, buffer.count, pipe)
            if count == 0 { return output }
            output += buffer[..<count]
        }
    }
}

/// For paths in tests: the bytes of the literal.
extension RelativePath {
    static func at(_ text: String) -> RelativePath { RelativePath(unchecked: Array(text.utf8)) }
}

/// Seconds of the monotonic clock.
func monotonicSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
