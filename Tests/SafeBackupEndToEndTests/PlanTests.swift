import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// What the tests read of `plan --json`.
struct PlanOutput: Decodable {
    struct Amount: Decodable, Equatable {
        var files: Int
        var bytes: Int64
        var directories: Int
        var links: Int
    }
    struct Skipped: Decodable {
        var reason: String
        var count: Int
        var paths: [String]
        var missing: Bool
    }
    struct Source: Decodable {
        var path: String
        var files: Int
        var bytes: Int64
        var directories: Int
        var links: Int
        var skipped: [Skipped]
        var held: String?
    }
    struct Pair: Decodable {
        var basis: String
        var new: Amount
        var changed: Amount
        var compared: Amount
        var moved: Amount
        var deleted: Amount
        var unchanged: Amount
    }
    struct Destination: Decodable {
        var path: String
        var exists: Bool
        var fits: Bool?
        var neededBytes: Int64
        var held: String?
        var pairs: [Pair]
        var notes: [String]
    }
    var sources: [Source]
    var destinations: [Destination]
}

extension Bench {
    /// What `plan --json` says of the pair, with the exit code that is expected.
    func plan(
        _ more: [FilePath] = [], exit: Int32 = 0, sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> PlanOutput {
        let program = try await run(
            ["plan", source, backup, "--state", state, "--json"] + more, sourceLocation: sourceLocation)
        #expect(program.ending == .exit(exit), "\(program.errorTail)", sourceLocation: sourceLocation)
        return try JSONDecoder().decode(PlanOutput.self, from: Data(program.outputText.utf8))
    }

    /// The program runs as nobody, whom everything of the test belongs to.
    func becomeNobody() throws {
        let program = root.appending("safebackup")
        try command(["cp", Bench.program, program])
        try command(["chown", "-R", "65534:65534", root])
        try command(["chmod", "0755", root])
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    }
}

extension EndToEnd {
    @Suite("plan tells what a run would do, and writes nothing")
    struct Plans {
        @Test("A first plan counts what the run then saves, names what is left out, and leaves no trace")
        func first() async throws {
            let bench = try Bench()
            try bench.write("a/file", "content\n")
            try bench.write("a/b/other", "more\n")
            try bench.write("a/no.tmp", "left out\n")
            try bench.write(".safebackup/mine", "reserved\n")
            try command(["ln", "-s", "file", bench.at("a/link")])
            try command(["mkfifo", bench.at("pipe")])
            let plan = try await bench.plan(["--exclude", "*.tmp"], exit: 3)
            let source = try #require(plan.sources.first)
            #expect((source.files, source.bytes, source.directories, source.links) == (2, 13, 3, 1))
            let skipped = Dictionary(uniqueKeysWithValues: source.skipped.map { ($0.reason, $0.paths) })
            #expect(skipped == ["excluded": ["a/no.tmp"], "special": ["pipe"], "reservedName": [".safebackup"]])
            #expect(source.skipped.filter(\.missing).map(\.reason) == ["reservedName"])
            let pair = try #require(plan.destinations.first?.pairs.first)
            #expect(pair.basis == "nothing")
            #expect(pair.new == PlanOutput.Amount(files: 2, bytes: 13, directories: 2, links: 1))
            #expect(plan.destinations[0].fits == true && !plan.destinations[0].exists)
            #expect(access(bench.backup.string, F_OK) != 0 && access(bench.state.string, F_OK) != 0)

            bench.options = ["--exclude", "*.tmp"]
            #expect(try await bench.once().ending == .exit(3))
            let status = try await bench.status()
            #expect((status.sources[0].files, status.sources[0].bytes) == (3, 17), "two files and a link")
        }

        @Test("Against the catalogue: new, changed, renamed, deleted, touched and unchanged are told apart")
        func differences() async throws {
            let bench = try Bench()
            for name in ["same", "changed", "renamed", "deleted", "mode"] { try bench.write("d/\(name)", "\(name)\n") }
            try bench.write("gone/a/one", "1\n")
            try bench.write("gone/two", "22\n")
            // What was read just after it changed would be compared once more.
            try command(["find", bench.source, "-exec", "touch", "-d", "2026-01-01", "{}", "+"])
            try await bench.saveOnce()
            // The walk of another run finds everything old enough, and asks no more.
            try await Self.waitUntilQuiet(bench)
            try bench.write("d/changed", "something else\n")
            try bench.write("d/new", "new\n")
            try command(["mv", bench.at("d/renamed"), bench.at("d/elsewhere")])
            try command(["rm", bench.at("d/deleted")])
            try command(["chmod", "0600", bench.at("d/mode")])
            try command(["rm", "-r", bench.at("gone")])
            let before = try Tree(bench.backup)
            let pair = try #require(try await bench.plan().destinations.first?.pairs.first)
            #expect(pair.basis == "catalogue")
            #expect(pair.new == PlanOutput.Amount(files: 1, bytes: 4, directories: 0, links: 0))
            #expect(pair.changed == PlanOutput.Amount(files: 1, bytes: 15, directories: 0, links: 0))
            #expect(pair.moved == PlanOutput.Amount(files: 1, bytes: 8, directories: 0, links: 0))
            #expect(pair.compared == PlanOutput.Amount(files: 1, bytes: 5, directories: 0, links: 0))
            #expect(pair.deleted == PlanOutput.Amount(files: 3, bytes: 13, directories: 2, links: 0))
            #expect(pair.unchanged == PlanOutput.Amount(files: 1, bytes: 5, directories: 1, links: 0))
            #expect(before.differences(in: try Tree(bench.backup)) == [], "plan changed the backup")

            try await bench.saveOnce()
            let after = try #require(try await bench.plan().destinations.first?.pairs.first)
            #expect(after.new.files + after.changed.files + after.moved.files + after.deleted.files == 0)
        }

        /// Saves until nothing has to be compared again.
        static func waitUntilQuiet(_ bench: Bench) async throws {
            var compared = -1
            let isQuiet = try await eventually(within: .seconds(60)) {
                try await bench.saveOnce()
                compared = try await bench.plan().destinations[0].pairs[0].compared.files
                return compared == 0
            }
            #expect(isQuiet, "\(compared) files are compared again and again")
        }

        @Test("A directory of more entries than one part has tells the same of its deleted and its new files")
        func parts() async throws {
            let bench = try Bench()
            try command([
                "bash", "-c", #"mkdir "$0"; for ((i = 0; i < 17000; i++)); do :> "$0/$i"; done"#, bench.at("d"),
            ])
            try await bench.saveOnce()
            try command(["rm", bench.at("d/7"), bench.at("d/16999")])
            try bench.write("d/new", "new\n")
            let pair = try #require(try await bench.plan().destinations.first?.pairs.first)
            #expect(pair.deleted == PlanOutput.Amount(files: 2, bytes: 0, directories: 0, links: 0))
            #expect(pair.new == PlanOutput.Amount(files: 1, bytes: 4, directories: 0, links: 0))
            #expect(pair.unchanged.files + pair.compared.files == 16_998)
        }

        @Test("After a lost state the plan compares with the catalogue copy beside the backup")
        func lostState() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            try command(["rm", "-r", bench.state])
            try bench.write("new", "new\n")
            let pair = try #require(try await bench.plan().destinations.first?.pairs.first)
            #expect(pair.basis == "catalogueCopy")
            #expect(pair.new.files == 1 && pair.new.bytes == 4)
            #expect(access(bench.state.string, F_OK) != 0)
        }

        @Test("What does not fit is told before anything is written", .needsLoopDevice)
        func noRoom() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("small", mebibytes: 32)
            bench.backup = disk.mountPoint.appending("backup")
            try command(["bash", "-c", #"head -c 40000000 /dev/urandom >"$0""#, bench.at("large")])
            let plan = try await bench.plan(exit: 3)
            #expect(plan.destinations[0].fits == false)
            let program = try await bench.run(["plan", bench.source, bench.backup, "--state", bench.state])
            #expect(program.outputText.contains("NOT ENOUGH"), "\(program.outputText)")
            // Half of it is a hole: that is no reason to say no.
            try command(["truncate", "-s", "0", bench.at("large")])
            try command(["truncate", "-s", "40000000", bench.at("large")])
            let sparse = try await bench.plan()
            #expect(sparse.destinations[0].fits == true)
            #expect(sparse.destinations[0].notes.contains { $0.contains("sparse") })
        }

        @Test("What this user may not read is named", .enabled(if: geteuid() == 0, "needs root to become another user"))
        func unreadable() async throws {
            let bench = try Bench()
            try bench.write("open", "content\n")
            try bench.write("d/secret", "content\n")
            try bench.write("closed/file", "content\n")
            try bench.becomeNobody()
            try command(["chmod", "0", bench.at("d/secret"), bench.at("closed")])
            let plan = try await bench.plan(exit: 3)
            let unreadable = try #require(plan.sources[0].skipped.first { $0.reason == "unreadable" })
            #expect(unreadable.paths.sorted() == ["closed", "d/secret"])
            #expect(plan.sources[0].files == 1)
            #expect(plan.destinations[0].pairs[0].new.files == 1)
        }

        @Test(
            "A destination that this user may not write to is told, with what to do",
            .enabled(if: geteuid() == 0, "needs root to become another user"))
        func forbidden() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try bench.becomeNobody()
            let closed = bench.root.appending("closed")
            try command(["mkdir", "-m", "0755", closed])
            bench.backup = closed.appending("backup")
            let plan = try await bench.plan(exit: 4)
            #expect(plan.destinations[0].held?.contains("may not write to \(closed)") == true)
        }

        @Test("An emptied source, a source that is another directory, and a disk that is away are told as held")
        func held() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try await bench.saveOnce()
            try command(["mv", bench.backup, bench.root.appending("away")])
            let away = try await bench.plan(exit: 4)
            #expect(away.destinations[0].held?.contains("mount") == true)
            try bench.makeDirectory(bench.backup)
            let bare = try await bench.plan(exit: 4)
            #expect(bare.destinations[0].held?.contains("accept") == true)
            try command(["rmdir", bench.backup])
            try command(["mv", bench.root.appending("away"), bench.backup])

            try command(["rm", bench.at("file")])
            let emptied = try await bench.plan(exit: 4)
            #expect(emptied.sources[0].held?.contains("empty") == true)
            try command(["mv", bench.source, bench.root.appending("former")])
            try bench.makeDirectory(bench.source)
            try bench.write("stranger", "of another tree\n")
            let replaced = try await bench.plan(exit: 4)
            #expect(replaced.sources[0].held?.contains("another directory") == true)
        }

        @Test("A destination of another source, and paths that cannot be, are mistakes of usage")
        func refused() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            try bench.write(bench.root.appending("other/file"), Array("content\n".utf8))
            try await bench.saveOnce()
            func refusal(_ source: FilePath, _ destination: FilePath) async throws -> String {
                let program = try await bench.run([
                    "plan", source, destination, "--state", bench.root.appending("state2"),
                ])
                #expect(program.ending == .exit(2), "\(program.errorTail)")
                return program.errorText
            }
            #expect(try await refusal(bench.root.appending("other"), bench.backup).contains("already holds"))
            #expect(try await refusal(bench.root.appending("missing"), bench.backup).contains("is not there"))
            #expect(try await refusal(bench.at("file"), bench.backup).contains("is not a directory"))
            #expect(try await refusal(bench.source, bench.root).contains("inside the destination"))
            #expect(try await refusal(bench.source, bench.root.appending("u/v")).contains("cannot be made"))
            #expect(try await refusal(bench.source, bench.at("file")).contains("is not a directory"))
        }

        @Test("A plan beside a running agent waits for nothing and disturbs nothing")
        func besideAgent() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let plan = try await bench.plan()
            #expect(plan.destinations[0].pairs[0].new.isNothing)
            try bench.write("later", "content\n")
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
        }

        @Test("A configuration's plan tells of each source at each destination, and of what is away")
        func configured() async throws {
            let bench = try Bench()
            try bench.write("file", "content\n")
            let file = bench.root.appending("agent.conf")
            let text = """
                [source "here"]
                path = \(bench.source)
                destination = near
                destination = far
                exclude = *.tmp
                [destination "near"]
                path = \(bench.backup)
                [destination "far"]
                path = \(bench.root)/mnt/disk/backup
                """
            try bench.write(file, Array(text.utf8))
            let program = try await bench.run(["plan", "--config", file, "--state", bench.state, "--json"])
            #expect(program.ending == .exit(4), "\(program.errorTail)")
            let plan = try JSONDecoder().decode(PlanOutput.self, from: Data(program.outputText.utf8))
            #expect(plan.destinations.map { $0.held == nil } == [true, false])
            #expect(plan.destinations[0].pairs.map(\.new.files) == [1])

            let wrong = try await bench.run(["plan", "--config", file, bench.source])
            #expect(wrong.ending == .exit(2))
            try bench.write(file, Array("[source \"a\"]\npth = /x\npath = relative\ndestination = d\n".utf8))
            let typo = try await bench.run(["plan", "--config", file])
            #expect(typo.ending == .exit(2))
            #expect(typo.errorText.contains("agent.conf:2:1: there is no key 'pth' in [source]; did you mean 'path'?"))
            #expect(typo.errorText.contains("agent.conf:3:8: path: 'relative' is not an absolute path"))
        }
    }
}

extension PlanOutput.Amount {
    var isNothing: Bool { files == 0 && directories == 0 && links == 0 }
}
