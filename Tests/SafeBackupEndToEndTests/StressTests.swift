import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Stress of watching")
    struct Stress {
        /// As package managers and compilers do, and each a public bug report against a program like ours.
        @Test("A thousand times: a file written at once into four new directories is saved", .timeLimit(.minutes(3)))
        func newDirectories() async throws {
            let bench = try Bench()
            let agent = try await bench.startAgent()
            try command([
                "bash", "-c", "cd \"$0\" && for n in {1..1000}; do mkdir -p $n/b/c/d && echo $n >$n/b/c/d/f; done",
                bench.source,
            ])
            try await bench.expectInSync(agent, within: .seconds(120))
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test(
            "Directories that are renamed while they are walked for the first time are saved", .timeLimit(.minutes(3)))
        func renamedWhileWalked() async throws {
            let bench = try Bench()
            try command([
                "bash", "-c",
                "cd \"$0\" && mkdir -p {1..60}/{a,b,c,d} && for d in */*; do echo $d >$d/1; echo $d >$d/2; done",
                bench.source,
            ])
            let agent = try bench.spawn(bench.arguments())
            // While the watches are placed, while the tree is walked, and on.
            try command([
                "bash", "-c",
                """
                cd "$0" && for round in {1..8}; do
                    for n in {1..60}; do mv $n moved$n; done
                    for n in {1..60}; do mv moved$n/a moved$n/e; mv moved$n/e moved$n/a; mv moved$n $n; done
                done
                """, bench.source,
            ])
            try await bench.expectInSync(agent, within: .seconds(120))
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        /// Whoever opens a FIFO to write waits until somebody opens it to read: one who waits to the end proves that
        /// nobody did.
        @Test("A FIFO is never opened: not by the walk, not when it is made, not by a look", .needsFaults)
        func fifos() async throws {
            let bench = try Bench()
            try bench.write("dir/file", "saved\n")
            func waitingWriter(_ path: String) throws -> Program {
                try command(["mkfifo", bench.at(path)])
                return try Program(
                    ["bash", "-c", "echo opened >\"$0\"", bench.at(path)], output: bench.root.appending("writer"),
                    errors: bench.root.appending("writer"))
            }
            var writers = [try waitingWriter("dir/before")]
            // Looked at again and again, as on a network file system.
            let agent = try await bench.startAgent(
                environment: ["SAFEBACKUP_VOLUME_TYPE": "\(VolumeType.nfs.rawValue)"])
            writers.append(try waitingWriter("dir/while it runs"))
            try bench.makeDirectory(bench.root.appending("outside"))
            try command(["mkfifo", bench.root.appending("outside/moved in")])
            try command(["mv", bench.root.appending("outside"), bench.at("came")])
            try bench.write("dir/file", "saved again\n")
            // Two looks have ended, and the FIFOs are known.
            var seen: [String] = []
            let isKnown = try await eventually {
                seen = try StateFile(copying: bench.state).rows("SELECT path FROM not_saved").map(\.[0].text)
                let coverage = try await bench.status().sources.first?.coverage?.message
                return seen.count == 3 && coverage?.contains("every ") == true
            }
            #expect(isKnown, "\(seen)")
            try await bench.stop(agent)
            for writer in writers {
                #expect(writer.poll() == nil, "somebody opened the FIFO")
                writer.crash()
            }
            #expect(try read(bench.backup.appending("dir/file")) == Array("saved again\n".utf8))
        }

        /// Memory of the program in KiB, and its open descriptors.
        private func size(of program: Program) throws -> (memory: Int, descriptors: Int) {
            let text = String(decoding: try read(FilePath("/proc/\(program.process)/status")), as: UTF8.self)
            let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
            let memory = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).compactMap { Int($0) }.first
            var descriptors = 0
            try Descriptor.open(FilePath("/proc/\(program.process)/fd"), O_RDONLY | O_DIRECTORY)
                .forEachEntry { _, _ in descriptors += 1 }
            return (try #require(memory), descriptors)
        }

        @Test(
            "Memory and descriptors stay flat while directories and files come, move and go", .timeLimit(.minutes(40)))
        func churn() async throws {
            let bench = try Bench()
            let agent = try await bench.startAgent()
            let seconds = Conditions.isLong ? 600 : 10
            let worker = try Program(
                [
                    "bash", "-c",
                    """
                    cd "$0" && end=$((SECONDS + $1)) && round=0
                    while ((SECONDS < end)); do
                        round=$((round + 1)); mkdir -p "d$((round % 7))/sub $round"
                        for n in {1..20}; do echo "$round $n" >"d$((round % 7))/sub $round/a file with a longer name $n"; done
                        mv "d$((round % 7))/sub $round" "d$(((round + 3) % 7))" 2>&- || true
                        rm -rf "d$(((round + 5) % 7))"; echo $round >>log
                        # Ten times a second: what is deleted stays in the backup, and is compared in the end.
                        read -r -t 0.1 <> <(:) || true
                    done
                    """, bench.source, FilePath("\(seconds)"),
                ], output: bench.root.appending("worker"), errors: bench.root.appending("worker"))
            // What the first third needs is what it needs.
            let began = ContinuousClock.now
            var first = (memory: 0, descriptors: 0)
            var later = first
            while worker.poll() == nil {
                let now = try size(of: agent)
                if ContinuousClock.now - began < .seconds(seconds) / 3 {
                    first = (max(first.memory, now.memory), max(first.descriptors, now.descriptors))
                } else {
                    later = (max(later.memory, now.memory), max(later.descriptors, now.descriptors))
                }
                try await pause(.milliseconds(100))
            }
            #expect(worker.ending == .exit(0), "\(worker.outputText)")
            try await bench.expectInSync(agent, within: .seconds(600))
            let end = try size(of: agent)
            #expect(later.memory < first.memory + 16_384, "KiB: first \(first.memory), later \(later.memory)")
            #expect(
                later.descriptors < first.descriptors + 200, "first \(first.descriptors), later \(later.descriptors)")
            #expect(end.descriptors <= first.descriptors, "at the end \(end.descriptors)")
            try await bench.stop(agent)
            try bench.expectSaved()
        }
    }
}
