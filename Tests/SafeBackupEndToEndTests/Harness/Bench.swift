import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// A source, a destination and a state in a temporary directory of their own, and the program that joins them.
/// All of it is removed when the last reference goes.
final class Bench {
    let root: FilePath
    var source: FilePath
    var backup: FilePath
    var state: FilePath
    /// Put before the program, such as `setpriv` with its options.
    var prefix: [FilePath] = []
    /// Put behind `run` and its paths.
    var options: [FilePath] = []
    private var runs = 0
    private var disks: [LoopDisk] = []

    init() throws {
        let base = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
        var template = Array("\(base)/safebackup-test.XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw Errno(rawValue: errno) }
        root = FilePath(platformString: made)
        source = root.appending("source")
        backup = root.appending("backup")
        state = root.appending("state")
        try makeDirectory(source)
    }

    deinit {
        do {
            try recordRaces()
            for disk in disks { try disk.unmount() }
            // For whoever looks into a failure: SAFEBACKUP_KEEP=1 leaves everything as the test left it.
            if ProcessInfo.processInfo.environment["SAFEBACKUP_KEEP"] == "1" { return print("kept: \(root)") }
            // Without root, a directory that a test made unreadable could not be emptied.
            try command(["chmod", "-R", "u+rwx", root])
            try command(["rm", "-rf", "--one-file-system", root])
        } catch {
            Issue.record("the test's directory \(root) could not be removed: \(error)")
        }
    }

    /// A disk of the test's own, mounted below `root` until the end.
    func makeDisk(
        _ name: String, mebibytes: Int, blockSize: Int = 4096, inodes: Int? = nil,
        _ fileSystem: LoopDisk.FileSystem = .ext4
    ) throws -> LoopDisk {
        let disk = try LoopDisk(
            in: root, named: name, mebibytes: mebibytes, blockSize: blockSize, inodes: inodes, fileSystem)
        disks.append(disk)
        return disk
    }

    // MARK: The program

    /// The program beside the test bundle, which depends on it and so has it built.
    static let program: FilePath = {
        let runner = CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? CommandLine.arguments[0]
        return FilePath(runner).removingLastComponent().appending("safebackup")
    }()

    /// Starts the program with these arguments.
    func spawn(_ arguments: [FilePath], environment: [String: String] = [:]) throws -> Program {
        runs += 1
        return try Program(
            prefix + [Self.program] + arguments, environment: environment,
            output: root.appending("\(runs).out"), errors: root.appending("\(runs).err"))
    }

    /// Runs the program to its end.
    @discardableResult
    func run(
        _ arguments: [FilePath], environment: [String: String] = [:], within limit: Duration = .seconds(120),
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> Program {
        let program = try spawn(arguments, environment: environment)
        try await program.wait(within: limit, sourceLocation: sourceLocation)
        return program
    }

    /// `run SOURCE DESTINATION --state DIR`, and more.
    func arguments(_ more: [FilePath] = []) -> [FilePath] {
        ["run", source, backup, "--state", state] + options + more
    }

    /// `run --once` with a fault, if one is given; see `FaultPlan` for its form.
    func once(
        fault: String? = nil, _ more: [FilePath] = [], sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> Program {
        try await run(
            arguments(["--once"] + more), environment: fault.map { ["SAFEBACKUP_FAULT": $0] } ?? [:],
            sourceLocation: sourceLocation)
    }

    /// `run --once` that must save everything.
    func saveOnce(sourceLocation: SourceLocation = #_sourceLocation) async throws {
        let program = try await once(sourceLocation: sourceLocation)
        try #require(
            program.ending == .exit(0),
            "run --once ended with \(String(describing: program.ending)):\n\(program.errorTail)",
            sourceLocation: sourceLocation)
    }

    /// Starts the agent and waits until all its watches are in place.
    func startAgent(
        fault: String? = nil, environment: [String: String] = [:], _ more: [FilePath] = [],
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> Program {
        let agent = try spawnAgent(fault: fault, environment: environment, more)
        let isReady = try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil }
        try #require(
            isReady && agent.poll() == nil, "the agent did not get ready:\n\(agent.errorTail)",
            sourceLocation: sourceLocation)
        return agent
    }

    /// Starts the agent without waiting for its watches: a held source has none.
    func spawnAgent(
        fault: String? = nil, environment: [String: String] = [:], _ more: [FilePath] = []
    ) throws -> Program {
        let fault = fault.map { ["SAFEBACKUP_FAULT": $0] } ?? [:]
        return try spawn(arguments(more), environment: environment.merging(fault) { $1 })
    }

    /// SIGTERM, and the promise about it: exit code 0 within 10 s.
    func stop(_ agent: Program, sourceLocation: SourceLocation = #_sourceLocation) async throws {
        agent.send(SIGTERM)
        let ending = try await agent.wait(within: .seconds(10), sourceLocation: sourceLocation)
        #expect(ending == .exit(0), "after SIGTERM:\n\(agent.errorTail)", sourceLocation: sourceLocation)
    }

    /// What `status --json` says.
    func status(sourceLocation: SourceLocation = #_sourceLocation) async throws -> Status {
        let program = try await run(["status", "--json", "--state", state], sourceLocation: sourceLocation)
        // 3 and 4 tell that something is not saved, or held.
        let ending = try #require(program.ending, sourceLocation: sourceLocation)
        try #require(
            [.exit(0), .exit(3), .exit(4)].contains(ending), "status: \(program.errorTail)",
            sourceLocation: sourceLocation)
        return try JSONDecoder().decode(Status.self, from: Data(program.outputText.utf8))
    }

    /// Writes a configuration of the source, the destination and the state, with these lines for the source and for the
    /// destination, and returns its file.
    @discardableResult
    func configure(_ lines: String = "", source more: String = "") throws -> FilePath {
        let file = root.appending("agent.conf")
        let text = """
            [agent]
            state = \(state)
            [source "s"]
            path = \(source)
            destination = d
            \(more)
            [destination "d"]
            path = \(backup)
            \(lines)
            """
        try write(file, Array(text.utf8))
        return file
    }

    // MARK: What must hold

    /// A program that is built with ThreadSanitizer tells of a race on its standard error and goes on; one that is
    /// killed later tells nothing by its exit code.
    private func recordRaces() throws {
        for run in 0..<runs {
            let errors = root.appending("\(run + 1).err")
            guard access(errors.string, F_OK) == 0 else { continue }
            let text = String(decoding: try read(errors), as: UTF8.self)
            guard let report = text.range(of: "WARNING: ThreadSanitizer") else { continue }
            Issue.record("program \(run + 1) raced:\n\(text[report.lowerBound...].prefix(4_000))")
        }
    }

    /// What differs between source and backup. A path beyond the source's is allowed: a tombstone.
    func differences() throws -> [String] {
        try Tree(source).differences(in: try Tree(backup)) { _ in true }
    }

    /// Waits until the running agent has brought everything to the backup and has no job left.
    func expectInSync(
        _ agent: Program, within limit: Duration = .seconds(60), sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        var jobs: [String: Int64] = [:]
        var different: [String] = []
        let isInSync = try await eventually(within: limit) {
            if agent.poll() != nil { return true }
            // The cheaper question first. No job is left either when nothing was noticed yet, so both must hold.
            jobs = try StateFile(copying: self.state).jobCounts()
            guard jobs.isEmpty else { return false }
            different = try self.differences()
            guard different.isEmpty else { return false }
            // Between the two looks it may all have been queued and stored, and not be in the catalogue yet.
            jobs = try StateFile(copying: self.state).jobCounts()
            return jobs.isEmpty
        }
        try #require(
            isInSync && agent.poll() == nil,
            "not in sync after \(limit): jobs \(jobs), \(different.prefix(10)); the agent's log:\n\(agent.errorTail)",
            sourceLocation: sourceLocation)
    }

    /// Source and backup are equal, tombstones apart, and nothing unfinished is left.
    func expectSaved(sourceLocation: SourceLocation = #_sourceLocation) throws {
        let differences = try differences()
        #expect(differences.isEmpty, "the backup differs: \(differences.prefix(10))", sourceLocation: sourceLocation)
        #expect(try staging().isEmpty, "staging is not empty", sourceLocation: sourceLocation)
        try expectCatalogueIsTrue(sourceLocation: sourceLocation)
    }

    /// The names in the destination's staging area.
    func staging() throws -> [String] {
        var names: [String] = []
        try Descriptor.open(backup.appending(".safebackup/staging"), O_RDONLY | O_DIRECTORY)
            .forEachEntry { name, _ in names.append(printable(name)) }
        return names
    }

    /// Every live name's copy has the digest that the catalogue says, or a lease tells that it is being replaced.
    func expectCatalogueIsTrue(sourceLocation: SourceLocation = #_sourceLocation) throws {
        let lies = try StateFile(copying: state).lies(about: backup)
        #expect(
            lies.isEmpty, "the catalogue promises what is not there: \(lies.prefix(10))", sourceLocation: sourceLocation
        )
    }

    // MARK: Files

    /// One bit of a stored copy is another, at the same size and mtime: what a failing disk does.
    func flip(_ path: String) throws {
        let file = backup.appending(path)
        let mark = root.appending("mark")
        try command(["touch", "-r", file, mark])
        var content = try read(file)
        content[content.count / 2] ^= 1
        try Descriptor.open(file, O_WRONLY).write(content, at: 0)
        try command(["touch", "-r", mark, file])
    }

    func makeDirectory(_ path: FilePath) throws {
        let result = path.withPlatformString { mkdir($0, 0o755) }
        guard result == 0 || errno == EEXIST else { throw Errno(rawValue: errno) }
    }

    /// A path below the source.
    func at(_ path: String) -> FilePath { source.appending(path) }

    /// Makes a file below the source, and the directories above it.
    func write(_ path: String, _ content: String) throws {
        try write(at(path), Array(content.utf8))
    }

    /// Writes a file in place; makes the directories above it if they are missing.
    func write(_ path: FilePath, _ content: [UInt8]) throws {
        let file: Descriptor
        do {
            file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        } catch {
            guard error == .noSuchFileOrDirectory else { throw error }
            try command(["mkdir", "-p", path.removingLastComponent()])
            file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        }
        try file.write(content, at: 0)
    }
}

extension FilePath {
    /// This path followed by components that may be any bytes.
    func appending(bytes: [UInt8]) -> FilePath {
        let tail = SafeBackupSystem.withCString(bytes) { FilePath(platformString: $0) }
        return appending(tail.components)
    }
}

extension Descriptor {
    func write(_ content: [UInt8], at offset: Int64) throws {
        try content.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) throws -> Void in
            try write(bytes, at: offset)
        }
    }
}

/// What the tests read of `status --json`.
struct Status: Decodable {
    struct Source: Decodable {
        var path: String
        var held: Held?
        var pausedAt: String?
        var desynced: Bool
        var files: Int
        var bytes: Int
        var excluded: Int?
        var coverage: Coverage?
        var emptied: Emptied?
    }
    struct Emptied: Decodable {
        var files: Int
        var message: String
    }
    struct Coverage: Decodable {
        var extent: String
        var directories: Int
        var watched: Int
        var message: String?
    }
    struct Held: Decodable {
        var reason: String
        var acceptable: Bool
    }
    struct Full: Decodable {
        var jobs: Int
        var bytes: Int
    }
    struct Destination: Decodable {
        var full: Full?
        var location: String
        var held: Held?
        var pausedAt: String?
        var pending: Int
        var leased: Int
        var stuck: Int
    }
    struct Agent: Decodable {
        var running: Bool
        var pid: Int?
    }
    var sources: [Source]
    var destinations: [Destination]
    var agent: Agent
}

/// Runs a command of the system and waits for it; throws unless it succeeds.
@discardableResult
func command(_ arguments: [FilePath]) throws -> String {
    var name = Array("/tmp/safebackup-command.XXXXXX".utf8CString)
    let made = mkstemp(&name)
    guard made >= 0 else { throw Errno(rawValue: errno) }
    close(made)
    let output = FilePath(platformString: name)
    defer { _ = output.withPlatformString { unlink($0) } }
    let program = try Program(arguments, output: output, errors: output)
    program.waitBlocking()
    guard program.ending == .exit(0) else {
        throw CommandFailure(arguments: arguments, text: program.outputText)
    }
    return program.outputText
}

/// A command of the system that ended badly, with what it said.
struct CommandFailure: Error, CustomStringConvertible {
    var arguments: [FilePath]
    var text: String
    var description: String { "\(arguments.map(\.string).joined(separator: " ")): \(text)" }
}
