import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Prune")
    struct Prune {
        /// A file with an older version in a directory, a deleted one, and one in a directory that was deleted with it.
        private func prepare() async throws -> Bench {
            let bench = try Bench()
            try bench.write("d/f", "first\n")
            try bench.write("deleted", "deleted\n")
            try bench.write("gone/with/it", "gone\n")
            try bench.write("calm", "calm\n")
            try await bench.saveOnce()
            try bench.write("d/f", "second, longer\n")
            try command(["rm", "-r", bench.at("deleted"), bench.at("gone")])
            try await bench.saveOnce()
            return bench
        }

        private func prune(
            _ bench: Bench, _ more: [FilePath], fault: String? = nil
        ) async throws -> Program {
            try await bench.run(
                ["prune", "--state", bench.state] + more, environment: fault.map { ["SAFEBACKUP_FAULT": $0] } ?? [:])
        }

        /// Files in the backup, with those below `versions`.
        private func files(_ bench: Bench) throws -> [String] {
            try command(["find", bench.backup, "-type", "f", "-printf", "%P\n"]).split(separator: "\n").map(String.init)
                .filter { !$0.contains("destination.json") && !$0.contains("/catalogue/") && !$0.hasSuffix("/lock") }
                .map { $0.contains("@") ? String($0.prefix { $0 != "@" }) : $0 }.sorted()
        }

        private func expectWhole(_ bench: Bench) throws {
            try bench.expectCatalogueIsTrue()
            let state = try StateFile(copying: bench.state)
            #expect(try state.rows("SELECT 1 FROM copy WHERE removing IS NOT NULL").isEmpty)
            let known = try state.rows("SELECT count(*) FROM copy")[0][0].integer
            #expect(Int(known) == (try files(bench)).count, "each file has its row")
        }

        @Test(
            "On a terminal it asks; where nobody agrees nothing goes, which the exit code tells",
            arguments: ["n", "", "y"])
        func asked(_ answer: String) async throws {
            let bench = try await prepare()
            let before = try files(bench)
            let words = ["prune", "--state", bench.state.string, "--keep-last", "1"].joined(separator: " ")
            let script = "printf '\(answer)\\n' | script -qec \"'\(Bench.program)' \(words)\" /dev/null"
            let program = try Program(
                ["bash", "-c", FilePath(script)], output: bench.root.appending("out"),
                errors: bench.root.appending("err"))
            try await program.wait(within: .seconds(60))
            #expect(program.ending == .exit(answer == "y" ? 0 : 1), "\(program.outputText)")
            #expect((try files(bench) == before) == (answer != "y"))
            #expect(program.outputText.contains("as you did not agree") == (answer != "y"))
        }

        @Test("A version stays when what is newer is not in the destination, though the catalogue thinks so")
        func looksAtTheKept() async throws {
            let bench = try await prepare()
            try command(["rm", bench.at("d/f")])
            try await bench.saveOnce()
            try command(["rm", bench.backup.appending("d/f")])
            let program = try await prune(bench, ["--keep-last", "1", "--yes"])
            #expect(program.ending == .exit(3), "\(program.outputText)\(program.errorText)")
            #expect(try files(bench).contains(".safebackup/versions/d/f"))
        }

        @Test(
            "A removal that a crash broke off is done only if what is newer is still there",
            .needsFaults, .timeLimit(.minutes(1)))
        func looksAfterACrash() async throws {
            let bench = try await prepare()
            let program = try await prune(bench, ["--keep-last", "1", "--yes"], fault: "kill=removing")
            #expect(program.ending == .signal(SIGKILL), "\(program.errorTail)")
            try command(["rm", bench.at("d/f"), bench.backup.appending("d/f")])
            _ = try await bench.once()
            #expect(try files(bench).contains(".safebackup/versions/d/f"))
        }

        @Test("Without --yes nothing goes, and it is told what would", .timeLimit(.minutes(1)))
        func dryRun() async throws {
            let bench = try await prepare()
            let before = try files(bench)
            for more: [FilePath] in [["--dry-run"], ["--json"], []] {
                let program = try await prune(bench, ["--keep-last", "1"] + more)
                // Who was not asked only for a list, and could not be asked, is told that nothing was done.
                #expect(program.ending == .exit(more.isEmpty ? 2 : 0), "\(program.errorTail)")
                #expect(program.errorText.contains("with --yes it is removed") == more.isEmpty)
                #expect(program.outputText.contains("versions/d/f@"), "\(program.outputText)")
            }
            #expect(try await prune(bench, ["--keep-last", "5"]).ending == .exit(0), "there is nothing to ask for")
            #expect(try files(bench) == before)
            for wrong: [FilePath] in [
                [], ["--keep-last", "0"], ["--keep-within", "soon"], ["--keep-last", "1", "-n", "--yes"],
            ] {
                #expect(try await prune(bench, wrong).ending == .exit(2))
            }
        }

        @Test(
            "Older states go by the policy, deleted paths with their directories by theirs, and the rest stays",
            .timeLimit(.minutes(2)), arguments: [true, false])
        func removes(besideAgent: Bool) async throws {
            let bench = try await prepare()
            bench.options = ["--exclude", "nothing"]
            let agent = besideAgent ? try await bench.startAgent() : nil
            #expect(try files(bench) == [".safebackup/versions/d/f", "calm", "d/f", "deleted", "gone/with/it"])
            #expect(try await prune(bench, ["d", "--keep-last", "1", "--yes"]).ending == .exit(0))
            #expect(try files(bench) == ["calm", "d/f", "deleted", "gone/with/it"])
            let isLongAgo = try await eventually {
                try await self.prune(bench, ["--keep-deleted", "1s", "-n"]).outputText.contains("2 older states would")
            }
            #expect(isLongAgo)
            let program = try await prune(bench, ["--keep-deleted", "1s", "--yes"])
            #expect(program.ending == .exit(0), "\(program.outputText)\(program.errorTail)")
            if let agent {
                try await bench.stop(agent)
            } else {
                try await bench.saveOnce()
            }
            #expect(try files(bench) == ["calm", "d/f"])
            #expect(access(bench.backup.appending("gone").string, F_OK) != 0, "its directories are empty, and gone")
            try expectWhole(bench)
            let rows = try StateFile(copying: bench.state).rows("SELECT path, reason FROM v_cleaned ORDER BY path")
            #expect(
                rows.map { "\($0[0].text) \($0[1].text)" } == [
                    "d/f prune: keep-last=1", "deleted prune: keep-deleted=1.0 s",
                    "gone/with/it prune: keep-deleted=1.0 s",
                ])
            // A look back tells that it was there.
            let listing = try await bench.run(["versions", "deleted", "--state", bench.state])
            #expect(listing.outputText.contains("not in the backup any more"), "\(listing.outputText)")
            let why = try await bench.run(["why", "deleted", "--state", bench.state])
            #expect(why.ending == .exit(3))
            #expect(why.outputText.contains("as somebody asked by 'safebackup prune'"), "\(why.outputText)")
            #expect(why.outputText.contains("(reason 'prune: keep-deleted=1.0 s' in v_cleaned)"), "\(why.outputText)")
        }

        @Test(
            "A crash at any step of a removal is finished, or forgotten, by the next start", .needsFaults,
            .timeLimit(.minutes(2)), arguments: ["pruning", "removing", "removed"])
        func crash(step: String) async throws {
            let bench = try await prepare()
            let isLongAgo = try await eventually {
                try await self.prune(bench, ["--keep-deleted", "1s", "-n"]).outputText.contains("2 older states would")
            }
            #expect(isLongAgo)
            let killed = try await prune(
                bench, ["--keep-last", "1", "--keep-deleted", "1s", "--yes"], fault: "kill=\(step)")
            #expect(killed.ending == .signal(SIGKILL), "\(String(describing: killed.ending))")
            // The path of one of them comes back before anybody looks again.
            try bench.write("deleted", "back again\n")
            try await bench.saveOnce()
            try expectWhole(bench)
            #expect(try bench.differences().isEmpty)
            #expect(try await prune(bench, ["--keep-last", "1", "--keep-deleted", "1s", "--yes"]).ending == .exit(0))
            #expect(try files(bench) == ["calm", "d/f", "deleted"])
            try expectWhole(bench)
        }

        @Test(
            "What cannot be removed is named and not counted, and keeps nothing else from going",
            .timeLimit(.minutes(2)), arguments: [true, false])
        func removalFails(besideAgent: Bool) async throws {
            let bench = try await prepare()
            for number in 3...5 {
                try bench.write("d/f", "state \(number), of another length \(String(repeating: "x", count: number))\n")
                try await bench.saveOnce()
            }
            let rows = try StateFile(copying: bench.state).rows(
                "SELECT location FROM copy WHERE role = 'kept' ORDER BY 1")
            let versions = rows.map { bench.backup.appending($0[0].text) }
            try #require(!versions.isEmpty)
            // Somebody put a directory in the place of one.
            try command(["rm", versions[0]])
            try command(["mkdir", "-p", versions[0].appending("inside")])
            let agent = besideAgent ? try await bench.startAgent() : nil
            let program = try await prune(bench, ["--keep-last", "1", "--yes"])
            #expect(program.ending == .exit(3), "\(program.outputText)\(program.errorTail)")
            #expect(program.errorText.contains(versions[0].lastComponent?.string ?? "?"), "\(program.errorTail)")
            #expect(program.errorText.contains("1 older state could not be removed"), "\(program.errorTail)")
            let removed = versions.count - 1
            #expect(
                program.outputText.contains("\(removed) older state\(removed == 1 ? "" : "s") removed"),
                "\(program.outputText)")
            #expect(versions.dropFirst().allSatisfy { access($0.string, F_OK) != 0 })
            #expect(access(versions[0].appending("inside").string, F_OK) == 0)
            try command(["rm", "-r", versions[0]])
            #expect(try await prune(bench, ["--keep-last", "1", "--yes"]).ending == .exit(0))
            if let agent { try await bench.stop(agent) }
            try expectWhole(bench)
        }

        @Test("Another file at a deleted path's place is not removed", .timeLimit(.minutes(1)))
        func foreign() async throws {
            let bench = try await prepare()
            try bench.write(bench.backup.appending("deleted"), Array("somebody else's\n".utf8))
            _ = try await eventually {
                try await self.prune(bench, ["--keep-deleted", "1s", "-n"]).outputText.contains("2 older states would")
            }
            #expect(try await prune(bench, ["--keep-deleted", "1s", "--yes"]).ending == .exit(0))
            #expect(try read(bench.backup.appending("deleted")) == Array("somebody else's\n".utf8))
            #expect(try !files(bench).contains("gone/with/it"))
        }
    }
}
