import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// On disks of 96 MiB, of which the target is 19.2 MiB.
    @Suite("Cleaning a destination when a person asks")
    struct AskedRoom {
        private struct Report: Decodable {
            struct Destination: Decodable {
                struct Kept: Decodable {
                    var rule: String
                    var copies: Int
                    var why: String
                }
                struct Usage: Decodable {
                    var available: Int64
                }
                struct Failure: Decodable {
                    var code: String
                    var message: String
                }
                var isPlan: Bool
                var limit: String?
                var need: Int64
                var copies: Int
                var bytes: Int64
                var oldestAt: String?
                var newestAt: String?
                var after: Usage?
                var kept: [Kept]?
                var failure: Failure?
            }
            var destinations: [Destination]
        }

        private func usage(_ path: FilePath) throws -> VolumeStatistics {
            try VolumeStatistics(Descriptor.open(path, O_RDONLY | O_DIRECTORY))
        }

        private func bench() throws -> (Bench, LoopDisk) {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 96)
            bench.backup = disk.mountPoint.appending("backup")
            return (bench, disk)
        }

        private func fill(
            _ bench: Bench, _ directory: String, _ files: Int, seed: UInt64, size: Int = 1 << 20
        ) throws {
            var random = SeededGenerator(seed: seed)
            for number in 0..<files { try bench.write(bench.at("\(directory)/\(number)"), random.bytes(size)) }
        }

        /// 16 MiB of early versions, 14 MiB of later ones, 2 MiB of deleted files, and 28 MiB that live.
        private func prepare(_ bench: Bench, size: Int = 1 << 20) async throws {
            try fill(bench, "early", 16, seed: 1, size: size)
            try await bench.saveOnce()
            try fill(bench, "early", 16, seed: 2, size: size)
            try await bench.saveOnce()
            try fill(bench, "late", 14, seed: 3, size: size)
            try await bench.saveOnce()
            try fill(bench, "late", 14, seed: 4, size: size)
            try await bench.saveOnce()
            try command(["rm", bench.at("early/0"), bench.at("early/1")])
            try await bench.saveOnce()
            #expect(try cleaned(bench) == [])
        }

        private func rows(_ bench: Bench, _ sql: String) throws -> [String] {
            try StateFile(copying: bench.state).rows(sql).map { $0.map(\.text).joined(separator: " ") }
        }

        /// The paths that lost copies, in order.
        private func cleaned(_ bench: Bench) throws -> [String] {
            try rows(bench, "SELECT path FROM cleaned ORDER BY id")
        }

        private func expectWhole(_ bench: Bench) throws {
            try bench.expectSaved()
            let state = try StateFile(copying: bench.state)
            #expect(try state.rows("SELECT 1 FROM copy WHERE removing IS NOT NULL").isEmpty)
            let files = try command([
                "find", bench.backup, "-type", "f", "-not", "-path", "*/.safebackup/catalogue/*", "-not", "-name",
                "destination.json", "-not", "-name", "lock", "-printf", "x\n",
            ])
            let known = try state.rows("SELECT count(*) FROM copy WHERE kind = 'file'")[0][0].integer
            #expect(files.split(separator: "\n").count == Int(known), "each copy has its row, and its file")
        }

        private func clean(
            _ bench: Bench, _ more: [FilePath], fault: String? = nil
        ) async throws -> Program {
            try await bench.run(
                ["clean", "--state", bench.state, "--destination", bench.backup] + more,
                environment: fault.map { ["SAFEBACKUP_FAULT": $0] } ?? [:])
        }

        private func report(_ program: Program) throws -> Report.Destination {
            let report = try JSONDecoder().decode(Report.self, from: Data(program.outputText.utf8))
            return try #require(report.destinations.first)
        }

        @Test(
            "A plan tells what goes and changes nothing; then just that goes, the oldest versions first",
            .needsLoopDevice, .timeLimit(.minutes(3)), arguments: [false, true])
        func plan(besideAgent: Bool) async throws {
            let (bench, disk) = try bench()
            try await prepare(bench)
            let agent = besideAgent ? try await bench.startAgent() : nil
            if let agent { try await bench.expectInSync(agent) }
            let need = Int64(39 << 19)
            let free = try usage(disk.mountPoint).available.bytes + need
            let limit: [FilePath] = ["--min-free", FilePath("\(free)B")]

            let everything =
                "SELECT (SELECT count(*) FROM request), (SELECT max(id) FROM journal), (SELECT count(*) FROM copy)"
            let before = try (rows(bench, everything), Tree(bench.backup.appending(".safebackup/versions")))
            let planned = try report(try await clean(bench, limit + ["--plan", "--json"]))
            #expect(planned.isPlan && planned.limit == "minFree" && planned.failure == nil)
            #expect(planned.copies == 20 && planned.bytes == 20 << 20, "\(planned)")
            #expect(planned.oldestAt != nil && planned.newestAt != nil)
            let kept = planned.kept?.map { "\($0.rule) \($0.copies)" }
            #expect(kept == ["live 28", "versions 10", "deleted 2"])
            let text = try await clean(bench, limit + ["--plan"])
            #expect(text.ending == .exit(0) && text.outputText.contains("Would remove about 20 older copies"))
            #expect(try rows(bench, everything) == before.0)
            #expect(before.1.differences(in: try Tree(bench.backup.appending(".safebackup/versions"))) == [])

            let program = try await clean(bench, limit + ["--json"])
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            let done = try report(program)
            #expect(!done.isPlan && done.copies == planned.copies && done.bytes == planned.bytes)
            #expect(done.oldestAt == planned.oldestAt && done.newestAt == planned.newestAt)
            let available = try usage(disk.mountPoint).available.bytes
            #expect(available >= free && available <= free + 1 << 20)
            let gone = try cleaned(bench)
            #expect(gone.count == 20 && gone.prefix(16).allSatisfy { $0.hasPrefix("early/") }, "\(gone)")
            #expect(gone.suffix(4).allSatisfy { $0.hasPrefix("late/") }, "\(gone)")
            let reasons = try rows(bench, "SELECT DISTINCT reason FROM v_cleaned")
            #expect(reasons.count == 1 && reasons[0].hasPrefix("clean: min-free="), "\(reasons)")
            #expect(try rows(bench, "SELECT cleaned_copies FROM capacity WHERE missing IS NULL") == ["20"])
            #expect(try rows(bench, "SELECT 1 FROM journal WHERE event = 'clean'").count == 1)
            // It holds now.
            let again = try await clean(bench, limit)
            #expect(again.ending == .exit(0) && again.outputText.contains("nothing is to be removed"))
            if let agent { try await bench.stop(agent) }
            try expectWhole(bench)
        }

        @Test(
            "What cannot be reached is told with what it did; without an agent what deleted files left stays",
            .needsLoopDevice, .timeLimit(.minutes(3)), arguments: [false, true])
        func short(besideAgent: Bool) async throws {
            let (bench, disk) = try bench()
            try await prepare(bench)
            let agent = besideAgent ? try await bench.startAgent() : nil
            let planned: Report.Destination
            if let agent {
                try await bench.expectInSync(agent)
                planned = try report(try await clean(bench, ["--min-free", "80MiB", "--plan", "--json"]))
                #expect(planned.copies == 32, "\(planned)")
            } else {
                planned = try report(try await clean(bench, ["--min-free", "80MiB", "--plan", "--json"]))
                #expect(planned.copies == 30, "\(planned)")
            }
            #expect(planned.failure?.code == "cannotFreeEnough")
            let program = try await clean(bench, ["--min-free", "80MiB", "--json"])
            #expect(program.ending == .exit(3), "\(program.outputText)\(program.errorTail)")
            let done = try report(program)
            #expect(done.failure?.code == "cannotFreeEnough")
            #expect(done.copies == planned.copies && done.bytes == planned.bytes, "\(done)")
            let deleted = try command(["ls", bench.backup.appending("early")]).split(separator: "\n").count
            if let agent {
                #expect(deleted == 14)
                // It is no want of the destination itself.
                let isCalm = try await eventually {
                    try self.rows(bench, "SELECT 1 FROM capacity WHERE missing IS NULL AND baseline = available").count
                        == 1
                }
                #expect(isCalm)
                try await bench.stop(agent)
            } else {
                #expect(deleted == 16)
                #expect(done.failure?.message.contains("no agent runs") == true, "\(program.outputText)")
            }
            #expect(try usage(disk.mountPoint).available.bytes < 80 << 20)
            try expectWhole(bench)
        }

        @Test("Without limits the configured target is reached", .needsLoopDevice, .timeLimit(.minutes(3)))
        func configured() async throws {
            let (bench, disk) = try bench()
            try await prepare(bench)
            try fill(bench, "more", 14, seed: 5)
            try await bench.saveOnce()
            let room = try usage(disk.mountPoint)
            #expect(room.available.bytes < room.total.bytes / 5, "between the threshold and the target")
            #expect(try cleaned(bench) == [])
            let program = try await bench.run(["clean", "--state", bench.state])
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            let after = try usage(disk.mountPoint)
            #expect(after.available.bytes >= after.total.bytes / 5)
            #expect(after.available.bytes <= after.total.bytes / 5 + 2 << 20)
            try expectWhole(bench)
        }

        @Test("The backup's own size can be the limit, also beside an agent", .timeLimit(.minutes(2)))
        func size() async throws {
            let bench = try Bench()
            try await prepare(bench, size: 4_096)
            #expect(try await clean(bench, ["--max-size", "50KiB", "--plan"]).ending == .exit(3))
            let agent = try await bench.startAgent()
            let program = try await clean(bench, ["--max-size", "200KiB", "--json"])
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            #expect(try report(program).copies == 10)
            #expect(try rows(bench, "SELECT sum(size) FROM copy WHERE kind = 'file'") == ["\(200 << 10)"])
            try await bench.stop(agent)
            try expectWhole(bench)
        }

        @Test(
            "Asked at the start, it waits until it is known what was deleted; a destination at rest is opened for it",
            .timeLimit(.minutes(2)))
        func atTheStart() async throws {
            let bench = try Bench()
            try await prepare(bench, size: 4_096)
            let file = try bench.configure("idle-time = 1s")
            let agent = try bench.spawn(["run", "--config", file])
            let isReady = try await eventually { agent.outputText.contains("ready\n") }
            try #require(isReady, "\(agent.errorTail)")
            let first = try await bench.run(["clean", "--config", file, "--destination", "d", "--max-size", "180KiB"])
            #expect(first.ending == .exit(0), "\(first.outputText)\(first.errorTail)")
            let all = try await bench.run(["clean", "--config", file, "--destination", "d", "--max-size", "1B"])
            #expect(all.ending == .exit(3), "\(all.outputText)\(all.errorTail)")
            #expect(try cleaned(bench).count == 32, "what deleted files left goes too")
            // Nothing of it is open now.
            let isResting = try await eventually { try !agent.hasOpen(bench.backup) }
            #expect(isResting)
            try bench.write("more", String(repeating: "m", count: 4_096))
            try await bench.expectInSync(agent)
            let resting = try await eventually { try !agent.hasOpen(bench.backup) }
            #expect(resting)
            try bench.write("more", String(repeating: "n", count: 4_097))
            try await bench.expectInSync(agent)
            let last = try await bench.run(["clean", "--config", file, "--destination", "d", "--max-size", "117KiB"])
            #expect(last.ending == .exit(0), "\(last.outputText)\(last.errorTail)")
            #expect(try cleaned(bench).last == "more")
            try await bench.stop(agent)
            try expectWhole(bench)
        }

        @Test(
            "What somebody else took is not paid for with what deleted files left", .needsLoopDevice,
            .timeLimit(.minutes(3)))
        func somebodyElse() async throws {
            let (bench, disk) = try bench()
            try await prepare(bench)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let free = try usage(disk.mountPoint).available.bytes
            try command(["fallocate", "-l", FilePath("\(free - 4 << 20)"), disk.mountPoint.appending("filler")])
            let limit: [FilePath] = ["--min-free", "70MiB"]
            let planned = try report(try await clean(bench, limit + ["--plan", "--json"]))
            #expect(planned.copies == 30 && planned.failure?.code == "cannotFreeEnough", "\(planned)")
            #expect(planned.kept?.first { $0.rule == "deleted" }?.why.contains("something else") == true)
            let program = try await clean(bench, limit)
            #expect(program.ending == .exit(3) && program.errorText.contains("something else"), "\(program.errorTail)")
            #expect(try cleaned(bench).count == 30)
            #expect(try command(["ls", bench.backup.appending("early")]).split(separator: "\n").count == 16)
            try await bench.stop(agent)
            try expectWhole(bench)
        }

        @Test(
            "While a copy that takes long holds up a cleaning, other files are saved", .needsLoopDevice, .needsFaults,
            .timeLimit(.minutes(3)))
        func besideLongCopy() async throws {
            let (bench, _) = try bench()
            try await prepare(bench)
            let agent = try await bench.startAgent(fault: "hang=staged")
            try bench.write("long", "its group goes no further\n")
            let isBegun = try await eventually {
                try !StateFile(copying: bench.state).rows("SELECT 1 FROM job WHERE state = 'leased'").isEmpty
            }
            #expect(isBegun, "\(agent.errorTail)")
            let asking = try bench.spawn([
                "clean", "--state", bench.state, "--destination", bench.backup, "--min-free", "70MiB",
            ])
            let isTaken = try await eventually {
                try !StateFile(copying: bench.state).rows("SELECT 1 FROM request WHERE taken_at IS NOT NULL").isEmpty
            }
            #expect(isTaken, "\(asking.errorTail)")
            try bench.write("short", "saved meanwhile\n")
            let isSaved = try await eventually { access(bench.backup.appending("short").string, F_OK) == 0 }
            #expect(isSaved, "\(agent.errorTail)")
            #expect(try cleaned(bench) == [] && asking.poll() == nil)
            agent.crash()
            asking.crash()
        }

        @Test("Of small files what they hold counts towards the size, not what they take", .timeLimit(.minutes(1)))
        func smallFiles() async throws {
            let bench = try Bench()
            try await prepare(bench, size: 100)
            let plan = try report(try await clean(bench, ["--max-size", "5000B", "--plan", "--json"]))
            #expect(plan.copies == 10, "\(plan)")
            #expect(try await clean(bench, ["--max-size", "5000B"]).ending == .exit(0))
            #expect(try rows(bench, "SELECT sum(size) FROM copy WHERE kind = 'file'") == ["5000"])
            try expectWhole(bench)
        }

        @Test(
            "A crash at any step is finished, or forgotten, by the next start", .needsFaults, .timeLimit(.minutes(3)),
            arguments: ["cleaning", "removing", "removed"])
        func crash(step: String) async throws {
            let bench = try Bench()
            try await prepare(bench, size: 4_096)
            let killed = try await clean(bench, ["--max-size", "200KiB"], fault: "kill=\(step)")
            #expect(killed.ending == .signal(SIGKILL), "\(killed.errorTail)")
            #expect(try !rows(bench, "SELECT 1 FROM copy WHERE removing IS NOT NULL").isEmpty)
            try await bench.saveOnce()
            try expectWhole(bench)
            #expect(try await clean(bench, ["--max-size", "200KiB"]).ending == .exit(0))
            try expectWhole(bench)
            #expect(try rows(bench, "SELECT count(*) FROM copy WHERE kind = 'file'") == ["50"])
        }

        @Test(
            "An agent that is killed at it leaves it to the next one, which answers", .needsFaults,
            .timeLimit(.minutes(3)))
        func agentKilled() async throws {
            let bench = try Bench()
            try await prepare(bench, size: 4_096)
            let agent = try await bench.startAgent(fault: "kill=cleaning")
            try await bench.expectInSync(agent)
            let asking = try bench.spawn([
                "clean", "--state", bench.state, "--destination", bench.backup, "--max-size", "200KiB",
            ])
            try await agent.wait()
            #expect(agent.ending == .signal(SIGKILL))
            #expect(asking.poll() == nil, "it waits: \(asking.errorTail)")
            let next = try await bench.startAgent()
            #expect(try await asking.wait() == .exit(0), "\(asking.errorTail)")
            try await bench.stop(next)
            try expectWhole(bench)
            #expect(try rows(bench, "SELECT count(*) FROM copy WHERE kind = 'file'") == ["50"])
        }

        @Test("Of a source that is held only versions go, and it is told", .timeLimit(.minutes(2)))
        func heldSource() async throws {
            let bench = try Bench()
            try await prepare(bench, size: 4_096)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command(["mv", bench.source, bench.root.appending("away")])
            let isHeld = try await eventually { try await bench.status().sources[0].held != nil }
            #expect(isHeld)
            let program = try await clean(bench, ["--max-size", "1B"])
            #expect(program.ending == .exit(3), "\(program.outputText)\(program.errorTail)")
            #expect(program.errorText.contains("held"), "\(program.errorTail)")
            let deleted = try command(["ls", bench.backup.appending("early")]).split(separator: "\n").count
            #expect(deleted == 16, "what the held source had last stays, deleted or not")
            #expect(try cleaned(bench).count == 30)
            try command(["mv", bench.root.appending("away"), bench.source])
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try expectWhole(bench)
        }

        @Test("A destination that is away or paused is not touched", .timeLimit(.minutes(2)), arguments: [false, true])
        func away(besideAgent: Bool) async throws {
            let bench = try Bench()
            try await prepare(bench, size: 4_096)
            let agent = besideAgent ? try await bench.startAgent() : nil
            if let agent { try await bench.expectInSync(agent) }
            let aside = bench.root.appending("aside")
            try command(["mv", bench.backup, aside])
            try command(["mkdir", bench.backup])
            for more: [FilePath] in [["--plan"], []] {
                let program = try await clean(bench, ["--max-size", "1B"] + more)
                #expect(program.ending == .exit(4), "\(program.outputText)\(program.errorTail)")
            }
            try command(["rmdir", bench.backup])
            try command(["mv", aside, bench.backup])
            try await bench.run(["pause", "--state", bench.state, bench.backup])
            let program = try await clean(bench, ["--max-size", "1B"])
            #expect(program.ending == .exit(2) && program.errorText.contains("paused"), "\(program.errorTail)")
            #expect(try cleaned(bench) == [])
            try await bench.run(["resume", "--state", bench.state, bench.backup])
            if let agent { try await bench.stop(agent) }
        }

        @Test("What is not clear is refused, and nothing goes", .timeLimit(.minutes(1)))
        func refused() async throws {
            let bench = try Bench()
            try bench.write("f", "first\n")
            try await bench.saveOnce()
            try bench.write("f", "second, longer\n")
            try await bench.saveOnce()
            let state: [FilePath] = ["clean", "--state", bench.state]
            for wrong: [FilePath] in [
                // As of a script whose variable for DIR is empty.
                ["--min-free", "1KiB"], ["--max-size", "1B"],
                ["--destination", bench.backup, bench.root, "--max-size", "1B"],
                ["--destination", bench.source, "--max-size", "1B"],
                ["--destination", bench.backup, "--max-size", "1B", "--what-is-possible"],
                ["--destination", bench.backup, "--min-free", "9PiB"],
                ["--destination", bench.backup, "--max-usage", "0%"],
            ] {
                let program = try await bench.run(state + wrong)
                #expect(program.ending == .exit(2), "\(wrong): \(program.outputText)\(program.errorTail)")
            }
            #expect(try cleaned(bench) == [])
            #expect(try rows(bench, "SELECT count(*) FROM copy") == ["2"])
        }
    }
}
