import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("doctor finds what is wrong, and tells what to do")
    struct Doctors {
        struct Report: Decodable {
            struct Finding: Decodable {
                var level: String
                var area: String
                var subject: String
                var message: String
                var action: String?
            }
            var findings: [Finding]

            func found(_ level: String, _ area: String) -> Finding? {
                findings.first { $0.level == level && $0.area == area }
            }
            var problems: [String] { findings.filter { $0.level == "problem" }.map { "\($0.area): \($0.message)" } }
        }

        private func examine(
            _ bench: Bench, _ arguments: [FilePath] = [], exit: Int32 = 0, environment: [String: String] = [:],
            sourceLocation: SourceLocation = #_sourceLocation
        ) async throws -> Report {
            let program = try await bench.run(
                ["doctor", "--state", bench.state, "--json"] + arguments, environment: environment,
                sourceLocation: sourceLocation)
            #expect(
                program.ending == .exit(exit), "\(program.outputText)\(program.errorTail)",
                sourceLocation: sourceLocation)
            return try JSONDecoder().decode(Report.self, from: Data(program.outputText.utf8))
        }

        @Test("Beside a running agent all is well, a file is stored and one restored, and nothing is left of both")
        func beside() async throws {
            let bench = try Bench()
            for number in 0..<20 { try bench.write("d/\(number)", "content \(number)\n") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let temporary = bench.root.appending("tmp")
            try bench.makeDirectory(temporary)
            let before = try Tree(bench.backup)
            let report = try await examine(bench, environment: ["TMPDIR": temporary.string])
            #expect(report.problems == [])
            for area in ["state", "agent", "watches", "probe", "restore", "catalogue", "permissions"] {
                #expect(report.found("ok", area) != nil, "nothing is said of \(area)")
            }
            #expect(before.differences(in: try Tree(bench.backup)) == [])
            #expect(try bench.staging() == [])
            #expect(try Tree(temporary).entries.isEmpty, "something of the restore is left")
            try bench.write("later", "content\n")
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
        }

        @Test("A copy that was damaged is found by the restore of one file")
        func damaged() async throws {
            let bench = try Bench()
            try bench.write("only", "content\n")
            try await bench.saveOnce()
            try bench.write(bench.backup.appending("only"), Array("tampered".utf8))
            let report = try await examine(bench, exit: 3)
            let finding = try #require(report.found("problem", "restore"))
            #expect(finding.message.contains("only") && finding.message.contains("SHA-256"))
            #expect(finding.action == "safebackup verify")
        }

        @Test("A file that has no room in the temporary directory is not brought back there", .needsLoopDevice)
        func largeFile() async throws {
            let bench = try Bench()
            try command(["bash", "-c", #"head -c 6000000 /dev/urandom >"$0""#, bench.at("large")])
            try await bench.saveOnce()
            let disk = try bench.makeDisk("tmp", mebibytes: 8)
            let report = try await examine(bench, exit: 3, environment: ["TMPDIR": disk.mountPoint.string])
            #expect(report.found("problem", "restore")?.message.contains("no room for a file of") == true)
            #expect(try Tree(disk.mountPoint).entries.isEmpty)
        }

        @Test("Too few watches are told with the setting to raise", .needsUserNamespace)
        func watches() async throws {
            let bench = try Bench()
            for number in 0..<30 { try bench.write("d\(number)/file", "content\n") }
            bench.prefix = Limits.inNamespace(["max_inotify_watches": 10, "max_inotify_instances": 0])
            let report = try await examine(bench, [bench.source, bench.backup])
            let watches = try #require(report.found("warning", "watches"))
            #expect(
                watches.message.contains("31 directories are to be watched, and user.max_inotify_watches allows 10"))
            #expect(watches.action?.contains("sysctl user.max_inotify_watches=") == true)
            #expect(report.found("warning", "instances")?.action?.contains("max_user_instances") == true)
        }

        @Test("A disk that is away is a problem, and nothing is written to where it would be")
        func away() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            try command(["mv", bench.backup, bench.root.appending("away")])
            try bench.makeDirectory(bench.backup)
            let away = try await examine(bench, exit: 3)
            #expect(away.found("problem", "destination")?.message.contains("mount") == true)
            #expect(away.found("ok", "probe") == nil, "something was written into the bare mount point")
            #expect(try Tree(bench.backup).entries.isEmpty)
        }

        @Test("Paths that cannot go together, and half of them, are mistakes of usage; a source that went is a problem")
        func usage() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            for arguments in [
                [bench.at("file"), bench.backup], [bench.source], [bench.source, bench.root],
                [bench.source, bench.backup, "--config", "x"],
            ] {
                let program = try await bench.run(["doctor", "--state", bench.state] + arguments)
                #expect(program.ending == .exit(2), "\(arguments): \(program.outputText)")
            }
            let missing = bench.root.appending("missing")
            let report = try await examine(bench, [missing, bench.backup], exit: 3)
            #expect(report.found("problem", "source")?.message.contains("\(missing) is not there") == true)
        }

        @Test("A state that is damaged is told, and left as it is")
        func damagedState() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            let database = bench.state.appending("queue.db")
            try command([
                "dd", "if=/dev/urandom", FilePath("of=\(database)"), "bs=4096", "seek=3", "count=8", "conv=notrunc",
            ])
            let before = try read(database)
            let report = try await examine(bench, exit: 3)
            #expect(report.found("problem", "state")?.action?.contains("restart the agent") == true)
            #expect(try read(database) == before)
        }

        @Test("Without anything configured it looks at the machine and says how to begin")
        func nothing() async throws {
            let bench = try Bench()
            let report = try await examine(
                bench, environment: ["HOME": bench.root.string, "XDG_CONFIG_HOME": bench.root.string])
            if geteuid() != 0 || access("/etc/safebackup/agent.conf", F_OK) != 0 {
                #expect(report.found("warning", "source")?.action?.contains("safebackup init") == true)
            }
            #expect(access(bench.state.string, F_OK) != 0)
        }

        @Test(
            "Another user's files and a closed destination are told with what would help",
            .enabled(if: geteuid() == 0, "needs root to become another user"))
        func permissions() async throws {
            let bench = try Bench()
            try bench.write("open", "content\n")
            try bench.write("secret", "content\n")
            try bench.becomeNobody()
            try #require(try await bench.once().ending == .exit(0))
            try command(["chmod", "0", bench.at("secret")])
            try command(["chown", "root", bench.backup.appending(".safebackup/staging")])
            let report = try await examine(bench, exit: 3)
            let reading = try #require(report.found("problem", "permissions"))
            #expect(reading.message.contains("secret"))
            #expect(reading.action?.contains("CAP_DAC_READ_SEARCH") == true)
            #expect(report.found("problem", "probe")?.message.contains("may not write") == true)
        }
    }
}
