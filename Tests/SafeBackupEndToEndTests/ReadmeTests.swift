import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// Each command of the readme has a form here that can be run; one without a form is a failure, and so is a form
    /// whose command is not there any more.
    @Suite("The commands of the readme")
    struct Readme {
        /// How a command of the readme is tried.
        private enum Form {
            /// Words after `safebackup`, with the places of the bench for their names, and the exit codes it may have.
            case verb(String, exit: Set<Int32> = [0])
            /// As `verb`; runs until it is told to stop.
            case agent(String)
            /// A command of the system, by bash.
            case shell(String)
            /// It builds, installs or starts something: this stage of `.ci/run` does it for real.
            case stage(String)
        }

        private static let packaged = Form.stage("package: install, run, upgrade, remove, purge")

        private static let forms: [String: Form] = [
            "packaging/quickstart SOURCE DESTINATION": .stage("smoke run of the release binary"),
            "Tests/run": .stage("tests"),
            "safebackup run SOURCE DESTINATION [--exclude PATTERN]... [--exclude-from FILE]... [--state DIR]":
                .agent("run SOURCE DESTINATION --exclude *.tmp --exclude-from RULES --state STATE"),
            "safebackup init SOURCE DESTINATION":
                .verb("init SOURCE NEWDESTINATION --config NEWFILE --state NEWSTATE --yes"),
            "safebackup init /home /mnt/backup/home":
                .verb("init SOURCE NEWDESTINATION --config NEWFILE --state NEWSTATE --yes"),
            "safebackup run SOURCE DESTINATION --once": .verb("run SOURCE DESTINATION --once"),
            "safebackup run --config FILE [--once]": .verb("run --config FILE --once"),
            "safebackup plan SOURCE DESTINATION [--json]": .verb("plan SOURCE DESTINATION --json", exit: [0, 3]),
            "safebackup doctor [SOURCE DESTINATION]": .verb("doctor SOURCE DESTINATION", exit: [0, 1, 3, 4]),
            "safebackup doctor s3://BUCKET/PREFIX": .verb(
                "doctor s3://BUCKET/PREFIX --endpoint http://127.0.0.1:1", exit: [3]),
            "safebackup check-config [FILE]": .verb("check-config FILE"),
            "safebackup check-config FILE": .verb("check-config FILE"),
            "safebackup config show --effective": .verb("config show --effective --config FILE"),
            "safebackup config example": .verb("config example"),
            "safebackup status [--json]": .verb("status --json"),
            "safebackup restore PATH... --to DIR": .verb("restore PATH docs/b --to DIR"),
            "safebackup restore PATH... --to DIR --at TIME": .verb("restore PATH --to DIR --at TIME"),
            "safebackup restore PATH... --to DIR --from DESTINATION":
                .verb("restore PATH --to DIR --from DESTINATION"),
            "safebackup restore . --to DIR --from DESTINATION": .verb("restore . --to DIR --from DESTINATION"),
            "safebackup restore . --deleted --to DIR": .verb("restore . --deleted --to DIR"),
            "safebackup ls [PATH] [--at TIME] [-R] [--json]": .verb("ls docs --at TIME -R --json"),
            "safebackup verify [PATH...] [--share 5%] [--json]": .verb("verify --share 5% --json"),
            "safebackup verify [PATH...] --from DESTINATION": .verb("verify --from DESTINATION"),
            "safebackup prune [PATH...] --keep-last N ...": .verb("prune PATH --keep-last 1 --yes"),
            "safebackup retry [PATH...]": .verb("retry PATH", exit: [0, 3]),
            "safebackup pause [NAME...]": .verb("pause SOURCE"),
            "safebackup resume [NAME...]": .verb("resume SOURCE"),
            // Nothing is held or stuck here, and no agent runs that could know what is exposed.
            "safebackup accept NAME": .verb("accept SOURCE", exit: [0, 1]),
            "safebackup exposure [--json]": .verb("exposure --json", exit: [0, 3]),
            "safebackup queue [--stuck] [--json]": .verb("queue --stuck --json"),
            "safebackup why PATH [--json]": .verb("why PATH --json"),
            "safebackup versions PATH [--json]": .verb("versions PATH --json"),
            "safebackup check-ignore PATH...": .verb("check-ignore PATH", exit: [1]),
            "safebackup clean DIR --min-free 20GiB": .verb("clean OTHER --min-free 20MiB", exit: [0, 1]),
            "safebackup clean [--plan] [--json]": .verb("clean --plan --json"),
            "sqlite3 -readonly -box queue.db 'SELECT * FROM v_status'":
                .shell("cd STATE && sqlite3 -readonly -box queue.db 'SELECT * FROM v_status'"),
            "cp -a DESTINATION/PATH DIR": .shell("cp -a DESTINATION/docs/a DIR"),
            "packaging/build-deb": packaged,
            "apt-get install ./.build/packages/safebackup_*.deb": packaged,
            "apt-get install g++ git libc6-dev libcurl4-openssl-dev libsqlite3-dev libssl-dev pkg-config":
                .stage("smoke run of the release binary"),
            "swift build -c release --product safebackup --static-swift-stdlib":
                .stage("release build without warnings"),
        ]

        private static let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()

        /// The lines of the code blocks that hold commands: indented ones, and those fenced as `sh`. What a command does
        /// stands two blanks behind it.
        private static func commands() throws -> [String] {
            let text = try String(contentsOf: top.appendingPathComponent("README.md"), encoding: .utf8)
            var commands: [String] = []
            var fence: String?
            for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
                if line.hasPrefix("```") {
                    fence = fence == nil ? String(line.dropFirst(3)) : nil
                    continue
                }
                guard fence == "sh" || fence == nil && line.hasPrefix("    ") else { continue }
                let command = line.drop { $0 == " " }
                let end = command.range(of: "  ")?.lowerBound ?? command.endIndex
                if end > command.startIndex { commands.append(String(command[..<end])) }
            }
            return commands
        }

        @Test("Each has a form that is run, and each form has its command")
        func complete() throws {
            let commands = try Self.commands()
            #expect(commands.count > 30)
            let without = commands.filter { Self.forms[$0] == nil }
            #expect(without.isEmpty, "give these commands of the readme a form in this test")
            #expect(Set(Self.forms.keys).subtracting(commands).isEmpty, "the readme has these commands no more")
            let stages = try String(contentsOf: Self.top.appendingPathComponent(".ci/run"), encoding: .utf8)
            for (command, form) in Self.forms {
                switch form {
                case .stage(let name): #expect(stages.contains("'\(name)'"), "\(command): .ci/run has no such stage")
                case .verb(let words, _), .agent(let words), .shell(let words):
                    // What is no name of a place is literal, and must be tried as it stands.
                    for word in command.split(whereSeparator: { " []".contains($0) }).dropFirst() {
                        let isPlace =
                            word.contains { $0.isUppercase } || word.hasPrefix("/")
                            || word.allSatisfy { $0 == "." || $0 == "," }
                        #expect(isPlace || words.contains(word), "\(command): \(word) is not tried")
                    }
                }
            }
        }

        @Test("The packages that a build needs are those that the scripts install")
        func packages() throws {
            let script = try String(
                contentsOf: Self.top.appendingPathComponent("packaging/prerequisites.bash"), encoding: .utf8)
            let line = try #require(script.split(separator: "\n").first { $0.hasPrefix("build_packages=(") })
            let needed = Set(line.dropFirst(16).dropLast().split(separator: " "))
            let command = try #require(try Self.commands().first { $0.hasPrefix("apt-get install g++") })
            let told = Set(command.split(separator: " ").dropFirst(2))
            #expect(told.isSubset(of: needed) && needed.subtracting(told) == ["ca-certificates"])
        }

        @Test("Each is run and ends as it should", .timeLimit(.minutes(5)))
        func run() async throws {
            let bench = try Bench()
            try bench.write("docs/a", "first\n")
            try bench.write("docs/b", "b\n")
            try bench.write("deleted", "deleted\n")
            try await bench.saveOnce()
            let stamp = try command(["date", "-u", "+%Y-%m-%dT%H:%M:%S.%6NZ"]).split(separator: "\n")[0]
            try bench.write("docs/a", "second, longer\n")
            try command(["rm", bench.at("deleted")])
            try await bench.saveOnce()
            try bench.write(bench.root.appending("rules"), Array("*.log\n".utf8))
            try bench.write(bench.root.appending("other/old"), Array("old\n".utf8))
            try bench.write(
                bench.root.appending("agent.conf"),
                Array(
                    """
                    [source "s"]
                    path = \(bench.source)
                    destination = d
                    [destination "d"]
                    path = \(bench.backup)
                    """.utf8))
            var directories = 0
            for text in try Self.commands() {
                guard let form = Self.forms[text] else { continue }
                directories += 1
                let directory = bench.root.appending("to\(directories)")
                let places: [(String, FilePath)] = [
                    ("SOURCE", bench.source), ("DESTINATION", bench.backup), ("STATE", bench.state), ("DIR", directory),
                    ("FILE", bench.root.appending("agent.conf")), ("RULES", bench.root.appending("rules")),
                    ("OTHER", bench.root.appending("other")), ("TIME", FilePath(String(stamp))), ("PATH", "docs/a"),
                    ("NEWDESTINATION", bench.root.appending("new")), ("NEWFILE", bench.root.appending("new.conf")),
                    ("NEWSTATE", bench.root.appending("new.state")),
                ]
                let environment = ["STATE_DIRECTORY": bench.state.string]
                switch form {
                case .stage: continue
                case .shell(let line):
                    let filled = places.reduce(line) { $0.replacingOccurrences(of: $1.0, with: $1.1.string) }
                    if filled.contains("sqlite3"), try await !hasSQLite() { continue }
                    try command(["bash", "-c", FilePath(filled)])
                case .verb(let words, let codes):
                    let arguments = words.split(separator: " ").map { word in
                        places.first { $0.0 == word }?.1 ?? FilePath(String(word))
                    }
                    let program = try await bench.run(arguments, environment: environment)
                    guard case .exit(let code) = program.ending, codes.contains(code) else {
                        Issue.record("\(text): \(String(describing: program.ending))\n\(program.errorText)")
                        continue
                    }
                case .agent(let words):
                    let arguments = words.split(separator: " ").map { word in
                        places.first { $0.0 == word }?.1 ?? FilePath(String(word))
                    }
                    let agent = try bench.spawn(arguments, environment: environment)
                    let isReady = try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil }
                    #expect(isReady, "\(text): \(agent.errorTail)")
                    try await bench.stop(agent)
                }
            }
            // They did something.
            #expect(directories > 30)
            let restored = try command(["find", bench.root, "-path", "*/to*/*", "-type", "f", "-name", "a"])
            #expect(restored.split(separator: "\n").count >= 4, "\(restored)")
            let deleted = try command(["find", bench.root, "-path", "*/to*/*", "-name", "deleted"])
            #expect(deleted.split(separator: "\n").count == 1, "\(deleted)")
        }

        private func hasSQLite() async throws -> Bool {
            do {
                try command(["bash", "-c", "command -v sqlite3"])
                return true
            } catch is CommandFailure {
                return false
            }
        }
    }
}
