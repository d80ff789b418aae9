import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// The verbs that explain: exposure, queue, why and versions, in text and JSON, with their exit codes.
    @Suite("What is exposed, what waits, and why")
    struct Explain {
        private struct Why: Decodable {
            struct Result: Decodable {
                struct Verdict: Decodable {
                    var code: String
                    var text: String
                }
                struct Event: Decodable {
                    var event: String
                    var message: String
                }
                struct Job: Decodable {
                    var phase: String
                    var attempts: Int
                    var errorCode: String?
                }
                var path: String
                var pathHex: String?
                var verdict: Verdict
                var job: Job?
                var versions: [Version]
                var events: [Event]
            }
            var results: [Result]
        }

        private struct Version: Decodable {
            var role: String?
            var kind: String
            var to: String?
            var endReason: String?
            var size: Int64
            var sha256: String?
            var location: String?
            var locationHex: String?
            var movedFrom: String?
            var movedTo: String?
        }

        private struct Versions: Decodable {
            struct Result: Decodable {
                struct Below: Decodable {
                    var files: Int
                    var deleted: Int
                    var versions: Int
                }
                var path: String
                var pathHex: String?
                var versions: [Version]
                var below: Below?
            }
            var results: [Result]
        }

        private struct Queue: Decodable {
            struct Destination: Decodable {
                struct Job: Decodable {
                    var path: String
                    var pathHex: String?
                    var state: String
                    var errorCode: String?
                }
                var pending: Int
                var stuck: Int
                var jobs: [Job]
                var more: Int
            }
            var destinations: [Destination]
        }

        private struct Exposure: Decodable {
            struct Source: Decodable {
                struct Gap: Decodable { var code: String }
                struct Destination: Decodable {
                    struct Part: Decodable {
                        var reason: String
                        var files: Int
                        var bytes: Int64
                    }
                    var parts: [Part]
                }
                var gaps: [Gap]
                var destinations: [Destination]
            }
            struct Sums: Decodable {
                var files: Int
                var bytes: Int64
            }
            var known: Bool
            var total: Sums
            var sources: [Source]
        }

        /// The JSON of a verb, and how it ended.
        private func ask<R: Decodable>(
            _ type: R.Type, _ bench: Bench, _ verb: [FilePath], sourceLocation: SourceLocation = #_sourceLocation
        ) async throws -> (answer: R, ending: Ending?) {
            let program = try await bench.run(
                verb + ["--json", "--state", bench.state], sourceLocation: sourceLocation)
            do {
                return (try JSONDecoder().decode(type, from: Data(program.outputText.utf8)), program.ending)
            } catch {
                Issue.record(
                    "\(verb): \(error): \(program.outputText)\(program.errorTail)", sourceLocation: sourceLocation)
                throw error
            }
        }

        private func text(_ bench: Bench, _ verb: [FilePath]) async throws -> (text: String, ending: Ending?) {
            let program = try await bench.run(verb + ["--state", bench.state])
            return (program.outputText, program.ending)
        }

        private static let odd: [UInt8] = Array("new\nline ".utf8) + [0xFF]

        @Test(
            "Each verb answers beside the agent and without one; without a state each says so", .timeLimit(.minutes(1)))
        func withAndWithoutAgent() async throws {
            let bench = try Bench()
            for verb: [FilePath] in [
                ["exposure"], ["queue"], ["why", "f"], ["versions", "f"], ["check-ignore", "f"],
            ] {
                let none = try await bench.run(verb + ["--state", bench.state])
                #expect(none.ending == .exit(2) && none.errorText.contains("No agent has run"), "\(verb)")
            }
            try bench.write("f", "content\n")
            try bench.write(bench.source.appending(bytes: Self.odd), Array("odd".utf8))
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            // In sync is said by the backup; that the walk has ended too, by the log.
            #expect(try await eventually { try await bench.status().sources[0].desynced == false })

            var exposure = try await ask(Exposure.self, bench, ["exposure"])
            #expect(exposure.ending == .exit(0) && exposure.answer.known && exposure.answer.total.files == 0)
            #expect(try await text(bench, ["exposure"]).text.hasPrefix("Nothing would be lost"))
            let queue = try await ask(Queue.self, bench, ["queue"])
            #expect(queue.ending == .exit(0) && queue.answer.destinations.map(\.pending) == [0])
            var why = try await ask(Why.self, bench, ["why", bench.at("f")])
            #expect(why.ending == .exit(0) && why.answer.results.map(\.verdict.code) == ["saved"])
            let empty = try await bench.run(["why", "", "--state", bench.state])
            #expect(empty.ending == .exit(2) && empty.errorText.contains("The path is empty"))
            try command(["ln", "-s", "/tmp", bench.at("link")])
            let behind = try await ask(Why.self, bench, ["why", "link/x"])
            #expect(behind.ending == .exit(3) && behind.answer.results.map(\.verdict.code) == ["notSaved"])
            let unknown = try await ask(Why.self, bench, ["why", "no/such"])
            #expect(unknown.ending == .exit(3) && unknown.answer.results.map(\.verdict.code) == ["unknown"])
            why = try await ask(Why.self, bench, ["why", FilePath(".").appending(bytes: Self.odd)])
            #expect(why.answer.results.map(\.path) == ["new\\x0aline \\xff"])
            #expect(why.answer.results.map(\.pathHex) == ["6e65770a6c696e6520ff"])
            let lines = try await text(bench, ["why", FilePath(".").appending(bytes: Self.odd)]).text
            #expect(lines.hasPrefix("new\\x0aline \\xff of "), "\(lines)")

            try await bench.stop(agent)
            exposure = try await ask(Exposure.self, bench, ["exposure"])
            #expect(exposure.ending == .exit(3) && !exposure.answer.known)
            #expect(exposure.answer.sources[0].gaps.map(\.code) == ["agentNotRunning"])
            try bench.write("f", "changed, with nobody there\n")
            why = try await ask(Why.self, bench, ["why", "f"])
            #expect(why.ending == .exit(3) && why.answer.results.map(\.verdict.code) == ["changed"])
            try bench.write("g", "new\n")
            why = try await ask(Why.self, bench, ["why", "g"])
            #expect(why.ending == .exit(3) && why.answer.results.map(\.verdict.code) == ["unseen"])
        }

        @Test("A file that is written again and again settles, and is exposed with its size", .timeLimit(.minutes(1)))
        func settling() async throws {
            let bench = try Bench()
            let agent = try await bench.startAgent()
            let log = try Descriptor.open(bench.at("log"), O_WRONLY | O_CREAT, mode: 0o644)
            var size: Int64 = 0
            var report: (answer: Why, ending: Ending?)?
            let isSettling = try await eventually {
                try log.write(Array("line\n".utf8), at: size)
                size += 5
                report = try await ask(Why.self, bench, ["why", "log"])
                return report?.answer.results.first?.job?.phase == "settling"
            }
            #expect(isSettling, "\(String(describing: report))")
            #expect(report?.ending == .exit(0) && report?.answer.results.first?.verdict.code == "settling")
            let exposure = try await ask(Exposure.self, bench, ["exposure"])
            #expect(exposure.answer.total.files == 1 && exposure.answer.total.bytes == size)
            #expect(exposure.ending == .exit(0))
            try await bench.stop(agent)
        }

        @Test("What cannot be read is stuck: listed, explained with its failures, and exposed", .timeLimit(.minutes(1)))
        func stuck() async throws {
            let bench = try Bench()
            try bench.write("fine", "content\n")
            try bench.write("secret", "content\n")
            try command(["chmod", "0", bench.at("secret")])
            if geteuid() == 0 {
                // Root reads everything: the agent runs as nobody, whom the test's directory then belongs to.
                try command(["chown", "-R", "65534:65534", bench.root])
                try command(["chmod", "0755", bench.root])
                bench.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
            }
            let saved = try await bench.once(["--exclude", "x"])
            #expect(saved.ending == .exit(3), "\(saved.errorTail)")
            let queue = try await ask(Queue.self, bench, ["queue", "--stuck"])
            #expect(queue.ending == .exit(3) && queue.answer.destinations[0].jobs.map(\.path) == ["secret"])
            #expect(queue.answer.destinations[0].jobs[0].errorCode == "unreadable")
            let none = try await ask(Queue.self, bench, ["queue", "--limit", "0"])
            #expect(none.answer.destinations[0].jobs.isEmpty && none.answer.destinations[0].more == 1)
            #expect(try await text(bench, ["queue"]).text.contains("1 stuck ('safebackup retry' tries again)"))
            #expect(try await bench.run(["queue", "--limit", "10001", "--state", bench.state]).ending == .exit(2))

            let why = try await ask(Why.self, bench, ["why", "secret"])
            let result = try #require(why.answer.results.first)
            #expect(why.ending == .exit(3) && result.verdict.code == "stuck" && result.job?.errorCode == "unreadable")
            #expect(
                result.events.first?.event == "stuck" && result.events.last?.message.contains("(unreadable)") == true)
            let exposure = try await ask(Exposure.self, bench, ["exposure"])
            #expect(exposure.ending == .exit(3) && exposure.answer.total.files == 1)
            #expect(exposure.answer.sources[0].destinations[0].parts.map(\.reason) == ["stuck"])

            try command(["chmod", "0644", bench.at("secret")])
            #expect(try await bench.once().ending == .exit(0))
            #expect(try await ask(Why.self, bench, ["why", "secret"]).ending == .exit(0))
        }

        @Test("What was never saved stays exposed when its directory is moved away and back", .timeLimit(.minutes(1)))
        func movedAwayAndBack() async throws {
            let bench = try Bench()
            try bench.write("d/fine", "content\n")
            try bench.write("d/secret", "content\n")
            try command(["chmod", "0", bench.at("d/secret")])
            if geteuid() == 0 {
                try command(["chown", "-R", "65534:65534", bench.root])
                try command(["chmod", "0755", bench.root])
                bench.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
            }
            let agent = try await bench.startAgent()
            func failedAt() throws -> Int64? {
                try StateFile(copying: bench.state).rows(
                    """
                    SELECT generation FROM job WHERE path = 'd/secret' AND state <> 'leased'
                        AND last_error_code = 'unreadable' AND NOT EXISTS (SELECT 1 FROM job WHERE path <> 'd/secret')
                    """
                ).first?[0].integer
            }
            var first: Int64 = 0
            let hasFailed = try await eventually {
                guard let generation = try failedAt() else { return false }
                first = generation
                return true
            }
            try #require(hasFailed, "\(agent.errorTail)")
            try command(["mv", bench.at("d"), bench.at("e")])
            try command(["mv", bench.at("e"), bench.at("d")])
            let hasFailedAgain = try await eventually { try failedAt().map { $0 > first } ?? false }
            try #require(hasFailedAgain, "\(agent.errorTail)")
            let exposure = try await ask(Exposure.self, bench, ["exposure"])
            #expect(exposure.ending == .exit(3) && exposure.answer.total.files == 1)
            try await bench.stop(agent)
        }

        @Test("While the destination is away everything that waits says so, with exit code 4", .timeLimit(.minutes(1)))
        func held() async throws {
            let bench = try Bench()
            try bench.write("saved", "content\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            try command(["mv", bench.backup, bench.root.appending("away")])
            for number in 0..<3 { try bench.write("f\(number)", "0123456789") }
            var why: (answer: Why, ending: Ending?)?
            let isHeld = try await eventually {
                why = try await ask(Why.self, bench, ["why", "f0"])
                return why?.answer.results.first?.verdict.code == "held"
            }
            #expect(isHeld && why?.ending == .exit(4), "\(String(describing: why))")
            #expect(
                try await eventually { try await ask(Queue.self, bench, ["queue"]).answer.destinations[0].pending == 3 }
            )
            let queue = try await ask(Queue.self, bench, ["queue", "--limit", "2"])
            #expect(queue.ending == .exit(4) && queue.answer.destinations[0].jobs.count == 2)
            #expect(queue.answer.destinations[0].more == 1)
            let exposure = try await ask(Exposure.self, bench, ["exposure"])
            #expect(exposure.ending == .exit(4))
            let parts = exposure.answer.sources[0].destinations[0].parts
            #expect(parts.map(\.reason) == ["held"] && parts.map(\.files) == [3] && parts.map(\.bytes) == [30])
            // Saved, but in a place that nobody sees now.
            let saved = try await ask(Why.self, bench, ["why", "saved"])
            #expect(saved.answer.results.first?.verdict.code == "held" && saved.ending == .exit(4))
            try command(["mv", bench.root.appending("away"), bench.backup])
            try await bench.expectInSync(agent)
            #expect(try await ask(Why.self, bench, ["why", "saved"]).answer.results.first?.verdict.code == "saved")
            #expect(try await ask(Exposure.self, bench, ["exposure"]).answer.total.files == 0)
            try await bench.stop(agent)
        }

        @Test("What a person paused says so wherever it is asked for, and is something to look at")
        func paused() async throws {
            let bench = try Bench()
            try bench.write("saved", "content\n")
            try await bench.saveOnce()
            #expect(try await bench.run(["pause", "--state", bench.state]).ending == .exit(0))
            try bench.write("f", "0123456789")
            #expect(try await bench.once().ending == .exit(3))
            let why = try await ask(Why.self, bench, ["why", "f"])
            #expect(why.ending == .exit(3) && why.answer.results.map(\.verdict.code) == ["paused"])
            #expect(try await ask(Why.self, bench, ["why", "saved"]).ending == .exit(0))
            #expect(try await ask(Queue.self, bench, ["queue"]).ending == .exit(3))
            #expect(try await text(bench, ["queue"]).text.contains("PAUSED since"))
            let exposure = try await ask(Exposure.self, bench, ["exposure"])
            #expect(exposure.ending == .exit(3))
            #expect(exposure.answer.sources[0].destinations[0].parts.map(\.reason) == ["paused"])
            let status = try await text(bench, ["status"])
            #expect(status.text.contains("pause") && status.text.contains("Lately:"), "\(status.text)")
            #expect(try await bench.run(["resume", "--state", bench.state]).ending == .exit(0))
            try await bench.saveOnce()
            #expect(try await ask(Why.self, bench, ["why", "f"]).ending == .exit(0))
        }

        @Test("Versions tell every state with its place, what was deleted, and what was there before us")
        func versions() async throws {
            let bench = try Bench()
            let path = FilePath("d").appending(bytes: Self.odd)
            try bench.write("d/before", "ours\n")
            try bench.write(bench.backup.appending("d/before"), Array("theirs\n".utf8))
            // Too long for a time to be appended.
            let long = "d/" + String(repeating: "ä", count: 125)
            for name in [long + "1", long + "2"] {
                try bench.write(name, "ours\n")
                try bench.write(bench.backup.appending(name), Array("theirs, \(name.last ?? " ")\n".utf8))
            }
            try bench.write(bench.source.appending(path.components), Array("1".utf8))
            try await bench.saveOnce()
            try bench.write(bench.source.appending(path.components), Array("22".utf8))
            try await bench.saveOnce()
            try command(["chmod", "0600", bench.source.appending(path.components)])
            try await bench.saveOnce()
            try command(["rm", bench.source.appending(path.components)])
            try await bench.saveOnce()

            let versions = try await ask(Versions.self, bench, ["versions", path])
            let result = try #require(versions.answer.results.first)
            #expect(versions.ending == .exit(0) && result.path == "d/new\\x0aline \\xff")
            #expect(result.versions.map(\.endReason) == ["deleted", "metadata", "replaced"])
            #expect(result.versions.map(\.role) == ["current", "current", "kept"])
            #expect(result.versions.map(\.size) == [2, 2, 1])
            // Each lies where it says, with the digest that it says.
            for version in result.versions {
                let hex = try #require(version.locationHex)
                let content = try read(bench.backup.appending(bytes: bytes(hex)))
                #expect(SHA256.digest(of: content).hex == version.sha256)
            }
            let before = try await ask(Versions.self, bench, ["versions", "d/before"])
            #expect(before.answer.results.first?.versions.map(\.role) == ["current", "foreign"])
            let cut = try await ask(Versions.self, bench, ["versions", FilePath(long + "2")])
            let theirs = try #require(cut.answer.results.first?.versions)
            try #require(theirs.map(\.role) == ["current", "foreign"])
            let location = FilePath(try #require(theirs[1].location))
            #expect(try read(bench.backup.appending(location.components)) == Array("theirs, 2\n".utf8))
            let directory = try await ask(Versions.self, bench, ["versions", bench.at("d")])
            let below = try #require(directory.answer.results.first?.below)
            #expect(below.files == 3 && below.deleted == 1 && below.versions == 1)
            let lines = try await text(bench, ["versions", path])
            #expect(lines.text.contains("tombstone") && lines.text.contains("(replaced)  1 B"), "\(lines.text)")
            let why = try await ask(Why.self, bench, ["why", path])
            #expect(why.ending == .exit(0) && why.answer.results.first?.verdict.code == "deleted")
            let nothing = try await text(bench, ["versions", "no/such"])
            #expect(nothing.ending == .exit(3) && nothing.text == "Nothing in the backup has, or had, this path\n")
        }

        @Test("A renamed file is followed from either of its paths")
        func moved() async throws {
            let bench = try Bench()
            try bench.write("first", "content\n")
            try await bench.saveOnce()
            try command(["mv", bench.at("first"), bench.at("second")])
            try await bench.saveOnce()
            let new = try await ask(Versions.self, bench, ["versions", "second"])
            #expect(new.answer.results.first?.versions.map(\.movedFrom) == ["first"])
            let old = try await ask(Versions.self, bench, ["versions", "first"])
            #expect(old.answer.results.first?.versions.map(\.movedTo) == ["second"])
            #expect(old.answer.results.first?.versions.map(\.endReason) == ["moved"])
            let why = try await ask(Why.self, bench, ["why", "first"])
            #expect(why.ending == .exit(0) && why.answer.results.first?.verdict.code == "moved")
            #expect(why.answer.results.first?.verdict.text.hasSuffix("to second.") == true)
        }

        private func bytes(_ hex: String) -> [UInt8] {
            let digits = Array(hex.utf8)
            return stride(from: 0, to: digits.count, by: 2).compactMap {
                UInt8(String(decoding: digits[$0..<($0 + 2)], as: UTF8.self), radix: 16)
            }
        }
    }
}
