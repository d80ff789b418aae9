import Foundation
import SafeBackupCore
import SafeBackupFakeS3
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("The examples of the library")
    struct Examples {
        private static func example(_ name: String) -> FilePath {
            Bench.program.removingLastComponent().appending(name)
        }

        @discardableResult
        private func start(
            _ bench: Bench, _ arguments: [FilePath], environment: [String: String] = [:], number: Int = 0
        ) async throws -> Program {
            let program = try Program(
                arguments, environment: environment, output: bench.root.appending("example\(number).out"),
                errors: bench.root.appending("example\(number).err"))
            try await program.wait()
            return program
        }

        @Test("The local session saves what it is given, tells what it cannot save, and replaces copies")
        func localSession() async throws {
            let bench = try Bench()
            for number in 0..<20 { try bench.write("\(number)", "first \(number)") }
            let backup = bench.root.appending("copies")
            let files = (0..<20).map { bench.at("\($0)") }
            let first = try await start(bench, [Self.example("ExampleLocalSession"), backup] + files)
            #expect(first.ending == .exit(0), "\(first.outputText) \(first.errorTail)")
            #expect(first.outputText.split(separator: "\n").filter { $0.hasPrefix("saved ") }.count == 20)
            for number in 0..<20 { try bench.write("\(number)", "second \(number)") }
            let second = try await start(
                bench, [Self.example("ExampleLocalSession"), backup] + files + [bench.at("nothing")], number: 1)
            #expect(second.ending == .exit(1))
            #expect(second.outputText.contains("nothing was not saved as nothing: There is no file"))
            for number in 0..<20 {
                #expect(try read(backup.appending("\(number)")) == Array("second \(number)".utf8))
            }
        }

        @Test("The S3 session saves what it is given to a bucket, and tells what it cannot save")
        func s3Session() async throws {
            let (bench, server) = (try Bench(), try FakeS3.start())
            for number in 0..<20 { try bench.write("\(number)", "content \(number)") }
            let program = try await start(
                bench,
                [Self.example("ExampleS3Session"), "bucket", "copies"] + (0..<20).map { bench.at("\($0)") }
                    + [bench.at("nothing")],
                environment: [
                    "AWS_ACCESS_KEY_ID": FakeCredential().accessKey,
                    "AWS_SECRET_ACCESS_KEY": FakeCredential().secretKey, "AWS_REGION": "us-east-1",
                    "AWS_ENDPOINT_URL": server.endpoint, "HOME": bench.root.string,
                ])
            #expect(program.ending == .exit(1), "\(program.outputText) \(program.errorTail)")
            #expect(program.outputText.split(separator: "\n").filter { $0.hasPrefix("saved ") }.count == 20)
            #expect(program.outputText.contains("nothing was not saved as nothing: There is no file"))
            for number in 0..<20 {
                #expect(server.object("copies/\(number)")?.bytes == Array("content \(number)".utf8))
            }
        }

        /// Steps of the store protocol; see `FaultPlan`.
        @Test(
            "Killed at any moment, a session leaves the older copy or the new one, whole, and what it told saved is saved",
            .needsFaults,
            arguments: ["looked", "copying", "staged", "versioned", "flushed", "renamed", "durable"], [1, 4])
        func killed(at step: String, occurrence: Int) async throws {
            let bench = try Bench()
            let backup = bench.root.appending("copies")
            let names = (0..<6).map { "old \($0)" } + (0..<6).map { "new \($0)" }
            for name in names.prefix(6) { try bench.write("\(name)", "first \(name)") }
            let example = Self.example("ExampleLocalSession")
            try await start(bench, [example, backup] + names.prefix(6).map { bench.at($0) })
            for name in names { try bench.write("\(name)", "second, longer \(name)") }
            let files = names.map { bench.at($0) }
            let program = try await start(
                bench, [example, backup] + files, environment: ["SAFEBACKUP_FAULT": "kill=\(step),nth=\(occurrence)"],
                number: 1)
            // A step that is taken once for a group may have no fourth time.
            if program.ending == .exit(0) && occurrence > 1 { return }
            try #require(program.ending == .signal(SIGKILL), "\(step): \(program.outputText) \(program.errorTail)")
            let told = Set(program.outputText.split(separator: "\n").map(String.init))
            var found: [String: [UInt8]] = [:]
            for (path, entry) in try Tree(backup).entries where entry.kind == .file {
                if path.description.hasPrefix(".safebackup-session") { continue }
                found[path.description] = try read(backup.appending(path.description))
            }
            for name in names {
                let (older, newer) = (Array("first \(name)".utf8), Array("second, longer \(name)".utf8))
                let isTold = told.contains("saved \(bench.at(name))")
                let allowed = isTold ? [newer] : name.hasPrefix("old") ? [older, newer] : [nil, newer]
                #expect(allowed.contains(found.removeValue(forKey: name)), "\(name), told \(isTold)")
            }
            #expect(found.isEmpty, "\(found.keys)")
            // The next session goes on, and takes away what was unfinished.
            let next = try await start(bench, [example, backup] + files, number: 2)
            #expect(next.ending == .exit(0), "\(next.outputText)")
            for name in names {
                #expect(try read(backup.appending(name)) == Array("second, longer \(name)".utf8))
            }
            #expect(try Tree(backup.appending(".safebackup-session/staging")).entries.isEmpty)
        }

        @Test("The cleaner alone keeps the newest files")
        func cleaner() async throws {
            let bench = try Bench()
            let directory = bench.root.appending("dumps")
            for number in 0..<5 {
                let path = directory.appending("\(number)/dump")
                try bench.write(path, [])
                let file = try Descriptor.open(path, O_RDWR)
                try #require(posix_fallocate(file.raw, 0, 1 << 20) == 0)
                try file.setModified(FileTime(seconds: 1_600_000_000 + Int64(number), nanoseconds: 0))
            }
            let program = try await start(bench, [Self.example("ExampleCleanDirectory"), directory, "2"])
            #expect(program.ending == .exit(0), "\(program.outputText) \(program.errorTail)")
            #expect(program.outputText.contains("removed 0/dump\n"))
            #expect(program.outputText.contains("removed 3 files, 3.0 MiB\n"))
            #expect(Set(try Tree(directory).entries.keys.map(\.description)) == ["3", "3/dump", "4", "4/dump"])
            let refused = try await start(bench, [Self.example("ExampleCleanDirectory"), "/", "2"], number: 1)
            #expect(refused.ending == .exit(1) && refused.outputText.contains("the top of all directories"))
        }
    }
}
