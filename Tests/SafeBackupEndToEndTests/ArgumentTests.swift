import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    /// Paths and names as people and scripts write them: relative, through links, with slashes, empty, unknown.
    @Suite("What a person types")
    struct Arguments {
        private func files(_ bench: Bench) throws {
            for number in 0..<12 { try bench.write("dir/\(number)", "content \(number)\n") }
            try command(["ln", "-s", "source", bench.root.appending("link")])
        }

        /// Runs the program with these words of a shell, in the bench's directory, which is `$1`. `FilePath` would take
        /// slashes and empty words away.
        private func type(
            _ words: String, _ bench: Bench, sourceLocation: SourceLocation = #_sourceLocation
        ) async throws -> Program {
            bench.prefix = ["bash", "-c", FilePath(#"cd "$1" && "$0" "# + words)]
            defer { bench.prefix = [] }
            return try await bench.run([bench.root], sourceLocation: sourceLocation)
        }

        @Test("However source and destination are written they are the same, and nothing is stored again")
        func spellings() async throws {
            let bench = try Bench()
            try files(bench)
            try command(["ln", "-s", "backup", bench.root.appending("link to the backup")])
            try await bench.saveOnce()
            let before = try Descriptor.open(bench.backup.appending("dir"), O_RDONLY).status(of: Array("3".utf8))
            for words in [
                "source backup", "source/ ./backup/", "./source/../source backup/.", "link 'link to the backup'",
                "link/ backup", #""$1/link/." "$1/backup""#,
            ] {
                let program = try await type("run \(words) --once --state state", bench)
                #expect(program.ending == .exit(0), "\(words): \(program.errorTail)")
            }
            let after = try Descriptor.open(bench.backup.appending("dir"), O_RDONLY).status(of: Array("3".utf8))
            #expect(after.fingerprint == before.fingerprint, "a file was stored again")
            let status = try await bench.status()
            #expect(status.sources.map(\.path) == [bench.source.string])
            #expect(status.destinations.map(\.location) == [bench.backup.string])
            try bench.expectSaved()
        }

        @Test("A path that leads into the source through a link is understood by every verb")
        func throughLink() async throws {
            let bench = try Bench()
            try files(bench)
            #expect(try await type("run link backup --once --state state", bench).ending == .exit(0))
            let expected: [(String, Int32)] = [
                (#"why "$1/link/dir/3""#, 0), (#"versions "$1/link/dir/3""#, 0),
                // 3: nothing to retry there; 1: no rule leaves it out.
                (#"retry "$1/link/dir/3""#, 3), (#"check-ignore "$1/link/dir/3""#, 1),
                (#"restore "$1/link/dir/3" --to back"#, 0), (#"restore "$1/link/" --to all"#, 0),
                (#"restore "$1/source/dir/../dir/4" --to back"#, 0),
            ]
            for (words, code) in expected {
                let program = try await type(words + " --state state", bench)
                #expect(program.ending == .exit(code), "\(words): \(program.errorTail)")
            }
            #expect(try Tree(bench.source).differences(in: try Tree(bench.root.appending("all"))) == [])
            let back = try Tree(bench.root.appending("back")).entries.keys.map(\.description).sorted()
            #expect(back == ["dir", "dir/3", "dir/4"])
        }

        @Test("pause, resume and accept take names relative to where the person is, beside an agent too")
        func relativeNames() async throws {
            let bench = try Bench()
            try files(bench)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            for name in ["source", "./link/", "source/../backup", "backup"] {
                for verb in ["pause", "resume"] {
                    let program = try await type("\(verb) \(name) --state state", bench)
                    #expect(program.ending == .exit(0), "\(verb) \(name): \(program.errorTail)")
                    let status = try await bench.status()
                    let paused = (status.sources.map(\.pausedAt) + status.destinations.map(\.pausedAt)).compactMap(
                        \.self)
                    #expect(paused.count == (verb == "pause" ? 1 : 0), "\(verb) \(name)")
                }
            }
            #expect(try await type("accept source --yes --state state", bench).ending == .exit(0))
            #expect(try await type("pause dir --state state", bench).ending == .exit(2))
            try await bench.stop(agent)
        }

        @Test("An empty path, as of a variable that a script forgot to set, means nothing, and never everything")
        func empty() async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            for words in [
                "restore '' --to back --state state", "restore '' --to back --from backup",
                "restore dir/3 '' --to back --state state", "why '' --state state", "versions '' --state state",
                "retry '' --state state", "check-ignore '' --state state", "check-ignore '' --exclude x",
                "pause '' --state state", "accept '' --yes --state state", "run '' backup --once --state state",
                "run source '' --once --state state", "status --state ''",
            ] {
                let program = try await type(words, bench)
                #expect(program.ending == .exit(2), "\(words): \(program.outputText)\(program.errorTail)")
                #expect(program.errorText.contains("empty"), "\(words): \(program.errorTail)")
            }
            #expect(access(bench.root.appending("back").string, F_OK) != 0, "something was restored")
            let status = try await bench.status()
            #expect(status.sources.allSatisfy { $0.pausedAt == nil })
        }

        @Test(
            "What the backup does not hold is named, with exit code 3, also when the rest comes back",
            arguments: ["--state state", "--from backup", "--from plain"])
        func unknownPath(from: String) async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            // As after the loss of all that is ours.
            try command(["cp", "-a", bench.backup, bench.root.appending("plain")])
            try command(["rm", "-r", bench.root.appending("plain/.safebackup")])
            let program = try await type("restore nowhere dir/3 --to back \(from)", bench)
            #expect(program.ending == .exit(3), "\(program.outputText)\(program.errorTail)")
            #expect(program.errorText.contains("nowhere:"), "\(program.errorTail)")
            #expect(try read(bench.root.appending("back/dir/3")) == Array("content 3\n".utf8))
        }

        @Test("Without a state each verb says so with exit code 2, and makes nothing")
        func noState() async throws {
            let bench = try Bench()
            for words in [
                "status", "exposure", "queue", "why x", "versions x", "check-ignore x", "retry", "retry x", "pause",
                "resume", "accept source --yes", "restore x --to back",
            ] {
                let program = try await type(words + " --state 'no state'", bench)
                #expect(program.ending == .exit(2), "\(words): \(program.errorTail)")
                #expect(program.errorText.contains("no state"), "\(words): \(program.errorTail)")
                #expect(program.outputText.isEmpty, "\(words): \(program.outputText)")
            }
            for name in ["no state", "back"] {
                #expect(access(bench.root.appending(name).string, F_OK) != 0, "\(name)")
            }
        }
    }
}
