import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("A damaged or lost state")
    struct DamagedState {
        enum Damage: String, CaseIterable {
            case deleted, directoryDeleted, emptied, truncated, garbage, flipped

            /// Writes over a file in place, as a failing disk or a stray program would.
            func overwrite(_ file: FilePath, from offset: Int64) throws {
                let open = try Descriptor.open(file, O_RDWR)
                let size = try open.status().size
                let garbage = [UInt8](repeating: 0, count: Int(max(0, size - offset)))
                try open.write(garbage, at: offset)
            }

            func apply(to bench: Bench) throws {
                let file = bench.state.appending("queue.db")
                // What is only in the write-ahead log would repair the file again.
                try command([
                    "sqlite3", file, "PRAGMA wal_checkpoint(TRUNCATE)",
                ])
                let size = try Descriptor.open(file, O_RDONLY).status().size
                switch self {
                case .deleted: try command(["rm", file])
                case .directoryDeleted: try command(["rm", "-r", bench.state])
                case .emptied: try command(["truncate", "-s", "0", file])
                case .truncated: try command(["truncate", "-s", FilePath("\(size / 2 + 100)"), file])
                case .garbage: try bench.write(file, [UInt8](repeating: 0x5A, count: Int(size)))
                case .flipped:
                    // In every page but the first: whatever is read next meets it.
                    let open = try Descriptor.open(file, O_RDWR)
                    for page in stride(from: Int64(4_096), to: size, by: 4_096) {
                        try open.write([UInt8](repeating: 0xA5, count: 64), at: page)
                    }
                }
            }
        }

        @Test(
            "It is rebuilt from the destination without a person, and nothing is stored again",
            .timeLimit(.minutes(2)), arguments: Damage.allCases)
        func rebuilt(after damage: Damage) async throws {
            let bench = try Bench()
            for number in 0..<300 { try bench.write("dir \(number % 7)/\(number)", "content \(number)\n") }
            try bench.write("deleted", "a tombstone\n")
            try await bench.saveOnce()
            try command(["rm", bench.at("deleted")])
            try await bench.saveOnce()
            let before = try Descriptor.open(bench.backup.appending("dir 3"), O_RDONLY).status(of: Array("3".utf8))

            try damage.apply(to: bench)
            try bench.write("dir 0/0", "changed meanwhile\n")
            try bench.write("new", "made meanwhile\n")
            let program = try await bench.once()
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            try bench.expectSaved()
            let after = try Descriptor.open(bench.backup.appending("dir 3"), O_RDONLY).status(of: Array("3".utf8))
            #expect(after.fingerprint.inode == before.fingerprint.inode, "an unchanged file was stored again")
            #expect(try read(bench.backup.appending("deleted")) == Array("a tombstone\n".utf8))
            let names = Set(try StateFile(copying: bench.state).liveNames().map(\.path))
            #expect(names == Set(try Tree(bench.source).entries.keys), "the live names are not the source's paths")
            if damage == .garbage || damage == .flipped {
                let aside = try command(["find", bench.state, "-ignore_readdir_race", "-name", "queue.db.damaged-*"])
                #expect(!aside.isEmpty, "the damaged file was not moved aside")
            }
        }

        @Test("A catalogue copy that cannot be used is named by the path at which a person finds it")
        func damagedCatalogue() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            try command(["rm", "-r", bench.state])
            let copy = bench.backup.appending(".safebackup/catalogue/a.db")
            try bench.write(copy, [UInt8](repeating: 0x5A, count: 8_192))
            let program = try await bench.once()
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(program.errorText.contains("A catalogue copy is not usable"), "\(program.errorTail)")
            #expect(program.errorText.contains(copy.string) && !program.errorText.contains("/proc/self"))
        }

        @Test(
            "A rebuild that ends before the catalogue was read is done again, with its whole history", .needsFaults,
            .timeLimit(.minutes(2)))
        func interrupted() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try bench.write("deleted", "a tombstone\n")
            try await bench.saveOnce()
            try command(["rm", bench.at("deleted")])
            try await bench.saveOnce()
            try command(["rm", "-r", bench.state])
            #expect(try await bench.once(fault: "kill=resuming").ending == .signal(SIGKILL))
            try await bench.saveOnce()
            let ended = try StateFile(copying: bench.state).rows(
                "SELECT leaf FROM name WHERE end_reason = 'deleted' AND copy_id IS NOT NULL")
            #expect(ended.count == 1, "the tombstone's history is lost")
        }

        @Test("A start that waits for what does not answer says so", .needsFaults)
        func hangingStart() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            try command(["rm", "-r", bench.state])
            let agent = try bench.spawnAgent(fault: "hang=resuming")
            let isTold = try await eventually { agent.errorText.contains("waiting.for=\"\(bench.source) to ") }
            #expect(isTold, "\(agent.errorTail)")
            agent.crash()
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        @Test(
            "It is rebuilt while the agent runs, and the agent goes on", .timeLimit(.minutes(2)),
            arguments: [false, true])
        func whileRunning(busy: Bool) async throws {
            let bench = try Bench()
            for number in 0..<300 { try bench.write("dir \(number % 7)/\(number)", "content \(number)\n") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command(["sqlite3", bench.state.appending("queue.db"), "PRAGMA wal_checkpoint(TRUNCATE)"])

            var writer: Program?
            if busy {
                // Then the drain meets the damage, and not a look at the queue.
                let script = #"for ((i = 0; i < 100000; i++)); do echo $i >"$0/dir 1/w$((i % 50))"; sleep 0.01; done"#
                writer = try Program(
                    ["bash", "-c", FilePath(script), bench.source], output: "/dev/null", errors: "/dev/null")
                let isWriting = try await eventually { access(bench.at("dir 1/w9").string, F_OK) == 0 }
                #expect(isWriting)
            }
            agent.send(SIGSTOP)
            try Damage.garbage.overwrite(bench.state.appending("queue.db"), from: 4_096)
            // Without a log and its index nothing that the agent has in memory counts any more.
            try Damage.garbage.overwrite(bench.state.appending("queue.db-wal"), from: 0)
            try Damage.garbage.overwrite(bench.state.appending("queue.db-shm"), from: 0)
            agent.send(SIGCONT)
            try bench.write("dir 0/0", "changed meanwhile\n")
            try bench.write("new", "made meanwhile\n")
            let isMoved = try await eventually {
                try !command(["find", bench.state, "-ignore_readdir_race", "-name", "queue.db.damaged-*"]).isEmpty
                    || agent.poll() != nil
            }
            #expect(isMoved && agent.poll() == nil, "nothing was moved aside: \(agent.errorTail)")
            let isBegun = try await eventually {
                do {
                    return try StateFile(copying: bench.state).jobCounts().isEmpty
                } catch {
                    return false  // being made anew
                }
            }
            #expect(isBegun, "\(agent.errorTail)")
            writer?.crash()
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
            #expect(agent.errorText.contains("built anew"), "\(agent.errorTail)")
        }

        @Test("A database of a newer release is refused and not touched")
        func newer() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            let file = bench.state.appending("queue.db")
            try command(["sqlite3", file, "PRAGMA user_version = 4711; PRAGMA wal_checkpoint(TRUNCATE)"])
            let before = try read(file)
            let program = try await bench.once()
            #expect(program.ending == .exit(1), "\(program.errorTail)")
            #expect(program.errorText.contains("4711"), "\(program.errorTail)")
            #expect(try read(file) == before, "a newer database was written to")
        }
    }
}
