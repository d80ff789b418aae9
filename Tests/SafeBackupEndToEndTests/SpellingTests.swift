import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// A destination that folds names, as a memory stick does. Where there are hard links too, only its sentinel says so:
    /// no file system of this machine's has both.
    @Suite("Directories renamed only in case")
    struct Spelling {
        private func prepare() async throws -> Bench {
            let bench = try Bench()
            for leaf in ["a", "b", "sub/c", "sub/deep/d"] { try bench.write("Foo/\(leaf)", "content of \(leaf)\n") }
            try command(["mkdir", bench.at("Foo/empty")])
            try command(["ln", "-s", "a", bench.at("Foo/link")])
            try bench.write("other", "other\n")
            try await bench.saveOnce()
            try command([
                "sed", "-i", "s|\"foldsCase\" *: *false|\"foldsCase\" : true|",
                bench.backup.appending(".safebackup/destination.json"),
            ])
            return bench
        }

        /// The same copies under the new spelling, and nothing else.
        private func expectMoved(_ bench: Bench, _ inodes: CopyInodes) throws {
            try bench.expectSaved()
            #expect(try inodes.storedAgain(bench) == [])
            #expect(try Tree(bench.source).differences(in: try Tree(bench.backup)) == [])
            let state = try StateFile(copying: bench.state)
            #expect(try state.rows("SELECT path, last_error FROM job").isEmpty)
            #expect(try state.rows("SELECT location FROM copy WHERE role <> 'current'").isEmpty)
            #expect(try state.rows("SELECT path FROM v_history WHERE reason = 'moved'").count == 5)
        }

        @Test(
            "Its files are moved in the backup, and not stored again", .timeLimit(.minutes(2)),
            arguments: [true, false])
        func moves(isRunning: Bool) async throws {
            let bench = try await prepare()
            let inodes = try CopyInodes(bench)
            if isRunning {
                let agent = try await bench.startAgent()
                try await bench.expectInSync(agent)
                try command(["mv", bench.at("Foo"), bench.at("foo")])
                try await bench.expectInSync(agent)
                try await bench.stop(agent)
            } else {
                try command(["mv", bench.at("Foo"), bench.at("foo")])
                try await bench.saveOnce()
            }
            try expectMoved(bench, inodes)
        }

        @Test(
            "Killed at a step, and started again", .needsFaults, .timeLimit(.minutes(2)),
            arguments: ["leased", "staged", "flushed", "renamed", "durable", "unlinked", "completed"], [1, 2])
        func killed(at step: String, occurrence: Int) async throws {
            let bench = try await prepare()
            let inodes = try CopyInodes(bench)
            try command(["mv", bench.at("Foo"), bench.at("foo")])
            let program = try await bench.once(fault: "kill=\(step),nth=\(occurrence)")
            try #require(program.ending == .signal(SIGKILL), "step \(step) was not reached:\n\(program.errorTail)")
            for leaf in ["a", "b", "sub/c", "sub/deep/d"] {
                // What is on its way is under no name that the catalogue knows yet.
                let found = try command(["grep", "-rl", FilePath("content of \(leaf)$"), bench.backup])
                #expect(!found.isEmpty, "\(leaf) is lost")
            }
            try await bench.saveOnce()
            // What ends only after that: the former directory's paths.
            try await bench.saveOnce()
            try expectMoved(bench, inodes)
        }

        @Test("Renamed back before the agent came to it again, everything is where it was", .needsFaults)
        func back() async throws {
            let bench = try await prepare()
            try command(["mv", bench.at("Foo"), bench.at("foo")])
            // The directory has made room, and nothing has moved yet.
            let program = try await bench.once(fault: "kill=completed,nth=1")
            try #require(program.ending == .signal(SIGKILL))
            try command(["mv", bench.at("foo"), bench.at("Foo")])
            try await bench.saveOnce()
            try await bench.saveOnce()
            try bench.expectSaved()
            #expect(try Tree(bench.source).differences(in: try Tree(bench.backup)) == [])
        }

        @Test("On a memory stick it is saved under its new spelling; two directories remain a collision", .needsExFAT)
        func memoryStick() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("stick", mebibytes: 64, .exFAT)
            bench.backup = disk.mountPoint.appending("backup")
            for leaf in ["a", "sub/b"] { try bench.write("d/\(leaf)", "content of \(leaf)\n") }
            try command(["mkdir", bench.at("e")])
            try await bench.saveOnce()
            try command(["mv", bench.at("d"), bench.at("D")])
            try command(["mv", bench.at("e"), bench.at("E")])
            try await bench.saveOnce()
            #expect(try command(["ls", bench.backup]) == "D\nE\n")
            #expect(try command(["ls", bench.backup.appending("D"), bench.backup.appending("D/sub")]).contains("b"))
            #expect(try read(bench.backup.appending("D/sub/b")) == Array("content of sub/b\n".utf8))
            try bench.expectCatalogueIsTrue()
            // A second one of that name collides with it, and takes nothing away from it.
            try bench.write("d/other", "content of another\n")
            #expect(try await bench.once().ending == .exit(3))
            #expect(try command(["ls", bench.backup]) == "D\nE\n")
            #expect(try read(bench.backup.appending("D/a")) == Array("content of a\n".utf8))
            try bench.expectCatalogueIsTrue()
            try command(["rm", "-r", bench.at("d")])
            try await bench.saveOnce()
        }
    }
}
