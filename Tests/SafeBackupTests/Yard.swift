import Glibc
import SafeBackup
import SafeBackupSystem
import Testing

/// A backup beside files to save, in a directory of the test's own, which is removed with the object.
final class Yard: Sendable {
    let top: String
    var root: String { top + "/backup" }

    init(in base: String? = nil) throws {
        let base = base ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(base)/safebackup-session.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Errno(rawValue: errno) }
        top = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        try make(directory: "files")
    }

    deinit { try? run("rm", "-rf", "--one-file-system", top) }

    func configuration(_ change: (inout LocalBackupConfiguration) -> Void = { _ in }) -> LocalBackupConfiguration {
        var configuration = LocalBackupConfiguration(rootDirectory: FilePath(root))
        // The disk of whoever runs the tests may be nearly full.
        configuration.freeSpaceThreshold = ByteCount(0)
        configuration.freeSpaceTarget = ByteCount(0)
        change(&configuration)
        return configuration
    }

    func session(
        _ change: (inout LocalBackupConfiguration) -> Void = { _ in }
    ) async throws -> LocalBackupSession {
        try await LocalBackupSession(configuration(change))
    }

    func absolute(_ name: String) -> String { name.hasPrefix("/") ? name : top + "/" + name }

    func make(directory name: String) throws {
        if mkdir(absolute(name), 0o755) != 0 { throw Errno(rawValue: errno) }
    }

    /// A file to save, with this content.
    @discardableResult
    func write(_ name: String, _ content: String, age seconds: Int64? = nil) throws -> FilePath {
        let path = FilePath(absolute(name))
        let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC)
        try file.writeAll(Array(content.utf8))
        if let seconds { try file.setModified(FileTime(nanoseconds: (1_700_000_000 - seconds) * 1_000_000_000)) }
        return path
    }

    /// `nil` if there is none.
    func read(_ name: String) -> String? {
        do {
            let bytes = try Descriptor.open(FilePath(absolute(name)), O_RDONLY | O_NOFOLLOW).readAll()
            return String(decoding: bytes, as: UTF8.self)
        } catch {
            return nil
        }
    }

    /// A copy's content.
    func copy(_ key: String) -> String? { read("backup/" + key) }

    /// The names in a directory; none if it is not there.
    func names(_ name: String) -> Set<String> {
        var names: Set<String> = []
        do throws(Errno) {
            try Descriptor.open(FilePath(absolute(name)), O_RDONLY | O_DIRECTORY).forEachEntry { leaf, _ in
                names.insert(String(decoding: leaf, as: UTF8.self))
            }
        } catch {
            return []
        }
        return names
    }

    /// What the copies take, as the test's own disk of a few blocks counts it.
    func stored() -> Int64 {
        var sum: Int64 = 0
        for name in names("backup") where !name.hasPrefix(".") {
            do throws(Errno) { sum += try Descriptor.status(of: FilePath(root + "/" + name)).allocated } catch {
                continue
            }
        }
        return sum
    }
}

/// Runs a program of the system to its end.
func run(_ arguments: String...) throws {
    var vector: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    defer { vector.forEach { free($0) } }
    var process = pid_t()
    let failure = posix_spawnp(&process, arguments[0], nil, nil, &vector, environ)
    if failure != 0 { throw Errno(rawValue: failure) }
    var status: Int32 = 0
    while waitpid(process, &status, 0) < 0 && errno == EINTR {}
    if status != 0 { throw Failed(what: "\(arguments): \(status)") }
}

struct Failed: Error {
    var what: String
}

/// A gate that threads wait at until the test opens it.
final class Gate: Sendable {
    private let isOpen = Locked(false)

    func open() { isOpen.withLock { $0 = true } }

    /// Blocks a thread that is not the test's; gives up when the test must have failed long ago.
    func pass() {
        for _ in 0..<60_000 where !isOpen.withLock({ $0 }) { usleep(1_000) }
    }
}

/// Asks again and again until it is true, or the test must have failed.
func eventually(_ condition: () -> Bool) async throws -> Bool {
    for _ in 0..<30_000 {
        if condition() { return true }
        try await Task.sleep(for: .milliseconds(2))
    }
    return false
}

/// What a session's call throws; `nil` if it does not.
func failure(_ body: () async throws(BackupSessionError) -> Void) async -> BackupSessionError? {
    do {
        try await body()
        return nil
    } catch {
        return error
    }
}
