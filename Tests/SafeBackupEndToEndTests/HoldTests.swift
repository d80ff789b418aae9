import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Disks that go away and come back")
    struct Holds {
        /// Closes the destination after a second without work, so that nobody waits ten.
        private func bench() throws -> Bench {
            let bench = try Bench()
            bench.options = ["--idle-milliseconds", "300"]
            return bench
        }

        /// What holds the source or the destination now, as `status` says.
        private func holds(_ bench: Bench) async throws -> [String?] {
            let status = try await bench.status()
            return [status.sources.first?.held?.reason, status.destinations.first?.held?.reason]
        }

        private func expectHeld(
            _ bench: Bench, _ agent: Program, _ reasons: [String?], sourceLocation: SourceLocation = #_sourceLocation
        ) async throws {
            var found: [String?] = []
            let isSo = try await eventually(within: .seconds(30)) {
                found = try await holds(bench)
                return found == reasons
            }
            #expect(isSo, "held for \(found), not \(reasons):\n\(agent.errorTail)", sourceLocation: sourceLocation)
        }

        /// `umount` of a disk that is in use fails: asked until it is idle.
        private func unmountIdle(
            _ disk: LoopDisk, _ agent: Program, sourceLocation: SourceLocation = #_sourceLocation
        ) async throws {
            let began = ContinuousClock.now
            let isIdle = try await eventually(within: .seconds(20)) {
                do {
                    try disk.unmount()
                    return true
                } catch is CommandFailure {
                    return false
                }
            }
            try #require(isIdle, "the disk stays busy:\n\(agent.errorTail)", sourceLocation: sourceLocation)
            #expect(ContinuousClock.now - began < .seconds(15), sourceLocation: sourceLocation)
        }

        private func count(_ text: String, in agent: Program) -> Int {
            agent.errorText.components(separatedBy: text).count - 1
        }

        private func names(_ bench: Bench) throws -> Set<String> {
            Set(try StateFile(copying: bench.state).liveNames().map(\.path.description))
        }

        /// When the copies were stored of the files that `sourceUnmounted` leaves as they are.
        private func unchanged(_ bench: Bench) throws -> [String] {
            try StateFile(copying: bench.state).rows(
                """
                SELECT n.leaf || ' ' || c.id || ' ' || c.stored_at FROM name n JOIN copy c ON c.id = n.copy_id
                WHERE n.parent = 'dir' AND n.ended_at IS NULL AND n.leaf NOT IN ('3', '4') ORDER BY n.leaf
                """
            ).map { "\($0[0])" }
        }

        @Test(
            "The source's disk is unmounted and comes back changed: held meanwhile, also over a restart; no name ends",
            .needsLoopDevice, .timeLimit(.minutes(2)))
        func sourceUnmounted() async throws {
            let bench = try bench()
            let disk = try bench.makeDisk("disk", mebibytes: 16)
            bench.source = disk.mountPoint
            for number in 0..<20 { try bench.write("dir/\(number)", "content \(number)\n") }
            var agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let before = try names(bench)
            let stored = try unchanged(bench)
            #expect(stored.count == 18)
            try await unmountIdle(disk, agent)
            try await expectHeld(bench, agent, ["rootReplaced", nil])
            #expect(try names(bench) == before)
            #expect(count("The source is held", in: agent) == 1, "\(agent.errorTail)")
            try await bench.stop(agent)

            // It stays held by what the database knows.
            agent = try bench.spawnAgent()
            try await expectHeld(bench, agent, ["rootReplaced", nil])
            #expect(try names(bench) == before)
            try disk.mount()
            try bench.write("dir/3", "changed while it was away\n")
            try command(["rm", bench.at("dir/4")])
            try await expectHeld(bench, agent, [nil, nil])
            try await bench.expectInSync(agent)
            let isEnded = try await eventually { try names(bench) == before.subtracting(["dir/4"]) }
            #expect(isEnded, "\(agent.errorTail)")
            #expect(count("is not held any more", in: agent) == 1, "\(agent.errorTail)")
            // What did not change was not stored again. (How much the walk queues says nothing: what was saved within two
            // seconds of its change is compared once more.)
            let copies = try StateFile(copying: bench.state).rows("SELECT count(*) FROM copy WHERE role = 'current'")
            #expect(copies.first?.first?.integer == 20)
            #expect(try unchanged(bench) == stored, "\(agent.errorTail)")
            try await bench.stop(agent)
            try disk.unmount()
        }

        @Test(
            "The destination's disk is unmounted and comes back: held meanwhile, nothing in the bare mount point",
            .needsLoopDevice, .timeLimit(.minutes(2)), arguments: [false, true])
        func destinationUnmounted(isRestarted: Bool) async throws {
            let bench = try bench()
            let disk = try bench.makeDisk("disk", mebibytes: 16)
            bench.backup = disk.mountPoint.appending("backup")
            try bench.write("kept", "as it was\n")
            var agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let before = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("kept".utf8))
            try await unmountIdle(disk, agent)
            try bench.write("new", "while the disk was away\n")
            try await expectHeld(bench, agent, [nil, "destinationMissing"])
            #expect(count("The destination is held", in: agent) == 1, "\(agent.errorTail)")
            if isRestarted {
                try await bench.stop(agent)
                // Desktops remove the mount point too.
                try command(["rmdir", disk.mountPoint])
                let once = try await bench.once()
                #expect(once.ending == .exit(4), "\(once.errorTail)")
                try command(["mkdir", disk.mountPoint])
                agent = try await bench.startAgent()
                try await expectHeld(bench, agent, [nil, "destinationMissing"])
            }
            var inside: [[UInt8]] = []
            try Descriptor.open(disk.mountPoint, O_RDONLY).forEachEntry { name, _ in inside.append(name) }
            #expect(inside.isEmpty, "written into the bare mount point")
            try disk.mount()
            try await expectHeld(bench, agent, [nil, nil])
            try await bench.expectInSync(agent)
            let after = try Descriptor.open(bench.backup, O_RDONLY).status(of: Array("kept".utf8))
            #expect(after.fingerprint == before.fingerprint, "an unchanged file was stored again")
            #expect(count("is not held any more", in: agent) == 1, "\(agent.errorTail)")
            try await bench.stop(agent)
            try bench.expectSaved()
            try disk.unmount()
        }

        @Test(
            "What is mounted over a watched directory is not walked, listed, and ends no name", .needsLoopDevice,
            .timeLimit(.minutes(2)))
        func mountedOver() async throws {
            let bench = try bench()
            let disk = try bench.makeDisk("other", mebibytes: 8)
            try bench.write(disk.mountPoint.appending("stranger"), Array("of the other disk\n".utf8))
            try disk.unmount()
            for number in 0..<5 { try bench.write("sub/deep/\(number)", "content \(number)\n") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let before = try names(bench)
            try command(["mount", "-o", "loop", disk.image, bench.at("sub")])
            func unsaved() throws -> [[String]] {
                try StateFile(copying: bench.state).rows("SELECT path, reason FROM not_saved").map { $0.map(\.text) }
            }
            let isListed = try await eventually { try unsaved() == [["sub", "otherFileSystem"]] }
            #expect(isListed, "\(agent.errorTail)")
            try bench.write("beside", "saved as ever\n")
            let isSaved = try await eventually { try names(bench) == before.union(["beside"]) }
            #expect(isSaved, "\(agent.errorTail)")
            #expect(try Tree(bench.backup).entries[RelativePath("sub/stranger")] == nil)

            // Also when the agent starts while it is mounted.
            try await bench.stop(agent)
            let once = try await bench.once()
            #expect(once.ending == .exit(0), "\(once.errorTail)")
            #expect(try names(bench) == before.union(["beside"]))

            let again = try await bench.startAgent()
            try #require(try unsaved().count == 1)
            try command(["umount", bench.at("sub")])
            let isForgotten = try await eventually { try unsaved().isEmpty }
            #expect(isForgotten, "\(again.errorTail)")
            try bench.write("sub/deep/3", "watched again\n")
            try await bench.expectInSync(again)
            try await bench.stop(again)
            try bench.expectSaved()
        }

        @Test("A file system that is mounted over the source's root is not saved, and holds it", .needsLoopDevice)
        func mountedOverRoot() async throws {
            let bench = try bench()
            let disk = try bench.makeDisk("other", mebibytes: 8)
            try bench.write(disk.mountPoint.appending("stranger"), Array("of the other disk\n".utf8))
            try disk.unmount()
            try bench.write("dir/file", "content\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let before = try names(bench)
            try command(["mount", "-o", "loop", disk.image, bench.source])
            try await expectHeld(bench, agent, ["rootReplaced", nil])
            let meanwhile = try names(bench)
            #expect(meanwhile == before)
            try command(["umount", bench.source])
            try await expectHeld(bench, agent, [nil, nil])
            try bench.write("dir/file", "changed\n")
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test("A run with --once whose source goes away before everything is saved ends, held, and ends no name")
        func sourceGoneOnce() async throws {
            let bench = try bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            let before = try names(bench)
            // A file that is being written waits for its writer: until then the run has something to do.
            try bench.write("busy", "")
            let writer = try Descriptor.open(bench.at("busy"), O_WRONLY)
            try command(["rm", bench.at("file")])
            let run = try bench.spawn(bench.arguments(["--once"]))
            var writes = 0
            let hasWalked = try await eventually {
                writes += 1
                try writer.write(Array("\(writes)\n".utf8), at: 0)
                return run.poll() != nil || run.errorText.contains("The source was compared")
            }
            try command(["mv", bench.source, bench.root.appending("away")])
            #expect(hasWalked && run.poll() == nil, "\(run.errorTail)")
            #expect(try await run.wait(within: .seconds(20)) == .exit(4), "\(run.errorTail)")
            #expect(run.errorText.contains("rootMissing"), "\(run.errorTail)")
            #expect(try names(bench).isSubset(of: before))
            #expect(try await bench.status().sources.first?.held?.reason == "rootMissing")
            try command(["mv", bench.root.appending("away"), bench.source])
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        @Test("A second agent is refused also while the first one has nothing of the destination open")
        func secondAgent() async throws {
            let bench = try bench()
            try bench.write("file", "content\n")
            let first = try await bench.startAgent()
            try await bench.expectInSync(first)
            let isClosed = try await eventually { try !first.hasOpen(bench.backup) }
            #expect(isClosed, "something of the destination stays open")
            let second = try await bench.run(
                ["run", bench.source, bench.backup, "--state", bench.root.appending("state2"), "--once"])
            #expect(second.ending == .exit(4), "\(second.errorTail)")
            #expect(second.errorText.contains("Another agent"), "\(second.errorTail)")
            #expect(second.errorText.contains("this run has ended; start it again"), "\(second.errorTail)")
            #expect(!second.errorText.contains("this one goes on by itself"), "\(second.errorTail)")
            try bench.write("file", "changed\n")
            try await bench.expectInSync(first)
            try await bench.stop(first)
            try bench.expectSaved()
        }
    }
}
