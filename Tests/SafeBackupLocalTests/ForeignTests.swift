import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// The destination held files before us, or somebody changes it behind our back.
@Suite("Foreign files in the destination")
struct ForeignTests {
    @Test("Identical files are adopted without a copy, and get the source's metadata")
    func adopts() throws {
        let bench = try Bench(prepare: { try write($0 + "/d/file", "content", mtime: 1_400_000_000) })
        var ledger = Ledger()
        try bench.write("d/file", "content", mtime: 1_500_000_000)
        chmod(bench.sourcePath + "/d/file", 0o604)
        let before = try #require(status(of: bench.destinationPath + "/d/file"))
        let outcome = try bench.save("d/file", ledger: &ledger)[0]
        let after = try #require(status(of: bench.destinationPath + "/d/file"))
        #expect(outcome.copied?.isAdopted == true)
        #expect(outcome.copied?.digest == SHA256.digest(of: Array("content".utf8)))
        #expect(after.st_ino == before.st_ino)
        #expect(after.st_mtim.tv_sec == 1_500_000_000 && after.st_mode & 0o777 == 0o604)
        #expect(try bench.versions().isEmpty)
        // Known as ours from now on.
        #expect(try bench.save("d/file", ledger: &ledger)[0].isKept)
    }

    @Test("A differing file is kept as foreign before it is replaced, whatever the version policy says")
    func keepsForeign() throws {
        let bench = try Bench(prepare: {
            try write($0 + "/same-size", "theirs!")
            try write($0 + "/other-size", "quite theirs")
        })
        var ledger = Ledger()
        try bench.write("same-size", "ours...")
        try bench.write("other-size", "ours")
        let outcomes = try bench.save("same-size", "other-size", ledger: &ledger)
        #expect(outcomes.flatMap { $0.entry?.displaced ?? [] }.map(\.reason) == [.foreign, .foreign])
        #expect(try bench.versions().values.sorted() == ["quite theirs", "theirs!"])
        // Somebody writes into the backup, twice within a minute: each time it is theirs, and kept.
        for number in 1...2 {
            try write(bench.destinationPath + "/other-size", "theirs again \(number)")
            try bench.write("other-size", "ours \(number)")
            #expect(try bench.save("other-size", ledger: &ledger)[0].entry?.displaced.map(\.reason) == [.foreign])
        }
        #expect(try bench.versions().count == 4)
        #expect(bench.stored("other-size") == "ours 2")
    }

    @Test(
        "A file of the same size and time under another inode is our copy if it has our content, and else somebody else's",
        arguments: [true, false], [EntryKind.file, .symlink])
    func alike(isOurs: Bool, kind: EntryKind) throws {
        let bench = try Bench()
        var ledger = Ledger()
        let (source, stored) = (bench.sourcePath + "/file", bench.destinationPath + "/file")
        func make(_ content: String, at path: String, mtime: Int) throws {
            unlink(path)
            if kind == .file { try write(path, content) } else { symlink(content, path) }
            var times = [timespec(tv_sec: mtime, tv_nsec: 5), timespec(tv_sec: mtime, tv_nsec: 5)]
            utimensat(AT_FDCWD, path, &times, AT_SYMLINK_NOFOLLOW)
        }
        try make("content", at: source, mtime: 1_500_000_000)
        try bench.save("file", ledger: &ledger)
        // The first one stays somewhere, so that its inode is not given again.
        rename(stored, bench.top + "/first")
        try make(isOurs ? "content" : "CONTENT", at: stored, mtime: 1_500_000_000)
        try ledger.betray("file")
        try make("new content", at: source, mtime: 1_600_000_000)
        let group = try bench.lease(["file"], &ledger)
        #expect(group[0].plan.versionReason == (isOurs ? .kept : .foreign))
        let outcomes = bench.destination.storeNow(group, from: try bench.sources())
        #expect(outcomes[0].entry?.displaced.map(\.reason) == [isOurs ? .kept : .foreign])
        #expect(try bench.versions().values.sorted() == [isOurs ? "content" : "CONTENT"])
        // Killed in the middle, recovery says the same.
        try make("content", at: source, mtime: 1_700_000_000)
        bench.enter(group, outcomes, &ledger)
        rename(stored, bench.top + "/second")
        try make(isOurs ? "new content" : "NEW content", at: stored, mtime: 1_600_000_000)
        bench.advance(minutes: 600)
        let again = try bench.lease(["file"], &ledger)
        let sources = try bench.sources()
        let renames = FaultPlan(call: "rename", nth: 1, error: .ioError, isForever: true)
        let flushes = FaultPlan(call: "fsync", nth: 1_000, error: .ioError)
        _ = (kind == .file ? flushes : renames).run { bench.destination.storeNow(again, from: sources) }
        let told = try bench.destination.recoverNow(again).flatMap(\.displaced).map(\.reason)
        #expect(told.allSatisfy { $0 == (isOurs ? .kept : .foreign) })
    }

    @Test(
        "A file in the way of a directory is told by its content, in the group and by recovery",
        arguments: [true, false])
    func obstruction(isRecovered: Bool) throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("d", "content", mtime: 1_500_000_000)
        try bench.save("d", ledger: &ledger)
        unlink(bench.sourcePath + "/d")
        try bench.write("d/below", "below", mtime: 1_500_000_000)
        let group = try bench.lease(["d/below"], &ledger)
        let obstruction = try RelativePath("d")
        #expect(group[0].plan.obstruction == obstruction)
        let sources = try bench.sources()
        // After the obstruction is away.
        let plan = isRecovered ? FaultPlan(call: "mkdir", nth: 1, error: .ioError) : FaultPlan()
        let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
        let told =
            isRecovered
            ? try bench.destination.recoverNow(group).flatMap(\.displaced)
            : outcomes.flatMap { $0.entry?.displaced ?? [] }
        if told.isEmpty { #expect(isRecovered) }
        #expect(told.allSatisfy { $0.digest == SHA256.digest(of: Array("content".utf8)) && $0.reason == .inTheWay })
        #expect(isRecovered || told.count == 1)
    }

    @Test("A file with more than one link is never adopted in place: changing it would change the other name")
    func manyLinks() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content", mtime: 1_500_000_000)
        // The worst case: the destination's file is the source's own.
        link(bench.sourcePath + "/file", bench.destinationPath + "/file")
        let outcome = try bench.save("file", ledger: &ledger)[0]
        #expect(outcome.copied?.isAdopted == false)
        let (source, stored) = (
            try #require(status(of: bench.sourcePath + "/file")),
            try #require(status(of: bench.destinationPath + "/file"))
        )
        #expect(source.st_ino != stored.st_ino)
        #expect(outcome.entry?.displaced.map(\.reason) == [.foreign])
        // Somebody links a copy of ours for a snapshot of his own: its metadata is not changed under him.
        link(bench.destinationPath + "/file", bench.top + "/snapshot")
        chmod(bench.sourcePath + "/file", 0o600)
        #expect(try bench.save("file", ledger: &ledger)[0].copied != nil)
        #expect(status(of: bench.top + "/snapshot").map { $0.st_mode & 0o777 } == 0o644)
    }

    @Test("Links of the same target are adopted; a link or a special file under a file's name is moved aside, unopened")
    func kinds() throws {
        let bench = try Bench(prepare: {
            try write($0 + "/../outside", "outside")
            symlink("target", $0 + "/link")
            symlink("../outside", $0 + "/file")
            mkfifo($0 + "/pipe", 0o600)
        })
        var ledger = Ledger()
        symlink("target", bench.sourcePath + "/link")
        try bench.write("file", "content")
        try bench.write("pipe", "content")
        let outcomes = try bench.save("link", "file", "pipe", ledger: &ledger)
        #expect(outcomes[0].copied?.isAdopted == true)
        #expect(outcomes[1].entry?.displaced.map(\.reason) == [.foreign])
        #expect(outcomes[2].entry?.displaced.map(\.kind) == [.fifo])
        #expect(bench.stored("file") == "content" && bench.stored("pipe") == "content")
        #expect(content(of: bench.top + "/outside") == "outside")
        #expect(try bench.versions().count == 2)
    }

    @Test("A damaged copy is replaced even if the source's content is what was once stored")
    func damaged() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content", mtime: 1_500_000_000)
        try bench.save("file", ledger: &ledger)
        let group = try bench.lease(["file"], &ledger).map { lease in
            var lease = lease
            lease.job.occupant?.isDamaged = true
            lease.job.hashFirst = true
            return lease
        }
        let outcome = bench.destination.storeNow(group, from: try bench.sources())[0]
        #expect(outcome.copied != nil)
    }

    @Test("A copy that somebody removed is made again, and a removed directory too")
    func removedBehindUs() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("d/file", "content", mtime: 1_500_000_000)
        try bench.save("d", "d/file", ledger: &ledger)
        remove(tree: bench.destinationPath + "/d")
        let group = try bench.lease(["d", "d/file"], &ledger)
        let outcomes = bench.destination.storeNow(group, from: try bench.sources())
        #expect(outcomes.allSatisfy { $0.entry != nil && !$0.isKept })
        #expect(bench.stored("d/file") == "content")
    }

    @Test("What appears under a final name between plan and rename is not overwritten", arguments: [true, false])
    func appears(isNew: Bool) throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "one")
        if !isNew { try bench.save("file", ledger: &ledger) }
        try bench.write("file", "two")
        let group = try bench.lease(["file"], &ledger)
        let sources = try bench.sources()
        let path = bench.destinationPath + "/file"
        let plan = FaultPlan(onReach: { step in
            guard step == "staged" else { return }
            unlink(path)
            try? write(path, "theirs")
        })
        let outcome = plan.run { bench.destination.storeNow(group, from: sources) }[0]
        #expect(outcome.error?.disposition == .transient)
        #expect(bench.stored("file") == "theirs")
        #expect(try bench.staged() == [] && bench.versions().isEmpty)
        var second = Ledger()
        #expect(try bench.save("file", ledger: &second)[0].entry?.displaced.map(\.reason) == [.foreign])
        #expect(try bench.versions().values.sorted() == ["theirs"])
    }
}
