import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// The catalogue copy of a destination that never held everything.
    @Suite("A first save that does not end")
    struct EarlyCatalogue {
        /// Runs the agent until the small files are saved, and stops it in the midst of the large one.
        private func saveSome(_ bench: Bench, _ file: FilePath, until isDone: () throws -> Bool) async throws {
            let agent = try bench.spawn(["run", "--config", file])
            let isSaved = try await eventually { try agent.poll() != nil || isDone() }
            try #require(isSaved && agent.poll() == nil, "\(agent.errorTail)")
            agent.send(SIGTERM)
            let ending = try await agent.wait(within: .seconds(10))
            #expect(ending == .exit(0), "\(agent.errorTail)")
        }

        private func live(_ bench: Bench) throws -> Set<String> {
            guard access(bench.state.appending("queue.db").string, F_OK) == 0 else { return [] }
            do {
                return Set(try StateFile(copying: bench.state).liveNames().map { printable($0.path.bytes) })
            } catch is StateFailure {
                return []  // ignored because its tables are just being made
            }
        }

        @Test(
            "A stop in the midst of it leaves a catalogue copy that tells so, and takes the place of no other",
            .timeLimit(.minutes(2)))
        func stop() async throws {
            let bench = try Bench()
            // Filled slowly, so that one large file is not saved for minutes.
            let file = try bench.configure("bandwidth = 100KiB")
            var random = SeededGenerator(seed: 1)
            try bench.write("a", "first\n")
            try bench.write(bench.at("large"), random.bytes(60 << 20))
            try await saveSome(bench, file) { try self.live(bench).contains("a") }
            let catalogue = bench.backup.appending(".safebackup/catalogue")
            #expect(try command(["ls", catalogue]) == "a.db\n")

            let target = bench.root.appending("restored")
            let restored = try await bench.run([
                "restore", ".", "--from", bench.backup, "--to", target, "--state", bench.root.appending("none"),
            ])
            let told = restored.outputText + restored.errorTail
            #expect(restored.ending == .exit(0) && told.contains("not everything of"), "\(told)")
            #expect(try read(target.appending("a")) == Array("first\n".utf8))

            // The state is lost, and nobody can read the copy: a state that knows less leaves it for whoever can.
            let damaged = Array("somebody can repair this\n".utf8)
            try bench.write(catalogue.appending("a.db"), damaged)
            try command(["rm", "-r", bench.state])
            try bench.write("b", "second\n")
            try await saveSome(bench, file) { try self.live(bench).isSuperset(of: ["a", "b"]) }
            #expect(try command(["ls", catalogue]) == "a.db\n")
            #expect(try read(catalogue.appending("a.db")) == damaged)
        }

        @Test(
            "A run that cannot save everything leaves a catalogue copy of what it saved", .needsLoopDevice,
            .timeLimit(.minutes(2)))
        func once() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 32)
            bench.backup = disk.mountPoint.appending("backup")
            var random = SeededGenerator(seed: 1)
            try bench.write("a", "first\n")
            try bench.write(bench.at("large"), random.bytes(40 << 20))
            #expect(try await bench.once().ending == .exit(3))
            try command(["rm", bench.at("a")])
            #expect(try await bench.once().ending == .exit(3))
            // A lost state knows what was deleted.
            try command(["rm", "-r", bench.state])
            _ = try await bench.once()
            let told = try await bench.run(["versions", "a", "--state", bench.state])
            #expect(told.ending == .exit(0) && told.outputText.contains("tombstone"), "\(told.outputText)")
        }
    }
}
