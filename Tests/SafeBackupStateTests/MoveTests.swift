import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite struct MoveTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    private static let born = FileTime(nanoseconds: 77)

    /// A file's content and state, with a known birth time.
    private func born(_ number: UInt8) -> StoredEntry {
        var entry = file(number)
        entry.birthTime = Self.born
        return entry
    }

    private func status(_ number: UInt8, born: FileTime? = MoveTests.born, links: UInt32 = 1) -> FileStatus {
        var fingerprint = fingerprint(number)
        fingerprint.ctime = FileTime(nanoseconds: 500)
        return FileStatus(
            kind: .file, fingerprint: fingerprint, mode: 0o644, uid: 1, gid: 2, linkCount: links, birthTime: born)
    }

    private func ask(_ path: String, _ status: FileStatus) async throws -> [MoveCandidate] {
        let question = MoveQuestion(source: scene.source, path: try RelativePath(path), status: status)
        return try #require(try await scene.store.origins(scene.destination, [question]).first)
    }

    /// Every name as `path live-or-reason location`.
    private func names() throws -> [String] {
        try fixture.rows("SELECT path || ' ' || ifnull(reason, 'live') || ' ' || ifnull(location, '-') FROM v_history")
    }

    private func copies() throws -> [String] {
        try fixture.rows("SELECT location || ' ' || role || ' ' || substr(hex(digest), 1, 2) FROM copy ORDER BY 1")
    }

    /// Leases paths, each with what it is moved from.
    private func lease(_ moves: [(String, String?, UInt8)]) async throws -> [LeasedJob] {
        for (path, _, _) in moves { try await scene.enqueue([try scene.change(path)]) }
        var leases: [LeasedJob] = []
        for (path, from, number) in moves {
            var job = try #require(try await scene.due().jobs.first { $0.path.description == path })
            if let from {
                job.origin = try #require(
                    try await ask(path, status(number)).first { $0.origin.path.description == from }
                ).origin
                job.action = .move
            }
            leases.append(LeasedJob(job: job, plan: LeasePlan(stageName: "s\(job.sequence)", final: .absent)))
        }
        return try await scene.store.lease(scene.destination, leases)
    }

    private func move(_ moves: [(String, String?, UInt8)]) async throws {
        let completions = try await lease(moves).enumerated().map { index, lease in
            var entry = born(moves[index].2)
            if moves[index].1 != nil { entry.content = .moved }
            entry.fingerprint.ctime = FileTime(nanoseconds: 500)
            return Completion(job: lease.job, outcome: .stored(entry))
        }
        _ = try await scene.store.complete(scene.destination, completions)
    }

    /// A walk that ended: from now on every event is told.
    private func walk() async throws {
        let id = try await scene.store.beginReconcile(scene.source, reason: "start")
        try await scene.store.finishReconcile(id, complete: true)
    }

    /// What the watcher tells of a rename that it saw from one end to the other.
    private func renamed(_ path: String, from origin: String) throws -> QueuedChange {
        var change = try scene.change(path)
        change.origin = try RelativePath(origin)
        return change
    }

    // MARK: - Where it was

    @Test("Only the same inode, born at the same time, with the same size and mtime is the same file")
    func same() async throws {
        try await scene.save("a", born(1))
        try await walk()
        #expect(try await ask("b", status(1)).map(\.origin.isProven) == [false], "no event told of a rename")
        try await scene.enqueue([try renamed("b", from: "a")])
        #expect(try await ask("b", status(1)).map(\.origin.isProven) == [true])
        #expect(try await ask("a", status(1)).isEmpty, "a path is not moved from itself")
        #expect(try await ask("b", status(1, born: FileTime(nanoseconds: 78))).isEmpty, "the inode was given again")
        #expect(try await ask("b", status(1, born: nil)).map(\.origin.isProven) == [false])
        #expect(try await ask("b", status(2)).isEmpty)
        for change in [\Fingerprint.size, \Fingerprint.mtime.nanoseconds] {
            var other = status(1)
            other.fingerprint[keyPath: change] += 1
            #expect(try await ask("b", other).isEmpty)
        }
        var racy = born(3)
        racy.isRacy = true
        try await scene.save("racy", racy)
        try await scene.enqueue([try renamed("c", from: "racy")])
        #expect(try await ask("c", status(3)).map(\.origin.isProven) == [false])
        try await scene.save("fuzzy", born(4).fuzzy())
        #expect(try await ask("b", status(4)).isEmpty)
    }

    @Test("A write before the rename, on any of the paths it went through, and a loss of events undo the proof")
    func written() async throws {
        for number in UInt8(1)...6 { try await scene.save("\(number)", born(number)) }
        // Before the walk that makes up for what was lost.
        try await scene.enqueue([try scene.change("1", .delete), try renamed("1b", from: "1")])
        try await walk()
        #expect(try await ask("1b", status(1)).map(\.origin.isProven) == [false])
        // In one batch and in several, through a path of which nothing is saved.
        try await scene.enqueue([try scene.change("2")])
        try await scene.enqueue([try scene.change("2", .delete), try renamed("2b", from: "2")])
        #expect(try await ask("2b", status(2)).map(\.origin.isProven) == [false])
        try await scene.enqueue([try renamed("3t", from: "3"), try scene.change("3", .delete)])
        try await scene.enqueue([try renamed("3b", from: "3t"), try scene.change("3t", .delete)])
        #expect(try await ask("3b", status(3)).map(\.origin.isProven) == [true])
        try await scene.enqueue([try renamed("4t", from: "4"), try scene.change("4", .delete)])
        try await scene.enqueue([try scene.change("4t")])
        try await scene.enqueue([try renamed("4b", from: "4t"), try scene.change("4t", .delete)])
        #expect(try await ask("4b", status(4)).map(\.origin.isProven) == [false])
        // After it, and a swap.
        try await scene.enqueue([try renamed("5", from: "6"), try renamed("6", from: "5")])
        #expect(try await ask("6", status(5)).map(\.origin.isProven) == [true])
        try await scene.enqueue([try scene.change("5")])
        #expect(try await ask("5", status(6)).map(\.origin.isProven) == [false])
        try await scene.store.markDesynced(scene.source, true)
        #expect(try await ask("3b", status(3)).map(\.origin.isProven) == [false])
        try await walk()
        #expect(try await ask("3b", status(3)).map(\.origin.isProven) == [false], "its events may be those lost")
    }

    @Test("A file that had other names when it was saved, or has some now, may have been written by one of them")
    func linked() async throws {
        var two = born(1)
        two.hasOtherLinks = true
        try await scene.save("a", two)
        try await scene.save("b", born(2))
        try await walk()
        // The other name is written and removed, and then this one is renamed: no event tells of the write here.
        try await scene.enqueue([try renamed("a2", from: "a"), try renamed("b2", from: "b")])
        #expect(try await ask("a2", status(1)).map(\.origin.isProven) == [false])
        #expect(try await ask("b2", status(2, links: 2)).map(\.origin.isProven) == [false])
        #expect(try await ask("b2", status(2)).map(\.origin.isProven) == [true])
        // Known to have no other name since: as any file.
        var one = born(1).kept(3)
        one.birthTime = Self.born
        try await scene.save("a", one)
        try await scene.enqueue([try renamed("a3", from: "a")])
        #expect(try await ask("a3", status(1)).map(\.origin.isProven) == [true])
    }

    @Test("A name that ended is found for an hour, if its copy is there and no other name's")
    func ended() async throws {
        for (path, number) in [("gone", UInt8(1)), ("back", 2), ("over", 3)] {
            try await scene.save(path, born(number))
        }
        for path in ["gone", "back"] {
            try await scene.enqueue([try scene.change(path, .delete)])
            try await scene.complete(try await scene.leaseDue(), .ended(namesUpTo: .max))
        }
        #expect(try await ask("x", status(1)).map(\.origin.path.description) == ["gone"])
        // Deleted, and there again with the same content under another inode.
        var back = born(2)
        back.content = .kept
        back.fingerprint.inode = 99
        try await scene.save("back", back)
        #expect(try await ask("x", status(2)).isEmpty)
        try await scene.save("over", born(5).displacing(try displacement("over", "over@1", .kept, 3)))
        #expect(
            try await ask("x", status(3)).map(\.origin.copy.location.description) == [".safebackup/versions/over@1"])
        try await scene.save("over", born(6))
        #expect(try await ask("x", status(5)).isEmpty)
        scene.clock.advance(.seconds(3_601))
        #expect(try await ask("x", status(1)).isEmpty)
    }

    @Test("A path that is being saved is told as busy")
    func busy() async throws {
        try await scene.save("a", born(1))
        try await scene.enqueue([try scene.change("a")])
        #expect(try await ask("b", status(1)).map(\.isBusy) == [false])
        try await scene.leaseDue()
        #expect(try await ask("b", status(1)).map(\.isBusy) == [true])
    }

    @Test("Nothing is searched for during a first save; from the first absence on, or the next start, it is")
    func gate() async throws {
        try await scene.save("a", born(1))
        #expect(try await scene.due().movedSources.isEmpty)
        try await scene.enqueue([try scene.change("a", .delete)])
        #expect(try await scene.due().movedSources == [scene.source])
        try await scene.store.reopen()
        #expect(try await scene.due().movedSources == [scene.source])
    }

    @Test("A job that is put off waits without a failure, and a leased one is left alone")
    func postponed() async throws {
        try await scene.enqueue([try scene.change("a"), try scene.change("b")])
        let jobs = try await scene.due().jobs
        try await scene.leaseDue(only: try RelativePath("b"))
        try await scene.store.postpone(scene.destination, jobs, until: scene.clock.now + .seconds(1))
        #expect(try await scene.due().jobs.isEmpty)
        scene.clock.advance(.seconds(1))
        #expect(try await scene.due().jobs.map(\.attempts) == [0])
        #expect(try await scene.store.leases(scene.destination, limit: 9).map(\.job.path.description) == ["b"])
    }

    // MARK: - What moved

    @Test("A move ends one name and begins another on the same copy; the older path's history has its answer")
    func moved() async throws {
        try await scene.save("a", born(1))
        scene.clock.advance(.seconds(10))
        let then = scene.clock.now
        scene.clock.advance(.seconds(10))
        try await move([("b", "a", 1)])
        #expect(try names() == ["a moved b", "b live b"])
        #expect(try copies() == ["b current 01"])
        #expect(try await scene.due().jobs.isEmpty)
        let reader = try StateReader(in: fixture.directory)
        let page = try reader.names(scene.source, scene.destination, within: .root, .at(then), after: nil, limit: 10)
        #expect(page.entries.map { "\($0.path) \($0.copy?.location.description ?? "-")" } == ["a b"])
        let deleted = try reader.names(
            scene.source, scene.destination, within: .root, .deleted, after: nil, limit: 10)
        #expect(deleted.entries.isEmpty)
        try fixture.audit()
    }

    @Test("Swaps, chains and a rotation in one transaction keep every copy")
    func crossing() async throws {
        for (index, path) in ["a", "b", "c1", "c2", "log"].enumerated() {
            try await scene.save(path, born(UInt8(index + 1)))
        }
        try await move([
            ("log", nil, 9), ("a", "b", 2), ("b", "a", 1), ("c2", "c1", 3), ("c3", "c2", 4), ("log.1", "log", 5),
        ])
        #expect(
            try copies() == [
                "a current 02", "b current 01", "c2 current 03", "c3 current 04", "log current 09", "log.1 current 05",
            ])
        #expect(try names().filter { $0.contains(" moved ") }.count == 5)
        #expect(try names().filter { $0.contains(" live ") }.count == 6)
        try fixture.audit()
    }

    @Test("An absence that ended the name before the move is taken back; a replaced copy that is kept stays known")
    func afterDelete() async throws {
        try await scene.save("a", born(1))
        try await scene.save("b", born(2))
        let leases = try await lease([("b", "a", 1)])
        try await scene.enqueue([try scene.change("a", .delete)])
        let deletes = try await scene.leaseDue(only: try RelativePath("a"))
        try await scene.complete(deletes, .ended(namesUpTo: .max))
        var entry = born(1).displacing(try displacement("b", "b@1", .kept, 2))
        entry.content = .moved
        try await scene.complete(leases, .stored(entry))
        #expect(try names() == ["a moved b", "b replaced .safebackup/versions/b@1", "b live b"])
        try fixture.audit()
    }

    @Test("A version whose removal was begun stays that version; what was moved out of it is a copy of its own")
    func removedMeanwhile() async throws {
        try await scene.save("a", born(1))
        try await scene.save("a", file(2).displacing(try displacement("a", "a@1", .kept, 1)))
        let leases = try await lease([("b", "a", 1)])
        let version = try #require(leases.first?.job.origin?.copy.id)
        #expect(try await scene.store.beginRemoval(scene.destination, [version], reason: "versions").count == 1)
        var entry = born(1)
        entry.content = .moved
        try await scene.complete(leases, .stored(entry))
        let removals = try await scene.store.removals(scene.destination, limit: 9)
        #expect(removals.map(\.copy.location.description) == [".safebackup/versions/a@1"])
        try await scene.store.finishRemoval(scene.destination, removals.map(\.copy.id))
        #expect(try copies() == ["a current 02", "b current 01"])
        #expect(try names() == ["a replaced -", "a live a", "b live b"])
        try fixture.audit()
    }

    @Test("A file that is renamed for ever does not grow the catalogue, and its versions are its last path's")
    func forever() async throws {
        try await scene.save("a", born(1))
        for _ in 0..<30 {
            try await move([("b", "a", 1)])
            try await move([("a", "b", 1)])
        }
        #expect(try names().count <= 82)
        try await scene.save("a", born(2).displacing(try displacement("a", "a@1", .kept, 1)))
        func versions(_ path: String) async throws -> Int {
            try await scene.enqueue([try scene.change(path)])
            let job = try #require(try await scene.due().jobs.first { $0.path.description == path })
            return job.keptVersions
        }
        try await scene.save("b", born(3))
        #expect(try await versions("a") == 1)
        #expect(try await versions("b") == 0)
        try fixture.audit()
    }

    @Test(
        "A lease tells what it moves after a restart; what recovery finds done is catalogued, to be compared by digest")
    func recovered() async throws {
        for (path, number) in [("a", UInt8(1)), ("b", 2), ("log", 3)] { try await scene.save(path, born(number)) }
        let before = try await lease([("a", "b", 2), ("b", "a", 1), ("log", nil, 9), ("log.1", "log", 3)])
        try await scene.store.reopen()
        let found = try await scene.store.leases(scene.destination, limit: 10)
        #expect(found.map(\.job.origin?.copy) == before.map(\.job.origin?.copy))
        #expect(found.map(\.job.origin?.name) == before.map(\.job.origin?.name))
        #expect(found.map(\.job.action) == [.move, .move, .store, .move])
        try await scene.store.recover(
            scene.destination,
            found.map { lease in
                RecoveredLease(
                    lease: lease,
                    finding: lease.job.origin == nil
                        ? .replaced(copy(9), kind: .file, linkTarget: nil) : .moved)
            })
        #expect(try copies() == ["a current 02", "b current 01", "log current 09", "log.1 current 03"])
        #expect(try names().filter { $0.hasSuffix("moved log.1") } == ["log moved log.1"])
        let jobs = try await scene.due().jobs
        #expect(
            jobs.count == 4 && jobs.allSatisfy { $0.hashFirst && $0.origin == nil && $0.live?.fingerprint.inode == 0 })
        #expect(try fixture.rows("SELECT count(*) FROM job WHERE origin_path IS NOT NULL") == ["0"])
        try fixture.audit()
    }

    // MARK: - Links and directories

    @Test("The other names of a file with several links are queued once each, until all are as it is")
    func links() async throws {
        for path in ["a", "b", "c"] { try await scene.save(path, born(1)) }
        try await scene.save("other", born(2))
        var written = born(1)
        written.hasOtherLinks = true
        written.fingerprint.size = 20
        written.fingerprint.ctime = FileTime(nanoseconds: 900)
        try await scene.save("a", written)
        for round in 1...2 {
            let jobs = try await scene.due().jobs
            #expect(jobs.map(\.path.description) == (round == 1 ? ["b", "c"] : ["c"]))
            #expect(jobs.allSatisfy { !$0.hashFirst })
            try await scene.complete(try await scene.leaseDue(only: jobs.first?.path), .stored(written))
        }
        #expect(try await scene.due().jobs.isEmpty, "all are as it is")
        // Only the link count, and with it the ctime, changed: by digest.
        written.fingerprint.ctime = FileTime(nanoseconds: 950)
        written.content = .kept
        try await scene.save("a", written)
        #expect(try await scene.due().jobs.map(\.hashFirst) == [true, true])
    }

    @Test("Directories that ended, or that something moved out of after their end, may be removed; live ones not")
    func vacated() async throws {
        for path in ["d", "d/e", "live"] { try await scene.save(path, directory()) }
        for (path, number) in [("d/e/f", UInt8(1)), ("live/g", 2)] { try await scene.save(path, born(number)) }
        try await scene.enqueue([try scene.change("d", .delete)])
        try await scene.complete(try await scene.leaseDue(), .ended(namesUpTo: .max))
        func found() async throws -> [String] {
            try await scene.store.vacated(scene.destination, limit: 9).map {
                "\($0.path)" + ($0.location == nil ? " stays" : "")
            }
        }
        #expect(try await found() == ["d/e", "d"])
        try await scene.store.forgetVacated(
            scene.destination, try await scene.store.vacated(scene.destination, limit: 9))
        try await move([("f", "d/e/f", 1), ("g", "live/g", 2)])
        #expect(try await found() == ["d/e", "d"])
        try await scene.save("d", directory())
        #expect(try await found() == ["d/e", "d stays"])
    }

    @Test("Of the directories that may be empty a few cost a few, and what lies below another comes before it")
    func vacatedInParts() async throws {
        let odd = try RelativePath([0x64, 0x2F, 0xFF])
        let paths =
            try ["d", "d-", "d/e", "d/e/f", "d0", "long-name"].map { try RelativePath($0) } + [
                odd, odd.appending([0x61]),
            ]
        for path in paths { try await scene.save(path, directory()) }
        for number in 0..<300 { try await scene.save("x/\(number)", directory()) }
        try await scene.enqueue(
            try (paths + (0..<300).map { try RelativePath("x/\($0)") }).map {
                QueuedChange(path: $0, action: .delete, notBefore: scene.clock.now)
            })
        try await scene.complete(try await scene.leaseDue(), .ended(namesUpTo: .max))
        let before = try await scene.store.work()
        _ = try await scene.store.vacated(scene.destination, limit: 1)
        #expect(try await scene.store.work() - before < 300)
        var seen: [RelativePath] = []
        while true {
            let found = try await scene.store.vacated(scene.destination, limit: 3)
            if found.isEmpty { break }
            for directory in found {
                #expect(!seen.contains { directory.path.isWithin($0) && directory.path != $0 }, "\(directory.path)")
                seen.append(directory.path)
            }
            try await scene.store.forgetVacated(scene.destination, found)
        }
        #expect(seen.count == paths.count + 300)
    }
}
