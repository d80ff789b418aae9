import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    @Suite("What a person accepts, pauses and asks for")
    struct Accepting {
        private func names(_ bench: Bench) throws -> Set<String> {
            Set(try StateFile(copying: bench.state).liveNames().map(\.path.description))
        }

        private func accept(_ bench: Bench, _ path: FilePath, yes: Bool) async throws -> Program {
            try await bench.run(["accept", path, "--state", bench.state] + (yes ? ["--yes"] : []))
        }

        private func rootInode(_ bench: Bench) throws -> Int64? {
            try StateFile(copying: bench.state).rows("SELECT root_inode FROM source").first?.first?.integer
        }

        private func waits(_ path: String, _ bench: Bench) throws -> Bool {
            try !StateFile(copying: bench.state).rows("SELECT 1 FROM job WHERE path = '\(path)'").isEmpty
        }

        private func files(_ bench: Bench, _ count: Int = 12) throws {
            for number in 0..<count { try bench.write("dir/\(number)", "content \(number)\n") }
        }

        /// Twelve files were saved; then another directory, with a file of its own, took the source's place.
        private func benchWithReplacedSource() async throws -> Bench {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            try command(["mv", bench.source, bench.root.appending("former")])
            try bench.makeDirectory(bench.source)
            try bench.write("dir/3", "of the new one\n")
            return bench
        }

        @Test(
            "An emptied source stays held for a stranger, and ends its names only when that was accepted",
            arguments: [false, true])
        func emptied(isRunning: Bool) async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            let before = try names(bench)
            try command(["rm", "-r", bench.at("dir")])
            let agent = isRunning ? try bench.spawnAgent() : nil
            if agent == nil { #expect(try await bench.once().ending == .exit(4)) }
            let isHeld = try await eventually {
                try await bench.status().sources.first?.held?.reason == "rootEmptied"
            }
            #expect(isHeld)
            try bench.write("stranger", "new\n")
            if agent == nil { #expect(try await bench.once().ending == .exit(4)) }

            let preview = try await accept(bench, bench.source, yes: false)
            #expect(preview.ending == .exit(4), "\(preview.errorTail)")
            #expect(preview.outputText.contains("12 files"), "\(preview.outputText)")
            #expect(try names(bench) == before)
            let accepted = try await accept(bench, bench.source, yes: true)
            #expect(accepted.ending == .exit(0), "\(accepted.errorTail)")
            // Once more does no harm.
            #expect(try await accept(bench, bench.source, yes: true).ending == .exit(0))
            if agent == nil { try await bench.saveOnce() }
            let isEnded = try await eventually { try names(bench) == ["stranger"] }
            #expect(isEnded, "\(try? names(bench))")
            #expect(try read(bench.backup.appending("dir/3")) == Array("content 3\n".utf8), "the copy is gone")
            // It was permitted once.
            if let agent { try await bench.stop(agent) }
            try command(["rm", bench.at("stranger")])
            #expect(try await bench.once().ending == .exit(4))
        }

        @Test("Single deletes that empty a source hold nothing, are told, and what went comes back by the advice given")
        func emptiedBySingleDeletes() async throws {
            let bench = try Bench()
            try files(bench)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            #expect(try await bench.status().sources.first?.emptied == nil)
            for number in 0..<12 { try command(["rm", bench.at("dir/\(number)")]) }
            let isTold = try await eventually { try await bench.status().sources.first?.emptied != nil }
            #expect(isTold, "\(agent.errorTail)")
            let emptied = try #require(try await bench.status().sources.first?.emptied)
            #expect(emptied.files == 12 && emptied.message.contains("'safebackup restore \(bench.source) --deleted"))
            #expect(try await bench.status().sources.first?.held == nil)
            #expect(agent.errorText.components(separatedBy: "has no file any more").count == 2, "\(agent.errorTail)")
            let status = try await bench.run(["status", "--state", bench.state])
            #expect(status.outputText.contains("EMPTIED") && status.outputText.contains("12 files"))

            let target = bench.root.appending("restored")
            let restored = try await bench.run([
                "restore", bench.source, "--deleted", "--to", target, "--state", bench.state,
            ])
            #expect(restored.ending == .exit(0), "\(restored.errorTail)")
            #expect(try read(target.appending("dir/7")) == Array("content 7\n".utf8))

            try bench.write("dir/again", "new\n")
            let isOver = try await eventually { try await bench.status().sources.first?.emptied == nil }
            #expect(isOver)
            try await bench.stop(agent)
        }

        @Test("What was emptied and is there again goes on by itself")
        func emptiedAndBack() async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            let before = try names(bench)
            try command(["mv", bench.at("dir"), bench.root.appending("away")])
            let agent = try bench.spawnAgent()
            let isHeld = try await eventually { agent.errorText.contains("rootEmptied") }
            #expect(isHeld, "\(agent.errorTail)")
            try command(["mv", bench.root.appending("away"), bench.at("dir")])
            let isFree = try await eventually { agent.errorText.contains("is not held any more") }
            #expect(isFree, "\(agent.errorTail)")
            try bench.write("dir/3", "changed\n")
            try await bench.expectInSync(agent)
            #expect(try names(bench) == before)
            try await bench.stop(agent)
        }

        @Test(
            "A replaced source is saved only when that was accepted; then state and sentinel know it",
            arguments: [false, true])
        func replaced(isRunning: Bool) async throws {
            let bench = try await benchWithReplacedSource()
            let before = try names(bench)
            let agent = isRunning ? try bench.spawnAgent() : nil
            if let agent {
                let isHeld = try await eventually { agent.errorText.contains("rootReplaced") }
                #expect(isHeld, "\(agent.errorTail)")
            }
            let preview = try await accept(bench, bench.source, yes: false)
            #expect(preview.ending == .exit(4))
            #expect(preview.outputText.contains("another directory"), "\(preview.outputText)")
            #expect(try names(bench) == before)
            #expect(try await accept(bench, bench.source, yes: true).ending == .exit(0))
            if agent == nil { try await bench.saveOnce() }
            let isTrue = try await eventually { try names(bench) == ["dir", "dir/3"] }
            #expect(isTrue)
            if let agent {
                try await bench.expectInSync(agent)
                try await bench.stop(agent)
            }
            #expect(try read(bench.backup.appending("dir/3")) == Array("of the new one\n".utf8))
            #expect(try read(bench.backup.appending("dir/4")) == Array("content 4\n".utf8), "a copy is gone")
            let inode = try Descriptor.open(bench.source, O_RDONLY).status().fingerprint.inode
            #expect(try rootInode(bench) == Int64(bitPattern: inode))
            let sentinel = String(
                decoding: try read(bench.backup.appending(".safebackup/destination.json")), as: UTF8.self)
            #expect(sentinel.contains("\"inode\" : \(inode)"), "\(sentinel)")
            // The former one is the stranger now.
            try command(["mv", bench.source, bench.root.appending("later")])
            try command(["mv", bench.root.appending("former"), bench.source])
            #expect(try await bench.once().ending == .exit(4))
        }

        @Test("Who accepts another root has not accepted that it is emptied, unless it was empty when shown")
        func replacedThenEmptied() async throws {
            let bench = try await benchWithReplacedSource()
            let before = try names(bench)
            #expect(try await accept(bench, bench.source, yes: true).ending == .exit(0))
            try command(["rm", "-r", bench.at("dir")])
            #expect(try await bench.once().ending == .exit(4))
            #expect(try names(bench) == before)
            #expect(try await accept(bench, bench.source, yes: true).ending == .exit(0))
            try await bench.saveOnce()
            #expect(try names(bench).isEmpty)

            try files(bench)
            try await bench.saveOnce()
            try command(["mv", bench.source, bench.root.appending("later")])
            try bench.makeDirectory(bench.source)
            #expect(try await accept(bench, bench.source, yes: true).ending == .exit(0))
            try await bench.saveOnce()
            #expect(try names(bench).isEmpty)
        }

        @Test("A wiped destination is begun anew when that was accepted, and everything is saved again")
        func wiped() async throws {
            let bench = try Bench()
            try files(bench)
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command(["mv", bench.backup, bench.root.appending("former")])
            try bench.makeDirectory(bench.backup)
            let isHeld = try await eventually {
                try await bench.status().destinations.first?.held?.reason == "sentinelMissing"
            }
            #expect(isHeld, "\(agent.errorTail)")
            let preview = try await accept(bench, bench.backup, yes: false)
            #expect(preview.ending == .exit(4))
            #expect(preview.outputText.contains("NOT mounted"), "\(preview.outputText)")
            #expect(preview.outputText.contains("12 files"), "\(preview.outputText)")
            let accepted = try await accept(bench, bench.backup, yes: true)
            #expect(accepted.ending == .exit(0), "\(accepted.errorTail)")
            try await bench.expectInSync(agent)
            let state = try StateFile(copying: bench.state)
            #expect(try state.rows("SELECT count(*) FROM name WHERE end_reason = 'lost'").first?.first?.integer == 13)
            #expect(try state.rows("SELECT 1 FROM tally WHERE files <> 12 OR pending + leased + stuck > 0").isEmpty)
            try await bench.stop(agent)
            try bench.expectSaved()
            // The former one is another destination now, and is not taken over.
            try command(["mv", bench.backup, bench.root.appending("later")])
            try command(["mv", bench.root.appending("former"), bench.backup])
            let foreign = try await accept(bench, bench.backup, yes: true)
            #expect(foreign.ending == .exit(4))
            #expect(foreign.outputText.contains("never taken over"), "\(foreign.outputText)")
            #expect(try await bench.once().ending == .exit(4))
        }

        @Test("What is shown, and what an answer is for, is the same while the disk fills up", .needsLoopDevice)
        func busyDisk() async throws {
            let bench = try Bench()
            try files(bench)
            let disk = try bench.makeDisk("disk", mebibytes: 64)
            bench.backup = disk.mountPoint.appending("backup")
            try await bench.saveOnce()
            try command(["mv", bench.backup, bench.root.appending("former")])
            try bench.makeDirectory(bench.backup)
            let first = try await accept(bench, bench.backup, yes: false)
            #expect(
                first.ending == .exit(4) && first.outputText.contains("an empty directory, ext of "),
                "\(first.outputText)")
            try bench.write(disk.mountPoint.appending("other"), [UInt8](repeating: 1, count: 32 << 20))
            #expect(try await accept(bench, bench.backup, yes: false).outputText == first.outputText)
        }

        @Test(
            "A crash while a destination is accepted is finished, or asked again", .needsFaults,
            arguments: ["accepting", "accepted"])
        func crash(step: String) async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            // What is left without its mark is taken over, not stored again.
            try command(["rm", "-r", bench.backup.appending(".safebackup")])
            #expect(try await bench.once().ending == .exit(4))
            let before = try Descriptor.open(bench.backup.appending("dir"), O_RDONLY).status(of: Array("3".utf8))
            let killed = try await bench.run(
                ["accept", bench.backup, "--state", bench.state, "--yes"],
                environment: ["SAFEBACKUP_FAULT": "kill=\(step)"])
            #expect(killed.ending == .signal(SIGKILL))
            let next = try await bench.once()
            #expect(next.ending == .exit(step == "accepted" ? 0 : 4), "\(next.errorTail)")
            if step == "accepting" {
                #expect(try await accept(bench, bench.backup, yes: true).ending == .exit(0))
                try await bench.saveOnce()
            }
            try bench.expectSaved()
            let after = try Descriptor.open(bench.backup.appending("dir"), O_RDONLY).status(of: Array("3".utf8))
            #expect(after.fingerprint.inode == before.fingerprint.inode, "an identical file was stored again")
        }

        @Test("Nothing to accept is told as such, and a name that is unknown is a mistake of usage")
        func nothing() async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            #expect(try await accept(bench, bench.source, yes: true).ending == .exit(0))
            #expect(try await accept(bench, bench.backup, yes: true).ending == .exit(0))
            #expect(try await accept(bench, bench.root, yes: true).ending == .exit(2))
            try command(["mv", bench.backup, bench.root.appending("away")])
            #expect(try await accept(bench, bench.backup, yes: true).ending == .exit(4))
        }

        @Test(
            "A pause outlives a restart: changes wait, status says so, and resume saves them", arguments: [true, false])
        func pause(isSource: Bool) async throws {
            let bench = try Bench()
            bench.options = ["--idle-milliseconds", "200"]
            let side = isSource ? bench.source : bench.backup
            try files(bench)
            var agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let paused = try await bench.run(["pause", side, "--state", bench.state])
            #expect(paused.ending == .exit(0), "\(paused.errorTail)")
            #expect(try await bench.run(["status", "--state", bench.state]).ending == .exit(0), "nothing waits yet")
            try bench.write("dir/3", "while it is paused\n")
            let isQueued = try await eventually { try waits("dir/3", bench) }
            #expect(isQueued, "watching does not go on:\n\(agent.errorTail)")
            try await bench.stop(agent)
            agent = try await bench.startAgent()
            try bench.write("dir/4", "after the restart\n")
            let isStillQueued = try await eventually { try waits("dir/4", bench) && waits("dir/3", bench) }
            #expect(isStillQueued, "\(agent.errorTail)")
            let status = try await bench.run(["status", "--state", bench.state])
            #expect(status.ending == .exit(3))
            #expect(status.outputText.contains("PAUSED"), "\(status.outputText)")
            #expect(try read(bench.backup.appending("dir/3")) == Array("content 3\n".utf8))
            let view = try StateFile(copying: bench.state).rows("SELECT state FROM v_status").first?.first?.text
            #expect(view?.contains("paused since") == true, "\(view ?? "")")
            #expect(try await bench.run(["resume", "--state", bench.state]).ending == .exit(0))
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
        }

        @Test("A run with --once of what is paused ends, and says that changes wait")
        func pausedOnce() async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            #expect(try await bench.run(["pause", "--state", bench.state]).ending == .exit(0))
            try bench.write("dir/3", "changed\n")
            let waiting = try await bench.once()
            #expect(waiting.ending == .exit(3), "\(waiting.errorTail)")
            #expect(waiting.errorText.contains("paused"), "\(waiting.errorTail)")
            #expect(try await bench.run(["resume", bench.source, "--state", bench.state]).ending == .exit(0))
            #expect(try await bench.run(["resume", bench.backup, "--state", bench.state]).ending == .exit(0))
            try await bench.saveOnce()
            try bench.expectSaved()
        }

        @Test("retry of a path that has nothing to retry says so, with and without an agent")
        func retryNothing() async throws {
            let bench = try Bench()
            try files(bench)
            try await bench.saveOnce()
            let arguments: [FilePath] = ["retry", bench.at("dir/3"), "--state", bench.state]
            let alone = try await bench.run(arguments)
            #expect(alone.ending == .exit(3))
            #expect(alone.errorText.contains("dir/3"), "\(alone.errorText)")
            #expect(try await bench.run(["retry", "--state", bench.state]).ending == .exit(0))
            let agent = try await bench.startAgent()
            let beside = try await bench.run(arguments)
            #expect(beside.ending == .exit(3))
            #expect(beside.errorText.contains("dir/3"), "\(beside.errorText)")
            try await bench.stop(agent)
        }
    }
}
