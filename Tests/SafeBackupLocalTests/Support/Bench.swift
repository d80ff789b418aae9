import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import Synchronization
import SystemPackage
import Testing
import Glibc

/// A source, a destination and a small catalogue in memory that follows the rules of the real one, in a temporary
/// directory that goes with the object. After each step `expectTruth` compares every promise with the disk.
final class Bench: Sendable {
    static let source = SourceID(rawValue: 1)
    static let id = "7b0f6f1e-6d7f-4a3b-9a57-0d2f5c1f0001"

    let top: String
    let destination: LocalDestination
    let executor: ThreadExecutor
    let time: TestTime

    var sourcePath: String { top + "/source" }
    var destinationPath: String { destination.path.string }

    /// - Parameters:
    ///   - base: where to make the temporary directory; `disk` where something depends on a real one.
    ///   - place: the destination, where it is not to be a directory beside the source.
    ///   - capabilities: makes the destination believe that its file system can less.
    ///   - prepare: fills the destination before it becomes one.
    init(
        in base: String? = Bench.fast, at place: String? = nil, capabilities: ((inout Capabilities) -> Void)? = nil,
        writerProbe: WriterProbe? = nil, prepare: ((String) throws -> Void)? = nil
    ) throws {
        top = try Bench.temporaryDirectory(in: base)
        try make(directory: top + "/source")
        let place = place ?? top + "/destination"
        try make(directory: place)
        try prepare?(place)
        executor = try ThreadExecutor(name: "test.io")
        // An hour from now, so that no file counts as read in the moment of its change.
        let time = TestTime(WallClock.system.now.microseconds + 3_600_000_000)
        self.time = time
        destination = LocalDestination(
            path: FilePath(place), io: executor, clock: WallClock { time.now }, writerProbe: writerProbe)
        try destination.createNow(id: Self.id, sources: [])
        if let capabilities {
            try destination.attachNow(expecting: Self.id)
            try destination.updateSentinelNow { capabilities(&$0.capabilities) }
        }
        try destination.attachNow(expecting: Self.id)
    }

    /// The same source with another disk in the destination's place.
    init(continuing other: Bench, at place: String) throws {
        top = try Bench.temporaryDirectory(in: Bench.fast)
        time = other.time
        executor = try ThreadExecutor(name: "test.io")
        let time = time
        destination = LocalDestination(path: FilePath(place), io: executor, clock: WallClock { time.now })
        rmdir(top + "/source")
        symlink(other.sourcePath, top + "/source")
        try destination.attachNow(expecting: Self.id)
    }

    deinit {
        destination.detachNow()
        executor.stop()
        remove(tree: top)
    }

    /// Where temporary files belong: a disk, mostly.
    static let disk = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    /// Memory, where it is mounted: a busy disk makes hundreds of flushes slow.
    static let fast = isDirectory("/dev/shm") ? "/dev/shm" : nil

    static func temporaryDirectory(in base: String? = nil) throws -> String {
        var template = Array(((base ?? disk) + "/safebackup-local-XXXXXX").utf8CString)
        guard let made = template.withUnsafeMutableBufferPointer({ $0.baseAddress.flatMap { mkdtemp($0) } }) else {
            throw Failure(what: "mkdtemp in \(base ?? disk)")
        }
        return String(cString: made)
    }

    struct Failure: Error { let what: String }

    var now: Timestamp { time.now }

    func advance(minutes: Int64) { time.advance(minutes) }

    func sources() throws -> [SourceID: ConfinedDirectory] {
        [Self.source: try ConfinedDirectory(opening: FilePath(sourcePath))]
    }

    // MARK: The source's and the destination's files

    func write(_ path: String, _ content: String, mtime: Int64? = nil) throws {
        try SafeBackupLocalTests.write(sourcePath + "/" + path, content, mtime: mtime)
    }

    func stored(_ path: String) -> String? { content(of: destinationPath + "/" + path) }

    /// The names in staging.
    func staged() throws -> [String] { try list(destinationPath + "/.safebackup/staging") }

    /// Everything below versions that is no directory, with its content.
    func versions() throws -> [String: String] {
        var found: [String: String] = [:]
        for path in try tree(destinationPath + "/.safebackup/versions") {
            let whole = destinationPath + "/.safebackup/versions/" + path
            found[path] = content(of: whole) ?? linkTarget(of: whole) ?? ""
        }
        return found
    }
}

/// A clock that only tests move.
final class TestTime: Sendable {
    private let microseconds: Atomic<Int64>

    init(_ microseconds: Int64) { self.microseconds = Atomic(microseconds) }

    var now: Timestamp { Timestamp(microseconds: microseconds.load(ordering: .relaxed)) }

    func set(_ time: Timestamp) { microseconds.store(time.microseconds, ordering: .relaxed) }

    func advance(_ minutes: Int64) { microseconds.add(minutes * 60_000_000, ordering: .relaxed) }
}

/// Whether the long forms are asked for.
let isLong = getenv("SAFEBACKUP_LONG").map { String(cString: $0) == "1" } ?? false

// MARK: Plain file work of the tests, beside the code under test

func write(_ path: String, _ content: String, mtime: Int64? = nil) throws {
    try write(path, Array(content.utf8), mtime: mtime)
}

func write(_ path: String, _ content: [UInt8], mtime: Int64? = nil) throws {
    if let slash = path.lastIndex(of: "/") { try make(directory: String(path[..<slash])) }
    let file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    guard file >= 0 else { throw Bench.Failure(what: "open \(path): \(errno)") }
    defer { close(file) }
    var done = 0
    while done < content.count {
        let count = content[done...].withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
        guard count > 0 else { throw Bench.Failure(what: "write \(path): \(errno)") }
        done += count
    }
    if let mtime {
        var times = [timespec(tv_sec: Int(mtime), tv_nsec: 5), timespec(tv_sec: Int(mtime), tv_nsec: 5)]
        futimens(file, &times)
    }
}

func make(directory path: String) throws {
    if mkdir(path, 0o755) == 0 || errno == EEXIST { return }
    guard errno == ENOENT, let slash = path.lastIndex(of: "/") else {
        throw Bench.Failure(what: "mkdir \(path): \(errno)")
    }
    try make(directory: String(path[..<slash]))
    guard mkdir(path, 0o755) == 0 || errno == EEXIST else { throw Bench.Failure(what: "mkdir \(path): \(errno)") }
}

/// `nil` if there is no file; never follows a link.
func content(of path: String) -> String? { bytes(of: path).map { String(decoding: $0, as: UTF8.self) } }

func bytes(of path: String) -> [UInt8]? {
    let file = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
        let count = read(file, &buffer, buffer.count)
        if count < 0 { return nil }
        if count == 0 { return all }
        all += buffer[..<count]
    }
}

func linkTarget(of path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: 4_096)
    let count = buffer.withUnsafeMutableBytes { bytes in
        bytes.withMemoryRebound(to: CChar.self) { text in
            text.baseAddress.map { readlink(path, $0, text.count) } ?? -1
        }
    }
    return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
}

func status(of path: String) -> stat? {
    var status = stat()
    return lstat(path, &status) == 0 ? status : nil
}

func isDirectory(_ path: String) -> Bool { status(of: path).map { $0.st_mode & S_IFMT == S_IFDIR } ?? false }

func list(_ path: String) throws -> [String] {
    guard let directory = opendir(path) else { throw Bench.Failure(what: "opendir \(path): \(errno)") }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
}

/// Paths of everything below that is no directory.
func tree(_ path: String) throws -> [String] {
    var found: [String] = []
    for name in try list(path) {
        if isDirectory(path + "/" + name) {
            found += try tree(path + "/" + name).map { name + "/" + $0 }
        } else {
            found.append(name)
        }
    }
    return found
}

/// By descriptors, because tests make paths that are longer than a path may be.
func remove(tree path: String) { remove(path, in: AT_FDCWD) }

private func remove(_ name: String, in parent: Int32) {
    if unlinkat(parent, name, 0) == 0 || errno == ENOENT { return }
    fchmodat(parent, name, 0o700, 0)
    let directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
    guard directory >= 0 else { return }
    defer { close(directory) }
    do {
        // Leaves may be no UTF-8, so they do not go through a string.
        try Descriptor(owning: dup(directory)).forEachEntry { leaf, _ in
            withCString(leaf) { leaf in
                if unlinkat(directory, leaf, 0) != 0 { remove(String(cString: leaf), in: directory) }
            }
        }
    } catch {
        return
    }
    unlinkat(parent, name, AT_REMOVEDIR)
}
