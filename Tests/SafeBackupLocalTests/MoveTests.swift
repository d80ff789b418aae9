import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// Copies that follow their files to other paths.
@Suite("Moves")
struct MoveTests {
    private static let old: Int64 = 1_500_000_000

    /// A source with these files, saved; contents are the paths.
    private func saved(_ paths: [String], hasHardLinks: Bool = true) throws -> (Bench, Ledger) {
        let bench = try Bench(capabilities: { $0.hardLinks = hasHardLinks })
        var ledger = Ledger()
        for path in paths { try bench.write(path, "old \(path)", mtime: Self.old) }
        let group = try bench.lease(paths, &ledger)
        bench.enter(group, bench.destination.storeNow(group, from: try bench.sources()), &ledger)
        return (bench, ledger)
    }

    private func rename(_ bench: Bench, _ from: String, _ to: String) {
        Glibc.rename(bench.sourcePath + "/" + from, bench.sourcePath + "/" + to)
    }

    private func inode(_ bench: Bench, _ path: String) -> UInt? {
        status(of: bench.destinationPath + "/" + path).map { UInt($0.st_ino) }
    }

    @Test("A renamed file's copy is renamed: the source is not read, and nothing is left under the old name")
    func single() throws {
        var (bench, ledger) = try saved(["a", "d/b"])
        let inodes = (inode(bench, "a"), inode(bench, "d/b"))
        rename(bench, "a", "d/c")
        rename(bench, "d/b", "b")
        chmod(bench.sourcePath + "/b", 0o600)
        let counter = FaultPlan(call: "read")
        let outcomes = try bench.moveAll([("d/c", "a"), ("b", "d/b")], &ledger, counter)
        #expect(outcomes.allSatisfy { $0.entry?.content == .moved && $0.entry?.isRacy == false })
        // The sentinel's, and no more.
        let sentinel = FaultPlan(call: "read")
        _ = try sentinel.run { bench.destination.storeNow([], from: try bench.sources()) }
        #expect(counter.counts.calls == sentinel.counts.calls, "something was read")
        #expect((inode(bench, "d/c"), inode(bench, "b")) == inodes)
        #expect(inode(bench, "a") == nil && inode(bench, "d/b") == nil)
        #expect(status(of: bench.destinationPath + "/b").map { $0.st_mode & 0o777 } == 0o600)
        #expect(try bench.staged() == [] && bench.versions().isEmpty)
    }

    @Test("Swaps, chains and a rotation in one group: each copy is under its file's name, and no version is made")
    func crossing() throws {
        var (bench, ledger) = try saved(["a", "b", "c1", "c2", "log", "log.1"])
        let before = ["a", "b", "c1", "c2", "log", "log.1"].map { inode(bench, $0) }
        rename(bench, "a", "t")
        rename(bench, "b", "a")
        rename(bench, "t", "b")
        rename(bench, "c2", "c3")
        rename(bench, "c1", "c2")
        rename(bench, "log.1", "log.2")
        rename(bench, "log", "log.1")
        try bench.write("log", "new log", mtime: Self.old + 1)
        let outcomes = try bench.moveAll(
            [
                ("a", "b"), ("b", "a"), ("c2", "c1"), ("c3", "c2"), ("log", nil), ("log.1", "log"), ("log.2", "log.1"),
            ], &ledger)
        #expect(outcomes.filter { $0.entry?.content == .moved }.count == 6)
        let after = ["b", "a", "c2", "c3", "log.1", "log.2"].map { inode(bench, $0) }
        #expect(after == before)
        #expect(bench.stored("log") == "new log" && inode(bench, "c1") == nil)
        #expect(try bench.staged() == [] && bench.versions().isEmpty)
    }

    @Test("What a move replaces is kept as by a store: an older copy, a tombstone, a foreign file")
    func replacing() throws {
        var (bench, ledger) = try saved(["a", "b", "c", "over", "gone"])
        unlink(bench.sourcePath + "/gone")
        let end = try bench.lease(["gone"], &ledger)
        bench.enter(end, bench.destination.storeNow(end, from: try bench.sources()), &ledger)
        try write(bench.destinationPath + "/foreign", "theirs")
        for (from, to) in [("a", "over"), ("b", "gone"), ("c", "foreign")] { rename(bench, from, to) }
        let outcomes = try bench.moveAll([("over", "a"), ("gone", "b"), ("foreign", "c")], &ledger)
        #expect(outcomes.allSatisfy { $0.entry?.content == .moved })
        #expect(try bench.versions().values.sorted() == ["old gone", "old over", "theirs"])
        #expect(
            bench.stored("foreign") == "old c" && bench.stored("over") == "old a" && bench.stored("gone") == "old b")
    }

    @Test("A tombstone's copy follows its file, too")
    func fromTombstone() throws {
        var (bench, ledger) = try saved(["a"])
        let before = inode(bench, "a")
        rename(bench, "a", "b")
        let end = try bench.lease(["a"], &ledger)
        bench.enter(end, bench.destination.storeNow(end, from: try bench.sources()), &ledger)
        #expect(bench.stored("a") == "old a")
        try bench.moveAll([("b", "a")], &ledger)
        #expect(inode(bench, "b") == before && inode(bench, "a") == nil)
    }

    @Test("Where a file was moved away, a directory can be, with what lies below it")
    func directoryInstead() throws {
        var (bench, ledger) = try saved(["a", "b"])
        let before = (inode(bench, "a"), inode(bench, "b"))
        rename(bench, "a", "x")
        rename(bench, "b", "y")
        try bench.write("a/below", "new", mtime: Self.old)
        try bench.write("b/below", "new", mtime: Self.old)
        // The directory's own job may come with another group.
        try bench.moveAll([("a", nil), ("a/below", nil), ("b/below", nil), ("x", "a"), ("y", "b")], &ledger)
        #expect((inode(bench, "x"), inode(bench, "y")) == before)
        #expect(bench.stored("a/below") == "new" && bench.stored("b/below") == "new")
        #expect(try bench.versions().isEmpty)
    }

    @Test("Without a proof the digest decides; the same content moves, other content is stored")
    func byDigest() throws {
        var (bench, ledger) = try saved(["a", "b"])
        let before = inode(bench, "a")
        rename(bench, "a", "x")
        rename(bench, "b", "y")
        // Of the same size and time.
        try write(bench.sourcePath + "/y", "OLD b", mtime: Self.old)
        let outcomes = try bench.moveAll([("x", "a"), ("y", "b")], &ledger, isProven: false)
        #expect(outcomes[0].entry?.content == .moved && inode(bench, "x") == before)
        #expect(outcomes[1].copied?.digest == SHA256.digest(of: Array("OLD b".utf8)))
        #expect(bench.stored("b") == "old b")
    }

    @Test(
        "A copy that is not what the catalogue says, or cannot be linked, is left alone: the file is stored",
        arguments: ["changed", "missing", "linked", "same", "no links", "rewritten"])
    func notPossible(reason: String) throws {
        var (bench, ledger) = try saved(["a"], hasHardLinks: reason != "no links")
        rename(bench, "a", "b")
        let path = bench.destinationPath + "/a"
        switch reason {
        case "changed":
            unlink(path)
            try write(path, "CHANGED", mtime: Self.old)
            try ledger.betray("a")
        case "missing":
            unlink(path)
            try ledger.betray("a")
        case "linked": link(path, bench.destinationPath + "/theirs")
        // A rename between two links of one file does nothing.
        case "same": link(path, bench.destinationPath + "/b")
        case "rewritten": try bench.write("b", "rewritten", mtime: Self.old + 5)
        default: break
        }
        let outcomes = try bench.moveAll([("b", "a")], &ledger)
        #expect(outcomes[0].entry != nil && outcomes[0].entry?.content != .moved)
        #expect(bench.stored("b") == (reason == "rewritten" ? "rewritten" : "old a"))
        #expect(try bench.staged() == [])
        if reason != "missing" { #expect(content(of: path) == (reason == "changed" ? "CHANGED" : "old a")) }
    }

    @Test(
        "Where names fold, a rename that changes only the case ends under the new spelling, and two names collide",
        arguments: [true, false])
    func spelling(isMove: Bool) throws {
        let bench = try Bench(capabilities: { $0.foldsCase = true })
        var ledger = Ledger()
        for path in ["d/name", "other"] { try bench.write(path, "old \(path)", mtime: Self.old) }
        let first = try bench.lease(["d/name", "other"], &ledger)
        bench.enter(first, bench.destination.storeNow(first, from: try bench.sources()), &ledger)
        let before = inode(bench, "d/name")
        rename(bench, "d/name", "d/Name")
        let job = try ledger.due("d/Name", from: isMove ? "d/name" : nil)
        #expect(throws: SafeBackupError.self) { try bench.destination.planNow([job])[0].get() }
        let former = try RelativePath("d/name")
        #expect(bench.destination.otherSpellingsNow(of: [job.location]).map(\.?.location) == [former])
        let lease = LeasedJob(job: job, plan: try bench.destination.planNow(job, replacing: former).get())
        let outcomes = bench.destination.storeNow([lease], from: try bench.sources())
        #expect((outcomes[0].entry?.content == .moved) == isMove)
        bench.enter([lease], outcomes, &ledger)
        ledger.expectTruth(bench.destinationPath)
        #expect(bench.stored("d/Name") == "old d/name" && bench.stored("d/name") == nil)
        #expect((inode(bench, "d/Name") == before) == isMove)
        #expect(try bench.versions().values.sorted() == (isMove ? [] : ["old d/name"]))
        #expect(try bench.staged() == [])
        // A third spelling beside it is not ours to replace.
        try write(bench.destinationPath + "/d/NAME", "theirs")
        let third = try ledger.due("d/nAME")
        #expect(bench.destination.otherSpellingsNow(of: [third.location]) == [nil])
        #expect(throws: SafeBackupError.self) { try bench.destination.planNow(third, replacing: former).get() }
    }

    @Test("A directory below versions goes when the last version has left it")
    func vacated() throws {
        var (bench, ledger) = try saved(["d/e/f", "g"])
        let versions = bench.destinationPath + "/.safebackup/versions"
        try bench.write("d/e/f", "rewritten", mtime: Self.old + 1)
        let group = try bench.lease(["d/e/f"], &ledger)
        let sources = try bench.sources()
        let outcomes = FaultPlan(call: "rename", nth: 1, error: .ioError).run {
            bench.destination.storeNow(group, from: sources)
        }
        #expect(outcomes[0].error != nil && isDirectory(versions + "/d/e"))
        bench.enter(group, outcomes, &ledger)
        #expect(bench.destination.hasVacatedVersions)
        try bench.destination.removeEmptyNow([])
        #expect(!isDirectory(versions + "/d") && !bench.destination.hasVacatedVersions)
        // One that holds a version stays.
        try bench.save("d/e/f", ledger: &ledger)
        try bench.destination.removeEmptyNow([])
        #expect(try bench.versions().values.sorted() == ["old d/e/f"])
    }

    @Test("What cannot be stored in a moved copy's place does not hold up the move")
    func besideFailure() throws {
        var (bench, ledger) = try saved(["log", "a"])
        let before = inode(bench, "log")
        rename(bench, "log", "log.1")
        mkfifo(bench.sourcePath + "/log", 0o600)
        let outcomes = try bench.moveAll([("log", nil), ("log.1", "log")], &ledger)
        #expect(outcomes[0].error?.code == .specialFile)
        #expect(outcomes[1].entry?.content == .moved && inode(bench, "log.1") == before && inode(bench, "log") == nil)
    }

    @Test("A move that is given up before the renames keeps its copy from being replaced as if it were gone")
    func givenUp() throws {
        var (bench, ledger) = try saved(["log", "log.1", "a"])
        rename(bench, "log.1", "log.2")
        rename(bench, "log", "log.1")
        try bench.write("log", "new log", mtime: Self.old + 1)
        rename(bench, "a", "b")
        let group = try bench.lease([("b", "a"), ("log", nil), ("log.1", "log"), ("log.2", "log.1")], &ledger)
        // Somebody puts a file where the last one is about to go.
        try write(bench.destinationPath + "/log.2", "theirs")
        let outcomes = bench.destination.storeNow(group, from: try bench.sources())
        // The last one fails at its rename, when the others are done: recovery sees to all three.
        #expect(outcomes.map { $0.error == nil } == [false, false, false, false])
        bench.enter(group, outcomes, &ledger)
        ledger.expectTruth(bench.destinationPath)
        #expect(try bench.staged() == [])
        #expect(bench.stored("log") == "new log" && bench.stored("log.1") == "old log" && bench.stored("b") == "old a")
        #expect(bench.stored("log.2") == "theirs")
        #expect(try bench.versions().values.sorted() == ["old log.1"])

        // Or where it is now, so that nothing is renamed at all.
        (bench, ledger) = try saved(["log", "over"])
        rename(bench, "log", "over")
        try bench.write("log", "new log", mtime: Self.old + 1)
        let again = try bench.lease([("log", nil), ("over", "log")], &ledger)
        try write(bench.destinationPath + "/over", "theirs, and longer")
        try ledger.betray("over")
        let failed = bench.destination.storeNow(again, from: try bench.sources())
        #expect(failed.allSatisfy { $0.error != nil })
        bench.enter(again, failed, &ledger)
        ledger.expectTruth(bench.destinationPath)
        #expect(bench.stored("log") == "old log" && bench.stored("over") == "theirs, and longer")
    }

    // MARK: - Faults

    /// Swap, chain, rotation, over another, from and over a tombstone, into a new directory, a directory in its place,
    /// by digest, a link.
    private struct Crossing {
        var bench: Bench
        var ledger: Ledger
        let moves: [(String, String?)]
        let contents: Set<String>

        init(_ tests: MoveTests) throws {
            let names = ["a", "b", "c1", "c2", "log", "over", "by", "deleted", "tomb", "file", "m"]
            (bench, ledger) = try tests.saved(names)
            symlink("target", bench.sourcePath + "/link")
            try bench.save("link", ledger: &ledger)
            unlink(bench.sourcePath + "/tomb")
            let ends = try bench.lease(["tomb"], &ledger)
            bench.enter(ends, bench.destination.storeNow(ends, from: try bench.sources()), &ledger)
            contents = Set(names.map { "old \($0)" })

            for (from, to) in [
                ("a", "t"), ("b", "a"), ("t", "b"), ("c2", "c3"), ("c1", "c2"), ("log", "log.1"), ("by", "over"),
                ("deleted", "tomb"), ("link", "link2"),
            ] { tests.rename(bench, from, to) }
            try bench.write("log", "new log", mtime: MoveTests.old + 1)
            try make(directory: bench.sourcePath + "/new/d")
            tests.rename(bench, "file", "new/d/file")
            tests.rename(bench, "m", "m2")
            try bench.write("m/below", "new below", mtime: MoveTests.old)
            let gone = try bench.lease(["deleted"], &ledger)
            bench.enter(gone, bench.destination.storeNow(gone, from: try bench.sources()), &ledger)
            moves = [
                ("a", "b"), ("b", "a"), ("c2", "c1"), ("c3", "c2"), ("link2", "link"), ("log", nil), ("log.1", "log"),
                ("m", nil), ("m/below", nil), ("m2", "m"), ("new/d/file", "file"), ("over", "by"), ("tomb", "deleted"),
            ]
        }

        /// Nothing that was saved is gone, whatever its name is now.
        func expectAllThere(_ comment: String) throws {
            let found = try tree(bench.destinationPath).compactMap { content(of: bench.destinationPath + "/" + $0) }
            #expect(contents.isSubset(of: found), "\(contents.subtracting(found)) \(comment)")
        }

        mutating func expectRepair(_ comment: String) throws {
            for _ in 0..<4 {
                let outcomes = try bench.moveAll(moves, &ledger, comment: comment)
                if outcomes.allSatisfy({ $0.error == nil }) { break }
            }
            for path in try tree(bench.sourcePath) {
                let (from, to) = (bench.sourcePath + "/" + path, bench.destinationPath + "/" + path)
                #expect(bytes(of: from) == bytes(of: to), "\(path) \(comment)")
                #expect(linkTarget(of: from) == linkTarget(of: to), "\(path) \(comment)")
            }
            #expect(try bench.staged() == [], "\(comment)")
            try expectAllThere(comment)
        }
    }

    @Test(
        "Ended before any call, every copy is still there; recovery and one more try finish the moves", arguments: 1...3
    )
    func endAtEachCall(first: Int) throws {
        var call = isLong ? 1 : first
        while true {
            var scene = try Crossing(self)
            let bench = scene.bench
            let group = try bench.lease(scene.moves, &scene.ledger)
            let sources = try bench.sources()
            let plan = FaultPlan(nth: call, error: .ioError, isForever: true)
            _ = plan.run { bench.destination.storeNow(group, from: sources) }
            let comment = "(ended at call \(call))"
            try scene.expectAllThere(comment)
            scene.ledger.enter(try bench.destination.recoverNow(group), at: bench.now)
            #expect(try bench.staged() == [], "\(comment)")
            scene.ledger.expectTruth(bench.destinationPath, comment)
            try scene.expectAllThere(comment)
            try scene.expectRepair(comment)
            if plan.counts.fired == 0 { break }
            call += isLong ? 1 : 3
        }
        #expect(call > 150)
    }

    @Test("Any one call failing promises nothing false and loses no copy", arguments: FaultTests.errors)
    func failEachCall(error: Errno) throws {
        let step = isLong ? 1 : FaultTests.errors.count
        var call = isLong ? 1 : 1 + (FaultTests.errors.firstIndex(of: error) ?? 0)
        while true {
            var scene = try Crossing(self)
            let bench = scene.bench
            let group = try bench.lease(scene.moves, &scene.ledger)
            let sources = try bench.sources()
            let plan = FaultPlan(nth: call, error: error)
            let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
            let comment = "(\(error) at call \(call))"
            try scene.expectAllThere(comment)
            bench.enter(group, outcomes, &scene.ledger)
            #expect(try bench.staged() == [], "\(comment)")
            scene.ledger.expectTruth(bench.destinationPath, comment)
            try scene.expectAllThere(comment)
            try scene.expectRepair(comment)
            if plan.counts.fired == 0 { break }
            call += step
        }
        #expect(call > 150)
    }

    @Test("Recovery that fails at any call, in the middle of the renames, can be asked again")
    func recoveryFails() throws {
        let whole = try Crossing(self)
        var ledger = whole.ledger
        let all = try whole.bench.lease(whole.moves, &ledger)
        let sources = try whole.bench.sources()
        let counter = FaultPlan(call: "rename")
        _ = counter.run { whole.bench.destination.storeNow(all, from: sources) }
        var call = 1
        while true {
            var scene = try Crossing(self)
            let bench = scene.bench
            let group = try bench.lease(scene.moves, &scene.ledger)
            let sources = try bench.sources()
            let nth = 1 + call % counter.counts.calls
            _ = FaultPlan(call: "rename", nth: nth, error: .ioError, isForever: true).run {
                bench.destination.storeNow(group, from: sources)
            }
            let plan = FaultPlan(nth: call, error: .ioError, isForever: true)
            var recovered: [RecoveredLease] = []
            do {
                recovered = try plan.run { try bench.destination.recoverNow(group) }
            } catch {
                recovered = try bench.destination.recoverNow(group)
            }
            let comment = "(recovery failed at call \(call))"
            scene.ledger.enter(recovered, at: bench.now)
            scene.ledger.expectTruth(bench.destinationPath, comment)
            try scene.expectRepair(comment)
            if plan.counts.fired == 0 { break }
            call += 1
        }
        #expect(call > 30)
    }

    @Test("In the place of a copy that is only in staging somebody put a file: both are kept")
    func rescued() throws {
        var (bench, ledger) = try saved(["log"])
        rename(bench, "log", "log.1")
        try bench.write("log", "new log", mtime: Self.old + 1)
        let group = try bench.lease([("log", nil), ("log.1", "log")], &ledger)
        let sources = try bench.sources()
        // The new log is in place, the older one in staging.
        _ = FaultPlan(call: "rename", nth: 2, error: .ioError, isForever: true).run {
            bench.destination.storeNow(group, from: sources)
        }
        #expect(bench.stored("log") == "new log")
        #expect(try bench.staged().count == 1)
        try write(bench.destinationPath + "/log.1", "theirs")
        let recovered = try bench.destination.recoverNow(group)
        ledger.enter(recovered, at: bench.now)
        ledger.expectTruth(bench.destinationPath)
        #expect(try bench.staged() == [] && bench.versions().values.sorted() == ["old log"])
        #expect(bench.stored("log.1") == "theirs")
    }
}

extension Bench {
    /// Leases paths, some of them as moves from another.
    func lease(_ moves: [(String, String?)], _ ledger: inout Ledger, isProven: Bool = true) throws -> [LeasedJob] {
        var jobs: [DueJob] = []
        for (path, from) in moves { jobs.append(try ledger.due(path, from: from, isProven: isProven)) }
        return try zip(jobs, destination.planNow(jobs)).map { LeasedJob(job: $0, plan: try $1.get()) }
    }

    /// One whole round, entered in the ledger.
    @discardableResult
    func moveAll(
        _ moves: [(String, String?)], _ ledger: inout Ledger, _ plan: FaultPlan = FaultPlan(), isProven: Bool = true,
        comment: String = ""
    ) throws -> [JobOutcome] {
        let group = try lease(moves, &ledger, isProven: isProven)
        let sources = try sources()
        let outcomes = plan.run { destination.storeNow(group, from: sources) }
        enter(group, outcomes, &ledger)
        ledger.expectTruth(destinationPath, comment)
        return outcomes
    }
}
