import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// A directory whose name changed only in case, at a destination that takes both names for one.
@Suite("Directories renamed only in case")
struct SpellingTests {
    /// `Foo` is saved with what lies below it, and is `foo` at the source since.
    private struct Renamed {
        let bench: Bench
        var ledger = Ledger()
        private static let leaves = ["a", "b", "sub/c"]
        private let inodes: [ino_t?]

        init() throws {
            bench = try Bench(capabilities: { $0.foldsCase = true })
            for leaf in Self.leaves { try bench.write("Foo/\(leaf)", "old \(leaf)", mtime: 1_500_000_000) }
            try bench.write("other", "other", mtime: 1_500_000_000)
            try bench.save("Foo", "Foo/a", "Foo/b", "Foo/sub", "Foo/sub/c", "other", ledger: &ledger)
            // Somebody else's, in the directory of ours.
            try write(bench.destinationPath + "/Foo/theirs", "theirs")
            let path = bench.destinationPath
            inodes = Self.leaves.map { status(of: "\(path)/Foo/\($0)")?.st_ino }
            rename(bench.sourcePath + "/Foo", bench.sourcePath + "/foo")
        }

        /// As the agent does: what collides is planned again, in the place of what is gone at the source.
        mutating func lease(_ path: String) throws -> LeasedJob {
            let job = try ledger.due(path)
            do throws(SafeBackupError) {
                return LeasedJob(job: job, plan: try bench.destination.planNow([job])[0].get())
            } catch {
                guard error.code == .nameCollision else { throw error }
            }
            let spelling = try #require(bench.destination.otherSpellingsNow(of: [job.location])[0])
            let former = try RelativePath("Foo")
            #expect(spelling.isDirectory && spelling.location == former)
            return LeasedJob(job: job, plan: try bench.destination.planNow(job, replacing: spelling.location).get())
        }

        @discardableResult
        mutating func makeRoom(_ plan: FaultPlan = FaultPlan(), by path: String = "foo") throws -> LeasedJob {
            let lease = try lease(path)
            let sources = try bench.sources()
            let outcomes = plan.run { bench.destination.storeNow([lease], from: sources) }
            bench.enter([lease], outcomes, &ledger)
            return lease
        }

        var moves: [(String, String?)] { Self.leaves.map { ("foo/\($0)", "Foo/\($0)") } }

        /// Everything that was saved, and what was there before, is somewhere.
        func expectAllThere(_ comment: String) throws {
            let found = try tree(bench.destinationPath).compactMap { content(of: bench.destinationPath + "/" + $0) }
            let saved = Set(Self.leaves.map { "old \($0)" } + ["other", "theirs"])
            #expect(saved.isSubset(of: found), "\(saved.subtracting(found)) \(comment)")
        }

        func expectDone(_ comment: String = "") throws {
            let path = bench.destinationPath
            for leaf in Self.leaves { #expect(bench.stored("foo/\(leaf)") == "old \(leaf)", "\(leaf) \(comment)") }
            #expect(Self.leaves.map { status(of: "\(path)/foo/\($0)")?.st_ino } == inodes, "\(comment)")
            #expect(status(of: path + "/Foo") == nil, "\(comment)")
            #expect(try bench.staged() == [] && Array(bench.versions().values) == ["theirs"], "\(comment)")
        }
    }

    @Test(
        "Its copies go to the new spelling as they are, and what was not ours is kept", arguments: ["foo", "foo/sub"])
    func moves(by path: String) throws {
        var scene = try Renamed()
        try scene.makeRoom(by: path)
        scene.ledger.expectTruth(scene.bench.destinationPath)
        try scene.expectAllThere("")
        let outcomes = try scene.bench.moveAll(scene.moves, &scene.ledger)
        #expect(outcomes.allSatisfy { $0.entry?.content == .moved })
        try scene.expectDone()
        // The directories of the version are empty but for what is not ours.
        try scene.bench.destination.removeEmptyNow([])
        #expect(try list(scene.bench.destinationPath + "/.safebackup/versions").count == 1)
    }

    @Test(
        "Ended before any call, or with any one failing, no copy is lost, and one more try finishes",
        arguments: [true, false])
    func endAtEachCall(isForever: Bool) throws {
        var call = 1
        while true {
            var scene = try Renamed()
            let plan = FaultPlan(nth: call, error: .ioError, isForever: isForever)
            let lease = try scene.lease("foo")
            let sources = try scene.bench.sources()
            let outcomes = plan.run { scene.bench.destination.storeNow([lease], from: sources) }
            let comment = "(ended at call \(call))"
            try scene.expectAllThere(comment)
            if isForever {
                scene.ledger.enter(try scene.bench.destination.recoverNow([lease]), at: scene.bench.now)
            } else {
                scene.bench.enter([lease], outcomes, &scene.ledger)
            }
            scene.ledger.expectTruth(scene.bench.destinationPath, comment)
            try scene.makeRoom()
            scene.ledger.expectTruth(scene.bench.destinationPath, comment)
            try scene.bench.moveAll(scene.moves, &scene.ledger, comment: comment)
            try scene.expectDone(comment)
            if plan.counts.fired == 0 { break }
            call += 1
        }
        #expect(call > 10)
    }

    @Test("In a group with others it moves nothing that they take from there, and leaves what it finds in its place")
    func together() throws {
        var scene = try Renamed()
        let bench = scene.bench
        // Two of them: the second finds nothing more under the former spelling.
        var group = [try scene.lease("foo"), try scene.lease("foo/sub")]
        // A move out of it, which was planned before.
        rename(bench.sourcePath + "/foo/b", bench.sourcePath + "/b")
        group += try bench.lease([("b", "Foo/b")], &scene.ledger)
        // And one of its own.
        let job = try scene.ledger.due("foo/a", from: "Foo/a")
        group.append(
            LeasedJob(job: job, plan: try bench.destination.planNow(job, replacing: try RelativePath("Foo")).get()))
        let outcomes = bench.destination.storeNow(group, from: try bench.sources())
        #expect(outcomes.map { $0.error == nil } == [true, true, false, true])
        #expect(outcomes[3].copied != nil && outcomes.flatMap { $0.entry?.displaced ?? [] }.count == 1)
        bench.enter(group, outcomes, &scene.ledger)
        scene.ledger.expectTruth(bench.destinationPath)
        try scene.expectAllThere("")
        #expect(isDirectory(bench.destinationPath + "/foo/sub") && bench.stored("foo/a") == "old a")
    }

    @Test("A directory that is empty, or gone, under one spelling is not removed under another")
    func empty() throws {
        let bench = try Bench(capabilities: { $0.foldsCase = true })
        var ledger = Ledger()
        try make(directory: bench.sourcePath + "/foo")
        try bench.save("foo", ledger: &ledger)
        // Where names fold, the second is the first.
        try bench.destination.removeEmptyNow([try RelativePath("Foo")])
        #expect(isDirectory(bench.destinationPath + "/foo"))
        try bench.destination.removeEmptyNow([try RelativePath("foo")])
        #expect(!isDirectory(bench.destinationPath + "/foo"))
    }
}
