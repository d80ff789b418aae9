import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Verify from the destination alone")
    struct BareVerify {
        private struct Report: Decodable {
            struct Damage: Decodable {
                var path: String?
                var fault: String
                var outcome: String
                var newestGood: String?
            }
            var copies: Int
            var damaged: Int
            var unverified: Int
            var notKnown: Int
            var notKnownNames: [String]
            var catalogueFrom: String
            var reasons: [String]
            var failures: [String]
            var damages: [Damage]
        }

        /// What lies in the backup, with all that a write would change.
        private func trace(_ bench: Bench) throws -> String {
            try command([
                "sh", "-c", #"cd "$0" && find . -printf '%p %i %m %s %T@ %C@\n' | LC_ALL=C sort"#, bench.backup,
            ])
        }

        private func verify(_ bench: Bench, _ more: [FilePath] = [], expecting code: Int32) async throws -> Report {
            let before = try trace(bench)
            let none = bench.root.appending("no-state")
            let program = try await bench.run(["verify", "--json", "--from", bench.backup, "--state", none] + more)
            try #require(program.ending == .exit(code), "\(program.outputText)\n\(program.errorTail)")
            #expect(try trace(bench) == before, "nothing is written")
            #expect(access(none.string, F_OK) != 0)
            return try JSONDecoder().decode(Report.self, from: Data(program.outputText.utf8))
        }

        /// 12 copies: a link, an odd name, a version, a tombstone, and files.
        private func saved() async throws -> Bench {
            let bench = try Bench()
            for number in 0..<7 { try bench.write("d/\(number)", "content of \(number)\n") }
            try command(["ln", "-s", "d/1", bench.at("link")])
            try bench.write(bench.source.appending(bytes: [0x64, 0x2F, 0xFF]), Array("odd".utf8))
            try bench.write("f", "first\n")
            try bench.write("gone", "gone\n")
            try await bench.saveOnce()
            try bench.write("f", "second, longer\n")
            try command(["rm", bench.at("gone")])
            try await bench.saveOnce()
            return bench
        }

        @Test("Every current copy, tombstone and version is compared, and nothing is written", .timeLimit(.minutes(1)))
        func whole() async throws {
            let bench = try await saved()
            let report = try await verify(bench, expecting: 0)
            #expect(report.copies == 12 && report.damaged == 0 && report.notKnown == 0)
            let part = try await verify(bench, ["d", "f"], expecting: 0)
            #expect(part.copies == 10, "the files of the directory, and both states of the file")
            #expect(try await verify(bench, ["nothing-like-it"], expecting: 3).copies == 0)
        }

        @Test(
            "What is damaged or missing is named, with the newest good version; also on a disk that it was copied to",
            .timeLimit(.minutes(1)), arguments: [false, true])
        func damaged(isCopied: Bool) async throws {
            let bench = try await saved()
            if isCopied {
                try command(["cp", "-a", bench.backup, bench.root.appending("other")])
                bench.backup = bench.root.appending("other")
            }
            try bench.flip("d/3")
            try bench.flip("f")
            try bench.flip("gone")
            try command(["rm", bench.backup.appending("d/4")])
            try command(["rm", bench.backup.appending("link")])
            let report = try await verify(bench, expecting: 3)
            #expect(
                report.damages.map { "\($0.path ?? "-") \($0.fault) \($0.outcome)" }.sorted() == [
                    "d/3 content notAsked", "d/4 missing notAsked", "f content notAsked", "gone content notAsked",
                    "link missing notAsked",
                ])
            #expect(report.copies == 12 && report.damaged == 5 && report.unverified == 0 && report.notKnown == 0)
            #expect(report.damages.first { $0.path == "f" }?.newestGood?.contains("versions/f@") == true)
            let told = try await bench.run(["verify", "--from", bench.backup])
            #expect(told.outputText.contains("d/3: the stored copy d/3 has not the content that was saved"))
            #expect(told.outputText.contains("renamed or removed after the catalogue copy was written, or is lost"))
        }

        @Test(
            "What came after the catalogue copy is not known, and what it moved is found; nothing of it is damaged",
            .timeLimit(.minutes(1)))
        func older() async throws {
            let bench = try await saved()
            let (catalogue, kept) = (bench.backup.appending(".safebackup/catalogue"), bench.root.appending("kept"))
            try command(["cp", "-a", catalogue, kept])
            try bench.write("d/0", "another content\n")
            try bench.write("new", "new\n")
            try command(["mv", bench.at("d/1"), bench.at("d/renamed")])
            try command(["mv", bench.at("d/5"), bench.at("d/6")])
            try await bench.saveOnce()
            try command(["rm", "-r", catalogue])
            try command(["mv", kept, catalogue])
            let report = try await verify(bench, expecting: 0)
            #expect(report.copies == 12 && report.damaged == 0 && report.unverified == 0)
            #expect(report.notKnownNames == ["new"] && report.notKnown == 1)
            // Of one that was replaced since, and whose older state is not among the versions, nothing can be said.
            let versions = bench.backup.appending(".safebackup/versions")
            try command(["sh", "-c", #"rm "$0"/d/0@*"#, versions])
            let unclear = try await verify(bench, expecting: 3)
            #expect(unclear.damaged == 0 && unclear.unverified == 1)
            #expect(unclear.reasons.first?.hasPrefix("d/0 was replaced after the catalogue copy was written") == true)
            // And a path alone finds what moved to elsewhere.
            #expect(try await verify(bench, ["d/1"], expecting: 0).copies == 1)
        }

        @Test(
            "A file that somebody put there is not known, and one that somebody wrote over is not compared",
            .timeLimit(.minutes(1)))
        func foreign() async throws {
            let bench = try await saved()
            try bench.write(bench.backup.appending("mine"), Array("mine\n".utf8))
            try bench.write(bench.backup.appending("d/own/mine"), Array("mine\n".utf8))
            let report = try await verify(bench, expecting: 0)
            #expect(report.notKnown == 2 && report.damaged == 0 && report.copies == 12)
            #expect(report.notKnownNames.sorted() == ["d/own/mine", "mine"])
            #expect(try await verify(bench, ["d/own"], expecting: 0).notKnown == 1)
            try bench.write(bench.backup.appending("d/2"), Array("written over\n".utf8))
            let over = try await verify(bench, expecting: 3)
            #expect(over.unverified == 1 && over.damaged == 0)
        }

        @Test(
            "A damaged catalogue copy is told, and the other one used; without any nothing is compared",
            .timeLimit(.minutes(1)))
        func catalogue() async throws {
            let bench = try await saved()
            let folder = bench.backup.appending(".safebackup/catalogue")
            let newest = try command(["sh", "-c", #"cd "$0" && ls -t *.db | head -1 | tr -d '\n'"#, folder])
            try #require(try command(["ls", folder]).split(separator: "\n").count == 2)
            // In the middle of its pages, past the header that tells what it is.
            try Descriptor.open(folder.appending(newest), O_WRONLY).write(
                [UInt8](repeating: 0x5A, count: 12_000), at: 4_096)
            let report = try await verify(bench, expecting: 3)
            #expect(report.failures.count == 1 && report.failures[0].contains("is not used"), "\(report.failures)")
            #expect(report.damaged == 0 && report.copies > 0)
            try command(["sh", "-c", #"rm "$0"/*.db"#, folder])
            let none = try await bench.run(["verify", "--from", bench.backup])
            #expect(none.ending == .exit(2) && none.errorText.contains("no catalogue copy"), "\(none.errorText)")
        }

        @Test(
            "A backup without its sentinel is read, and that is told; one that is not there is exit code 4",
            .timeLimit(.minutes(1)))
        func place() async throws {
            let bench = try await saved()
            let mark = bench.backup.appending(".safebackup/destination.json")
            try command(["cp", mark, bench.root.appending("mark.json")])
            try bench.write(mark, Array("{".utf8))
            #expect(try await verify(bench, expecting: 3).failures.count == 1)
            try command(["rm", mark])
            let bare = try await verify(bench, expecting: 3)
            #expect(bare.copies == 12 && bare.damaged == 0 && bare.failures[0].contains("has no .safebackup"))
            let away = try await bench.run(["verify", "--from", bench.root.appending("nowhere")])
            #expect(away.ending == .exit(4), "\(away.errorText)")
            let share = try await bench.run(["verify", "--from", bench.backup, "--share", "5%"])
            #expect(share.ending == .exit(2), "\(share.errorText)")
        }
    }
}
