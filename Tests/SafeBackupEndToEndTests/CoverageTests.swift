import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// What no event tells must be found all the same, and `status` must say how.
    @Suite("Limits of watching")
    struct Coverage {
        /// Waits until `status` says of the source what is asked for.
        private func expect(
            _ extent: String, _ bench: Bench, within limit: Duration = .seconds(60),
            sourceLocation: SourceLocation = #_sourceLocation
        ) async throws -> Status.Coverage {
            var coverage: Status.Coverage?
            _ = try await eventually(within: limit) {
                coverage = try await bench.status().sources.first?.coverage
                return coverage?.extent == extent
            }
            let found = try #require(coverage, sourceLocation: sourceLocation)
            #expect(found.extent == extent, sourceLocation: sourceLocation)
            return found
        }

        @Test(
            "With 100 watches for thousands of directories everything is saved, and told how",
            .needsUserNamespace, .timeLimit(.minutes(5)))
        func watchLimit() async throws {
            let bench = try Bench()
            let outer = Conditions.isLong ? 480 : 40
            try command([
                "bash", "-c",
                FilePath("cd \"$0\" && mkdir -p {1..\(outer)}/{1..20} && for d in */7; do echo $d >$d/file; done"),
                bench.source,
            ])
            bench.prefix = Limits.inNamespace(["max_inotify_watches": 100])
            let agent = try await bench.startAgent()
            bench.prefix = []
            try await bench.expectInSync(agent, within: .seconds(120))
            let coverage = try await expect("partly", bench)
            #expect(coverage.directories == outer * 21 + 1 && coverage.watched == 100)
            let message = try #require(coverage.message)
            #expect(message.hasPrefix("watched 100 of \(grouped(outer * 21 + 1)) directories, the rest is looked at "))
            #expect(message.contains("sysctl fs.inotify.max_user_watches="))

            // In many places, few of which can be watched: new, changed, deleted, new directories in new directories.
            try command([
                "bash", "-c",
                """
                cd "$0" && for d in */3; do echo new >$d/new; mkdir -p $d/deep/er && echo deep >$d/deep/er/file; done
                for d in */7; do echo changed >>$d/file; done
                rm -r 5 17/7 && mkdir 5 && echo again >5/again && mv 9/3 9/moved
                """, bench.source,
            ])
            try await bench.expectInSync(agent, within: .seconds(120))
            try bench.write("20/3/deep/er/file", "changed where it was new\n")
            try await bench.expectInSync(agent, within: .seconds(120))
            let live = Set(try StateFile(copying: bench.state).liveNames().map(\.path.description))
            #expect(live.isDisjoint(with: ["5/7", "5/7/file", "17/7", "17/7/file", "9/3/new"]))

            // More watches: all of them are taken, and nothing that changes meanwhile is lost.
            try Limits.set("max_inotify_watches", to: 100_000, of: agent)
            try bench.write("33/3/meanwhile", "while watches are added\n")
            let whole = try await expect("events", bench, within: .seconds(120))
            #expect(whole.watched == whole.directories && whole.message == nil)
            try bench.write("39/3/after", "told by an event\n")
            try await bench.expectInSync(agent, within: .seconds(60))
            try await bench.stop(agent)
            try bench.expectSaved()
            #expect(try await bench.status().sources.first?.coverage == nil, "nobody watches")
        }

        @Test(
            "Without an inotify instance everything is looked at, until there is one; nothing is lost at the change",
            .needsUserNamespace, .timeLimit(.minutes(2)))
        func instanceLimit() async throws {
            let bench = try Bench()
            for number in 0..<50 { try bench.write("\(number)/file", "\(number)\n") }
            bench.prefix = Limits.inNamespace(["max_inotify_instances": 0])
            let agent = try await bench.startAgent()
            bench.prefix = []
            try await bench.expectInSync(agent)
            let coverage = try await expect("polled", bench)
            #expect(coverage.watched == 0 && coverage.directories == 51)
            #expect(try #require(coverage.message).contains("sysctl fs.inotify.max_user_instances="))
            try bench.write("7/new", "found by looking\n")
            try command(["rm", "-r", bench.at("8")])
            try await bench.expectInSync(agent)
            try Limits.set("max_inotify_instances", to: 10, of: agent)
            // Changes all the while: some are found by the last look, the rest is told.
            var count = 0
            let isWatched = try await eventually {
                try bench.write("\(count % 7)/later \(count)", "\(count)\n")
                count += 1
                try await pause(.milliseconds(20))
                if count % 50 != 0 { return false }
                return try await bench.status().sources.first?.coverage?.extent == "events"
            }
            #expect(isWatched)
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
            let live = Set(try StateFile(copying: bench.state).liveNames().map(\.path.description))
            #expect(!live.contains("8") && !live.contains("8/file"))
        }

        @Test(
            "Thousands of files in new directories with a queue of 128 events: none is missing, none is stored twice",
            .needsSystemSettings, .timeLimit(.minutes(5)))
        func overflow() async throws {
            let directories = Conditions.isLong ? 400 : 100
            let bench = try Bench()
            for number in 0..<100 { try bench.write("untouched/\(number)", "as it was \(number)\n") }
            let agent = try await Limits.withQueue(of: 128) { try await bench.startAgent() }
            try await bench.expectInSync(agent)
            let before = try Descriptor.open(bench.backup.appending("untouched"), O_RDONLY).status(of: Array("7".utf8))
            // A fast agent reads 128 events before they are too many.
            agent.send(SIGSTOP)
            for number in 0..<200 { try bench.write("untouched/more \(number)", "\(number)\n") }
            agent.send(SIGCONT)
            try command([
                "bash", "-c",
                FilePath(
                    "cd \"$0\" && for d in {1..\(directories)}; do mkdir $d; "
                        + "for n in {1..50}; do echo $d $n >$d/$n; done; done"), bench.source,
            ])
            try await bench.expectInSync(agent, within: .seconds(120))
            // The last loss is made up for.
            let isSynced = try await eventually { try await bench.status().sources.first?.desynced == false }
            #expect(isSynced)
            // What that walk found.
            try await bench.expectInSync(agent)
            try await bench.stop(agent)
            try bench.expectSaved()
            let after = try Descriptor.open(bench.backup.appending("untouched"), O_RDONLY).status(of: Array("7".utf8))
            #expect(after.fingerprint == before.fingerprint, "an unchanged file was stored again")
            let state = try StateFile(copying: bench.state)
            let ended = try state.rows("SELECT count(*) FROM name WHERE ended_at IS NOT NULL AND copy_id IS NOT NULL")
            // A file may be read while its line is being written; that is seen, and it is read again.
            #expect(try #require(ended.first)[0].integer < 200, "files were stored twice")
            let walks = try state.rows("SELECT count(*) FROM reconcile WHERE reason = 'desynced'")
            let count = try #require(walks.first)[0].integer
            #expect(count >= 1 && count <= 20, "\(count) walks")
        }

        @Test("What is changed below a real FUSE mount, where no event tells it, is found", .needsFuse)
        func fuse() async throws {
            let bench = try Bench()
            let below = bench.root.appending("below")
            try bench.makeDirectory(below)
            for number in 0..<5 {
                try bench.makeDirectory(below.appending("\(number)"))
                try bench.write(below.appending("\(number)/file"), Array("\(number)\n".utf8))
            }
            try command(["bindfs", below, bench.source])
            defer {
                do {
                    try command(["umount", "-l", bench.source])
                } catch {
                    Issue.record("\(bench.source) is mounted still: \(error)")
                }
            }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let coverage = try await expect("polled", bench)
            #expect(coverage.watched == 6 && coverage.directories == 6)
            #expect(try #require(coverage.message).contains("(fuse)"))
            try bench.write(below.appending("3/new"), Array("from below\n".utf8))
            try bench.write(below.appending("4/file"), Array("changed from below\n".utf8))
            try command(["rm", below.appending("2/file")])
            try await bench.expectInSync(agent)
            // And what is changed through it.
            try bench.write("1/through", "through the mount\n")
            try await bench.expectInSync(agent)
            let live = Set(try StateFile(copying: bench.state).liveNames().map(\.path.description))
            #expect(live.contains("3/new") && live.contains("1/through") && !live.contains("2/file"))
            try await bench.stop(agent)
        }

        /// A write through a memory mapping is no event until the file is closed.
        @Test("On a file system of a type that others change, what no event tells is found", .needsFaults)
        func declaredType() async throws {
            let bench = try Bench()
            try bench.write("dir/file", String(repeating: "a", count: 4_096))
            let agent = try await bench.startAgent(
                environment: ["SAFEBACKUP_VOLUME_TYPE": "\(VolumeType.nfs.rawValue)"])
            try await bench.expectInSync(agent)
            #expect(try #require(try await expect("polled", bench).message).contains("(nfs)"))
            let file = try Descriptor.open(bench.at("dir/file"), O_RDWR)
            let mapping = mmap(nil, 4_096, PROT_READ | PROT_WRITE, MAP_SHARED, file.raw, 0)
            try #require(mapping != MAP_FAILED)
            mapping?.storeBytes(of: UInt8(ascii: "b"), as: UInt8.self)
            msync(mapping, 4_096, MS_SYNC)
            let isSaved = try await eventually {
                try read(bench.backup.appending("dir/file")).first == UInt8(ascii: "b")
            }
            #expect(isSaved, "while the file is still open")
            munmap(mapping, 4_096)
            try await bench.stop(agent)
        }

        @Test("In the rests of a periodic walk nothing of the source is open, so that it can be unmounted")
        func periodicRests() async throws {
            let bench = try Bench()
            // Two parts, and so a rest of nine times the first one's work.
            let script =
                #"cd "$0" && for d in a b c d e f g h i j; do mkdir $d; for n in $(seq 460); do : >$d/$n; done; done"#
            try command(["bash", "-c", FilePath(script), bench.source])
            try await bench.saveOnce()
            let agent = try await bench.startAgent(["--reconcile-every-seconds", "1", "--idle-milliseconds", "100"])
            func walk() throws -> [String] {
                try StateFile(copying: bench.state).rows(
                    "SELECT max(id) FROM reconcile WHERE reason = 'periodic' AND ended_at IS NULL"
                ).flatMap { $0.map(\.text) }
            }
            let isClosed = try await eventually(within: .seconds(60)) {
                let before = try walk()
                if before == [""] { return false }
                let isClosed = try !agent.hasOpen(bench.source)
                // The same walk goes on, or it was open, or between two walks.
                return try isClosed && walk() == before
            }
            #expect(isClosed, "\(agent.errorTail)")
            try await bench.stop(agent)
        }

        @Test(
            "A source that is unmounted in a rest of the periodic walk is held, nothing of it ends, and it goes on when it is back",
            .needsLoopDevice, .timeLimit(.minutes(4)))
        func unmountedInRest() async throws {
            let bench = try Bench()
            let disk = try bench.makeDisk("disk", mebibytes: 64)
            bench.source = disk.mountPoint.appending("source")
            // Two parts, and so a rest of nine times the first one's work.
            let script =
                #"mkdir "$0" && cd "$0" && for d in a b c d e f g h i j; do mkdir $d; for n in $(seq 460); do : >$d/$n; done; done"#
            try command(["bash", "-c", FilePath(script), bench.source])
            try await bench.saveOnce()
            let agent = try await bench.startAgent(["--reconcile-every-seconds", "1", "--idle-milliseconds", "100"])
            func walk() throws -> String? {
                try StateFile(copying: bench.state).rows(
                    "SELECT max(id) FROM reconcile WHERE reason = 'periodic' AND ended_at IS NULL"
                ).first?.first?.text
            }
            let isUnmounted = try await eventually(within: .seconds(120)) {
                guard let before = try walk(), !before.isEmpty else { return false }
                do {
                    try disk.unmount()
                } catch is CommandFailure {
                    return false  // the walk is at work
                }
                // It may have ended just before.
                if try walk() == before { return true }
                try disk.mount()
                return false
            }
            try #require(isUnmounted && agent.poll() == nil, "\(agent.errorTail)")
            let isHeld = try await eventually {
                try await bench.status().sources.first?.held?.reason == "rootMissing"
            }
            #expect(isHeld && agent.poll() == nil, "\(agent.errorTail)")
            let names = "SELECT count(*), count(ended_at) FROM name"
            #expect(try StateFile(copying: bench.state).rows(names)[0].map(\.text) == ["4610", "0"])
            try disk.mount()
            try bench.write("a/new", "new\n")
            try await bench.expectInSync(agent, within: .seconds(90))
            let goesOn = try await eventually { try await bench.status().sources.first?.held == nil }
            #expect(goesOn)
            try await bench.stop(agent)
            try bench.expectSaved()
            #expect(try StateFile(copying: bench.state).rows(names)[0].map(\.text) == ["4611", "0"])
        }

        @Test("The periodic walk finds nothing in a source that is watched, however busy, and counts what is excluded")
        func periodic() async throws {
            let bench = try Bench()
            for number in 0..<200 { try bench.write("\(number % 10)/\(number)", "\(number)\n") }
            try bench.write("cache/inside", "not saved\n")
            try bench.write("3/note.tmp", "not saved\n")
            let agent = try await bench.startAgent([
                "--reconcile-every-seconds", "1", "--exclude", "cache", "--exclude", "*.tmp",
            ])
            var count = 0
            let haveWalked = try await eventually {
                count += 1
                try bench.write("\(count % 10)/\(count % 50)", "change \(count)\n")
                if count % 20 != 0 { return false }
                let walks = try StateFile(copying: bench.state).rows(
                    "SELECT count(*) FROM reconcile WHERE reason = 'periodic' AND complete = 1")
                return walks.first?[0].integer ?? 0 >= 3
            }
            #expect(haveWalked)
            try await bench.stop(agent)
            let state = try StateFile(copying: bench.state)
            let drift = try state.rows("SELECT sum(drift) FROM reconcile")
            #expect(drift.first?[0].integer == 0)
            #expect(try await bench.status().sources.first?.excluded == 2, "a directory counts as one")
        }
    }
}

extension Trait where Self == ConditionTrait {
    static var needsFuse: Self {
        .enabled(if: FuseMount.isAvailable, "needs bindfs, /dev/fuse and the right to mount")
    }
}

private enum FuseMount {
    static let isAvailable: Bool = {
        guard geteuid() == 0, access("/dev/fuse", R_OK | W_OK) == 0 else { return false }
        do {
            let bench = try Bench()
            let mountPoint = bench.root.appending("mounted")
            try bench.makeDirectory(mountPoint)
            try command(["bindfs", bench.source, mountPoint])
            try command(["umount", mountPoint])
            return true
        } catch {
            return false
        }
    }()
}
