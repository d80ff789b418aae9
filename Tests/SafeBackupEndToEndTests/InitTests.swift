import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("init leads from nothing to a backup that is known to come back")
    struct Inits {
        private func arguments(_ bench: Bench, _ more: [FilePath] = ["--yes"]) -> [FilePath] {
            ["init", bench.source, bench.backup, "--state", bench.state, "--config", file(bench)] + more
        }

        private func file(_ bench: Bench) -> FilePath { bench.root.appending("etc/safebackup/agent.conf") }

        @Test("It saves, restores one file, and writes a configuration that an agent then goes on with")
        func all() async throws {
            let bench = try Bench()
            for number in 0..<20 { try bench.write("d/\(number)", "content \(number)\n") }
            try bench.write("no.tmp", "left out\n")
            let temporary = bench.root.appending("tmp")
            try bench.makeDirectory(temporary)
            let program = try await bench.run(
                arguments(bench, ["--yes", "--exclude", "*.tmp"]), environment: ["TMPDIR": temporary.string])
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            #expect(program.outputText.contains("came back with its content, time and mode, the same as in the source"))
            #expect(try Tree(temporary).entries.isEmpty, "something of the restore is left")
            #expect(try read(bench.backup.appending("d/7")) == Array("content 7\n".utf8))
            #expect(access(bench.backup.appending("no.tmp").string, F_OK) != 0)

            let check = try await bench.run(["check-config", file(bench)])
            #expect(check.ending == .exit(0), "\(check.errorTail)")
            let agent = try bench.spawn(["run", "--config", file(bench)])
            #expect(try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil })
            try bench.write("later", "content\n")
            try bench.write("more.tmp", "left out\n")
            #expect(try await eventually { access(bench.backup.appending("later").string, F_OK) == 0 })
            #expect(access(bench.backup.appending("more.tmp").string, F_OK) != 0)

            // Once more, and beside the agent: it is all done.
            let again = try await bench.run(arguments(bench))
            #expect(again.ending == .exit(0), "\(again.errorTail)")
            #expect(again.outputText.contains("set up already"))
            try await bench.stop(agent)
        }

        @Test("Where nobody can be asked, it tells what it would do, and does nothing")
        func nobody() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let program = try await bench.run(arguments(bench, []))
            #expect(program.ending == .exit(2))
            #expect(program.outputText.contains("1 file (8 B)") && program.outputText.contains("What comes next"))
            #expect(program.errorText.contains("--yes"))
            for path in [bench.backup, bench.state, bench.root.appending("etc")] {
                #expect(access(path.string, F_OK) != 0, "\(path) was made")
            }
        }

        @Test("On a terminal it asks, and anything but yes does nothing", arguments: ["y", "n", ""])
        func asked(_ answer: String) async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let words = arguments(bench, []).map { "'\($0)'" }.joined(separator: " ")
            let script = "printf '\(answer)\\n' | script -qec \"'\(Bench.program)' \(words)\" /dev/null"
            let program = try Program(
                ["bash", "-c", FilePath(script)], output: bench.root.appending("out"),
                errors: bench.root.appending("err"))
            try await program.wait(within: .seconds(60))
            #expect(program.ending == .exit(answer == "y" ? 0 : 2), "\(program.outputText)")
            #expect((access(bench.backup.string, F_OK) == 0) == (answer == "y"))
        }

        @Test("An existing configuration stays as it is: another source comes beside it, and the same one is known")
        func dropIn() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            #expect(try await bench.run(arguments(bench)).ending == .exit(0))
            let first = try read(file(bench))
            let other = bench.root.appending("other/source")
            try bench.write(other.appending("two"), Array("2\n".utf8))
            let second = bench.root.appending("second")
            let program = try await bench.run([
                "init", other, second, "--config", file(bench), "--yes",
            ])
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            #expect(try read(file(bench)) == first, "an existing file was changed")
            #expect(try read(second.appending("two")) == Array("2\n".utf8))
            let added = try read(bench.root.appending("etc/safebackup/agent.conf.d/source-2.conf"))
            #expect(String(decoding: added, as: UTF8.self).contains("path = \(other)"))
            let check = try await bench.run(["check-config", file(bench)])
            #expect(check.outputText.contains("sources: 2, destinations: 2, pairs: 2"), "\(check.outputText)")

            // As after an interruption: what is there is not written again.
            let again = try await bench.run(["init", other, second, "--config", file(bench), "--yes"])
            #expect(again.ending == .exit(0), "\(again.errorTail)")
            #expect(again.outputText.contains("has it already"))
            let names = try command(["ls", bench.root.appending("etc/safebackup/agent.conf.d")])
            #expect(names == "source-2.conf\n")
        }

        @Test("A second source goes into a destination that has prefixes, under its name or the one that is given")
        func shared() async throws {
            let bench = try Bench()
            try bench.write("file", "of the first\n")
            let program = try await bench.run(arguments(bench, ["--yes", "--prefix", "one/two"]))
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            #expect(try read(bench.backup.appending("one/two/file")) == Array("of the first\n".utf8))
            // By its name; the second of that name by another; one by what is given, which may not nest.
            let names = [("x/ONE", "ONE-2"), ("y/photos", "photos"), ("z/photos", "photos-2")]
            for (place, _) in names {
                try bench.write(bench.root.appending("\(place)/file"), Array("of \(place)\n".utf8))
            }
            let first = try read(file(bench))
            for (place, prefix) in names {
                let program = try await bench.run([
                    "init", bench.root.appending(place), bench.backup, "--config", file(bench), "--yes",
                ])
                #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
                #expect(program.outputText.contains("systemctl reload safebackup"))
                #expect(try read(bench.backup.appending("\(prefix)/file")) == Array("of \(place)\n".utf8))
            }
            try bench.write(bench.root.appending("last/file"), Array("last\n".utf8))
            let nested = try await bench.run([
                "init", bench.root.appending("last"), bench.backup, "--config", file(bench), "--yes", "--prefix",
                "one/two/three",
            ])
            #expect(nested.ending == .exit(2) && nested.errorText.contains("do not nest"), "\(nested.errorTail)")
            #expect(access(bench.backup.appending("one/two/three").string, F_OK) != 0)
            let check = try await bench.run(["check-config", file(bench)])
            #expect(check.outputText.contains("sources: 4, destinations: 1, pairs: 4"), "\(check.outputText)")
            #expect(try read(file(bench)) == first, "an existing file was changed")
            let once = try await bench.run(["run", "--config", file(bench), "--once"])
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            // Known already; another prefix would be another backup.
            let again = try await bench.run(arguments(bench, ["--yes", "--prefix", "other"]))
            #expect(again.ending == .exit(2) && again.errorText.contains("under the prefix one/two"))
            for bad in ["/abs", "../up", ".safebackup/x", ""] {
                let refused = try await bench.run(arguments(bench, ["--yes", "--prefix", FilePath(bad)]))
                #expect(refused.ending == .exit(2), "\(bad): \(refused.errorText)")
            }
        }

        @Test("Beside a source at the top of a destination there is no room for another, and it says what to do")
        func top() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            #expect(try await bench.run(arguments(bench)).ending == .exit(0))
            let other = bench.root.appending("other")
            try bench.write(other.appending("two"), Array("2\n".utf8))
            for more in [[], ["--prefix", "other"]] as [[FilePath]] {
                let program = try await bench.run(
                    ["init", other, bench.backup, "--config", file(bench), "--yes"] + more)
                #expect(program.ending == .exit(2), "\(program.outputText)")
                #expect(program.errorText.contains("at its top") && program.errorText.contains("--prefix"))
            }
            #expect(try Tree(bench.source).differences(in: try Tree(bench.backup)) { _ in false }.isEmpty)
        }

        @Test("Paths of any bytes stand in the configuration, and are read back")
        func odd() async throws {
            let bench = try Bench()
            bench.source = bench.root.appending(bytes: Array(" a#b\"\\;[x]\n".utf8) + [0xFF, 0x20])
            try bench.makeDirectory(bench.source)
            try bench.write("file", "content\n")
            let program = try await bench.run(arguments(bench))
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            try bench.write("later", "content\n")
            let once = try await bench.run(["run", "--config", file(bench), "--once"])
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            #expect(access(bench.backup.appending("later").string, F_OK) == 0)
        }

        @Test(
            "A pattern that a configuration cannot hold, and a configuration with a mistake, are refused before anything"
        )
        func refused() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let pattern = try await bench.run(arguments(bench, ["--yes", "--exclude", " x"]))
            #expect(pattern.ending == .exit(2) && pattern.errorText.contains("--exclude-from"), "\(pattern.errorTail)")
            try bench.write(file(bench), Array("[source \"x\"]\nptah = /a\n".utf8))
            let typo = try await bench.run(arguments(bench))
            #expect(typo.ending == .exit(2) && typo.errorText.contains("did you mean 'path'?"), "\(typo.errorTail)")
            #expect(access(bench.backup.string, F_OK) != 0 && access(bench.state.string, F_OK) != 0)
        }

        @Test(
            "Killed at any step, and run again, it ends as if nothing had happened", .needsFaults,
            arguments: ["leased", "staged", "renamed", "durable", "completed", "restoring", "creating"])
        func interrupted(_ step: String) async throws {
            let bench = try Bench()
            for number in 0..<20 { try bench.write("d/\(number)", "content \(number)\n") }
            let environment = ["SAFEBACKUP_FAULT": "kill=\(step)", "TMPDIR": bench.root.string]
            let killed = try await bench.run(arguments(bench), environment: environment)
            #expect(killed.ending == .signal(SIGKILL), "\(killed.outputText)")
            #expect(access(file(bench).string, F_OK) != 0, "it is written last")
            let program = try await bench.run(arguments(bench))
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            try bench.expectSaved()
            #expect(try await bench.run(["check-config", file(bench)]).ending == .exit(0))
            #expect(try command(["ls", "-A", file(bench).removingLastComponent()]) == "agent.conf\n")
        }

        @Test("An agent that runs with the state is told, with what to do; the exit code is 5")
        func twice() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let agent = try await bench.startAgent()
            let program = try await bench.run(arguments(bench))
            #expect(program.ending == .exit(5))
            #expect(program.errorText.contains("\(agent.process)"), "\(program.errorTail)")
            #expect(access(file(bench).string, F_OK) != 0)
            try await bench.stop(agent)
        }

        @Test("Without room nothing is done", .needsLoopDevice)
        func noRoom() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("small", mebibytes: 32)
            bench.backup = disk.mountPoint.appending("backup")
            try command(["bash", "-c", #"head -c 40000000 /dev/urandom >"$0""#, bench.at("large")])
            let program = try await bench.run(arguments(bench))
            #expect(program.ending == .exit(3))
            #expect(program.outputText.contains("NOT ENOUGH"))
            #expect(access(bench.backup.string, F_OK) != 0 && access(file(bench).string, F_OK) != 0)
        }

        @Test("What could not be saved is listed, the rest is set up, and the exit code is 3")
        func incomplete() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try bench.write(".safebackup/mine", "reserved\n")
            let program = try await bench.run(arguments(bench))
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            #expect(program.errorText.contains("reservedName"))
            #expect(access(file(bench).string, F_OK) == 0)
        }
    }

    @Suite("quickstart says what is missing")
    struct Quickstarts {
        private static let script = FilePath(#filePath).removingLastComponent().removingLastComponent()
            .removingLastComponent().appending("packaging/quickstart")

        private func run(_ bench: Bench, _ arguments: [FilePath]) async throws -> Program {
            // Only what a small system has: no compiler, and no way to install one.
            let tools = bench.root.appending("tools")
            try command([
                "bash", "-c",
                #"mkdir -p "$0"; for t in bash cat dirname env sed head sort; do ln -sf "$(command -v $t)" "$0"; done"#,
                tools,
            ])
            let program = try Program(
                ["env", FilePath("PATH=\(tools)"), "bash", Self.script] + arguments,
                output: bench.root.appending("quick.out"), errors: bench.root.appending("quick.err"))
            try await program.wait(within: .seconds(60))
            return program
        }

        @Test("Without Swift it says where it is to be had; a mistyped path is told before anything is built")
        func missing() async throws {
            let bench = try Bench()
            let swift = try await run(bench, [bench.source, bench.backup])
            #expect(swift.ending == .exit(1))
            #expect(swift.errorText.contains("Swift is missing") && swift.errorText.contains("https://www.swift.org/"))
            let source = try await run(bench, [bench.root.appending("missing"), bench.backup])
            #expect(source.ending == .exit(2) && source.errorText.contains("no directory at SOURCE"))
            try bench.write("file", "content\n")
            let destination = try await run(bench, [bench.source, bench.at("file")])
            #expect(destination.ending == .exit(2) && destination.errorText.contains("is not a directory"))
        }

        @Test("A library that is missing is named with the command that installs it")
        func library() async throws {
            let bench = try Bench()
            let tools = bench.root.appending("tools")
            _ = try await run(bench, [bench.source, bench.backup])
            func tool(_ name: String, _ text: String) throws {
                try bench.write(tools.appending(name), Array("#!/bin/bash\n\(text)\n".utf8))
                try command(["chmod", "+x", tools.appending(name)])
            }
            try tool("swift", "echo 'Swift version 6.3.1'")
            try tool("apt-get", "exit 1")
            try tool("dpkg-query", #"[[ ${@: -1} == libssl-dev ]] || printf 'install ok installed'"#)
            let program = try await run(bench, [bench.source, bench.backup])
            #expect(program.ending == .exit(1), "\(program.errorTail)")
            #expect(program.errorText.contains("could not be installed from here: libssl-dev"), "\(program.errorText)")
            #expect(program.errorText.contains("apt-get install -y --no-install-recommends libssl-dev"))
        }
    }
}
