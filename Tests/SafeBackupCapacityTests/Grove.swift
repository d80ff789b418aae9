import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupCapacity

/// A directory of backups in a directory of the test's own, which is removed with all in it when the object goes.
final class Grove: Sendable {
    /// What is around the directory of backups.
    let top: String
    var path: String { top + "/backups" }

    init() throws {
        var template = Array(
            "\(getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp")/safebackup-clean.XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw Errno(rawValue: errno) }
        top = String(cString: made)
        try make(directory: "")
    }

    deinit {
        // Without --one-file-system a mount that a failed test left would be emptied.
        try? Self.run("chmod", "-R", "u+rwx", top)
        try? Self.run("rm", "-rf", "--one-file-system", top)
    }

    func make(directory name: String) throws { try Self.check(mkdir(absolute(name), 0o755), name) }

    /// A name below the directory of backups, or an absolute path.
    func absolute(_ name: String) -> String { name.hasPrefix("/") ? name : path + (name.isEmpty ? "" : "/" + name) }

    /// A file of whole blocks with content, last changed so many seconds after a fixed instant.
    @discardableResult
    func write(_ name: String, age seconds: Int = 0, blocks: Int = 1) throws -> Int64 {
        try write(bytes: Array(absolute(name).utf8), age: seconds, blocks: blocks)
    }

    @discardableResult
    func write(bytes name: [UInt8], age seconds: Int = 0, blocks: Int = 1) throws -> Int64 {
        let file = try Descriptor.open(Self.path(name), O_WRONLY | O_CREAT | O_EXCL)
        try Self.fill(file, blocks * 4_096)
        try file.setModified(FileTime(seconds: 1_700_000_000 + Int64(seconds), nanoseconds: 0))
        return try file.status().allocated
    }

    /// Gives a file blocks at once, which written content gets only when it is flushed.
    static func fill(_ file: Descriptor, _ count: Int) throws {
        if count > 0 { try check(posix_fallocate(file.raw, 0, off_t(count)), "fallocate") }
    }

    func touch(_ name: String, age seconds: Int) throws {
        let file = try Descriptor.open(FilePath(absolute(name)), O_RDONLY)
        try file.setModified(FileTime(seconds: 1_700_000_000 + Int64(seconds), nanoseconds: 0))
    }

    /// The time of a symbolic link itself.
    func touchLink(_ name: String, age seconds: Int) throws {
        let parent = try Descriptor.open(FilePath(path), O_RDONLY | O_DIRECTORY)
        try parent.setModified(FileTime(seconds: 1_700_000_000 + Int64(seconds), nanoseconds: 0), of: Array(name.utf8))
    }

    func link(_ old: String, _ new: String) throws { try Self.check(Glibc.link(absolute(old), absolute(new)), new) }

    func symlink(_ target: String, _ name: String) throws {
        try Self.check(Glibc.symlink(target, absolute(name)), name)
    }

    func remove(_ name: String) { _ = Glibc.unlink(absolute(name)) }

    func exists(_ name: String) -> Bool {
        var status = stat()
        return lstat(absolute(name), &status) == 0
    }

    /// The regular files and links that are there, relative.
    func files(below name: String = "") throws -> Set<String> { Set(try all(name).filter { !$0.hasSuffix("/") }) }

    /// The directories that are there, relative, each with a slash.
    func directories() throws -> Set<String> { Set(try all("").filter { $0.hasSuffix("/") }) }

    private func all(_ name: String) throws -> [String] {
        try Self.all(try Descriptor.open(FilePath(absolute(name)), O_RDONLY | O_DIRECTORY), "")
    }

    private static func all(_ directory: Descriptor, _ prefix: String) throws -> [String] {
        var found: [String] = []
        var entries: [([UInt8], EntryKind?)] = []
        try directory.forEachEntry { leaf, kind in entries.append((leaf, kind)) }
        for (leaf, kind) in entries {
            let path = prefix + printable(leaf)
            found.append(kind == .directory ? path + "/" : path)
            if kind == .directory {
                found += try all(try directory.open(leaf, O_RDONLY | O_DIRECTORY), path + "/")
            }
        }
        return found
    }

    func cleaner(
        _ limits: CleaningLimits, at name: String = "", _ change: (inout CleaningConfiguration) -> Void = { _ in }
    ) throws -> BackupCleaner {
        var configuration = CleaningConfiguration(limits)
        change(&configuration)
        return try BackupCleaner(FilePath(absolute(name)), configuration)
    }

    static func path(_ bytes: [UInt8]) -> FilePath { withCString(bytes) { FilePath(platformString: $0) } }

    static func check(_ result: Int32, _ what: String) throws {
        if result != 0 { throw Failure(what: "\(what): \(Errno(rawValue: errno))") }
    }

    /// Runs a program of the system to its end.
    static func run(_ arguments: String...) throws {
        var vector: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { vector.forEach { free($0) } }
        var process = pid_t()
        let failure = posix_spawnp(&process, arguments[0], nil, nil, &vector, environ)
        if failure != 0 { throw Failure(what: "\(arguments[0]): \(failure)") }
        var status: Int32 = 0
        while waitpid(process, &status, 0) < 0 && errno == EINTR {}
        if status != 0 { throw Failure(what: "\(arguments): \(status)") }
    }

    struct Failure: Error {
        var what: String
    }
}
