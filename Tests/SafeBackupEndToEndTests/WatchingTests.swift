import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Watching")
    struct Watching {
        /// The kernel's queue holds 16,384 events unless it was made larger; a stopped agent reads none of them.
        @Test(
            "Events that the kernel dropped are made up for, and what did not change is not stored again",
            .timeLimit(.minutes(3)))
        func overflow() async throws {
            let bench = try Bench()
            try bench.write("untouched", "as it was\n")
            for number in 0..<8 { try bench.makeDirectory(bench.at("\(number)")) }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let before = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("untouched".utf8))

            agent.send(SIGSTOP)
            let limit = try #require(
                Int(
                    String(decoding: try read("/proc/sys/fs/inotify/max_queued_events"), as: UTF8.self).prefix {
                        $0 != "\n"
                    }))
            // Each new file is at least a create, a modify and a close.
            for number in 0..<(limit / 3 + 1_000) {
                let file = try Descriptor.open(
                    bench.at("\(number % 8)").appending("file \(number)"), O_WRONLY | O_CREAT, mode: 0o644)
                try file.write(Array("content \(number)\n".utf8), at: 0)
            }
            agent.send(SIGCONT)
            try await bench.expectInSync(agent, within: .seconds(120))
            let after = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("untouched".utf8))
            #expect(after.fingerprint == before.fingerprint, "an unchanged file was stored again")
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test("A file that is written and never closed is saved when it has been quiet for a while")
        func neverClosed() async throws {
            let bench = try Bench()
            let agent = try await bench.startAgent()
            let log = try Descriptor.open(bench.at("log"), O_WRONLY | O_CREAT, mode: 0o644)
            try log.write(Array("first line\n".utf8), at: 0)
            try await bench.expectInSync(agent, within: .seconds(30))
            try log.write(Array("second line\n".utf8), at: 11)
            try await bench.expectInSync(agent, within: .seconds(30))
            #expect(try read(bench.backup.appending("log")) == Array("first line\nsecond line\n".utf8))
            try await bench.stop(agent)
        }

        /// As package managers, compilers and `git checkout` do; each a public bug report against a program like ours.
        @Test("Trees made, moved in and made again at once lose no file", .timeLimit(.minutes(2)))
        func races() async throws {
            let bench = try Bench()
            let agent = try await bench.startAgent()
            try command([
                "bash", "-c",
                """
                cd "$0" && for n in {1..200}; do mkdir -p deep/$n/a/b/c && echo $n >deep/$n/a/b/c/file; done
                mkdir -p ../outside/{1..20}/x && for n in {1..20}; do echo $n >../outside/$n/x/file; done
                mv ../outside came
                for n in {1..50}; do mkdir -p again/d && echo $n >again/d/file && rm -r again && mkdir again; done
                mkdir again/d && echo last >again/d/file
                """, bench.source,
            ])
            try await bench.expectInSync(agent)
            try bench.write("again/d/file", "written after everything was in place\n")
            try bench.write("deep/77/a/b/c/file", "and here\n")
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        /// Groups are stored side by side: one may move away what another one works with. The pauses spread what belongs
        /// together over several groups.
        @Test(
            "Files and directories take each other's place again and again, and the catalogue stays true",
            .timeLimit(.minutes(2)))
        func exchangedKinds() async throws {
            let bench = try Bench()
            let agent = try await bench.startAgent()
            try command([
                "bash", "-c",
                """
                cd "$0" && pause() { read -r -t "$1" <> <(:); }
                for place in {1..8}; do (
                    for round in {1..12}; do
                        echo "$round as a file" >place$place; pause 0.15
                        rm place$place; mkdir place$place
                        for n in {1..12}; do echo "$round below" >place$place/$round.$n; pause 0.00$((place % 5 + 3)); done
                        pause 0.1; rm -r place$place
                    done; mkdir place$place; echo last >place$place/last
                ) & done; wait
                """, bench.source,
            ])
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        /// Only the directory itself is told to have gone; the names below it must not live on.
        @Test("A directory that is moved away and made again keeps no names of what was below it")
        func madeAgain() async throws {
            let bench = try Bench()
            for name in ["dir/a", "dir/sub/b", "dir/stays", "file/c"] { try bench.write(name, "\(name)\n") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command([
                "bash", "-c",
                """
                cd "$0" && mv dir ../away && mkdir dir && cp -p ../away/stays dir/stays && echo new >dir/new
                mv file ../gone && echo "now a file" >file
                """, bench.source,
            ])
            let expected: Set<String> = ["dir", "dir/stays", "dir/new", "file"]
            var live: Set<String> = []
            let isTrue = try await eventually {
                live = Set(try StateFile(copying: bench.state).liveNames().map(\.path.description))
                return live == expected
            }
            #expect(isTrue, "live names: \(live.sorted()); \(agent.errorTail)")
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test(
            "A file that a FIFO replaces is gone; the FIFO is listed, and nothing is stuck", arguments: [true, false])
        func replacedByFIFO(running: Bool) async throws {
            let bench = try Bench()
            try bench.write("pipe", "content\n")
            try bench.write("other", "content\n")
            try await bench.saveOnce()
            let agent = running ? try await bench.startAgent() : nil
            try command(["rm", bench.at("pipe")])
            try command(["mkfifo", bench.at("pipe")])
            if agent == nil { _ = try await bench.once() }
            let isEnded = try await eventually {
                try StateFile(copying: bench.state).liveNames().map { "\($0.path)" } == ["other"]
            }
            #expect(isEnded)
            #expect(try StateFile(copying: bench.state).jobCounts().isEmpty)
            if let agent { try await bench.stop(agent) }
        }

        @Test("When a renamed directory is half moved, no name of it has ended as deleted", .needsFaults)
        func halfRenamed() async throws {
            let bench = try Bench()
            for number in 0..<1_500 { try bench.write("big/\(number)", "content \(number)\n") }
            try await bench.saveOnce()
            let agent = try await bench.startAgent(fault: "kill=completed,nth=1")
            try command(["mv", bench.at("big"), bench.at("renamed")])
            _ = try await eventually { agent.poll() != nil }
            let ended = try StateFile(copying: bench.state).rows(
                "SELECT 1 FROM name WHERE end_reason = 'deleted' AND kind = 'file'")
            #expect(ended.isEmpty, "\(ended.count) names")
            try await bench.saveOnce()
            try bench.expectSaved()
            let copies = try StateFile(copying: bench.state).rows("SELECT 1 FROM copy WHERE kind = 'file'")
            #expect(copies.count == 1_500, "a renamed file was stored again")
        }
    }
}
