import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    @Suite("Exclude rules, and who asks for them")
    struct Ignore {
        private struct Answer: Decodable {
            struct Entry: Decodable {
                var path: String
                var pathHex: String?
                var ignored: Bool
                var reason: String?
                var ruleSource: String?
                var ruleLine: Int?
                var rule: String?
            }
            var paths: [Entry]
        }

        /// A source with rules in two files and two options, saved once.
        private func scene() async throws -> (Bench, rules: FilePath) {
            let bench = try Bench()
            for path in ["a.tmp", "keep.tmp", "build/x.o", "build/keep", "log/1.log", "plain", "late.tmp"] {
                try bench.write(path, path)
            }
            let rules = bench.root.appending("rules")
            try bench.write(rules, Array("\u{FEFF}# what is not saved\r\n\r\n*.log\r\nbuild/\r\n!build/keep\r\n".utf8))
            let saved = try await bench.once([
                "--exclude", "*.tmp", "--exclude-from", rules, "--exclude", "!keep.tmp",
            ])
            try #require(saved.ending == .exit(0), "\(saved.errorTail)")
            return (bench, rules)
        }

        @Test("Rules of options and files apply in the order of the command line, and are named as git names them")
        func names() async throws {
            let (bench, rules) = try await scene()
            let saved = Set(try Tree(bench.backup).entries.keys.map(\.description))
            #expect(saved == ["keep.tmp", "plain", "log"])

            let asked: [FilePath] = [
                "check-ignore", "--state", bench.state, "a.tmp", "keep.tmp", "build/keep", bench.at("log/1.log"),
                "plain", "nothing.tmp",
            ]
            let answer = try await bench.run(asked)
            #expect(answer.ending == .exit(0), "\(answer.errorTail)")
            #expect(
                answer.outputText == """
                    --exclude:1:*.tmp\ta.tmp
                    \(rules):4:build/\tbuild/keep
                    \(rules):3:*.log\tlog/1.log
                    --exclude:1:*.tmp\tnothing.tmp

                    """)
            let all = try await bench.run(asked + ["--verbose", "--non-matching"])
            #expect(all.outputText.contains("--exclude:2:!keep.tmp\tkeep.tmp\n    It is saved: included again by"))
            #expect(all.outputText.contains("::\tplain\n"))
            #expect(all.outputText.contains("'!build/keep' (\(rules):5) has no effect"), "\(all.outputText)")
        }

        @Test("Exit code 1 tells that nothing asked for is left out, 2 that the rules cannot be used")
        func exitCodes() async throws {
            let (bench, rules) = try await scene()
            let none = try await bench.run(["check-ignore", "--state", bench.state, "plain", "keep.tmp"])
            #expect(none.ending == .exit(1) && none.outputText.isEmpty)
            let elsewhere = try await bench.run(["check-ignore", "--state", bench.state, "/elsewhere/x"])
            #expect(elsewhere.ending == .exit(2) && elsewhere.errorText.contains("lies in no source"))
            try bench.write(rules, Array("fine\n[a\n".utf8))
            let idle = try await bench.once(["--exclude-from", rules])
            #expect(idle.ending == .exit(0) && idle.errorText.contains("\(rules):2"), "\(idle.errorTail)")
            try bench.write(rules, Array("fine\na\u{0}\n".utf8))
            let broken = try await bench.once(["--exclude-from", rules])
            #expect(broken.ending == .exit(2) && broken.errorText.contains("(\(rules):2)"), "\(broken.errorTail)")
            let missing = try await bench.once(["--exclude-from", rules.appending("not-there")])
            #expect(missing.ending == .exit(2) && missing.errorText.contains("check --exclude-from"))
        }

        @Test("Rules given with the question need no state, and stand for those of the agent")
        func ownRules() async throws {
            let (bench, _) = try await scene()
            let without = try await bench.run([
                "check-ignore", "--state", bench.root.appending("none"), "--exclude", "a/*", "--exclude", "!a/b", "a/b",
                "a/c",
                "d/",
            ])
            #expect(
                without.ending == .exit(0) && without.outputText == "--exclude:1:a/*\ta/c\n", "\(without.errorTail)")
            let with = try await bench.run([
                "check-ignore", "--state", bench.state, "--exclude", "plain", "plain", "a.tmp",
            ])
            #expect(with.outputText == "--exclude:1:plain\tplain\n")
            // A slash at the end says that a directory is meant that is not there yet; a FilePath would drop it.
            let directory = try command([
                "bash", "-c", #""$0" check-ignore --exclude out/ --state "$1" out out/ #"#, Bench.program, bench.state,
            ])
            #expect(directory == "--exclude:1:out/\tout\n")
        }

        @Test("What no rule leaves out has its reason: the reserved name, a FIFO, the backup inside the source")
        func otherReasons() async throws {
            let bench = try Bench()
            bench.backup = bench.at("backup")
            bench.state = bench.at("state")
            try bench.write("file", "content")
            try bench.write(".safebackup/x", "taken")
            try command(["mkfifo", bench.at("fifo")])
            let saved = try await bench.once()
            #expect(saved.ending == .exit(3), "\(saved.errorTail)")
            let name: [UInt8] = Array("new\nline ".utf8) + [0xFF, 0x2E, 0x74]
            let answer = try await bench.run([
                "check-ignore", "--json", "--state", bench.state, ".safebackup/x", "fifo", "backup/file",
                "state/queue.db",
                "file", FilePath(".").appending(bytes: name),
            ])
            #expect(answer.ending == .exit(0), "\(answer.errorTail)")
            let report = try JSONDecoder().decode(Answer.self, from: Data(answer.outputText.utf8))
            #expect(
                report.paths.map(\.reason) == ["reservedName", "special", "ownDestination", "ownState", nil, nil])
            #expect(report.paths.map(\.ignored) == [true, true, true, true, false, false])
            #expect(report.paths[5].path == "new\\x0aline \\xff.t")
            #expect(report.paths[5].pathHex == "6e65770a6c696e6520ff2e74" && report.paths[4].pathHex == nil)
        }
    }
}
