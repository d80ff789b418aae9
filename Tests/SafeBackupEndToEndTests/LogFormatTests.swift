import Foundation
import Glibc
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    @Suite("The log")
    struct Log {
        @Test("The log for programs is one object a line with a stable event, and the journal's lines carry a priority")
        func jsonInTheJournal() async throws {
            let bench = try Bench()
            try bench.write("file", "one")
            // What stands behind standard error is what the service manager has announced: its device and inode.
            let errors = bench.root.appending("1.err")
            try bench.write(errors, [])
            let (device, inode) = try identity(of: errors)
            let program = try await bench.run(
                bench.arguments(["--once", "--log-format", "json"]),
                environment: ["JOURNAL_STREAM": "\(device):\(inode)"])
            try #require(program.ending == .exit(0), "\(program.errorTail)")
            let lines = program.errorText.split(separator: "\n")
            #expect(
                lines.contains { $0.hasPrefix("<6>{") }
                    && lines.allSatisfy { $0.wholeMatch(of: /<[3-6]>\{.*\}/) != nil })
            var events: Set<String> = []
            for line in lines {
                let object = try #require(
                    JSONSerialization.jsonObject(with: Data(line.dropFirst(3).utf8)) as? [String: String])
                #expect(object["time"]?.hasSuffix("Z") == true && object["message"]?.isEmpty == false)
                events.insert(try #require(object["event"], "\(line)"))
            }
            #expect(events.isSuperset(of: ["destinationBegun", "reconciled"]))
        }

        @Test("Of another stream, and without the journal, a line begins with its time")
        func textElsewhere() async throws {
            let bench = try Bench()
            try bench.write("file", "one")
            let program = try await bench.run(bench.arguments(["--once"]), environment: ["JOURNAL_STREAM": "1:2"])
            try #require(program.ending == .exit(0), "\(program.errorTail)")
            let lines = program.errorText.split(separator: "\n")
            #expect(
                !lines.isEmpty && lines.allSatisfy { $0.wholeMatch(of: /\d{4}-\d\d-\d\dT[0-9:]+Z [a-z]+ .*/) != nil })
        }

        /// A pipe in the place of an output of the program's next start, full after some 30 lines and read by nobody.
        private func unreadPipe(_ name: String, in bench: Bench) throws -> Descriptor {
            let path = bench.root.appending(name)
            try command(["mkfifo", path])
            // Open for both, so that opening waits for nobody.
            let pipe = try Descriptor.open(path, O_RDWR)
            try #require(fcntl(pipe.raw, 1_031 /* F_SETPIPE_SZ */, 4_096) == 4_096)
            return pipe
        }

        @Test(
            "Nobody reads its log and its output: it goes on saving, ends at SIGTERM in time, and the pipe tells what is missing",
            .timeLimit(.minutes(3)))
        func unread() async throws {
            let bench = try Bench()
            let file = bench.root.appending("agent.conf")
            try bench.write("file", "one")
            try bench.write(
                file,
                Array(
                    """
                    [source "s"]
                    path = \(bench.source)
                    destination = d
                    [destination "d"]
                    path = \(bench.backup)
                    close-delay = 100ms

                    """.utf8))
            let (output, errors) = (try unreadPipe("1.out", in: bench), try unreadPipe("1.err", in: bench))
            let agent = try bench.spawn(["run", "--config", file, "--state", bench.state, "--verbose"])
            // Nobody must come to read them as files, which would wait for their end.
            try command(["rm", bench.root.appending("1.out"), bench.root.appending("1.err")])
            let isSaved = try await eventually { access(bench.backup.appending("file").string, F_OK) == 0 }
            #expect(isSaved)
            // Each tells a line, if it does not come together with another.
            var waiting: Int32 = 0
            let isFull = try await eventually {
                agent.send(SIGHUP)
                return ioctl(errors.raw, UInt(FIONREAD), &waiting) == 0 && waiting > 3_500
            }
            #expect(isFull, "only \(waiting) bytes")
            for number in 0..<25 {
                agent.send(SIGHUP)
                try bench.write("file \(number)", "\(number)\n")
                let isSaved = try await eventually {
                    access(bench.backup.appending("file \(number)").string, F_OK) == 0
                }
                try #require(isSaved, "it stands still")
            }
            agent.send(SIGTERM)
            #expect(try await agent.wait(within: .seconds(10)) == .exit(0))
            try bench.expectSaved()
            withExtendedLifetime((output, errors)) {}
        }

        private func identity(of path: FilePath) throws -> (device: UInt, inode: UInt) {
            var status = stat()
            try #require(path.withPlatformString { lstat($0, &status) } == 0)
            return (UInt(status.st_dev), UInt(status.st_ino))
        }
    }
}
