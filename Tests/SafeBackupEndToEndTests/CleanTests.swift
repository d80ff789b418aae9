import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("Cleaning a directory of other backups")
    struct Cleaning {
        private struct Report: Decodable {
            struct Usage: Decodable {
                var available: Int64
            }
            struct Scan: Decodable {
                var files: Int
                var bytes: Int64
                var mounts: Int
                var protected: Int
            }
            struct Problem: Decodable {
                var path: String
                var pathHex: String?
            }
            struct Failure: Decodable {
                var code: String
            }
            var isPlan: Bool
            var limit: String?
            var need: Int64
            var files: Int
            var bytes: Int64
            var after: Usage?
            var scan: Scan?
            var problems: [Problem]
            var failure: Failure?
        }

        private func report(_ program: Program) throws -> Report {
            try JSONDecoder().decode(Report.self, from: Data(program.outputText.utf8))
        }

        /// A directory with so many files of one block, the first the oldest, beside what the bench has.
        private func backups(_ bench: Bench, _ names: [String], in directory: String = "backups") throws -> FilePath {
            let root = directory.hasPrefix("/") ? FilePath(directory) : bench.root.appending(directory)
            for (number, name) in names.enumerated() { try age(bench, root.appending(name), number) }
            return root
        }

        private func age(_ bench: Bench, _ path: FilePath, _ minutes: Int, blocks: Int = 1) throws {
            try bench.write(path, [])
            let file = try Descriptor.open(path, O_RDWR)
            // Blocks at once, which written content gets only when it is flushed.
            try #require(posix_fallocate(file.raw, 0, off_t(blocks * 4_096)) == 0)
            try file.setModified(FileTime(seconds: 1_600_000_000 + Int64(minutes) * 60, nanoseconds: 0))
        }

        private func names(_ directory: FilePath) throws -> Set<String> {
            Set(try Tree(directory).entries.keys.map(\.description))
        }

        @Test("The plan says what would go, the cleaning does it, and a second one has nothing to do")
        func plan() async throws {
            let bench = try Bench()
            let root = try backups(bench, ["a/1", "a/2", "b/3", "b/4", "5"])
            // Not UTF-8, and the oldest of all.
            try age(bench, root.appending(bytes: [0xE4, 0x0A]), -1)
            let size = try Descriptor.open(root.appending("5"), O_RDONLY).status().allocated
            let options: [FilePath] = [
                "clean", root, "--max-size", FilePath("\(3 * size)B"), "--remove-empty-directories",
            ]

            let plan = try await bench.run(options + ["--plan", "--verbose"])
            #expect(plan.ending == .exit(0), "\(plan.errorTail)")
            // Several threads look, so the order is not said.
            let first = Set(plan.outputText.split(separator: "\n").prefix(3))
            #expect(first == ["\\xe4\\x0a", "a/1", "a/2"], "\(plan.outputText)")
            #expect(plan.outputText.contains("Would remove about 3 files"))
            #expect(plan.outputText.contains("No file newer than 2020-09-13T12:27:40Z would go"))
            #expect(try Tree(root).entries.count == 8)

            let done = try await bench.run(options + ["--json"])
            #expect(done.ending == .exit(0), "\(done.errorTail)")
            let told = try report(done)
            #expect(told.limit == "maxSize" && !told.isPlan)
            #expect(told.files == 3 && told.bytes == 3 * size && told.need == 3 * size)
            #expect(try names(root) == ["b", "b/3", "b/4", "5"])

            let again = try await bench.run(options)
            #expect(again.ending == .exit(0))
            #expect(again.outputText.hasPrefix("Nothing is to be removed"))
            #expect(try names(root) == ["b", "b/3", "b/4", "5"])
        }

        @Test("What cannot be is refused before anything goes: code 2; what is not enough removes nothing: code 1")
        func refused() async throws {
            let bench = try Bench()
            let root = try backups(bench, ["a", "b"])
            for options: [FilePath] in [
                [], ["--max-size", "7"], ["--min-free", "lots"], ["--max-usage", "0%"], ["--max-usage", "100%"],
                ["--min-free", "8000TiB"], ["--max-size", "1GiB", "--concurrency", "0"],
            ] {
                let program = try await bench.run(["clean", root] + options)
                #expect(program.ending == .exit(2), "\(options): \(program.outputText) \(program.errorTail)")
            }
            for path in [FilePath("/"), bench.root.appending("nothing"), root.appending("a")] {
                let program = try await bench.run(["clean", path, "--max-size", "0B"])
                #expect(program.ending == .exit(2), "\(path): \(program.errorTail)")
            }
            // What is not ours takes more than this leaves.
            try bench.write(bench.root.appending("other"), [UInt8](repeating: 1, count: 8 << 20))
            let disk = try VolumeStatistics(Descriptor.open(bench.root, O_RDONLY | O_DIRECTORY))
            let possible = disk.total.bytes - disk.free.bytes + disk.available.bytes
            let lacking = try await bench.run([
                "clean", root, "--min-free", FilePath("\(possible - 4 << 20)B"), "--json",
            ])
            #expect(lacking.ending == .exit(1))
            #expect(try report(lacking).failure?.code == "cannotFreeEnough")
            #expect(lacking.errorText.contains("nothing was removed, because that would not be enough"))
            #expect(try names(root) == ["a", "b"])
        }

        @Test("An agent's backup is refused, with all in it and around it")
        func agents() async throws {
            let bench = try Bench()
            bench.backup = bench.root.appending("disk/backup")
            try bench.makeDirectory(bench.root.appending("disk"))
            try bench.write("d/file", "saved")
            try await bench.saveOnce()
            for path in [
                bench.backup, bench.backup.appending("d"), bench.root.appending("disk"),
                bench.backup.appending(".safebackup/versions"),
            ] {
                let program = try await bench.run(["clean", path, "--max-size", "0B"])
                #expect(program.ending == .exit(2), "\(path): \(program.outputText)")
                #expect(program.errorText.contains("the backup of an agent"))
            }
            // Its source and its state are no backups, nor is what holds them.
            try bench.write("e/f/file", "not saved yet")
            for path in [bench.source, bench.at("e"), bench.at("e/f"), bench.state] {
                let program = try await bench.run(["clean", path, "--max-size", "0B", "--state", bench.state])
                #expect(program.ending == .exit(2), "\(path): \(program.outputText)")
                #expect(program.errorText.contains("of the agent"))
            }
            // Nor is its backup, also where somebody took the sentinel away.
            let (sentinel, aside) = (bench.backup.appending(".safebackup"), bench.root.appending("aside"))
            try command(["mv", sentinel, aside])
            let bare = try await bench.run(["clean", bench.backup, "--max-size", "0B", "--state", bench.state])
            #expect(bare.ending == .exit(2) && bare.errorText.contains("a destination of the agent"))
            try command(["mv", aside, sentinel])
            let agreed = try await bench.run([
                "clean", bench.at("e/f"), "--max-size", "1GiB", "--state", bench.state, "--in-source",
            ])
            #expect(agreed.ending == .exit(0), "\(agreed.errorTail)")
            let home = try await bench.run(
                ["clean", bench.source, "--max-size", "0B"], environment: ["HOME": bench.at("e/f").string])
            #expect(home.ending == .exit(2) && home.errorText.contains("it holds your home"))
            #expect(try names(bench.source).contains("e/f/file"))
            try command(["rm", "-r", bench.at("e")])
            try bench.expectSaved()
        }

        @Test(
            "On a real disk the free space is kept to, again and again, and no more goes than is needed",
            .needsLoopDevice)
        func disk() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 48)
            let root = disk.mountPoint.appending("backups")
            var number = 0
            var present: [Int] = []
            for _ in 0..<3 {
                // As a program that stores one file after the other, until the disk is nearly full.
                while try VolumeStatistics(Descriptor.open(disk.mountPoint, O_RDONLY)).available > .mebibytes(4) {
                    try age(bench, root.appending("\(number % 3)/\(number)"), number, blocks: 16)
                    present.append(number)
                    number += 1
                }
                let program = try await bench.run(["clean", root, "--min-free", "12MiB", "--json"])
                #expect(program.ending == .exit(0), "\(program.errorTail)")
                let told = try report(program)
                let available = try VolumeStatistics(Descriptor.open(disk.mountPoint, O_RDONLY)).available
                #expect(available >= .mebibytes(12) && available.bytes <= (12 << 20) + 16 * 4_096)
                #expect(told.after?.available == available.bytes)
                present.removeFirst(told.files)
                #expect(try names(root).subtracting(["0", "1", "2"]) == Set(present.map { "\($0 % 3)/\($0)" }))
            }
        }

        @Test("What is mounted below is left alone, also when all of it is older", .needsLoopDevice)
        func mounted() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 16)
            _ = try backups(bench, ["x", "y/z"], in: disk.mountPoint.string)
            let root = try backups(bench, ["old/1", "old/2", "young/3"])
            try bench.makeDirectory(root.appending("old/mount"))
            try command(["mount", "--bind", disk.mountPoint.appending("y"), root.appending("old/mount")])
            // A single file can be mounted too.
            try age(bench, root.appending("old/file"), -5)
            try command(["mount", "--bind", disk.mountPoint.appending("x"), root.appending("old/file")])
            let program = try await bench.run([
                "clean", root, "--max-size", "0B", "--remove-empty-directories", "--json",
            ])
            try command(["umount", root.appending("old/mount")])
            try command(["umount", root.appending("old/file")])
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            #expect(try report(program).scan?.mounts == 1)
            #expect(try names(disk.mountPoint) == ["x", "y", "y/z"])
            #expect(try names(root) == ["old", "old/mount", "old/file"])
        }

        @Test(
            "What this user may not change stays and is told: code 3, or 1 if the rest is not enough",
            .enabled(if: geteuid() == 0, "needs root, to make what another user may not change"))
        func permissions() async throws {
            let bench = try Bench()
            let root = try backups(bench, ["fixed/1", "fixed/2", "open/3", "open/4"])
            try command(["chown", "-R", "65534:65534", root])
            try command(["chown", "0:0", root.appending("fixed")])
            try command(["chmod", "755", bench.root])
            let size = try Descriptor.open(root.appending("open/3"), O_RDONLY).status().allocated
            bench.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
            let some = try await bench.run(["clean", root, "--max-size", FilePath("\(3 * size)B"), "--json"])
            #expect(some.ending == .exit(3), "\(some.outputText) \(some.errorTail)")
            let told = try report(some)
            #expect(told.problems.map(\.path) == ["fixed"] && told.scan?.protected == 2)
            #expect(try names(root) == ["fixed", "fixed/1", "fixed/2", "open", "open/4"])

            let more = try await bench.run(["clean", root, "--max-size", "0B"])
            #expect(more.ending == .exit(1))
            #expect(more.errorText.contains("directories that this user may not change: 2"))
            #expect(try names(root).contains("open/4"))
        }
    }
}
