import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("What a person can mend, and what is refused")
    struct Mending {
        private func damage(_ bench: Bench) throws {
            try bench.write(bench.backup.appending(".safebackup/destination.json"), Array("{\"layout\": 1, \"id".utf8))
        }

        private func accept(_ bench: Bench, _ more: [FilePath]) async throws -> Program {
            try await bench.run(["accept", bench.backup, "--state", bench.state] + more)
        }

        @Test(
            "A damaged mark of a destination is written anew from the state, once a person agrees, also beside the agent",
            .timeLimit(.minutes(2)), arguments: [false, true])
        func damagedMark(isRunning: Bool) async throws {
            let bench = try Bench()
            bench.options = ["--idle-milliseconds", "300"]
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            let inode = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("file".utf8)).fingerprint.inode
            try damage(bench)
            try bench.write("later", "later\n")
            let agent = isRunning ? try bench.spawnAgent() : nil
            if agent == nil { #expect(try await bench.once().ending == .exit(4)) }
            let isHeld = try await eventually {
                try await bench.status().destinations.first?.held?.reason == "sentinelForeign"
            }
            #expect(isHeld, "\(agent?.errorTail ?? "")")

            let preview = try await accept(bench, [])
            #expect(preview.ending == .exit(4) && preview.outputText.contains("is the one that is known"))
            #expect(access(bench.backup.appending("later").string, F_OK) != 0, "saved before anybody agreed")
            let answer = try await accept(bench, ["--yes"])
            #expect(answer.ending == .exit(0), "\(answer.outputText)\(answer.errorText)")
            if let agent {
                try await bench.expectInSync(agent)
                try await bench.stop(agent)
            } else {
                try await bench.saveOnce()
            }
            try bench.expectSaved()
            let after = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("file".utf8)).fingerprint.inode
            #expect(after == inode, "an unchanged file was stored again")
        }

        @Test("A damaged mark of another destination, of none that can be told, and of a newer release are left alone")
        func damagedOther() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            // Another backup, put in the place of ours and damaged.
            let other = try Bench()
            try other.write("file", "of another\n")
            try await other.saveOnce()
            try command(["mv", bench.backup, bench.root.appending("ours")])
            try command(["cp", "-a", other.backup, bench.backup])
            try damage(bench)
            let mark = bench.backup.appending(".safebackup/destination.json")
            let damaged = try read(mark)
            let foreign = try await accept(bench, ["--yes"])
            #expect(foreign.ending == .exit(4) && foreign.outputText.contains("another destination"))
            try command(["rm", "-r", bench.backup.appending(".safebackup/catalogue")])
            let unknown = try await accept(bench, ["--yes"])
            #expect(unknown.ending == .exit(4) && unknown.outputText.contains("no catalogue copy"))
            #expect(try read(mark) == damaged)
            try command(["rm", "-r", bench.backup])
            try command(["mv", bench.root.appending("ours"), bench.backup])
            try bench.write(mark, Array("{\"layout\": 99}".utf8))
            let newer = try await accept(bench, ["--yes"])
            #expect(newer.ending == .exit(4) && newer.outputText.contains("newer release"), "\(newer.outputText)")
            #expect(try read(mark) == Array("{\"layout\": 99}".utf8))
        }

        @Test(
            "Nothing is restored into a backup, also by a link, with --overwrite, or into a directory that is yet to be made"
        )
        func intoBackup() async throws {
            let bench = try Bench()
            try bench.write("d/file", "content\n")
            try await bench.saveOnce()
            try bench.write("d/file", "changed, and not saved\n")
            let link = bench.root.appending("link")
            try command(["ln", "-s", bench.backup.appending("d"), link])
            let before = try Tree(bench.backup)
            for target in [bench.backup, bench.backup.appending("d"), bench.backup.appending("new"), link] {
                for origin: [FilePath] in [["--state", bench.state], ["--from", bench.backup]] {
                    let program = try await bench.run(["restore", "d", "--overwrite", "--to", target] + origin)
                    #expect(program.ending == .exit(2), "\(target): \(program.errorText)")
                    #expect(program.errorText.contains("never restored into"), "\(program.errorText)")
                }
            }
            #expect(before.differences(in: try Tree(bench.backup)) == [])
            let beside = try await bench.run(
                ["restore", "d", "--to", bench.root.appending("back"), "--state", bench.state])
            #expect(beside.ending == .exit(0), "\(beside.errorText)")
        }

        @Test("What a killed restore left is removed by the next one there, and nothing else of such a name")
        func leftovers() async throws {
            let bench = try Bench()
            try bench.write("d/file", "content\n")
            try await bench.saveOnce()
            let target = bench.root.appending("back")
            try command(["mkdir", "-p", target.appending("d")])
            // A process that has ended, one that runs, and what only looks like them.
            let ended = try Program(["true"], output: "/dev/null", errors: "/dev/null")
            ended.waitBlocking()
            let start = ".safebackup-restore-"
            let stays = ["\(start)\(getpid())", "\(start)x", "\(start)0\(ended.process)", "\(start)"]
            for name in stays + ["\(start)\(ended.process)"] {
                try bench.write(target.appending("d").appending(name), Array("half\n".utf8))
            }
            let program = try await bench.run(["restore", "d/file", "--to", target, "--state", bench.state])
            #expect(program.ending == .exit(0), "\(program.errorText)")
            var found: Set<String> = []
            try Descriptor.open(target.appending("d"), O_RDONLY).forEachEntry { leaf, _ in found.insert(printable(leaf))
            }
            #expect(found == Set(stays + ["file"]))
        }
    }
}
