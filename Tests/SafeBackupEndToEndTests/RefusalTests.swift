import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("What is refused, held or told")
    struct Refusals {
        @Test("A second agent on the same state is refused with the first one's pid")
        func secondAgent() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let first = try await bench.startAgent()
            let second = try await bench.run(bench.arguments())
            #expect(second.ending == .exit(5))
            #expect(second.errorText.contains("\(first.process)"), "\(second.errorTail)")
            #expect(first.poll() == nil, "the first agent ended")
            try await bench.stop(first)
        }

        @Test("A source inside the destination, or the source itself, is a mistake of usage")
        func nested() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let inside = try await bench.run(["run", bench.source, bench.root, "--state", bench.state, "--once"])
            #expect(inside.ending == .exit(2), "\(inside.errorTail)")
            let itself = try await bench.run(["run", bench.source, bench.source, "--state", bench.state, "--once"])
            #expect(itself.ending == .exit(2), "\(itself.errorTail)")
            #expect(try Tree(bench.source).entries.count == 1, "something was written into the source")
        }

        @Test("Missing and surplus arguments are a mistake of usage; help and version are none")
        func usage() async throws {
            let bench = try Bench()
            #expect(try await bench.run(["run"]).ending == .exit(2))
            #expect(try await bench.run(["run", bench.source]).ending == .exit(2))
            #expect(try await bench.run(["walk", bench.source]).ending == .exit(2))
            #expect(try await bench.run(bench.arguments(["--no-such-option"])).ending == .exit(2))
            let help = try await bench.run(["--help"])
            #expect(help.ending == .exit(0) && help.outputText.contains("restore"))
            let version = try await bench.run(["--version"])
            #expect(version.ending == .exit(0) && !version.outputText.isEmpty)
        }

        @Test("An OpenSSL without SHA-256 is a mistake of configuration that names it, and nothing is written")
        func noDigest() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let configuration = bench.root.appending("openssl.cnf")
            // Only the provider that has no algorithm at all is active.
            let script = #"printf 'openssl_conf=a\n[a]\nproviders=b\n[b]\nnull=c\n[c]\nactivate=1\n' >"$0""#
            try command(["bash", "-c", FilePath(script), configuration])
            let program = try await bench.run(
                bench.arguments(["--once"]), environment: ["OPENSSL_CONF": configuration.string])
            #expect(program.ending == .exit(2), "\(program.errorTail)")
            #expect(program.errorText.contains("OPENSSL_CONF"), "\(program.errorTail)")
            #expect(throws: Errno.noSuchFileOrDirectory) { try Descriptor.open(bench.backup, O_RDONLY) }
        }

        @Test("A source that is not there is named, and nothing is made in its place", arguments: [true, false])
        func missingSource(once: Bool) async throws {
            let bench = try Bench()
            let missing = bench.root.appending("missing")
            let program = try await bench.run(
                ["run", missing, bench.backup, "--state", bench.state] + (once ? ["--once"] : []))
            let ending = try #require(program.ending)
            #expect([.exit(1), .exit(2), .exit(4)].contains(ending), "\(program.errorTail)")
            #expect(program.errorText.contains(missing.string), "\(program.errorTail)")
            #expect(throws: Errno.noSuchFileOrDirectory) { try Descriptor.open(missing, O_RDONLY) }
        }

        @Test("An unreadable file is named, the rest is saved, and the exit code is 3")
        func unreadable() async throws {
            let bench = try Bench()
            try bench.write("readable", "content\n")
            try bench.write("dir/secret", "content\n")
            try command(["chmod", "0", bench.at("dir/secret")])
            if geteuid() == 0 {
                // Root reads everything: the agent runs as nobody, whom the test's directory then belongs to.
                let program = bench.root.appending("safebackup")
                try command(["cp", Bench.program, program])
                try command(["chown", "-R", "65534:65534", bench.root])
                try command(["chmod", "0755", bench.root])
                bench.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
            }
            let first = try await bench.once()
            #expect(first.ending == .exit(3), "\(first.errorTail)")
            #expect(first.errorText.contains("dir/secret"), "\(first.errorTail)")
            #expect(try read(bench.backup.appending("readable")) == Array("content\n".utf8))

            try command(["chmod", "0644", bench.at("dir/secret")])
            let second = try await bench.once()
            #expect(second.ending == .exit(0), "\(second.errorTail)")
            try bench.expectSaved()
        }

        @Test("A destination and a state inside the source do not save themselves, from the first run on")
        func ownInside() async throws {
            let bench = try Bench()
            bench.backup = bench.source.appending("backup")
            bench.state = bench.source.appending("state")
            try bench.write("file", "content\n")
            for _ in 0..<2 {
                let program = try await bench.once()
                #expect(program.ending == .exit(0), "\(program.errorTail)")
            }
            let stored = Set(try Tree(bench.backup).entries.keys.map(\.description))
            #expect(stored == ["file"])
        }

        @Test("A .safebackup at the top of the source is not saved, and listed with its reason")
        func reservedName() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try bench.write(".safebackup/mine", "of the user's own\n")
            try bench.write("dir/.safebackup/mine", "deeper it is a name as any other\n")
            let program = try await bench.once()
            #expect(program.ending == .exit(3), "\(program.errorTail)")
            #expect(program.errorText.contains("reservedName"), "\(program.errorTail)")
            let listed = try StateFile(copying: bench.state).rows("SELECT path, reason FROM not_saved")
            #expect(listed.map { $0.map(\.text) } == [[".safebackup", "reservedName"]])
            #expect(try read(bench.backup.appending("dir/.safebackup/mine")).count > 0)
            #expect(access(bench.backup.appending(".safebackup/mine").string, F_OK) != 0)
        }

        @Test("A state that is deleted under the running agent is noticed and rebuilt")
        func stateDeleted() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command(["rm", "-r", bench.state])
            let isBack = try await eventually {
                guard agent.errorText.contains("built anew") else { return agent.poll() != nil }
                do {
                    return try StateFile(copying: bench.state).jobCounts().isEmpty
                } catch {
                    return false  // not made again yet
                }
            }
            #expect(isBack && agent.poll() == nil, "\(agent.errorTail)")
            try bench.write("file", "changed\n")
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test("A FIFO hangs nothing and is listed; as no backup of files can hold one, nothing counts as missing")
        func specialFile() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try command(["mkfifo", bench.at("pipe")])
            let program = try await bench.once()
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            let listed = try StateFile(copying: bench.state).rows("SELECT path, reason FROM not_saved")
            #expect(listed.map { $0.map(\.text) } == [["pipe", "special"]])
            #expect(try read(bench.backup.appending("file")) == Array("content\n".utf8))
        }

        @Test("Without the known sentinel nothing is written, and it goes on when the disk is back")
        func destinationAway() async throws {
            let bench = try Bench()
            try bench.write("file", "first\n")
            try await bench.saveOnce()
            // As after an unmount: an empty directory is where the disk was.
            let away = bench.root.appending("away")
            try command(["mv", bench.backup, away])
            try bench.makeDirectory(bench.backup)
            try bench.write("file", "second\n")
            let held = try await bench.once()
            #expect(held.ending == .exit(4), "\(held.errorTail)")
            #expect(held.errorText.contains(bench.backup.string), "\(held.errorTail)")
            var names: [[UInt8]] = []
            try Descriptor.open(bench.backup, O_RDONLY).forEachEntry { name, _ in names.append(name) }
            #expect(names.isEmpty, "written into the bare mount point: \(names.map { printable($0) })")

            try command(["rmdir", bench.backup])
            try command(["mv", away, bench.backup])
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        @Test("An emptied source is held, and no name ends", arguments: [false, true])
        func sourceEmptied(isReplaced: Bool) async throws {
            let bench = try Bench()
            for number in 0..<20 { try bench.write("dir/\(number)", "content \(number)\n") }
            try await bench.saveOnce()
            let before = Set(try StateFile(copying: bench.state).liveNames().map(\.path))
            let kept = try Tree(bench.backup)
            if isReplaced {
                try command(["mv", bench.source, bench.root.appending("elsewhere")])
                try bench.makeDirectory(bench.source)
                try bench.write("stranger", "of another tree\n")
            } else {
                try command(["rm", "-r", bench.at("dir")])
            }
            let held = try await bench.once()
            #expect(held.ending == .exit(4), "\(held.errorTail)")
            #expect(held.errorText.contains(bench.source.string), "\(held.errorTail)")
            #expect(Set(try StateFile(copying: bench.state).liveNames().map(\.path)) == before)
            #expect(kept.differences(in: try Tree(bench.backup)) == [])
        }

        @Test("status answers in JSON with and without an agent")
        func status() async throws {
            let bench = try Bench()
            for number in 0..<10 { try bench.write("file \(number)", "0123456789") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let running = try await bench.status()
            #expect(running.agent.running)
            #expect(running.agent.pid == Int(agent.process))
            let source = try #require(running.sources.first)
            #expect(source.path == bench.source.string)
            #expect((source.files, source.bytes) == (10, 100))
            #expect(source.held == nil && !source.desynced)
            let destination = try #require(running.destinations.first)
            #expect(destination.location == bench.backup.string)
            #expect((destination.pending, destination.leased, destination.stuck) == (0, 0, 0))
            try await bench.stop(agent)
            let stopped = try await bench.status()
            #expect(!stopped.agent.running)
            #expect(stopped.sources.count == 1 && stopped.destinations.count == 1)
        }

        @Test("The documented views can be read with sqlite3 while the agent runs")
        func views() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            for view in ["v_status", "v_pending", "v_stuck", "v_history", "v_exposure", "v_cleaned"] {
                let text = try command([
                    "sqlite3", "-readonly", bench.state.appending("queue.db"), FilePath("SELECT * FROM \(view)"),
                ])
                if view == "v_status" { #expect(!text.isEmpty, "v_status has no row") }
                if view == "v_history" { #expect(text.contains("file"), "v_history does not tell of the file") }
            }
            try await bench.stop(agent)
        }
    }
}
