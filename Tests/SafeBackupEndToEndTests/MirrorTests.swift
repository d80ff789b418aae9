import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("A destination that mirrors deletions")
    struct Mirrors {
        private func once(_ bench: Bench, fault: String? = nil) async throws -> Program {
            try await bench.run(
                ["run", "--once", "--config", bench.root.appending("agent.conf")],
                environment: fault.map { ["SAFEBACKUP_FAULT": $0] } ?? [:])
        }

        private func start(_ bench: Bench, fault: String? = nil) async throws -> Program {
            let agent = try bench.spawn(
                ["run", "--config", bench.root.appending("agent.conf")],
                environment: fault.map { ["SAFEBACKUP_FAULT": $0] } ?? [:])
            let isReady = try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil }
            try #require(isReady && agent.poll() == nil, "\(agent.errorTail)")
            return agent
        }

        private func fill(_ bench: Bench) throws {
            try bench.write("calm", "calm\n")
            try bench.write("deleted", "deleted\n")
            try bench.write("gone/with/it", "gone\n")
            try bench.write("gone/with/\u{e9} odd\n", "odd\n")
            try command(["ln", "-s", "calm", bench.at("link")])
        }

        private func remove(_ bench: Bench) throws {
            try command(["rm", "-r", bench.at("deleted"), bench.at("gone"), bench.at("link")])
        }

        /// Names in the backup, without times.
        private func names(_ bench: Bench) throws -> [String] {
            try command(["find", bench.backup, "-mindepth", "1", "!", "-type", "d", "-printf", "%P\\0"])
                .split(separator: "\0").map(String.init)
                .filter { !$0.contains("destination.json") && !$0.contains("/catalogue/") && !$0.hasSuffix("/lock") }
                .map { $0.contains("@") ? String($0.prefix { $0 != "@" }) : $0 }.sorted()
        }

        private static let retired = [
            ".safebackup/versions/deleted", ".safebackup/versions/gone/with/it",
            ".safebackup/versions/gone/with/\u{e9} odd\n", ".safebackup/versions/link", "calm",
        ]

        private func expectWhole(_ bench: Bench) throws {
            try bench.expectCatalogueIsTrue()
            let state = try StateFile(copying: bench.state)
            #expect(try state.rows("SELECT 1 FROM retiring WHERE version IS NOT NULL").isEmpty)
            let known = try state.rows("SELECT count(*) FROM copy")[0][0].integer
            #expect(Int(known) == (try names(bench)).count, "each file has its row")
        }

        private func restored(_ bench: Bench, _ arguments: [FilePath]) async throws -> [String] {
            let target = bench.root.appending("restored")
            try command(["rm", "-rf", target])
            let program = try await bench.run(["restore", "--to", target] + arguments)
            #expect(program.ending == .exit(0), "\(program.errorText)")
            return try Tree(target).entries.filter { $0.value.kind != .directory }.keys.map(\.description).sorted()
        }

        @Test("What is deleted goes to the versions with its directories, and comes back by name and by time")
        func goes() async throws {
            let bench = try Bench()
            try bench.configure("idle-time = 300ms\non-delete = mirror")
            try fill(bench)
            let agent = try await start(bench)
            // The names stand in the catalogue a moment after the files lie in their places.
            try await bench.expectInSync(agent)
            let full = try Tree(bench.source)
            let stamp = try command(["date", "-u", "+%Y-%m-%dT%H:%M:%S.%6NZ"]).split(separator: "\n")[0]
            try remove(bench)
            let isGone = try await eventually { try names(bench) == Self.retired }
            let found = try names(bench)
            #expect(isGone, "\(found): \(agent.errorTail)")
            let isEmpty = try await eventually { access(bench.backup.appending("gone").string, F_OK) != 0 }
            #expect(isEmpty, "the directories are empty, and go too")
            // What comes back is saved in its place again.
            try bench.write("deleted", "back\n")
            let isBack = try await eventually { try names(bench).contains("deleted") }
            #expect(isBack, "\(agent.errorTail)")
            try await bench.stop(agent)
            // For the catalogue copy.
            #expect(try await once(bench).ending == .exit(0))
            try expectWhole(bench)
            #expect(try await restored(bench, ["gone/with/it", "--state", bench.state]) == ["gone/with/it"])
            #expect(try await restored(bench, ["gone/with/it", "--from", bench.backup]) == ["gone/with/it"])
            let all = full.entries.filter { $0.value.kind != .directory }.keys.map(\.description).sorted()
            for origin: [FilePath] in [["--state", bench.state], ["--from", bench.backup]] {
                #expect(
                    try await restored(bench, [bench.source, "--at", FilePath(String(stamp))] + origin).count
                        == all.count)
            }
        }

        @Test("Nothing moves while all that the rules let be saved is gone, though names of excluded files live on")
        func emptiedBesidesExcluded() async throws {
            let bench = try Bench()
            let file = try bench.configure("idle-time = 300ms\non-delete = mirror")
            for name in ["a", "b", "old.tmp"] { try bench.write(name, "\(name)\n") }
            #expect(try await once(bench).ending == .exit(0))
            let text = String(decoding: try read(file), as: UTF8.self)
            let excluding = text.replacing("destination = d\n", with: "destination = d\nexclude = *.tmp\n")
            try bench.write(file, Array(excluding.utf8))
            let agent = try await start(bench)
            try command(["rm", bench.at("a"), bench.at("b")])
            let areEnded = try await eventually {
                try StateFile(copying: bench.state).rows("SELECT 1 FROM name WHERE end_reason = 'deleted'").count == 2
            }
            #expect(areEnded, "\(agent.errorTail)")
            try await bench.stop(agent)
            // A run that moves what is due before it ends.
            #expect(try await once(bench).ending == .exit(0))
            #expect(try names(bench) == ["a", "b", "old.tmp"])
            try bench.write("c", "c\n")
            #expect(try await once(bench).ending == .exit(0))
            #expect(
                try names(bench) == [".safebackup/versions/a", ".safebackup/versions/b", "c", "old.tmp"])
        }

        @Test(
            "A crash at any step is finished by the next start, also if a path came back or the key changed",
            .needsFaults, arguments: ["retiring", "retired", "retiredDurably"], [true, false])
        func crash(step: String, changesKey: Bool) async throws {
            let bench = try Bench()
            try bench.configure("idle-time = 300ms\non-delete = mirror")
            try fill(bench)
            #expect(try await once(bench).ending == .exit(0))
            try remove(bench)
            let killed = try await once(bench, fault: "kill=\(step),nth=\(step == "retired" ? 2 : 1)")
            #expect(killed.ending == .signal(SIGKILL), "\(killed.errorTail)")
            try bench.expectCatalogueIsTrue()
            // Also before anything was recovered, and by a catalogue copy that is older.
            #expect(try await restored(bench, ["gone/with/it", "--state", bench.state]) == ["gone/with/it"])
            #expect(try await restored(bench, ["deleted", "--from", bench.backup]) == ["deleted"])
            if changesKey { try bench.configure("idle-time = 300ms\non-delete = keep") }
            try bench.write("deleted", "back\n")
            let next = try await once(bench)
            #expect(next.ending == .exit(0), "\(next.errorTail)")
            #expect(try bench.differences().isEmpty)
            try expectWhole(bench)
            #expect(try await restored(bench, ["gone/with/it", "--state", bench.state]) == ["gone/with/it"])
            let names = try names(bench)
            #expect(Set(Self.retired).isSubset(of: names) && names.contains("deleted"), "\(names)")
        }

        @Test(
            "The page cache lost at any step: nothing of a deleted file is lost", .needsLoopDevice, .needsFaults,
            arguments: ["retiring", "retired", "retiredDurably"])
        func cutOff(step: String) async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 32)
            bench.backup = disk.mountPoint.appending("backup")
            try bench.configure("idle-time = 300ms\non-delete = mirror")
            try fill(bench)
            #expect(try await once(bench).ending == .exit(0))
            try remove(bench)
            // Only what it had flushed by then is on the copy of the disk.
            let agent = try bench.spawn(
                ["run", "--once", "--config", bench.root.appending("agent.conf")],
                environment: ["SAFEBACKUP_FAULT": "stop=\(step)"])
            let isStopped = try await eventually { agent.state == "T" || agent.poll() != nil }
            try #require(isStopped && agent.poll() == nil, "\(agent.errorTail)")
            let left = try disk.copyBlocks()
            agent.crash()
            try disk.exchange(for: left)
            try bench.expectCatalogueIsTrue()
            #expect(try await once(bench).ending == .exit(0))
            try expectWhole(bench)
            #expect(try names(bench) == Self.retired)
        }

        @Test("What went to the versions after the last catalogue copy is known again after a loss of the state")
        func lostState() async throws {
            let bench = try Bench()
            try bench.configure("idle-time = 300ms\non-delete = mirror")
            try fill(bench)
            let long = String(repeating: "\u{e9}", count: 125) + ".txt"
            try bench.write(long, "long\n")
            #expect(try await once(bench).ending == .exit(0))
            let agent = try await start(bench)
            try remove(bench)
            try command(["rm", bench.at(long)])
            let isGone = try await eventually {
                try StateFile(copying: bench.state).rows("SELECT 1 FROM copy WHERE role = 'kept'").count == 5
            }
            #expect(isGone, "\(agent.errorTail)")
            agent.crash()
            // A file of somebody else among the versions is nobody's version.
            try bench.write(bench.backup.appending(".safebackup/versions/deleted@x"), Array("deleted\n".utf8))
            try command(["rm", "-r", bench.state])
            let next = try await start(bench)
            let isKnown = try await eventually {
                try StateFile(copying: bench.state).rows("SELECT 1 FROM copy WHERE role = 'kept'").count == 5
            }
            #expect(isKnown, "\(next.errorTail)")
            try await bench.stop(next)
            try bench.expectCatalogueIsTrue()
            for path in ["deleted", "gone/with/it", "link", long] {
                #expect(try await restored(bench, [FilePath(path), "--state", bench.state]) == [path])
            }
        }

        @Test("SIGHUP turns it on for what was deleted before, and off again")
        func reload() async throws {
            let bench = try Bench()
            try bench.configure("idle-time = 300ms\non-delete = keep")
            try fill(bench)
            let agent = try await start(bench)
            #expect(try await eventually { try bench.differences().isEmpty })
            try command(["rm", bench.at("deleted")])
            let isGone = try await eventually {
                let ended = "SELECT 1 FROM name WHERE leaf = 'deleted' AND ended_at IS NOT NULL"
                return try !StateFile(copying: bench.state).rows(ended).isEmpty
            }
            #expect(isGone)
            #expect(try names(bench).contains("deleted"))
            try bench.configure("idle-time = 300ms\non-delete = mirror")
            agent.send(SIGHUP)
            let isMoved = try await eventually { try names(bench).contains(".safebackup/versions/deleted") }
            #expect(isMoved, "\(agent.errorTail)")
            #expect(agent.errorText.contains("on-delete: keep → mirror"), "\(agent.errorText)")
            try bench.configure("idle-time = 300ms\non-delete = keep\nconcurrency = 9\nbandwidth = 1GiB")
            agent.send(SIGHUP)
            let isApplied = try await eventually { agent.errorText.contains("concurrency: 4 → 9") }
            #expect(isApplied, "\(agent.errorTail)")
            try command(["rm", bench.at("link")])
            try bench.write("after", "after\n")
            #expect(try await eventually { try names(bench).contains("after") })
            try await bench.stop(agent)
            #expect(try names(bench).contains("link"))
            try expectWhole(bench)
        }

        @Test("Another file at a deleted path's place stays, and so does all of a source that lost every file")
        func stays() async throws {
            let bench = try Bench()
            try bench.configure("idle-time = 300ms\non-delete = keep")
            try fill(bench)
            for number in 0..<10 { try bench.write("more/\(number)", "\(number)\n") }
            #expect(try await once(bench).ending == .exit(0))
            try command(["rm", bench.at("deleted")])
            #expect(try await once(bench).ending == .exit(0))
            #expect(try names(bench).contains("deleted"))
            try bench.write(bench.backup.appending("deleted"), Array("somebody else's\n".utf8))
            try bench.configure("idle-time = 300ms\non-delete = mirror")
            let agent = try await start(bench)
            try command(["rm", "-r", bench.at("gone"), bench.at("link")])
            let isGone = try await eventually { try names(bench).contains(".safebackup/versions/gone/with/it") }
            #expect(isGone, "\(agent.errorTail)")
            #expect(try read(bench.backup.appending("deleted")) == Array("somebody else's\n".utf8))
            // Everything.
            try command(["rm", "-r", bench.at("calm"), bench.at("more")])
            let isEmptied = try await eventually { try await bench.status().sources.first?.emptied != nil }
            #expect(isEmptied, "\(agent.errorTail)")
            // Two seconds after a deletion it would have gone.
            let isAsked = try await eventually {
                let asked = "SELECT 1 FROM retiring WHERE not_before < (unixepoch() - 3) * 1000000"
                return try !StateFile(copying: bench.state).rows(asked).isEmpty
            }
            #expect(isAsked, "\(agent.errorTail)")
            let left = try names(bench)
            #expect(left.contains("more/1") && left.contains("calm"))
            try bench.write("new", "new\n")
            let isOver = try await eventually { try names(bench).contains(".safebackup/versions/more/1") }
            #expect(isOver, "\(agent.errorTail)")
            try await bench.stop(agent)
        }
    }

    @Suite("How much a destination reads at once")
    struct Pacing {
        private func start(_ bench: Bench, _ keys: String, fault: String? = nil) async throws -> Program {
            let file = bench.root.appending("agent.conf")
            try bench.write(
                file,
                Array(
                    """
                    [agent]
                    state = \(bench.state)
                    [source "s"]
                    path = \(bench.source)
                    destination = d
                    [destination "d"]
                    path = \(bench.backup)
                    \(keys)
                    """.utf8))
            let agent = try bench.spawn(
                ["run", "--config", file], environment: fault.map { ["SAFEBACKUP_FAULT": $0] } ?? [:])
            let isReady = try await eventually { agent.outputText.contains("ready\n") || agent.poll() != nil }
            try #require(isReady && agent.poll() == nil, "\(agent.errorTail)")
            return agent
        }

        @Test("bandwidth holds for all files together, and a stop does not wait for it")
        func bandwidth() async throws {
            let bench = try Bench()
            let began = ContinuousClock.now
            for number in 0..<8 {
                try command([
                    "bash", "-c", #"yes "$0" | head -c 512K >"$1""#, FilePath("\(number)"), bench.at("\(number)"),
                ])
            }
            let agent = try await start(bench, "bandwidth = 2MiB")
            try await bench.expectInSync(agent)
            #expect(ContinuousClock.now - began > .milliseconds(1_800), "4 MiB were read too fast")
            // Ten minutes of reading.
            try command(["bash", "-c", #"yes | head -c 1200M >"$0""#, bench.at("large")])
            let isBegun = try await eventually { try !bench.staging().isEmpty }
            #expect(isBegun, "\(agent.errorTail)")
            try await bench.stop(agent)
        }

        @Test("With concurrency 1 one file holds up the next, and with 2 it does not", .needsFaults)
        func concurrency() async throws {
            for (lanes, isSaved) in [(1, false), (2, true)] {
                let bench = try Bench()
                try bench.write("hangs", "hangs\n")
                let agent = try await start(bench, "concurrency = \(lanes)", fault: "hang=copying")
                let isHanging = try await eventually { try !bench.staging().isEmpty }
                #expect(isHanging)
                try bench.write("next", "next\n")
                if isSaved {
                    #expect(try await eventually { access(bench.backup.appending("next").string, F_OK) == 0 })
                } else {
                    let isDue = try await eventually {
                        let job = "SELECT 1 FROM job WHERE path = 'next' AND not_before < (unixepoch() - 2) * 1000000"
                        return try !StateFile(copying: bench.state).rows(job).isEmpty
                    }
                    #expect(isDue, "\(agent.errorTail)")
                    #expect(access(bench.backup.appending("next").string, F_OK) != 0)
                }
                agent.send(SIGKILL)
                try await agent.wait(within: .seconds(10))
            }
        }
    }
}
