import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Renamed and linked")
    struct Renaming {
        @Test("What was renamed while the agent was down is renamed in the backup, and nothing is stored again")
        func down() async throws {
            let bench = try Bench()
            let renames = try await Renames(in: bench)
            try renames.make()
            try await bench.saveOnce()
            try renames.expectMoved()
        }

        @Test("What is renamed while the agent runs is renamed in the backup, and nothing is stored again")
        func running() async throws {
            let bench = try Bench()
            let renames = try await Renames(in: bench)
            let agent = try await bench.startAgent()
            // A file that is just being compared is in use.
            try await bench.expectInSync(agent)
            try renames.make()
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try renames.expectMoved()
        }

        @Test("A file that was written, given its old time back and renamed is not taken for what was saved")
        func written() async throws {
            let bench = try Bench()
            for name in ["one", "two", "dir/three", "still"] { try bench.write(name, "the content\n") }
            try command(["find", bench.source, "-exec", "touch", "-d", "2020-01-02 03:04:05.678", "{}", "+"])
            // What is saved two seconds after its change needs no other proof.
            let isSure = try await eventually {
                try await bench.saveOnce()
                return try StateFile(copying: bench.state).rows("SELECT 1 FROM name WHERE racy").isEmpty
            }
            try #require(isSure)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let inodes = try CopyInodes(bench)
            try command([
                "sh", "-c",
                """
                cd "$0" || exit 1
                mv still calm
                touch -r calm ../time
                write() { printf CHANGED 1<> "$1"; touch -r ../time "$1"; }
                write one; mv one 1
                mv two t; write t; mv t 2
                write dir/three; mv dir other
                """, bench.source,
            ])
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
            let again = try inodes.storedAgain(bench).map(\.description)
            #expect(
                again.contains("1") && again.contains("2") && again.contains("other/three") && !again.contains("calm"))
        }

        @Test("The history of an older path tells where its content went, and what stood there then")
        func history() async throws {
            let bench = try Bench()
            try bench.write("dir/a", "content of a\n")
            try await bench.saveOnce()
            try command(["mv", bench.at("dir"), bench.at("moved")])
            try await bench.saveOnce()
            try command(["mv", bench.at("moved/a"), bench.at("b")])
            try await bench.saveOnce()
            let state = try StateFile(copying: bench.state)
            let rows = try state.rows(
                "SELECT path, reason, location FROM v_history WHERE kind = 'file' ORDER BY reason DESC, path")
            #expect(
                rows.map { $0.map(\.text) } == [
                    ["dir/a", "moved", "b"], ["moved/a", "moved", "b"], ["b", "", "b"],
                ])
            #expect(try state.rows("SELECT count(*) FROM copy")[0][0].integer == 1)
            let program = try await bench.run(
                ["restore", "b", "--to", bench.root.appending("restored"), "--state", bench.state])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(try read(bench.root.appending("restored/b")) == Array("content of a\n".utf8))
        }

        @Test("A directory of a thousand files renamed back and forth is renamed in the backup each time")
        func thousand() async throws {
            let bench = try Bench()
            for number in 0..<1_000 { try bench.write("one/\(number)", "content \(number)\n") }
            try await bench.saveOnce()
            let inodes = try CopyInodes(bench)
            let agent = try await bench.startAgent()
            for (from, to) in [("one", "two"), ("two", "one"), ("one", "three/deep/er")] {
                try command(["mkdir", "-p", bench.at(to).removingLastComponent()])
                try command(["mv", "-T", bench.at(from), bench.at(to)])
                try await bench.expectInSync(agent)
            }
            try await bench.stop(agent)
            try bench.expectSaved()
            #expect(try inodes.storedAgain(bench) == [])
            #expect(try Tree(bench.source).differences(in: try Tree(bench.backup)) == [])
        }

        @Test("A file that is renamed while it is being stored is stored once, and nothing is lost", .needsFaults)
        func whileStored() async throws {
            let bench = try Bench()
            let agent = try await bench.startAgent(fault: "stop=staged")
            try bench.write("first", "content of a file that is renamed\n")
            let isStopped = try await eventually { agent.state == "T" || agent.poll() != nil }
            try #require(isStopped && agent.poll() == nil, "\(agent.errorTail)")
            try command(["mv", bench.at("first"), bench.at("second")])
            agent.send(SIGCONT)
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
            #expect(try Tree(bench.source).differences(in: try Tree(bench.backup)) == [])
        }

        @Test("Another mode, owner or attribute, or a touched ctime, copies no bytes")
        func metadata() async throws {
            let bench = try Bench()
            for name in ["mode", "link", "attribute"] { try bench.write(name, "content of \(name)\n") }
            try await bench.saveOnce()
            let inodes = try CopyInodes(bench)
            func stored() throws -> [[String]] {
                try StateFile(copying: bench.state).rows("SELECT id, stored_at FROM copy ORDER BY id").map {
                    $0.map(\.text)
                }
            }
            let before = try stored()
            let agent = try await bench.startAgent()
            try command(["chmod", "600", bench.at("mode")])
            try command(["ln", bench.at("link"), bench.root.appending("elsewhere")])
            try command(["chmod", "644", bench.at("attribute")])
            let file = try Descriptor.open(bench.at("attribute"), O_RDONLY)
            do {
                try file.setExtendedAttribute(ExtendedAttribute(name: Array("user.test".utf8), value: [1, 2]))
            } catch {
                guard error == Errno.notSupported else { throw error }
            }
            if geteuid() == 0 { try command(["chown", "1234:1234", bench.at("mode")]) }
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            // And found by a walk.
            try command(["chmod", "640", bench.at("mode")])
            try await bench.saveOnce()
            try bench.expectSaved()
            #expect(try inodes.storedAgain(bench) == [])
            #expect(try stored() == before, "bytes were written again")
        }

        @Test("A write through one of a file's links brings the others up to date, and comes to an end")
        func links() async throws {
            let bench = try Bench()
            try bench.write("one", "the first content\n")
            try command(["mkdir", bench.at("dir")])
            try command(["ln", bench.at("one"), bench.at("dir/two")])
            try command(["ln", bench.at("one"), bench.at("three")])
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try bench.write("dir/two", "another content, and a longer one\n")
            try await bench.expectInSync(agent)
            try command(["chmod", "600", bench.at("three")])
            try await bench.expectInSync(agent)
            // One link goes: that is no move.
            try command(["mv", bench.at("one"), bench.at("four")])
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
            #expect(try Tree(bench.source).differences(in: try Tree(bench.backup)) == [])
        }

        @Test(
            "A write by one name of a file, which then goes, is found under the other name, although that is only renamed"
        )
        func writtenByAnotherName() async throws {
            let bench = try Bench()
            try bench.write("one", "the content\n")
            try command(["ln", bench.at("one"), bench.at("two")])
            try command(["find", bench.source, "-exec", "touch", "-d", "2020-01-02 03:04:05.678", "{}", "+"])
            let isSure = try await eventually {
                try await bench.saveOnce()
                return try StateFile(copying: bench.state).rows("SELECT 1 FROM name WHERE racy").isEmpty
            }
            try #require(isSure)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command([
                "sh", "-c",
                #"cd "$0" && touch -r two ../time && printf CHANGED 1<> one && touch -r ../time one && rm one && mv two 2"#,
                bench.source,
            ])
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
            #expect(try read(bench.backup.appending("2")) == Array("CHANGEDtent\n".utf8))
        }

        @Test(
            "A file that another one takes the place of by a rename, while it is being stored, is stored as it is then")
        func renamedOver() async throws {
            let bench = try Bench()
            try bench.write("other", "content of the other\n")
            try bench.write("file", "first\n")
            try await bench.saveOnce()
            try bench.write("file", "second\n")
            let program = try bench.spawn(
                bench.arguments(["--once"]), environment: ["SAFEBACKUP_FAULT": "stop=leased"])
            let isStopped = try await eventually { program.state == "T" || program.poll() != nil }
            try #require(isStopped && program.poll() == nil, "\(program.errorTail)")
            try command(["mv", bench.at("other"), bench.at("file")])
            program.send(SIGCONT)
            try await program.wait(within: .seconds(60))
            try await bench.saveOnce()
            try bench.expectSaved()
            #expect(try read(bench.backup.appending("file")) == Array("content of the other\n".utf8))
            // What the other path had is still its own: as a deleted file, with its copy.
            let rows = try StateFile(copying: bench.state).rows(
                "SELECT reason, location FROM v_history WHERE path = 'other'")
            #expect(rows.map { $0.map(\.text) } == [["deleted", "other"]])
            #expect(try read(bench.backup.appending("other")) == Array("content of the other\n".utf8))
        }
    }
}

extension EndToEnd {
    /// The program ends, or the machine, at each step of a group of moves.
    @Suite("Ended at each step of a move", .needsFaults)
    struct MoveSteps {
        static let steps = [
            "leased", "linked", "staged", "versioned", "flushed", "renamed", "durable", "unlinked", "completed",
        ]

        @Test("Killed at a step, then started again", arguments: steps, [1, 4, 9])
        func killed(at step: String, occurrence: Int) async throws {
            let bench = try Bench()
            let renames = try await Renames(in: bench)
            try renames.make()
            let program = try await bench.once(fault: "kill=\(step),nth=\(occurrence)")
            // A step that is taken once for a group has no fourth time.
            if occurrence > 1 && program.ending == .exit(0) { return }
            try #require(program.ending == .signal(SIGKILL), "step \(step) was not reached:\n\(program.errorTail)")
            try renames.expectNothingLost()
            try bench.expectCatalogueIsTrue()
            try await bench.saveOnce()
            try renames.expectMoved()
        }

        @Test("The page cache lost at a step", .needsLoopDevice, arguments: steps, [true, false])
        func cutOff(at step: String, isStateOnDisk: Bool) async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 32)
            bench.backup = disk.mountPoint.appending("backup")
            if isStateOnDisk { bench.state = disk.mountPoint.appending("state") }
            let renames = try await Renames(in: bench)
            try renames.make()
            try await bench.cutOff(disk, at: step)

            try renames.expectNothingLost()
            try bench.expectCatalogueIsTrue()
            try await bench.saveOnce()
            try renames.expectMoved()
        }
    }
}
