import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// On disks of 96 MiB: older copies go below 9.6 MiB until 19.2 MiB are free; saving leaves 1 MiB.
    @Suite("Room in the destination")
    struct Room {
        private func usage(_ path: FilePath) throws -> VolumeStatistics {
            try VolumeStatistics(Descriptor.open(path, O_RDONLY | O_DIRECTORY))
        }

        private func bench() throws -> (Bench, LoopDisk) {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 96)
            bench.backup = disk.mountPoint.appending("backup")
            return (bench, disk)
        }

        /// Files of 1 MiB each.
        private func fill(_ bench: Bench, _ directory: String, _ files: Int, seed: UInt64) throws {
            var random = SeededGenerator(seed: seed)
            for number in 0..<files { try bench.write(bench.at("\(directory)/\(number)"), random.bytes(1 << 20)) }
        }

        /// The paths that lost copies, in order.
        private func cleaned(_ bench: Bench) throws -> [String] {
            try texts(bench, "SELECT path FROM cleaned WHERE reason = 'space' ORDER BY id")
        }

        private func texts(_ bench: Bench, _ sql: String) throws -> [String] {
            try StateFile(copying: bench.state).rows(sql).map { $0[0].text }
        }

        /// The catalogue says what the disk has, no more and no less.
        private func expectWhole(_ bench: Bench) throws {
            try bench.expectCatalogueIsTrue()
            let state = try StateFile(copying: bench.state)
            #expect(try state.rows("SELECT 1 FROM copy WHERE removing IS NOT NULL").isEmpty)
            let versions = try command([
                "find", bench.backup.appending(".safebackup/versions"), "-type", "f", "-printf", "x\n",
            ])
            let known = try state.rows("SELECT count(*) FROM copy WHERE role <> 'current'")[0][0].integer
            #expect(versions.split(separator: "\n").count == Int(known), "each version has its row, and its file")
        }

        /// 18 MiB that are saved first and then replaced, 16 MiB later: 34 MiB of versions and 34 MiB that live.
        private func prepare(_ bench: Bench) async throws {
            try fill(bench, "early", 18, seed: 1)
            try await bench.saveOnce()
            try fill(bench, "early", 18, seed: 2)
            try await bench.saveOnce()
            try fill(bench, "late", 16, seed: 3)
            try await bench.saveOnce()
            try fill(bench, "late", 16, seed: 4)
            try await bench.saveOnce()
            #expect(try cleaned(bench) == [])
        }

        @Test(
            "When little is free older versions go, those that were stored first, and everything is saved",
            .needsLoopDevice, .timeLimit(.minutes(3)))
        func versions() async throws {
            let (bench, disk) = try bench()
            try await prepare(bench)
            try fill(bench, "new", 18, seed: 5)
            try await bench.saveOnce()
            try bench.expectSaved()
            try expectWhole(bench)

            let gone = try cleaned(bench)
            #expect(!gone.isEmpty && gone.count < 34)
            let firstLate = gone.firstIndex { $0.hasPrefix("late/") } ?? gone.count
            #expect(gone[..<firstLate].count == min(gone.count, 18), "\(gone)")
            let room = try usage(disk.mountPoint)
            #expect(room.available.bytes >= room.total.bytes / 10)
            // Not far more than is needed.
            #expect(room.available.bytes <= room.total.bytes / 5 + 4 << 20)
            let told = try await bench.run(["status", "--state", bench.state])
            #expect(told.outputText.contains("cleaned  "), "\(told.outputText)")
        }

        @Test(
            "A file that fits when older versions are gone is saved by the run that found no room for it",
            .needsLoopDevice, .timeLimit(.minutes(3)))
        func largeFile() async throws {
            let (bench, disk) = try bench()
            try await prepare(bench)
            let before = try usage(disk.mountPoint)
            #expect(before.available.bytes > before.total.bytes / 10)
            try fill(bench, "small", 1, seed: 5)
            var random = SeededGenerator(seed: 6)
            try bench.write(bench.at("large"), random.bytes(Int(before.available.bytes) + 4 << 20))
            try await bench.saveOnce()
            try bench.expectSaved()
            try expectWhole(bench)
            let gone = try cleaned(bench)
            #expect(!gone.isEmpty)
        }

        @Test(
            "For a file that does not fit into what may go now no version goes, also where a held source has more",
            .needsLoopDevice, .timeLimit(.minutes(3)))
        func tooLargeFile() async throws {
            let (bench, disk) = try bench()
            let other = bench.root.appending("other")
            try command(["mkdir", other])
            var random = SeededGenerator(seed: 1)
            for number in 0..<20 { try bench.write(other.appending("\(number)"), random.bytes(1 << 20)) }
            try fill(bench, "kept", 10, seed: 2)
            // A line of the destination ends where the next section begins.
            let file = try bench.configure(
                "[source \"o\"]\npath = \(other)\ndestination = d\nprefix = o", source: "prefix = s")
            func once() async throws -> Program { try await bench.run(["run", "--once", "--config", file]) }
            #expect(try await once().ending == .exit(0))
            try fill(bench, "kept", 10, seed: 3)
            for number in 0..<19 { try command(["rm", other.appending("\(number)")]) }
            #expect(try await once().ending == .exit(0))
            try command(["mv", other, bench.root.appending("elsewhere")])
            #expect(try await once().ending == .exit(4), "it is away")
            // More than is free with ten versions, and less than with the deleted ones of the source that is away.
            let room = try usage(disk.mountPoint).available.bytes
            try bench.write(bench.at("large"), random.bytes(Int(room) + 14 << 20))
            let program = try await once()
            #expect(program.ending != .exit(0) && program.ending != .exit(1), "\(program.errorTail)")
            #expect(try cleaned(bench) == [])
            #expect(try texts(bench, "SELECT last_error_code FROM job") == ["destinationFull"])
            // Back again, its deleted ones may go.
            try command(["mv", bench.root.appending("elsewhere"), other])
            let again = try await once()
            #expect(again.ending == .exit(0), "\(again.errorTail)")
            #expect(try cleaned(bench).count > 10)
        }

        @Test(
            "A disk that is filled three times over by real saves is never full, and nothing waits for long",
            .needsLoopDevice, .timeLimit(.minutes(5)))
        func neverFull() async throws {
            let (bench, disk) = try bench()
            try fill(bench, "live", 20, seed: 1)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let floor = try usage(disk.mountPoint).total.bytes / 100
            for round in 0..<30 {
                // New files, rewritten ones, and deleted ones.
                try fill(bench, "come/\(round)", 8, seed: UInt64(100 + round))
                if round > 0 { try command(["rm", "-r", bench.at("come/\(round - 1)")]) }
                try fill(bench, "live", 3, seed: UInt64(200 + round))
                try await bench.expectInSync(agent)
                let room = try usage(disk.mountPoint)
                #expect(room.available.bytes >= floor, "round \(round): \(room.available) are free")
            }
            try await bench.stop(agent)
            try bench.expectSaved()
            try expectWhole(bench)
            // What was deleted first went first.
            let rounds = try cleaned(bench).compactMap { path in
                path.hasPrefix("come/") ? path.split(separator: "/").dropFirst().first.flatMap { Int($0) } : nil
            }
            #expect(rounds.count > 50 && rounds == rounds.sorted(), "\(rounds)")
            #expect(try texts(bench, "SELECT message FROM journal WHERE event = 'spaceTaken'") == [])
            let room = try usage(disk.mountPoint)
            #expect(room.available.bytes >= room.total.bytes / 10 - 12 << 20)
        }

        @Test(
            "A disk that somebody else fills loses older versions at most; it is told, and saving goes on when there is room",
            .needsLoopDevice, .timeLimit(.minutes(3)))
        func somebodyElse() async throws {
            let (bench, disk) = try bench()
            try fill(bench, "kept", 6, seed: 1)
            try bench.write("deleted", "the only copy of it is in the backup\n")
            try await bench.saveOnce()
            try fill(bench, "kept", 6, seed: 2)
            try command(["rm", bench.at("deleted")])
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let script = #"cat /dev/zero >"$0" 2>/dev/null; sync -f "$0"; truncate -s "-$1" "$0""#
            let filler = disk.mountPoint.appending("filler")
            try command(["bash", "-c", FilePath(script), filler, FilePath("\(1 << 20)")])

            try fill(bench, "new", 12, seed: 3)
            let isTold = try await eventually {
                let told = try self.texts(bench, "SELECT 1 FROM journal WHERE event = 'spaceTaken'")
                let jobs = try self.texts(bench, "SELECT 1 FROM job WHERE last_error_code = 'destinationFull'")
                return told.count == 1 && !jobs.isEmpty
            }
            #expect(isTold, "\(agent.errorTail)")
            // What the rules allow went, and it is told that it is not enough.
            let isShort = try await eventually {
                try self.texts(bench, "SELECT missing FROM capacity WHERE missing IS NOT NULL").count == 1
            }
            #expect(isShort)
            #expect(try Set(cleaned(bench)) == Set((0..<6).map { "kept/\($0)" }))
            let told = try await bench.run(["status", "--state", bench.state])
            #expect(
                told.ending == .exit(3) && told.outputText.contains("FULL") && told.outputText.contains("SCARCE"),
                "\(told.outputText)")
            let exposed = try await bench.run(["exposure", "--state", bench.state])
            #expect(exposed.outputText.contains("failing"), "\(exposed.outputText)")
            try bench.expectCatalogueIsTrue()
            #expect(try bench.differences().filter { !$0.hasSuffix("is missing") } == [])
            #expect(try read(bench.backup.appending("deleted")) == Array("the only copy of it is in the backup\n".utf8))
            #expect(agent.poll() == nil)

            try command(["rm", filler])
            try await bench.expectInSync(agent)
            let isOver = try await eventually {
                try self.texts(bench, "SELECT 1 FROM capacity WHERE missing IS NULL").count == 1
            }
            #expect(isOver, "with room again nothing is missing")
            try await bench.stop(agent)
            try bench.expectSaved()
            try expectWhole(bench)
        }

        @Test(
            "A crash at any step of a cleaning is finished, or forgotten, by the next start", .needsLoopDevice,
            .needsFaults, .timeLimit(.minutes(4)), arguments: ["cleaning", "removing", "removed"])
        func crash(step: String) async throws {
            let (bench, disk) = try bench()
            try await prepare(bench)
            try command(["rm", bench.at("early/0"), bench.at("early/1")])
            try fill(bench, "new", 18, seed: 5)
            let killed = try await bench.once(fault: "kill=\(step)")
            #expect(killed.ending == .signal(SIGKILL), "\(killed.errorTail)")
            #expect(
                try !texts(bench, "SELECT 1 FROM copy WHERE removing IS NOT NULL").isEmpty, "it was under way")
            try await bench.saveOnce()
            try bench.expectSaved()
            try expectWhole(bench)
            let room = try usage(disk.mountPoint)
            #expect(room.available.bytes >= room.total.bytes / 10)
        }

        @Test(
            "What vanished, is immutable, or is a link to somewhere else neither stops a cleaning nor leads it astray",
            .needsLoopDevice, .timeLimit(.minutes(3)))
        func oddities() async throws {
            let (bench, _) = try bench()
            try await prepare(bench)
            let versions = bench.backup.appending(".safebackup/versions/early")
            let names = try command(["ls", versions]).split(separator: "\n").map(String.init)
            func version(_ number: Int) throws -> FilePath {
                versions.appending(try #require(names.first { $0.hasPrefix("\(number)@") }))
            }
            try command(["rm", try version(3)])
            try command(["chattr", "+i", try version(4)])
            try bench.write(try version(5), Array("somebody else's\n".utf8))
            // Elsewhere lie files of the versions' names.
            let late = bench.backup.appending(".safebackup/versions/late")
            let (outside, aside) = (bench.root.appending("outside"), bench.backup.appending(".safebackup/aside"))
            try command(["cp", "-a", "--", late, outside])
            try command(["mv", late, aside])
            try command(["ln", "-s", outside, late])
            try fill(bench, "new", 18, seed: 5)
            let program = try await bench.once()
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(try command(["ls", outside]).split(separator: "\n").count == 16, "nothing outside is touched")
            #expect(try bench.differences() == [])
            for number in [4, 5] { #expect(access(try version(number).string, F_OK) == 0) }
            let gone = try cleaned(bench)
            #expect(gone.allSatisfy { $0.hasPrefix("early/") } && gone.count == 15, "\(gone)")
            #expect(try texts(bench, "SELECT path FROM v_cleaned WHERE reason = 'missing'") == ["early/3"])
            #expect(try !texts(bench, "SELECT 1 FROM journal WHERE event = 'removalFailed'").isEmpty)

            try command(["rm", late])
            try command(["mv", aside, late])
            try command(["chattr", "-i", try version(4)])
            try await bench.saveOnce()
            #expect(try bench.differences() == [])
            #expect(access(try version(5).string, F_OK) == 0)
        }

        @Test(
            "No version goes while what its path keeps is missing, or is not what was stored; that is stored again",
            .needsLoopDevice, .timeLimit(.minutes(3)))
        func missingKeeper() async throws {
            let (bench, _) = try bench()
            try await prepare(bench)
            // Somebody damages what the first three keep.
            try command(["rm", bench.backup.appending("early/0")])
            try bench.write(bench.backup.appending("early/1"), Array("shorter\n".utf8))
            try command(["touch", "-d", "2001-01-01", bench.backup.appending("early/2")])
            try command(["rm", bench.at("early/0"), bench.at("early/1"), bench.at("early/2")])
            try fill(bench, "new", 18, seed: 5)
            try await bench.saveOnce()
            let gone = try cleaned(bench)
            #expect(gone.count > 4)
            for number in 0...2 { #expect(!gone.contains("early/\(number)"), "its version is the last that is sure") }
            let versions = try command(["ls", bench.backup.appending(".safebackup/versions/early")])
            for number in 0...2 { #expect(versions.contains("\(number)@")) }
        }

        @Test(
            "The policy of the configuration is applied once a day, and keeps what is missing safe",
            .timeLimit(.minutes(2)))
        func policy() async throws {
            let bench = try Bench()
            for name in ["f", "g", "gone"] { try bench.write(name, "first of \(name)\n") }
            try await bench.saveOnce()
            for name in ["f", "g", "gone"] { try bench.write(name, "second and longer of \(name)\n") }
            try await bench.saveOnce()
            try command(["rm", bench.at("gone")])
            try await bench.saveOnce()
            // Somebody took what the deleted path keeps.
            try command(["rm", bench.backup.appending("gone")])
            let file = try bench.configure("keep-last = 1")
            let program = try await bench.run(["run", "--once", "--config", file])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            let removed = try texts(bench, "SELECT path FROM v_cleaned WHERE reason = 'policy: keep-last=1' ORDER BY 1")
            #expect(removed == ["f", "g"])
            let versions = try command(["ls", bench.backup.appending(".safebackup/versions")])
            #expect(versions.hasPrefix("gone@") && versions.split(separator: "\n").count == 1)

            // Not again on the same day.
            try bench.write("new", "first\n")
            try await bench.run(["run", "--once", "--config", file])
            try bench.write("new", "second, longer\n")
            try await bench.run(["run", "--once", "--config", file])
            #expect(try command(["ls", bench.backup.appending(".safebackup/versions")]).contains("new@"))
            #expect(try bench.differences() == [])
        }

        @Test("max-size is told as the cause, and a copy that was not there any more is not said to have made room")
        func missing() async throws {
            let bench = try Bench()
            // The one that was taken is the first to go.
            for name in ["taken", "here"] {
                try bench.write(name, "first\n")
                try await bench.saveOnce()
            }
            for name in ["here", "taken"] { try bench.write(name, "second, longer\n") }
            try await bench.saveOnce()
            try command(["sh", "-c", #"rm "$0"/taken@*"#, bench.backup.appending(".safebackup/versions")])
            let file = try bench.configure("max-size = 1B")
            let program = try await bench.run(["run", "--once", "--config", file])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            let state = try StateFile(copying: bench.state)
            let rows = try state.rows("SELECT path, reason FROM v_cleaned ORDER BY path")
            #expect(rows.map { $0.map(\.text) } == [["here", "space"], ["taken", "missing"]])
            let events = try state.rows("SELECT message FROM journal WHERE event = 'cleaned'").map { $0[0].text }
            #expect(events.count == 1 && events[0].hasPrefix("1 older copy of "), "\(events)")
            #expect(program.errorText.contains("The backup is larger than max-size allows; what may go is removed"))
            #expect(!program.errorText.contains("Little is free"), "\(program.errorText)")
        }

        @Test(
            "After any history, damage and cleaning each path's newest good copy is still there, or went in its turn",
            .timeLimit(.minutes(5)), arguments: UInt64(1)...4)
        func model(seed: UInt64) async throws {
            var random = SeededGenerator(seed: seed)
            let bench = try Bench()
            let names = ["a", "b", "d/c", "d/e", "d/f/g", "odd \n name", "h", "i", "j"]
            var content: [String: String] = [:]
            for round in 0..<(Conditions.isLong ? 40 : 8) {
                for step in 0..<Int.random(in: 1...6, using: &random) {
                    let name = try #require(names.randomElement(using: &random))
                    if content[name] != nil && Int.random(in: 0..<4, using: &random) == 0 {
                        try command(["rm", bench.at(name)])
                        content[name] = nil
                    } else {
                        content[name] = String(
                            repeating: "\(round) \(step) \(name)\n", count: Int.random(in: 1...40, using: &random))
                        try bench.write(name, content[name] ?? "")
                    }
                }
                try bench.write("always", "it never has none\n")
                if Bool.random(using: &random) { try await bench.saveOnce() }
                try damage(bench, &random)
                if Int.random(in: 0..<3, using: &random) == 0 {
                    _ = try await bench.run(["verify", "--state", bench.state])
                }
                let before = try newestGood(bench)
                let limit = Bool.random(using: &random) ? "max-size = 1B" : "max-size = 2KiB"
                let program = try await bench.run(["run", "--once", "--config", try bench.configure(limit)])
                #expect(program.ending == .exit(0), "round \(round): \(program.errorTail)")
                try expectKept(bench, before, "seed \(seed), round \(round)")
                for (name, text) in content {
                    let stored = try read(bench.backup.appending(bytes: Array(name.utf8)))
                    #expect(stored == Array(text.utf8), "seed \(seed), round \(round): \(name)")
                }
            }
        }

        /// Somebody deletes, rewrites or touches stored copies.
        private func damage(_ bench: Bench, _ random: inout SeededGenerator) throws {
            guard access(bench.state.appending("queue.db").string, F_OK) == 0 else { return }
            let copies = try StateFile(copying: bench.state).rows(
                "SELECT location FROM copy WHERE role IN ('current', 'kept') AND location <> 'always' ORDER BY id")
            for _ in 0..<Int.random(in: 0...2, using: &random) {
                guard let row = copies.randomElement(using: &random) else { return }
                let path = bench.backup.appending(bytes: row[0].bytes ?? [])
                guard access(path.string, F_OK) == 0 else { continue }
                switch Int.random(in: 0..<3, using: &random) {
                case 0: try command(["rm", path])
                case 1: try bench.write(path, Array("no more what it was\n".utf8))
                default: try command(["touch", "-d", "2001-02-03", path])
                }
            }
        }

        private struct Known {
            var path: [UInt8]
            var copy: Int64
            var digest: [UInt8]?
        }

        /// Of each path its newest copy that is there with the digest it was stored with and is called good.
        private func newestGood(_ bench: Bench) throws -> [Known] {
            guard access(bench.state.appending("queue.db").string, F_OK) == 0 else { return [] }
            let state = try StateFile(copying: bench.state)
            let lies = try state.lies(about: bench.backup)
            var found: [[UInt8]: Known] = [:]
            let rows = try state.rows(
                """
                SELECT n.parent, n.leaf, c.id, c.digest, c.location FROM name n JOIN copy c ON c.id = n.copy_id
                WHERE c.fuzzy = 0 AND c.damaged = 0 AND c.removing IS NULL AND n.kind = 'file' ORDER BY n.id
                """)
            for row in rows {
                let location = RelativePath(unchecked: row[4].bytes ?? []).description
                if lies.contains(where: { $0.hasPrefix("\(location):") }) { continue }
                let path = RelativePath(unchecked: row[0].bytes ?? []).appending(row[1].bytes ?? []).bytes
                found[path] = Known(path: path, copy: row[2].integer, digest: row[3].bytes)
            }
            return Array(found.values)
        }

        /// Each of them is there, or there is a newer good one, or its path is deleted and no older copy is left that
        /// could have gone.
        private func expectKept(_ bench: Bench, _ before: [Known], _ comment: Comment) throws {
            let state = try StateFile(copying: bench.state)
            let now = Dictionary(uniqueKeysWithValues: try newestGood(bench).map { ($0.path, $0) })
            let live = Set(try state.liveNames().map(\.path.bytes))
            let versions = try state.rows(
                """
                SELECT c.location FROM copy c WHERE c.role = 'kept' AND c.damaged = 0 AND c.fuzzy = 0 AND EXISTS (
                    SELECT 1 FROM name o JOIN name l ON l.parent = o.parent AND l.leaf = o.leaf AND l.ended_at IS NULL
                    JOIN copy k ON k.id = l.copy_id WHERE o.copy_id = c.id AND k.damaged = 0 AND k.fuzzy = 0)
                """)
            for known in before {
                let path = printable(known.path)
                if let found = now[known.path] {
                    #expect(found.copy >= known.copy, "\(comment): \(path) has only an older copy now")
                } else {
                    #expect(!live.contains(known.path), "\(comment): \(path) has no good copy any more")
                    // Whoever was damaged is another matter: the catalogue may know a version that is not there.
                    let lies = try state.lies(about: bench.backup)
                    let sound = versions.filter { row in
                        let location = RelativePath(unchecked: row[0].bytes ?? []).description
                        return !lies.contains { $0.hasPrefix("\(location):") }
                    }
                    #expect(sound.isEmpty, "\(comment): \(path) went before older versions \(sound.map { $0[0].text })")
                }
            }
        }
    }
}
