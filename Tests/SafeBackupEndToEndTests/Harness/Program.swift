import Glibc
import SafeBackupSystem
import SystemPackage
import Testing

/// How a process ended.
enum Ending: Equatable, CustomStringConvertible {
    case exit(Int32)
    case signal(Int32)

    /// From what `waitpid` tells. See: man 2 waitpid.
    init(waitStatus: Int32) {
        let signal = waitStatus & 0x7F
        self = signal == 0 ? .exit((waitStatus >> 8) & 0xFF) : .signal(signal)
    }

    var description: String {
        switch self {
        case .exit(let code): "exit code \(code)"
        case .signal(let number): "signal \(number)"
        }
    }
}

/// A child process with its output in two files. Killed when the last reference goes, so that a failed test leaves none.
final class Program {
    let process: pid_t
    let output: FilePath
    let errors: FilePath
    private(set) var ending: Ending?

    /// Starts `arguments[0]`; its standard input is empty. `environment` is added to that of the test.
    init(
        _ arguments: [FilePath], environment: [String: String] = [:], output: FilePath, errors: FilePath
    ) throws {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        for (number, file) in [(1, output), (2, errors)] {
            _ = file.withPlatformString {
                posix_spawn_file_actions_addopen(&actions, Int32(number), $0, O_WRONLY | O_CREAT | O_APPEND, 0o644)
            }
        }
        // The test runner may block or ignore signals; a child of a shell does not.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        var strings = arguments.map { Self.spelled($0) }
        var variables = Self.environment(adding: environment).map { strdup($0) }
        defer { for string in strings + variables { free(string) } }
        strings.append(nil)
        variables.append(nil)
        var process: pid_t = 0
        let result = posix_spawnp(&process, strings[0] ?? strdup(""), &actions, &attributes, strings, variables)
        guard result == 0 else { throw Errno(rawValue: result) }
        self.process = process
        self.output = output
        self.errors = errors
    }

    /// A `FilePath` takes two slashes in a row for one, and a URL has two.
    private static func spelled(_ argument: FilePath) -> UnsafeMutablePointer<CChar>? {
        for scheme in ["s3", "http", "https"] where argument.string.hasPrefix("\(scheme):/") {
            return strdup("\(scheme)://" + argument.string.dropFirst(scheme.utf8.count + 2))
        }
        return argument.withPlatformString { strdup($0) }
    }

    deinit {
        if ending == nil {
            kill(process, SIGKILL)
            waitpid(process, nil, 0)
        }
    }

    private static func environment(adding added: [String: String]) -> [String] {
        var variables: [String] = []
        var pointer = environ
        while let entry = pointer.pointee {
            let text = String(cString: entry)
            let name = String(text.prefix { $0 != "=" })
            // A fault of an outer test, or the state of the developer's own agent, must not reach the child.
            if added[name] == nil, !["SAFEBACKUP_FAULT", "STATE_DIRECTORY", "XDG_STATE_HOME"].contains(name) {
                variables.append(text)
            }
            pointer += 1
        }
        return variables + added.map { "\($0.key)=\($0.value)" }
    }

    /// How it ended, or `nil` while it runs.
    func poll() -> Ending? {
        if let ending { return ending }
        var status: Int32 = 0
        if waitpid(process, &status, WNOHANG) == process { ending = Ending(waitStatus: status) }
        return ending
    }

    func send(_ signal: Int32) {
        if poll() == nil { kill(process, signal) }
    }

    /// Ends it as a crash would; returns when it is gone.
    func crash() {
        send(SIGKILL)
        waitBlocking()
    }

    /// Blocks until it ends; for commands that are known to be short.
    func waitBlocking() {
        var status: Int32 = 0
        while ending == nil {
            if waitpid(process, &status, 0) == process {
                ending = Ending(waitStatus: status)
            } else if errno != EINTR {
                return
            }
        }
    }

    /// Waits for its end; a process that runs longer is a failure of the test, and is killed.
    @discardableResult
    func wait(
        within limit: Duration = .seconds(120), sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> Ending {
        let ended = try await eventually(within: limit) { self.poll() != nil }
        if !ended {
            Issue.record(
                "it still ran after \(limit); the end of its log:\n\(errorTail)", sourceLocation: sourceLocation)
            crash()
        }
        return try #require(ending, sourceLocation: sourceLocation)
    }

    /// One letter for what it does now, such as `T` for stopped. See: man 5 proc.
    var state: Character? {
        do {
            let text = String(decoding: try read(FilePath("/proc/\(process)/stat")), as: UTF8.self)
            return text[(text.lastIndex(of: ")") ?? text.startIndex)...].dropFirst(2).first
        } catch {
            return nil
        }
    }

    /// Whether it has `path`, or something below it, open at this moment. What comes and goes meanwhile may be missed.
    func hasOpen(_ path: FilePath) throws -> Bool {
        let descriptors = try Descriptor.open(FilePath("/proc/\(process)/fd"), O_RDONLY | O_DIRECTORY)
        var names: [[UInt8]] = []
        try descriptors.forEachEntry { name, _ in
            if name != Array(".".utf8), name != Array("..".utf8) { names.append(name) }
        }
        return try names.contains { name in
            do {
                let target = String(decoding: try descriptors.linkTarget(of: name), as: UTF8.self)
                return FilePath(target).starts(with: path)
            } catch Errno.noSuchFileOrDirectory {
                return false  // closed since it was listed
            }
        }
    }

    var outputText: String { text(of: output) }
    var errorText: String { text(of: errors) }
    /// The end of the log; of a crash, its beginning too.
    var errorTail: String {
        let lines = errorText.split(separator: "\n")
        let crash = lines.firstIndex { $0.contains("crashed") || $0.contains("Fatal error") }
        return ((crash.map { lines[max(0, $0 - 3)...].prefix(40) } ?? []) + lines.suffix(15)).joined(separator: "\n")
    }

    private func text(of file: FilePath) -> String {
        do {
            return String(decoding: try read(file), as: UTF8.self)
        } catch {
            return ""
        }
    }
}

/// Asks `condition` again and again until it is true or `limit` is over; tells which.
func eventually(
    within limit: Duration = .seconds(60), _ condition: () async throws -> Bool
) async throws -> Bool {
    let deadline = ContinuousClock.now + limit
    while true {
        let asked = ContinuousClock.now
        if try await condition() { return true }
        let now = ContinuousClock.now
        if now >= deadline { return false }
        // A question that costs much is asked less often, or it would slow down what it waits for.
        try await pause(max(.milliseconds(10), min(now - asked, .milliseconds(500))))
    }
}

/// Lets time pass between two looks, without holding a thread.
func pause(_ duration: Duration) async throws {
    try await Task.sleep(for: duration)
}

/// The whole content of a file.
func read(_ path: FilePath) throws -> [UInt8] {
    try Descriptor.open(path, O_RDONLY).readAll(limit: 1 << 30)
}
