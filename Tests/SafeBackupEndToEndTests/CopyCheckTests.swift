import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    /// Stored copies that somebody else deletes or changes.
    @Suite("Copies that somebody else took")
    struct CopyChecks {
        /// Deletes a copy, a directory with one and a link, rewrites one and gives one another time.
        private func spoil(_ bench: Bench) throws {
            func copy(_ path: String) -> FilePath { bench.backup.appending(path) }
            try command(["rm", "-r", copy("gone"), copy("dir"), copy("link")])
            try bench.write(copy("changed"), Array("theirs, and longer\n".utf8))
            try command(["touch", "-d", "2001-01-01", copy("touched")])
        }

        private func prepare() async throws -> Bench {
            let bench = try Bench()
            for name in ["gone", "dir/below/f", "changed", "touched", "calm", "deleted"] {
                try bench.write(name, "content of \(name)\n")
            }
            try command(["ln", "-s", "target", bench.at("link")])
            try command(["mkdir", bench.at("dir/empty")])
            try await bench.saveOnce()
            // What is saved two seconds after its change is sure to the walk, which then has nothing to compare.
            let isSure = try await eventually {
                try await bench.saveOnce()
                return try StateFile(copying: bench.state).rows("SELECT 1 FROM name WHERE racy").isEmpty
            }
            try #require(isSure)
            return bench
        }

        private func expectStoredAgain(_ bench: Bench) throws {
            try bench.expectSaved()
            let kept = try Tree(bench.backup.appending(".safebackup/versions")).entries.values.compactMap(\.digest)
            #expect(kept.contains(SHA256.digest(of: Array("theirs, and longer\n".utf8))))
            let state = try StateFile(copying: bench.state)
            let rows = try state.rows("SELECT level, message FROM journal WHERE event = 'copiesChanged'")
            #expect(rows.count == 1 && rows[0][0].text == "warning")
            #expect(rows.first?[1].text.contains("8 stored copies were deleted or changed") == true, "\(rows)")
        }

        @Test("What was deleted or changed in the destination while no agent ran is stored again, once, and told")
        func down() async throws {
            let bench = try await prepare()
            try command(["rm", bench.at("deleted")])
            try await bench.saveOnce()
            let inodes = try CopyInodes(bench)
            try spoil(bench)
            try await bench.saveOnce()
            try expectStoredAgain(bench)
            #expect(!(try inodes.storedAgain(bench).map(\.description).contains("calm")))
            let before = try CopyInodes(bench)
            try await bench.saveOnce()
            #expect(try before.storedAgain(bench).isEmpty)
        }

        @Test("It is noticed when the agent starts to watch, too")
        func running() async throws {
            let bench = try await prepare()
            try spoil(bench)
            let agent = try await bench.startAgent()
            let isDone = try await eventually { try bench.differences().isEmpty }
            #expect(isDone, "\(agent.errorTail)")
            try await bench.stop(agent)
            try expectStoredAgain(bench)
        }

        @Test("Copies of a paused source are not looked for")
        func paused() async throws {
            let bench = try await prepare()
            _ = try await bench.run(["pause", bench.source, "--state", bench.state])
            try command(["rm", bench.backup.appending("gone")])
            let agent = try await bench.startAgent()
            try await bench.stop(agent)
            let state = try StateFile(copying: bench.state)
            #expect(try state.rows("SELECT 1 FROM journal WHERE event = 'copiesChanged'").isEmpty)
            #expect(try state.rows("SELECT 1 FROM job WHERE path = 'gone'").isEmpty)
        }
    }
}
