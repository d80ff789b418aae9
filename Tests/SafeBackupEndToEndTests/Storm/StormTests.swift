import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Killed in a storm of changes")
    struct Storm {
        /// 5 kills, or 100 in the long form, each at a random moment of a start or of the work after it.
        @Test("Nothing is lost and nothing torn, however often the agent is killed", .timeLimit(.minutes(30)))
        func killedAgainAndAgain() async throws {
            let seed: UInt64 = 20_261_123
            let bench = try Bench()
            var random = SeededGenerator(seed: seed)
            let writer = Writer(root: bench.source, seed: seed)
            try writer.change(200)
            for round in 1...(Conditions.isLong ? 100 : 5) {
                let agent = try bench.spawn(bench.arguments())
                // Short lives end in recovery or in the reconcile; longer ones in the stream of changes.
                let life = Duration.milliseconds(Int.random(in: 20...2_000, using: &random))
                try await store(writer, for: life, agent)
                #expect(agent.poll() == nil, "round \(round): the agent ended by itself:\n\(agent.errorTail)")
                agent.crash()
                try expectWhole(bench, writer, round)
                try bench.expectCatalogueIsTrue()
                if round.isMultiple(of: 5) { try await expectRecovered(bench, writer, round) }
            }
            let agent = try await bench.startAgent()
            try writer.change(50)
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try await bench.saveOnce()
            try bench.expectSaved()
            try expectWhole(bench, writer, 0)

            let source = try Tree(bench.source)
            let names = Set(try StateFile(copying: bench.state).liveNames().map(\.path))
            #expect(names == Set(source.entries.keys), "the live names are not the source's paths")
            let restored = bench.root.appending("restored")
            let restore = try await bench.run(["restore", bench.source, "--to", restored, "--state", bench.state])
            #expect(restore.ending == .exit(0), "\(restore.errorTail)")
            #expect(source.differences(in: try Tree(restored)).prefix(10) == [])
        }

        /// Changes the source for a while, a few hundred times a second.
        private func store(_ writer: Writer, for life: Duration, _ agent: Program) async throws {
            let end = ContinuousClock.now + life
            while ContinuousClock.now < end && agent.poll() == nil {
                try writer.change(3)
                try await pause(.milliseconds(10))
            }
        }

        /// Every file under a final name is one whole publication, and one that stood at that path.
        private func expectWhole(_ bench: Bench, _ writer: Writer, _ round: Int) throws {
            guard access(bench.backup.string, F_OK) == 0 else { return }
            let destination = try ConfinedDirectory(opening: bench.backup)
            for (path, entry) in try Tree(bench.backup).entries where entry.kind == .file {
                let content = try destination.open(path, O_RDONLY).readAll()
                guard let publication = Publication(content: content) else {
                    Issue.record("round \(round): \(path) is torn: \(content.count) bytes")
                    continue
                }
                let paths = writer.published[publication.number] ?? []
                #expect(paths.contains(path), "round \(round): \(path) holds what never stood there")
            }
        }

        /// After the next start and once in sync, nothing unfinished is left.
        private func expectRecovered(_ bench: Bench, _ writer: Writer, _ round: Int) async throws {
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try bench.expectSaved()
            try await bench.stop(agent)
            try expectWhole(bench, writer, round)
        }
    }
}
