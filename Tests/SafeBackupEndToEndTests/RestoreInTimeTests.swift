import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Back in time")
    struct RestoreInTime {
        /// Now, as the command line takes it; later saves are later.
        private func stamp() -> FilePath { FilePath(WallClock.system.now.compact) }

        private func restore(
            _ bench: Bench, _ paths: [FilePath], at time: FilePath, to name: String, _ more: [FilePath] = []
        ) async throws -> (program: Program, target: FilePath) {
            let target = bench.root.appending(name)
            let program = try await bench.run(
                ["restore"] + paths + ["--at", time, "--to", target, "--state", bench.state] + more)
            return (program, target)
        }

        @Test(
            "A directory comes back as it was: replaced, deleted, renamed and later files alike",
            .timeLimit(.minutes(2)))
        func directory() async throws {
            let bench = try Bench()
            for name in ["changed", "deleted", "renamed", "same", "sub/deep"] {
                try bench.write("d/\(name)", "first \(name)\n")
            }
            try command(["ln", "-s", "first", bench.at("d/link")])
            try bench.write("e/other", "other\n")
            try await bench.saveOnce()
            let then = stamp()
            let before = try Tree(bench.source)

            try bench.write("d/changed", "second\n")
            try command(["rm", bench.at("d/deleted")])
            try command(["mv", bench.at("d/renamed"), bench.at("d/elsewhere")])
            try command(["rm", "-r", bench.at("d/sub")])
            try command(["ln", "-sfn", "second", bench.at("d/link")])
            try bench.write("d/later", "later\n")
            try await bench.saveOnce()

            let (program, target) = try await restore(bench, ["."], at: then, to: "then")
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(before.differences(in: try Tree(target)) == [])
            #expect(program.errorTail.contains("As the backup had it at"))

            // From the destination alone, by its catalogue copy.
            let (bare, bareTarget) = try await restore(bench, ["d"], at: then, to: "bare", ["--from", bench.backup])
            #expect(bare.ending == .exit(0), "\(bare.errorTail)")
            let whole = try Tree(bareTarget)
            #expect(before.differences(in: whole) == ["e is missing", "e/other is missing"])

            let listing = try await bench.run(["ls", "d", "--at", then, "--state", bench.state])
            #expect(listing.ending == .exit(0))
            for name in ["changed", "deleted", "renamed", "link -> first", "sub/"] {
                #expect(listing.outputText.contains(name), "\(listing.outputText)")
            }
            #expect(!listing.outputText.contains("later") && !listing.outputText.contains("elsewhere"))
        }

        @Test("What was replaced too soon to be kept is told as not available, and the rest comes back")
        func notAvailable() async throws {
            let bench = try Bench()
            try bench.write("f", "first\n")
            try bench.write("g", "g\n")
            try await bench.saveOnce()
            try bench.write("f", "second, longer\n")
            try await bench.saveOnce()
            let then = stamp()
            // A version of it was kept a moment ago: this one is not.
            try bench.write("f", "third, longer still\n")
            try await bench.saveOnce()

            let (program, target) = try await restore(bench, ["."], at: then, to: "then")
            #expect(program.ending == .exit(3))
            #expect(program.errorTail.contains("f: what it was from"), "\(program.errorTail)")
            #expect(try read(target.appending("g")) == Array("g\n".utf8))
            #expect(access(target.appending("f").string, F_OK) != 0, "another state is not taken for it")
            let listing = try await bench.run(["ls", "--at", then, "--json", "--state", bench.state])
            let entries = try JSONDecoder().decode(Listing.self, from: Data(listing.outputText.utf8)).results[0].entries
            #expect(entries.map(\.path) == ["f", "g"])
            #expect(entries.map(\.available) == [false, true])
        }

        private struct Listing: Decodable {
            struct Result: Decodable {
                var entries: [Entry]
                var remark: String?
            }
            struct Entry: Decodable {
                var path: String
                var available: Bool
            }
            var results: [Result]
        }

        @Test("Before the first save, in the future and without a catalogue the answer is clear")
        func limits() async throws {
            let bench = try Bench()
            try bench.write("f", "first\n")
            try await bench.saveOnce()
            let (early, _) = try await restore(bench, ["f"], at: "2001-02-03", to: "early")
            #expect(early.ending == .exit(3))
            #expect(early.errorTail.contains("nothing of") && early.errorTail.contains("was saved yet"))
            let (late, _) = try await restore(bench, ["f"], at: "2101-02-03", to: "late")
            #expect(late.ending == .exit(2))
            #expect(late.errorTail.contains("has not come yet"))
            let (none, _) = try await restore(bench, ["nothing"], at: stamp(), to: "none")
            #expect(none.ending == .exit(3))
            try command(["rm", "-r", bench.backup.appending(".safebackup/catalogue")])
            let (bare, _) = try await restore(bench, ["f"], at: stamp(), to: "bare", ["--from", bench.backup])
            #expect(bare.ending == .exit(2))
            #expect(bare.errorTail.contains("no catalogue copy"))
        }

        @Test("What was replaced after the catalogue copy was written is found among the versions")
        func olderCatalogue() async throws {
            let bench = try Bench()
            try bench.write("d/f", "first\n")
            try await bench.saveOnce()
            let then = stamp()
            let kept = bench.root.appending("kept")
            try command(["cp", "-a", bench.backup.appending(".safebackup/catalogue"), kept])
            try bench.write("d/f", "second, longer\n")
            try await bench.saveOnce()
            try command(["rm", "-r", bench.backup.appending(".safebackup/catalogue")])
            try command(["mv", kept, bench.backup.appending(".safebackup/catalogue")])
            let (program, target) = try await restore(bench, ["d"], at: then, to: "then", ["--from", bench.backup])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(try read(target.appending("d/f")) == Array("first\n".utf8))
        }
    }
}
