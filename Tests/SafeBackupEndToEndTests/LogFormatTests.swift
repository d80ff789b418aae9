import Foundation
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

        private func identity(of path: FilePath) throws -> (device: UInt, inode: UInt) {
            var status = stat()
            try #require(path.withPlatformString { lstat($0, &status) } == 0)
            return (UInt(status.st_dev), UInt(status.st_ino))
        }
    }
}
