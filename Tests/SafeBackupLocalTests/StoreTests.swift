import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing
import Glibc

@Suite("Storing a group")
struct StoreTests {
    @Test("Files, links and directories arrive whole, with their metadata, and staging is empty")
    func storesAll() throws {
        let bench = try Bench(in: Bench.disk)
        var ledger = Ledger()
        try bench.write("a/b/file", "content", mtime: 1_500_000_001)
        chmod(bench.sourcePath + "/a/b/file", 0o640)
        symlink("/etc/passwd", bench.sourcePath + "/a/link")
        try make(directory: bench.sourcePath + "/empty")
        chmod(bench.sourcePath + "/empty", 0o500)
        try bench.write("nothing", "")
        let outcomes = try bench.save("a", "a/b", "a/b/file", "a/link", "empty", "nothing", ledger: &ledger)
        #expect(outcomes.allSatisfy { $0.entry != nil })
        #expect(bench.stored("a/b/file") == "content")
        #expect(bench.stored("nothing") == "")
        #expect(linkTarget(of: bench.destinationPath + "/a/link") == "/etc/passwd")
        let file = try #require(status(of: bench.destinationPath + "/a/b/file"))
        #expect(file.st_mode & 0o7777 == 0o640)
        #expect(file.st_mtim.tv_sec == 1_500_000_001 && file.st_mtim.tv_nsec == 5)
        // The agent must be able to work in its own backup.
        #expect(status(of: bench.destinationPath + "/empty").map { $0.st_mode & 0o7777 } == 0o700)
        #expect(outcomes[4].entry?.metadata.mode == 0o500)
        #expect(try bench.staged() == [])
        #expect(outcomes[2].copied?.digest == SHA256.digest(of: Array("content".utf8)))
        #expect(outcomes[2].copied?.inode == UInt64(file.st_ino))
    }

    @Test("Names with odd bytes, invalid UTF-8 and a depth beyond PATH_MAX are stored as they are")
    func oddNames() throws {
        let bench = try Bench()
        var deep = RelativePath.root
        for _ in 0..<30 { deep = deep.appending([UInt8](repeating: UInt8(ascii: "d"), count: 200)) }
        let names: [RelativePath] = [
            RelativePath(unchecked: [0x66, 0x0A, 0x08, 0xFF, 0xFE]), RelativePath(unchecked: [0x65, 0xCC, 0x81]),
            RelativePath(unchecked: [0xC3, 0xA9]), deep.appending("file".utf8),
            RelativePath(unchecked: [UInt8](repeating: 0x78, count: 255)),
        ]
        let root = try ConfinedDirectory(opening: FilePath(bench.sourcePath))
        for (number, name) in names.enumerated() {
            let parent = try root.makeDirectories(name.parent)
            try parent.open(name.leaf, O_WRONLY | O_CREAT).writeAll([UInt8(number)])
        }
        let jobs = names.enumerated().map {
            DueJob(
                source: Bench.source, path: $1, location: $1, sequence: Int64($0), generation: 1, action: .store)
        }
        let plans = bench.destination.planNow(jobs)
        let group = try zip(jobs, plans).map { LeasedJob(job: $0, plan: try $1.get()) }
        let outcomes = bench.destination.storeNow(group, from: try bench.sources())
        for (number, name) in names.enumerated() {
            #expect(outcomes[number].error == nil)
            #expect(try bench.destination.readNow(name).readAll() == [UInt8(number)])
        }
        // Replaced once more, so that a version of each is made: the longest name is cut there.
        for name in names { try root.open(name, O_WRONLY).writeAll([9, 9]) }
        let again = zip(jobs, outcomes).map { job, outcome in
            var job = job
            let stored = outcome.copied
            job.sequence += 100
            job.occupant = CopyRecord(
                id: job.sequence, location: job.location, kind: .file, digest: stored?.digest, size: stored?.size ?? 0,
                storedAt: bench.now, inode: stored?.inode, mtime: stored?.mtime)
            return job
        }
        let second = try zip(again, bench.destination.planNow(again)).map { LeasedJob(job: $0, plan: try $1.get()) }
        for (number, outcome) in bench.destination.storeNow(second, from: try bench.sources()).enumerated() {
            let displaced = try #require(outcome.entry?.displaced.first)
            #expect(try bench.destination.readNow(displaced.to).readAll() == [UInt8(number)])
            #expect(displaced.reason == .kept)
        }
    }

    @Test("A file that is as it was is not read again, and one that only changed its mode keeps its copy")
    func keepsUnchanged() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content", mtime: 1_500_000_000)
        let first = try bench.save("file", ledger: &ledger)
        let plan = FaultPlan(call: "read")
        let group = try bench.lease(["file"], &ledger)
        let sources = try bench.sources()
        let second = plan.run { bench.destination.storeNow(group, from: sources) }
        #expect(second[0].isKept)
        // One read, of the sentinel, and its end.
        #expect(plan.counts.calls == 2)
        chmod(bench.sourcePath + "/file", 0o600)
        let third = try bench.save("file", ledger: &ledger)
        #expect(third[0].isKept)
        let stored = try #require(status(of: bench.destinationPath + "/file"))
        #expect(stored.st_mode & 0o7777 == 0o600)
        #expect(UInt64(stored.st_ino) == first[0].copied?.inode)
        #expect(try bench.versions().isEmpty)
    }

    @Test("Touching a file changes its copy's time and makes no version; the catalogue still knows the copy")
    func touch() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content", mtime: 1_500_000_000)
        try bench.save("file", ledger: &ledger)
        try bench.write("file", "content", mtime: 1_600_000_000)
        #expect(try bench.save("file", ledger: &ledger)[0].isKept)
        #expect(status(of: bench.destinationPath + "/file")?.st_mtim.tv_sec == 1_600_000_000)
        #expect(try bench.staged() == [])
        try bench.write("file", "other", mtime: 1_700_000_000)
        let last = try bench.save("file", ledger: &ledger)[0]
        // Known as ours, not as foreign, although its mtime is not the one of the day it was copied.
        #expect(last.entry?.displaced.map(\.reason) == [.kept])
        #expect(try bench.versions().values.sorted() == ["content"])
    }

    @Test("A link that only changed its owner or time keeps its copy; one that leads elsewhere is replaced")
    func links() throws {
        let bench = try Bench()
        var ledger = Ledger()
        let path = bench.sourcePath + "/link"
        symlink("one", path)
        let first = try bench.save("link", ledger: &ledger)[0]
        #expect(try bench.save("link", ledger: &ledger)[0].isKept)
        var times = [timespec](repeating: timespec(tv_sec: 1_500_000_000, tv_nsec: 7), count: 2)
        utimensat(AT_FDCWD, path, &times, AT_SYMLINK_NOFOLLOW)
        #expect(try bench.save("link", ledger: &ledger)[0].isKept)
        let stored = try #require(status(of: bench.destinationPath + "/link"))
        #expect(stored.st_mtim.tv_sec == 1_500_000_000 && UInt64(stored.st_ino) == first.copied?.inode)
        unlink(path)
        symlink("two", path)
        #expect(try bench.save("link", ledger: &ledger)[0].entry?.displaced.map(\.kind) == [.symlink])
        #expect(linkTarget(of: bench.destinationPath + "/link") == "two")
        #expect(try bench.versions().values.sorted() == ["one"])
    }

    @Test("A replaced copy becomes a version at most once in ten minutes")
    func versionInterval() throws {
        let bench = try Bench()
        var ledger = Ledger()
        for (number, minutes) in [(1, 0), (2, 1), (3, 1), (4, 11)] {
            bench.advance(minutes: Int64(minutes))
            try bench.write("d/file", "content \(number)")
            #expect(try bench.save("d/file", ledger: &ledger)[0].error == nil)
        }
        #expect(bench.stored("d/file") == "content 4")
        #expect(try bench.versions().values.sorted() == ["content 1", "content 3"])
    }

    @Test("What the source has no more is gone, whatever the way: missing, below a file, below a link")
    func gone() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content")
        symlink("/etc", bench.sourcePath + "/link")
        let outcomes = try bench.save("none", "no/ne", "file/x", "link/passwd", ledger: &ledger)
        #expect(outcomes == [.gone, .gone, .gone, .gone])
        #expect(try list(bench.destinationPath) == [".safebackup"])
    }

    @Test("Special files are named, never opened, and block nothing")
    func specialFiles() throws {
        let bench = try Bench()
        var ledger = Ledger()
        mkfifo(bench.sourcePath + "/fifo", 0o600)
        try bench.write("file", "content")
        let outcomes = try bench.save("fifo", "file", ledger: &ledger)
        #expect(outcomes[0].error?.code == .specialFile)
        #expect(outcomes[0].error?.disposition == .permanent)
        #expect(outcomes[1].entry != nil)
    }

    @Test("A sparse file stays sparse and has the digest of all its bytes")
    func sparse() throws {
        let bench = try Bench(in: Bench.disk)
        var ledger = Ledger()
        let size = 8 << 20
        var content = [UInt8](repeating: 0, count: size)
        let file = open(bench.sourcePath + "/file", O_WRONLY | O_CREAT, 0o644)
        ftruncate(file, off_t(size))
        for offset in [0, 3 << 20, (5 << 20) + 4_096] {
            pwrite(file, "island", 6, off_t(offset))
            content.replaceSubrange(offset..<(offset + 6), with: Array("island".utf8))
        }
        close(file)
        let outcome = try bench.save("file", ledger: &ledger)[0]
        #expect(outcome.copied?.digest == SHA256.digest(of: content))
        #expect(bytes(of: bench.destinationPath + "/file") == content)
        let blocks = try #require(status(of: bench.destinationPath + "/file")).st_blocks
        #expect(blocks * 512 < size / 4)
    }

    @Test("Extended attributes are copied; setuid goes only with the owner")
    func attributes() throws {
        let bench = try Bench(in: Bench.disk)
        var ledger = Ledger()
        try bench.write("file", "content")
        let path = FilePath(bench.sourcePath + "/file")
        let attribute = ExtendedAttribute(name: Array("user.comment".utf8), value: [1, 0, 2])
        try Descriptor.open(path, O_RDONLY).setExtendedAttribute(attribute)
        chmod(bench.sourcePath + "/file", 0o4755)
        let outcome = try bench.save("file", ledger: &ledger)[0]
        #expect(outcome.entry?.metadata.xattrs == [attribute])
        #expect(outcome.entry?.metadata.mode == 0o4755)
        let stored = try Descriptor.open(FilePath(bench.destinationPath + "/file"), O_RDONLY)
        #expect(try stored.extendedAttributes() == [attribute])
        // The test's own user owns both.
        #expect(try stored.status().mode == 0o4755)
        let plan = FaultPlan(call: "fchown", error: .notPermitted, isForever: true)
        if geteuid() == 0 {
            try bench.write("other", "content")
            chown(bench.sourcePath + "/other", 4_711, 4_711)
            chmod(bench.sourcePath + "/other", 0o4070)
            let group = try bench.lease(["other"], &ledger)
            let sources = try bench.sources()
            #expect(plan.run { bench.destination.storeNow(group, from: sources) }[0].entry?.metadata.uid == 4_711)
            // Ours, so it must stay readable for us, and must not give our rights away.
            #expect(status(of: bench.destinationPath + "/other").map { $0.st_mode & 0o7777 } == 0o670)
        }
    }

    @Test("A source of 100 files in 60 new directories is stored by one flush of the whole")
    func largeGroup() throws {
        let bench = try Bench(in: Bench.disk)
        var ledger = Ledger()
        var paths: [String] = []
        for number in 0..<100 {
            paths.append("d\(number % 60)/file\(number)")
            try bench.write(paths[number], "content \(number)")
        }
        let group = try bench.lease(paths, &ledger)
        let (small, large) = (FaultPlan(call: "fsync"), FaultPlan(call: "syncfs"))
        let sources = try bench.sources()
        let outcomes = large.run { bench.destination.storeNow(group, from: sources) }
        #expect(outcomes.allSatisfy { $0.entry != nil })
        #expect(large.counts.calls == 2)
        bench.enter(group, outcomes, &ledger)
        ledger.expectTruth(bench.destinationPath)
        try bench.write("single", "content")
        let single = try bench.lease(["single"], &ledger)
        #expect(small.run { bench.destination.storeNow(single, from: sources) }[0].entry != nil)
        // The file, and its directory.
        #expect(small.counts.calls == 2)
    }

    @Test("Few files are flushed one by one, with every directory that was made or changed on the way")
    func smallFlush() throws {
        let bench = try Bench()
        var ledger = Ledger()
        func flushes(_ path: String) throws -> Int {
            let group = try bench.lease([path], &ledger)
            let sources = try bench.sources()
            let plan = FaultPlan(call: "fsync")
            let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
            bench.enter(group, outcomes, &ledger)
            return plan.counts.calls
        }
        try bench.write("a/b/c/file", "one")
        // The file; c with its name; b, a and the root with the directories that were made in them.
        #expect(try flushes("a/b/c/file") == 5)
        try bench.write("a/b/c/file", "two")
        // Before the rename the file, its version's directory, and the three above it in which one was made; then c.
        #expect(try flushes("a/b/c/file") == 6)
        try bench.write("a/b/c/file", "three")
        #expect(try flushes("a/b/c/file") == 2)
        chmod(bench.sourcePath + "/a/b/c/file", 0o600)
        #expect(try flushes("a/b/c/file") == 1)
        #expect(try flushes("a/b/c/file") == 0)
    }

    @Test("A file becomes a directory, and a directory a file, a link, and back; what was in the way is kept")
    func kinds() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("x", "a file")
        try bench.save("x", ledger: &ledger)
        remove(tree: bench.sourcePath + "/x")
        try bench.write("x/y", "below")
        // The file below comes first: its way is blocked by the old copy of x.
        let first = try bench.save("x/y", "x", ledger: &ledger)
        #expect(first.allSatisfy { $0.entry != nil })
        #expect(bench.stored("x/y") == "below")
        #expect(try bench.versions().values.sorted() == ["a file"])
        remove(tree: bench.sourcePath + "/x")
        symlink("target", bench.sourcePath + "/x")
        let second = try bench.save("x", "x/y", ledger: &ledger)
        #expect(second[0].entry?.displaced.map(\.reason) == [.inTheWay])
        #expect(second[1] == .gone)
        #expect(linkTarget(of: bench.destinationPath + "/x") == "target")
        #expect(try bench.versions().values.sorted() == ["a file", "below"])
        unlink(bench.sourcePath + "/x")
        try bench.write("x", "again")
        #expect(try bench.save("x", ledger: &ledger)[0].entry?.displaced.map(\.reason) == [.inTheWay])
        #expect(bench.stored("x") == "again")
        #expect(try bench.staged() == [])
    }

    @Test("What a group has below a directory that it moves away is tried again, not promised")
    func belowMovedDirectory() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("x/y", "one")
        try bench.write("x/z", "two")
        try bench.save("x", "x/y", "x/z", ledger: &ledger)
        let group = try bench.lease(["x/y", "x", "x/z"], &ledger)
        let sources = try bench.sources()
        // The directory becomes a file while the group is staged.
        let top = bench.sourcePath
        let plan = FaultPlan(onReach: { step in
            guard step == "staged", isDirectory(top + "/x") else { return }
            remove(tree: top + "/x")
            try? write(top + "/x", "a file")
        })
        try bench.write("x/y", "changed")
        let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
        #expect(outcomes[0].error?.disposition == .transient)
        #expect(outcomes[1].entry?.displaced.map(\.kind) == [.directory])
        #expect(outcomes[2] == .gone)
        bench.enter(group, outcomes, &ledger)
        ledger.expectTruth(bench.destinationPath)
        #expect(bench.stored("x") == "a file")
        #expect(try bench.versions().values.sorted() == ["one", "two"])
        #expect(try bench.staged() == [])
    }
}
