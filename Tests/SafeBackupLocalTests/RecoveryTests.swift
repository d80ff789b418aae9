import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// Each window by itself; `FaultTests` goes through all of them in one group.
@Suite("Recovery of one lease")
struct RecoveryTests {
    private func makeLease(_ bench: Bench, _ ledger: inout Ledger) throws -> LeasedJob {
        try bench.write("file", "old", mtime: 1_500_000_000)
        try bench.save("file", ledger: &ledger)
        try bench.write("file", "new", mtime: 1_600_000_000)
        return try bench.lease(["file"], &ledger)[0]
    }

    private func paths(_ bench: Bench, _ lease: LeasedJob) throws -> (final: String, version: String, stage: String) {
        let version = try #require(lease.plan.version)
        return (
            bench.destinationPath + "/file", bench.destinationPath + "/" + version.description,
            bench.destinationPath + "/.safebackup/staging/" + lease.plan.stageName
        )
    }

    @Test("Nothing done: unchanged")
    func nothingDone() throws {
        let bench = try Bench()
        var ledger = Ledger()
        let lease = try makeLease(bench, &ledger)
        let recovered = try bench.destination.recoverNow([lease])[0]
        #expect(recovered.finding == .unchanged && recovered.displaced.isEmpty)
    }

    @Test("Linked, not renamed: the second link and the stage go")
    func linked() throws {
        let bench = try Bench()
        var ledger = Ledger()
        let lease = try makeLease(bench, &ledger)
        let paths = try paths(bench, lease)
        link(paths.final, paths.version)
        try write(paths.stage, "ne")
        let recovered = try bench.destination.recoverNow([lease])[0]
        #expect(recovered.finding == .unchanged && recovered.displaced.isEmpty)
        #expect(try bench.versions().isEmpty && bench.staged() == [])
        #expect(bench.stored("file") == "old")
    }

    @Test("Renamed away, nothing in its place: renamed back")
    func renamedAway() throws {
        let bench = try Bench()
        var ledger = Ledger()
        let lease = try makeLease(bench, &ledger)
        let paths = try paths(bench, lease)
        rename(paths.final, paths.version)
        try write(paths.stage, "new")
        let recovered = try bench.destination.recoverNow([lease])[0]
        #expect(recovered.finding == .unchanged && recovered.displaced.isEmpty)
        #expect(bench.stored("file") == "old")
        #expect(try bench.versions().isEmpty && bench.staged() == [])
    }

    @Test("Renamed away, and the way back is blocked: its place is told, and it stays there")
    func blockedWayBack() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("d/file", "old")
        try bench.save("d", "d/file", ledger: &ledger)
        try bench.write("d/file", "new")
        let lease = try bench.lease(["d/file"], &ledger)[0]
        let version = try #require(lease.plan.version)
        try make(directory: bench.destinationPath + "/" + version.parent.description)
        rename(bench.destinationPath + "/d/file", bench.destinationPath + "/" + version.description)
        rmdir(bench.destinationPath + "/d")
        try write(bench.destinationPath + "/d", "a file now")
        let recovered = try bench.destination.recoverNow([lease])[0]
        #expect(recovered.finding == .cleared)
        #expect(recovered.displaced.map(\.to) == [version])
        ledger.enter(recovered, at: bench.now)
        ledger.expectTruth(bench.destinationPath)
    }

    @Test("Renamed: the new copy is hashed, and the old one's place is told")
    func renamed() throws {
        let bench = try Bench()
        var ledger = Ledger()
        let lease = try makeLease(bench, &ledger)
        let paths = try paths(bench, lease)
        link(paths.final, paths.version)
        try write(paths.stage, "new", mtime: 1_600_000_000)
        rename(paths.stage, paths.final)
        let recovered = try bench.destination.recoverNow([lease])[0]
        guard case .replaced(let copy, .file, nil) = recovered.finding else {
            Issue.record("\(recovered.finding)")
            return
        }
        #expect(copy.digest == SHA256.digest(of: Array("new".utf8)) && copy.inode == nil)
        #expect(recovered.displaced.map(\.reason) == [.kept])
        ledger.enter(recovered, at: bench.now)
        ledger.expectTruth(bench.destinationPath)
        // The next drain hashes the source and finds its work done.
        let next = try bench.save("file", ledger: &ledger)[0]
        #expect(next.isKept)
    }

    @Test("Somebody else's file under the version name, or under the final one, is never removed nor claimed")
    func foreignFiles() throws {
        let bench = try Bench()
        var ledger = Ledger()
        let lease = try makeLease(bench, &ledger)
        let paths = try paths(bench, lease)
        try write(paths.version, "not ours")
        #expect(try bench.destination.recoverNow([lease])[0].finding == .unchanged)
        #expect(content(of: paths.version) == "not ours")
        unlink(paths.version)
        // The stage is still there: our rename has not been; the file is theirs.
        try write(paths.stage, "new")
        unlink(paths.final)
        try write(paths.final, "theirs")
        let recovered = try bench.destination.recoverNow([lease])[0]
        #expect(recovered.finding == .cleared)
        #expect(bench.stored("file") == "theirs")
    }

    @Test("A recovered copy is trusted only after its digest was compared: a change in between is stored")
    func changedSince() throws {
        let bench = try Bench()
        var ledger = Ledger()
        let lease = try makeLease(bench, &ledger)
        let paths = try paths(bench, lease)
        try write(paths.stage, "new", mtime: 1_600_000_000)
        rename(paths.stage, paths.final)
        ledger.enter(try bench.destination.recoverNow([lease])[0], at: bench.now)
        try bench.write("file", "NEW", mtime: 1_600_000_000)
        let outcome = try bench.save("file", ledger: &ledger)[0]
        #expect(outcome.copied?.digest == SHA256.digest(of: Array("NEW".utf8)))
    }

    @Test("Versions are removed only below versions, with the directories that become empty")
    func removeVersions() throws {
        let bench = try Bench()
        var ledger = Ledger()
        for number in 1...3 {
            try bench.write("a/b/file", "content \(number)")
            try bench.save("a/b/file", ledger: &ledger)
            bench.advance(minutes: 11)
        }
        let versions = ledger.versions.keys.sorted()
        #expect(versions.count == 2)
        try bench.destination.removeNow(versions: [versions[0]])
        #expect(try bench.versions().values.sorted() == ["content 2"])
        // Again, as after a crash.
        try bench.destination.removeNow(versions: versions)
        #expect(try list(bench.destinationPath + "/.safebackup/versions") == [])
        for path in ["a/b/file", ".safebackup/versions", ".safebackup/destination.json"] {
            let location = try RelativePath(path)
            #expect(throws: SafeBackupError.self) { try bench.destination.removeNow(versions: [location]) }
        }
        #expect(bench.stored("a/b/file") == "content 3")
    }

    @Test("Reading a copy never follows a link, and says when it is missing")
    func read() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content")
        try bench.save("file", ledger: &ledger)
        #expect(try bench.destination.readNow(try RelativePath("file")).readAll() == Array("content".utf8))
        symlink("file", bench.destinationPath + "/link")
        for name in ["link", "none", "file/x", ".safebackup"] {
            let location = try RelativePath(name)
            let error = #expect(throws: SafeBackupError.self) { try bench.destination.readNow(location) }
            #expect(error?.code == .damaged)
        }
    }

    @Test("A new catalogue copy replaces the older of two; one is whole at every moment")
    func catalogue() throws {
        let bench = try Bench()
        let catalogue = bench.destinationPath + "/.safebackup/catalogue"
        #expect(try bench.destination.cataloguesNow() == [])
        for number in 1...4 {
            let path = try bench.destination.catalogueStagePath().string
            try write(path, "catalogue \(number)", mtime: 1_500_000_000 + Int64(number))
            let plan = FaultPlan(call: "fsync", nth: 1, error: .ioError)
            #expect(throws: SafeBackupError.self) {
                try plan.run { try bench.destination.installCatalogueNow() }
            }
            let held = try list(catalogue).compactMap { content(of: catalogue + "/" + $0) }.sorted()
            #expect(held == (max(1, number - 2)..<number).map { "catalogue \($0)" })
            let again = try bench.destination.catalogueStagePath().string
            try write(again, "catalogue \(number)", mtime: 1_500_000_000 + Int64(number))
            try bench.destination.installCatalogueNow()
            #expect(try bench.staged() == [])
        }
        let newest = try #require(try bench.destination.cataloguesNow().first)
        #expect(bytes(of: newest.string) == Array("catalogue 4".utf8))
    }
}
