import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupWatch

/// One file of `Scripts`: what somebody does in a watched tree, and what the watcher must tell of it.
///
///     # The first line says what it is about.
///     Before:                          what is there before the watcher starts; may be missing
///         mkdir d
///     Do:                              lines for bash, run in the source; ../outside is a directory that nobody watches
///         mv d e
///     Output:                          everything that is told of that, in any order
///         vanished d/
///         closed   e/
///
/// `Do` and `Output` may come several times. A directory ends with a slash. `closed|found f`: either, because it depends
/// on who is faster; `?modified d*`: perhaps some of these, with anything for the star. Bytes are written as in `printf %b`. Besides the kinds of
/// `Change` there are the reasons why an entry is not saved.
struct WatchScript: Sendable, CustomTestStringConvertible {
    struct Step: Sendable {
        var commands = ""
        var output: [String] = []
    }

    let name: String
    let title: String
    private(set) var before = ""
    private(set) var steps: [Step] = []

    var testDescription: String { "\(name): \(title)" }

    private static let folder = String(#filePath.prefix { $0 != "\0" }.dropLast("WatchScript.swift".count)) + "Scripts/"

    /// All of them, by name.
    static let all: [WatchScript] = {
        do {
            var names: [String] = []
            try Descriptor.open(FilePath(folder), O_RDONLY | O_DIRECTORY).forEachEntry { leaf, _ in
                names.append(String(decoding: leaf, as: UTF8.self))
            }
            return try names.filter { $0.hasSuffix(".txt") }.sorted().map { try WatchScript(file: $0) }
        } catch {
            Issue.record("the scripts cannot be read: \(error)")
            return []
        }
    }()

    private init(file: String) throws {
        let text = String(
            decoding: try Descriptor.open(FilePath(Self.folder + file), O_RDONLY).readAll(), as: UTF8.self)
        let lines = text.split(separator: "\n", omittingEmptySubsequences: true).map(String.init)
        name = String(file.dropLast(4))
        title = String(lines.first?.drop { $0 == "#" || $0 == " " } ?? "")
        var section = ""
        for line in lines where !line.hasPrefix("#") {
            if !line.hasPrefix(" ") {
                section = line
                if line == "Do:" { steps.append(Step()) }
                continue
            }
            let content = String(line.drop { $0 == " " })
            switch section {
            case "Before:": before += content + "\n"
            case "Do:": steps[steps.count - 1].commands += content + "\n"
            case "Output:": steps[steps.count - 1].output.append(content)
            default: Issue.record("\(file): '\(section)' is no section")
            }
        }
    }

    // MARK: Running

    /// Runs the script on a real directory with a real watcher; one sentence for each step that was told otherwise.
    func run() async throws -> [String] {
        let sandbox = try Sandbox()
        try sandbox.mkdir("source")
        try sandbox.mkdir("outside")
        try bash(before, in: sandbox)
        let root = try ConfinedDirectory(opening: FilePath("\(sandbox.path)/source"))
        let watcher = Watcher(root: root, filter: try TreeFilter(root: root))
        _ = try await watcher.start()
        var failures: [String] = []
        for (number, step) in steps.enumerated() {
            let end = "end of step \(number)"
            try bash(step.commands + "echo > '\(end)'\n", in: sandbox)
            let told = try await self.told(by: watcher, until: RelativePath(end))
            failures += Self.differences(of: told, from: step.output).map { "step \(number + 1): \($0)" }
        }
        await watcher.stop()
        return failures
    }

    private func bash(_ commands: String, in sandbox: Sandbox) throws {
        if commands.isEmpty { return }
        try sandbox.write("commands", "set -eu; export LC_ALL=C; cd '\(sandbox.path)/source'\n\(commands)")
        let said = String(decoding: try sandbox.shell("bash commands 2>&1; echo $?"), as: UTF8.self)
        if said != "0\n" { Issue.record("the commands of \(name) said: \(said)") }
    }

    /// Everything that is told up to this file, coalesced as if it had been taken at once.
    private func told(by watcher: Watcher, until end: RelativePath) async throws -> Set<String> {
        var changes = ChangeSet()
        var told: Set<String> = []
        var isOver = false
        let deadline = Task {
            do { try await Task.sleep(for: .seconds(20)) } catch { return }  // done in time
            await watcher.stop()
        }
        while !isOver, let batch = await watcher.next() {
            for change in batch.changes {
                changes.record(change.path, change.kind, isDirectory: change.isDirectory)
                if change.path == end && change.kind == .closed { isOver = true }
            }
            for entry in batch.notSaved {
                told.insert("\(entry.reason) \(Self.text(entry.path))\(entry.kind == .directory ? "/" : "")")
            }
            for reason in batch.desynced { told.insert("desynced \(reason)") }
            if let event = batch.rootEvent { told.insert("root \(event)") }
        }
        deadline.cancel()
        if !isOver { told.insert("not everything in time") }
        for change in changes.drain().changes where change.path != end {
            told.insert("\(change.kind) \(Self.text(change.path))\(change.isDirectory ? "/" : "")")
        }
        return told
    }

    /// Odd bytes in octal.
    private static func text(_ path: RelativePath) -> String {
        if path.isRoot { return "." }
        return path.bytes.map { byte in
            if byte > 32 && byte < 127 && byte != UInt8(ascii: "\\") { return String(UnicodeScalar(byte)) }
            let octal = String(byte, radix: 8)
            return "\\" + String(repeating: "0", count: 4 - octal.count) + octal
        }.joined()
    }

    /// A star stands for anything.
    private static func matches(_ line: String, _ pattern: String) -> Bool {
        guard let star = pattern.firstIndex(of: "*") else { return line == pattern }
        return line.hasPrefix(pattern[..<star]) && line.hasSuffix(pattern[pattern.index(after: star)...])
    }

    private static func differences(of told: Set<String>, from expected: [String]) -> [String] {
        var rest = told
        var differences: [String] = []
        for line in expected {
            let isOptional = line.hasPrefix("?")
            let words = line.drop { $0 == "?" }.split(separator: " ")
            guard words.count == 2 else { return ["'\(line)' is no output"] }
            let patterns = words[0].split(separator: "|").map { "\($0) \(words[1])" }
            let found = patterns.flatMap { pattern in rest.filter { Self.matches($0, pattern) } }
            if found.isEmpty && !isOptional { differences.append("'\(line)' was not told") }
            rest.subtract(isOptional ? found[...] : found.prefix(1))
        }
        return differences + rest.sorted().map { "'\($0)' was told" }
    }
}

@Suite("Watcher scripts")
struct WatchScriptTests {
    @Test("Each script is told as it says", arguments: WatchScript.all)
    func script(_ script: WatchScript) async throws {
        let failures = try await script.run()
        #expect(failures.isEmpty, "\(failures.joined(separator: "\n"))")
    }

    @Test("There are scripts")
    func found() { #expect(WatchScript.all.count >= 20) }
}
