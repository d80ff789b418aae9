import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Verify")
    struct Verify {
        private struct Report: Decodable {
            struct Damage: Decodable {
                var path: String?
                var fault: String
                var outcome: String
                var newestGood: String?
                var sameContent: String?
            }
            var copies: Int
            var damaged: Int
            var storedAgain: Int
            var lost: Int
            var soundAgain: Int
            var unverified: Int
            var damages: [Damage]
        }

        private func verify(
            _ bench: Bench, _ more: [FilePath] = [], expecting code: Int32
        ) async throws -> Report {
            let program = try await bench.run(["verify", "--json", "--state", bench.state] + more)
            try #require(program.ending == .exit(code), "\(program.outputText)\n\(program.errorTail)")
            return try JSONDecoder().decode(Report.self, from: Data(program.outputText.utf8))
        }

        @Test(
            "A damaged and a missing copy are found, marked, and saved again from the source",
            .timeLimit(.minutes(2)), arguments: [true, false])
        func damaged(besideAgent: Bool) async throws {
            let bench = try Bench()
            for number in 0..<20 { try bench.write("d/\(number)", "content of \(number)\n") }
            try command(["ln", "-s", "d/1", bench.at("link")])
            try bench.write(bench.source.appending(bytes: [0x64, 0x2F, 0xFF]), Array("odd".utf8))
            try await bench.saveOnce()
            let agent = besideAgent ? try await bench.startAgent() : nil
            let whole = try await verify(bench, expecting: 0)
            #expect(whole.copies == 22 && whole.damaged == 0)

            try bench.flip("d/3")
            try command(["rm", bench.backup.appending("d/4")])
            try command(["rm", bench.backup.appending("link")])
            let report = try await verify(bench, expecting: 3)
            #expect(
                report.damages.map { "\($0.path ?? "-") \($0.fault) \($0.outcome)" }.sorted() == [
                    "d/3 content storedAgain", "d/4 missing storedAgain", "link missing storedAgain",
                ])
            #expect(report.copies == 22 && report.storedAgain == 3 && report.lost == 0)
            if let agent {
                try await bench.expectInSync(agent)
                try await bench.stop(agent)
            } else {
                try await bench.saveOnce()
            }
            #expect(try bench.differences().isEmpty)
            #expect(try await verify(bench, ["d/3", "d/4", "link"], expecting: 0).damaged == 0)
        }

        @Test("What the source has no more is lost, and the newest good version is named", .timeLimit(.minutes(1)))
        func lost() async throws {
            let bench = try Bench()
            try bench.write("f", "first\n")
            try bench.write("gone", "gone\n")
            try await bench.saveOnce()
            try bench.write("f", "second, longer\n")
            try command(["rm", bench.at("gone")])
            try await bench.saveOnce()
            try bench.flip("gone")
            try bench.flip("f")
            try bench.write("f", "third, longer still\n")

            let report = try await verify(bench, expecting: 3)
            #expect(report.lost == 2 && report.storedAgain == 0)
            let changed = try #require(report.damages.first { $0.path == "f" })
            #expect(changed.outcome == "replaced")
            #expect(changed.newestGood?.contains("versions/f@") == true)
            let gone = try #require(report.damages.first { $0.path == "gone" })
            #expect(gone.outcome == "lost" && gone.newestGood == nil)
            // It is told again as long as it is so, and no more when it has its content again.
            try bench.flip("gone")
            let mended = try await verify(bench, ["gone"], expecting: 0)
            #expect(mended.soundAgain == 1)
            try await bench.saveOnce()
            #expect(try read(bench.backup.appending("f")) == Array("third, longer still\n".utf8))
        }

        @Test(
            "Two copies that somebody exchanged are both saved again, and their history goes on",
            .timeLimit(.minutes(1)))
        func exchanged() async throws {
            let bench = try Bench()
            for name in ["a", "b"] { try bench.write(name, "content of \(name)\n") }
            try command(["touch", "-d", "2020-01-02 03:04:05", bench.at("a"), bench.at("b")])
            try await bench.saveOnce()
            try command([
                "sh", "-c", #"cd "$0" && mv a ../t && mv b a && mv ../t b"#, bench.backup,
            ])
            let report = try await verify(bench, expecting: 3)
            #expect(report.storedAgain == 2 && report.lost == 0)
            try await bench.saveOnce()
            #expect(try bench.differences().isEmpty)
            #expect(try await verify(bench, expecting: 0).damaged == 0)
            let rows = try StateFile(copying: bench.state).rows("SELECT path, reason FROM v_history ORDER BY path")
            #expect(rows.map { $0.map(\.text) } == [["a", ""], ["b", ""]])
        }

        @Test("Of what is lost it is said where the same content lies", .timeLimit(.minutes(1)))
        func elsewhere() async throws {
            let bench = try Bench()
            for name in ["one", "same"] { try bench.write(name, "the same content\n") }
            try await bench.saveOnce()
            try command(["rm", bench.at("one")])
            try await bench.saveOnce()
            try bench.flip("one")
            let report = try await verify(bench, expecting: 3)
            #expect(report.damages.map(\.sameContent) == ["same"] && report.lost == 1)
            let told = try await bench.run(["verify", "--state", bench.state])
            #expect(told.outputText.contains("the same content is stored as same"), "\(told.outputText)")
        }

        @Test("A rolling share goes on where the last one ended, until all was read", .timeLimit(.minutes(1)))
        func share() async throws {
            let bench = try Bench()
            for number in 0..<10 { try bench.write("\(number)", "content of \(number)\n") }
            try await bench.saveOnce()
            try bench.flip("7")
            // Before the damage is found it is not marked, and nothing is saved again.
            var (read, found) = (0, 0)
            for _ in 0..<4 {
                let program = try await bench.run(["verify", "--share", "25%", "--json", "--state", bench.state])
                let report = try JSONDecoder().decode(Report.self, from: Data(program.outputText.utf8))
                #expect((2...3).contains(report.copies))
                read += report.copies
                found += report.damaged
            }
            #expect((10...12).contains(read))
            #expect(found >= 1)
        }

        @Test(
            "A path that the backup has not is no success: exit code 3, and that nothing was read",
            .timeLimit(.minutes(2)))
        func unknown() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            let program = try await bench.run(["verify", "fiel", "--state", bench.state])
            #expect(program.ending == .exit(3))
            #expect((program.outputText + program.errorText).contains("nothing was read"), "\(program.outputText)")
            #expect(try await bench.run(["verify", "file", "--state", bench.state]).ending == .exit(0))
        }

        @Test("Of a destination that is not there nothing is called missing", .timeLimit(.minutes(1)))
        func away() async throws {
            let bench = try Bench()
            try bench.write("f", "first\n")
            try await bench.saveOnce()
            let elsewhere = bench.root.appending("elsewhere")
            try command(["mv", bench.backup, elsewhere])
            try bench.makeDirectory(bench.backup)
            let program = try await bench.run(["verify", "--state", bench.state])
            #expect(program.ending == .exit(4), "\(program.outputText)")
            try command(["rmdir", bench.backup])
            try command(["mv", elsewhere, bench.backup])
            #expect(try await verify(bench, expecting: 0).copies == 1)
        }

        private struct Told: Decodable {
            struct Destination: Decodable {
                struct Verified: Decodable {
                    var sourcePath: String
                    var at: String?
                    var scope: String?
                    var share: Double?
                    var copies: Int
                    var damaged: Int
                    var missing: Int
                    var allAt: String?
                    var failedAt: String?
                    var failure: String?

                    var text: String {
                        "\(FilePath(sourcePath).lastComponent?.string ?? "") \(scope ?? "-") \(copies) \(damaged) \(missing)"
                    }
                }
                var location: String
                var verified: [Verified]
            }
            var destinations: [Destination]
        }

        /// What `status` says of the verifications at the first destination, in JSON and in text.
        private func told(_ bench: Bench) async throws -> (all: [Told.Destination.Verified], text: String) {
            let program = try await bench.run(["status", "--json", "--state", bench.state])
            let told = try JSONDecoder().decode(Told.self, from: Data(program.outputText.utf8))
            let text = try await bench.run(["status", "--state", bench.state]).outputText
            return (try #require(told.destinations.first).verified, text)
        }

        @Test(
            "Status tells when each source was last verified and what was found, and what was broken off",
            .timeLimit(.minutes(1)))
        func status() async throws {
            let bench = try Bench()
            for number in 0..<8 { try bench.write("\(number)", "content of \(number)\n") }
            try await bench.saveOnce()
            var status = try await told(bench)
            #expect(status.all.isEmpty && status.text.contains("verified      never; 'safebackup verify'"))
            // Of single paths nothing is noted: they are not the whole.
            _ = try await verify(bench, ["3"], expecting: 0)
            #expect(try await told(bench).all.isEmpty)

            try bench.flip("3")
            try command(["rm", bench.backup.appending("4"), bench.backup.appending("5")])
            _ = try await verify(bench, expecting: 3)
            status = try await told(bench)
            #expect(status.all.map(\.text) == ["source all 8 1 2"] && status.all[0].allAt == status.all[0].at)
            #expect(status.text.contains(", all: 8 copies (65 B), 1 DAMAGED, 2 MISSING\n"), "\(status.text)")

            // What is broken off does not pass for the last one, nor the last one for it.
            let elsewhere = bench.root.appending("elsewhere")
            try command(["mv", bench.backup, elsewhere])
            #expect(try await bench.run(["verify", "--state", bench.state]).ending == .exit(4))
            status = try await told(bench)
            #expect(status.all.map(\.text) == ["source all 8 1 2"] && status.all[0].failedAt != nil)
            #expect(status.text.contains("NOT VERIFIED") && status.all[0].failure?.contains("mount its disk") == true)
            try command(["mv", elsewhere, bench.backup])
            try await bench.saveOnce()
            // What was stored again is not called damaged until the next verification.
            #expect(try await told(bench).text.contains("1 damaged, 2 missing (saved again since)\n"))

            _ = try await verify(bench, ["--share", "25%"], expecting: 0)
            status = try await told(bench)
            #expect(status.all.map(\.text) == ["source share 2 0 0"] && status.all[0].share == 25)
            #expect(status.all[0].failedAt == nil && status.all[0].allAt != nil)
            #expect(status.text.contains("a share of 25 %: 2 copies (26 B), none damaged; all at once: 2"))
            let row = try StateFile(copying: bench.state).rows(
                "SELECT verified IS NOT NULL, verified_scope, verified_copies, verified_missing FROM v_status")[0]
            #expect(row[0].integer == 1 && row[1].text == "share" && row[2].integer == 2 && row[3].integer == 0)
        }

        @Test("Of sources that share a destination each has its own result", .timeLimit(.minutes(1)))
        func shared() async throws {
            let bench = try Bench()
            let file = bench.root.appending("agent.conf")
            var text = "[destination \"d\"]\npath = \(bench.backup)\n"
            for (name, count) in [("one", 3), ("two", 5)] {
                let source = bench.root.appending(name)
                try bench.makeDirectory(source)
                for number in 0..<count { try bench.write(source.appending("\(number)"), Array("x\(number)".utf8)) }
                text += "[source \"\(name)\"]\npath = \(source)\nprefix = \(name)\ndestination = d\n"
            }
            try bench.write(file, Array(text.utf8))
            let run = try await bench.run(["run", "--config", file, "--state", bench.state, "--once"])
            try #require(run.ending == .exit(0), "\(run.errorTail)")
            try bench.flip("two/1")
            _ = try await verify(bench, expecting: 3)
            let status = try await told(bench)
            #expect(status.all.map(\.text).sorted() == ["one all 3 0 0", "two all 5 1 0"])
            #expect(status.text.contains("/one: 2") && status.text.contains("/two: 2"), "\(status.text)")
        }

        @Test(
            "What is not configured any more is verified too, never saved again, and left out with a word if it is away",
            .timeLimit(.minutes(1)))
        func notConfigured() async throws {
            let bench = try Bench()
            for number in 0..<3 { try bench.write("\(number)", "content of \(number)\n") }
            try await bench.saveOnce()
            let former = bench.backup
            bench.backup = bench.root.appending("new-backup")
            try await bench.saveOnce()
            #expect(try await verify(bench, expecting: 0).copies == 6)

            try command(["rm", former.appending("1")])
            let report = try await verify(bench, expecting: 3)
            #expect(report.damages.map { "\($0.path ?? "-") \($0.fault) \($0.outcome)" } == ["1 missing inactive"])
            #expect(try StateFile(copying: bench.state).jobCounts().isEmpty, "nobody would ever do it")
            let text = try await bench.run(["verify", "--state", bench.state])
            #expect(text.outputText.contains("its source is not saved there any more"), "\(text.outputText)")

            try command(["mv", former, bench.root.appending("away")])
            let away = try await bench.run(["verify", "--state", bench.state])
            #expect(away.ending == .exit(0), "\(away.outputText)")
            #expect(away.outputText.contains("Nothing is saved there any more, and it was left out: "))
            #expect(away.outputText.contains("3 copies read"))
        }

        @Test(
            "Beside an agent that replaces files all the time nothing sound is called damaged", .timeLimit(.minutes(2)))
        func busy() async throws {
            let bench = try Bench()
            for number in 0..<40 { try bench.write("d/\(number)", "0\n") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let source = bench.source
            let stop = Locked(false)
            let writer = Task.detached {
                var round = 0
                while !stop.withLock({ $0 }) {
                    round += 1
                    for number in 0..<40 {
                        let file = try Descriptor.open(source.appending("d/\(number)"), O_WRONLY | O_TRUNC)
                        try file.write(Array("round \(round) of \(number)\n".utf8), at: 0)
                    }
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
            for _ in 0..<4 {
                let program = try await bench.run(["verify", "--json", "--state", bench.state])
                let report = try JSONDecoder().decode(Report.self, from: Data(program.outputText.utf8))
                #expect(report.damaged == 0, "\(program.outputText)")
            }
            stop.withLock { $0 = true }
            try await writer.value
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            #expect(try await verify(bench, expecting: 0).damaged == 0)
        }
    }
}
