import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// What was saved since the last catalogue copy, when the state is lost.
    @Suite("What is known after a loss of the state")
    struct LostState {
        private func versions(_ bench: Bench, _ path: FilePath) async throws -> Program {
            try await bench.run(["versions", path, "--state", bench.state])
        }

        /// A source that was saved with a catalogue copy, and the agent that has just saved more.
        private func saved(_ bench: Bench) async throws -> Program {
            try bench.write("first", "first\n")
            try await bench.saveOnce()
            let agent = try await bench.startAgent(["--idle-milliseconds", "300"])
            try bench.write("later", "later\n")
            try bench.write("gone", "gone\n")
            try bench.write("first", "changed\n")
            try await bench.expectInSync(agent)
            try command(["rm", bench.at("gone")])
            try await bench.expectInSync(agent)
            return agent
        }

        @Test(
            "An orderly stop brings the catalogue copy up to date, so that nothing is unknown", .timeLimit(.minutes(2)),
            arguments: [false, true])
        func stop(whileClosed: Bool) async throws {
            let bench = try Bench()
            let agent = try await saved(bench)
            if whileClosed {
                // Then the destination must be opened once more.
                let isClosed = try await eventually { try !agent.hasOpen(bench.backup) }
                #expect(isClosed, "it keeps the destination open")
            }
            try await bench.stop(agent)
            #expect(try bench.staging().isEmpty)
            try command(["rm", "-r", bench.state])
            try await bench.saveOnce()
            for (path, words) in [("later", "current"), ("gone", "tombstone"), ("first", "replaced")] {
                let told = try await versions(bench, FilePath(path))
                #expect(told.ending == .exit(0) && told.outputText.contains(words), "\(path): \(told.outputText)")
            }
        }

        @Test(
            "After a crash the walk brings what is at the source, and restore finds the rest at its place",
            .timeLimit(.minutes(2)))
        func crash() async throws {
            let bench = try Bench()
            let agent = try await saved(bench)
            let inode = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("later".utf8)).fingerprint.inode
            agent.crash()
            try command(["rm", "-r", bench.state])
            try await bench.saveOnce()
            try bench.expectSaved()
            let after = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("later".utf8)).fingerprint.inode
            #expect(after == inode, "what the copy did not know was stored again")
            let names = Set(try StateFile(copying: bench.state).liveNames().map(\.path))
            #expect(names == Set(try Tree(bench.source).entries.keys))

            // Deleted before the loss, and saved after the last copy: only its file tells of it.
            let told = try await versions(bench, "gone")
            #expect(
                told.ending == .exit(0) && told.outputText.contains("catalogue knows nothing"), "\(told.outputText)")
            let target = bench.root.appending("back")
            let back = try await bench.run(["restore", "gone", "--to", target, "--state", bench.state])
            #expect(back.ending == .exit(0) && back.errorText.contains("compared with no digest"), "\(back.errorText)")
            #expect(try read(target.appending("gone")) == Array("gone\n".utf8))

            let all = try await bench.run(
                ["restore", ".", "--deleted", "--to", bench.root.appending("all"), "--state", bench.state])
            #expect(all.ending == .exit(0), "\(all.errorText)")
            #expect(try read(bench.root.appending("all/gone")) == Array("gone\n".utf8))

            let live = try await bench.run(
                ["restore", ".", "--to", bench.root.appending("live"), "--state", bench.state])
            #expect(live.ending == .exit(0) && !live.errorText.contains("digest"), "\(live.errorText)")
            #expect(access(bench.root.appending("live/gone").string, F_OK) != 0, "a deleted file came back unasked")

            let never = try await bench.run(["restore", "never", "--to", target, "--state", bench.state])
            #expect(never.ending == .exit(3), "\(never.errorText)")
            #expect(never.errorText.contains("neither in the catalogue") && never.errorText.contains("begun anew"))
        }

        @Test("What lies behind a link in the backup, or is ours, is not taken for a file of the source")
        func notBelow() async throws {
            let bench = try Bench()
            try bench.write("first", "first\n")
            try await bench.saveOnce()
            try command(["ln", "-s", "/etc", bench.backup.appending("link")])
            for path: FilePath in ["link/passwd", ".safebackup/destination.json"] {
                let target = bench.root.appending("back")
                let back = try await bench.run(["restore", path, "--to", target, "--state", bench.state])
                #expect(back.ending == .exit(3), "\(path): \(back.outputText)\(back.errorText)")
                #expect(try await versions(bench, path).ending == .exit(3))
            }
        }
    }
}
