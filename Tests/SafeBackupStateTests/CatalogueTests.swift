import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite struct CatalogueTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    /// Every copy as `location role digest's number`.
    private func copies() throws -> [String] {
        try fixture.rows(
            """
            SELECT location || ' ' || role || ' ' || iif(digest IS NULL, '-', substr(hex(digest), 1, 2)) FROM copy ORDER BY id
            """)
    }

    /// Every name as `path live-or-reason location`.
    private func names() throws -> [String] {
        try fixture.rows("SELECT path || ' ' || ifnull(reason, 'live') || ' ' || ifnull(location, '-') FROM v_history")
    }

    // MARK: - Stored

    @Test("A first save has a live name on a current copy, and counts its bytes")
    func first() async throws {
        let result = try await scene.save("a/f", file(1, size: 42))
        #expect(result == CompletionResult(finished: 1, bytes: 42, room: 4_096))
        #expect(try names() == ["a/f live a/f"])
        #expect(try copies() == ["a/f current 01"])
        #expect(try await scene.store.destinations().first?.accumulatedSize == 4_096)
        let counts = try await scene.store.counts()
        #expect(counts.files == 1 && counts.bytes == 42 && counts.pending == 0)
        #expect(try await scene.due().jobs.isEmpty)
        try fixture.audit()
    }

    @Test("Replaced copies that are not kept leave one gap, so that a log does not grow the catalogue")
    func replaced() async throws {
        for number in 1...50 { try await scene.save("f", file(UInt8(number))) }
        #expect(try names() == ["f replaced -", "f live f"])
        #expect(try copies() == ["f current 32"])
        try fixture.audit()
    }

    @Test("A replaced copy that is kept moves to its version name with its history")
    func kept() async throws {
        try await scene.save("f", file(1))
        try await scene.save("f", file(2).displacing(try displacement("f", "f@1", .kept, 1)))
        #expect(try names() == ["f replaced .safebackup/versions/f@1", "f live f"])
        #expect(try copies() == [".safebackup/versions/f@1 kept 01", "f current 02"])
        try await scene.enqueue([try scene.change("f")])
        let job = try #require(try await scene.due().jobs.first)
        #expect(job.keptVersions == 1)
        #expect(job.newestVersionAt == scene.clock.now)
        try fixture.audit()
    }

    @Test("Versions beyond the limit are told, and a removal that crashes is finished later")
    func excess() async throws {
        var last = CompletionResult()
        for number in 1...67 {
            scene.clock.advance(.seconds(600))
            let entry = file(UInt8(number))
            last = try await scene.save(
                "f",
                number == 1
                    ? entry : entry.displacing(try displacement("f", "f@\(number)", .kept, UInt8(number - 1))))
        }
        let told = last.excessVersions.map(\.location.description)
        let ends = ["f@2", "f@67"].map { ".safebackup/versions/" + $0 }
        #expect(told.count == 2 && !told.contains { ends.contains($0) }, "\(told)")
        let ids = last.excessVersions.map(\.id)
        let current = try #require(try await scene.look("f").occupant)
        let marked = try await scene.store.beginRemoval(scene.destination, ids + [current.id], reason: "versions")
        #expect(marked.map(\.id) == ids, "a live path's copy is never removed")
        #expect(try await scene.store.removals(scene.destination, limit: 9).map(\.copy.id) == ids.sorted())
        #expect(try await scene.look("f").occupant?.id == current.id)
        // The agent starts again and finds them.
        try await scene.store.reopen()
        let again = try await scene.store.removals(scene.destination, limit: 9)
        #expect(again.map(\.reason) == ["versions", "versions"])
        try await scene.store.finishRemoval(scene.destination, again.map(\.copy.id))
        #expect(try await scene.store.removals(scene.destination, limit: 9).isEmpty)
        #expect(
            Set(try fixture.rows("SELECT path, location FROM v_cleaned")) == Set(told.map { "f|\($0)" }))
        #expect(try copies().count == VersionThinning.limit + 1)
        try fixture.audit()
    }

    @Test("A chmod ends one name and begins another on the same copy; touching for ever keeps a bounded history")
    func metadata() async throws {
        try await scene.save("f", file(1))
        for number in 1...100 { try await scene.save("f", file(1).kept(UInt8(number), mode: UInt32(number))) }
        #expect(try copies() == ["f current 01"])
        let names = try names()
        #expect(names.count == 21)
        #expect(names.last == "f live f")
        #expect(names.dropLast().allSatisfy { $0 == "f metadata f" })
        #expect(try await scene.look("f").live?.metadata.mode == 100)
        try fixture.audit()
    }

    @Test("Nothing changed: the name stays, and only its flags follow")
    func same() async throws {
        var racy = file(1)
        racy.isRacy = true
        try await scene.save("f", racy)
        let before = try await scene.look("f").live
        #expect(before?.isRacy == true)
        var same = file(1)
        same.content = .kept
        try await scene.save("f", same)
        let after = try await scene.look("f").live
        #expect(after?.id == before?.id && after?.isRacy == false)
        try fixture.audit()
    }

    @Test("A touched file's kept copy is known by its new mtime, so that it is not taken for a foreign one")
    func touched() async throws {
        try await scene.save("f", file(1))
        var touched = file(1).kept(9)
        touched.fingerprint.mtime = FileTime(nanoseconds: 77)
        try await scene.save("f", touched)
        #expect(try await scene.look("f").occupant?.mtime == FileTime(nanoseconds: 77))
    }

    @Test("Directories have names without copies, and making one again and again keeps a bounded history")
    func directories() async throws {
        for _ in 1...60 {
            try await scene.save("d", directory())
            try await scene.enqueue([try scene.change("d", .delete)])
            let leases = try await scene.leaseDue()
            try await scene.complete(leases, .ended(namesUpTo: try await scene.store.newestSequence()))
        }
        #expect(try names().count <= 21)
        #expect(try copies().isEmpty)
        try fixture.audit()
    }

    @Test("A fuzzy copy keeps the last good one, which is a version like others once a good copy is there again")
    func lastGood() async throws {
        try await scene.save("log", file(1))
        try await scene.save("log", file(2).fuzzy().displacing(try displacement("log", "log@1", .lastGood, 1)))
        #expect(try copies() == [".safebackup/versions/log@1 lastGood 01", "log current 02"])
        #expect(try await scene.store.counts().fuzzy == 1)
        let id = try #require(Int64(try fixture.rows("SELECT id FROM copy WHERE role = 'lastGood'")[0]))
        #expect(try await scene.store.beginRemoval(scene.destination, [id], reason: "space").isEmpty)
        try await scene.save("log", file(3))
        #expect(try copies() == [".safebackup/versions/log@1 kept 01", "log current 03"])
        #expect(try await scene.store.counts().fuzzy == 0)
        try fixture.audit()
    }

    @Test("A kept copy that another job of the group moved away is looked at again, not promised")
    func keptButGone() async throws {
        try await scene.save("d/f", file(1))
        try await scene.enqueue([try scene.change("d"), try scene.change("d/f")])
        let leases = try await scene.leaseDue()
        let file = file(1)
        var same = file
        same.content = .kept
        _ = try await scene.store.complete(
            scene.destination,
            [
                Completion(
                    job: leases[0].job,
                    outcome: .stored(
                        StoredEntry(
                            kind: .symlink, content: .copied(copy(5)), fingerprint: fingerprint(5),
                            metadata: FileMetadata(mode: 0o777, uid: 0, gid: 0), linkTarget: Array("/x".utf8),
                            displaced: [try displacement("d", "d@1", .inTheWay, 0, kind: .directory)]))),
                Completion(job: leases[1].job, outcome: .stored(same)),
            ])
        #expect(try await scene.due().jobs.map(\.path.description) == ["d/f"])
        #expect(try copies().contains(".safebackup/versions/d@1/f inTheWay 01"))
        try fixture.audit()
    }

    // MARK: - Displacements

    @Test("What was stored on a disk that was exchanged meanwhile is not promised on the new one")
    func replacedDestination() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f"), try scene.change("new"), try scene.change("moved")])
        var leases = try await scene.leaseDue()
        let index = try #require(leases.firstIndex { $0.job.path.description == "moved" })
        let (live, occupant) = try #require(
            leases.first { $0.job.live != nil }.flatMap { lease in
                lease.job.live.flatMap { live in lease.job.occupant.map { (live, $0) } }
            })
        leases[index].job.origin = MoveOrigin(
            path: try RelativePath("f"), name: live, copy: occupant, isProven: true)
        try await scene.store.beginReplacement(of: scene.destination, sentinel: "another")
        try await scene.store.finishReplacement(of: scene.destination)
        // The walk of the new disk has begun.
        try await scene.enqueue([try scene.change("new")])
        let outcomes = [file(2).displacing(try displacement("f", "f@1", .kept, 1)), file(3), file(1)]
        var completions: [Completion] = []
        for (lease, outcome) in zip(leases, outcomes) {
            var entry = outcome
            if lease.job.origin != nil { entry.content = .moved }
            completions.append(Completion(job: lease.job, outcome: .stored(entry)))
        }
        let result = try await scene.store.complete(scene.destination, completions)
        #expect(result == CompletionResult())
        #expect(try copies().isEmpty)
        #expect(try names().allSatisfy { !$0.contains(" live ") })
        #expect(try await scene.due().jobs.map(\.path.description) == ["new"])
    }

    @Test(
        "What was stored is catalogued once, also if its commit was reported as failed and stands",
        arguments: [false, true])
    func storedTwice(isChanged: Bool) async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f")])
        let leases = try await scene.leaseDue()
        if isChanged { try await scene.enqueue([try scene.change("f")]) }
        let stored = Completion.Outcome.stored(file(2).displacing(try displacement("f", "f@1", .kept, 1)))
        try await scene.complete(leases, stored)
        let (names, copies) = (try names(), try copies())
        try await scene.complete(leases, stored)
        #expect(try self.names() == names)
        #expect(try self.copies() == copies)
        try fixture.audit()
    }

    @Test("An uncatalogued file that was there before is kept as foreign, without a digest")
    func foreign() async throws {
        try await scene.save("f", file(1).displacing(try displacement("f", "f@0", .foreign, 9)))
        #expect(try copies() == [".safebackup/versions/f@0 foreign -", "f current 01"])
        #expect(try names() == ["f live f"])
        let id = try #require(Int64(try fixture.rows("SELECT id FROM copy WHERE role = 'foreign'")[0]))
        #expect(try await scene.store.beginRemoval(scene.destination, [id], reason: "space").isEmpty)
        try fixture.audit()
    }

    @Test("A copy that somebody overwrote in the destination is forgotten, and what they wrote is kept as foreign")
    func overwritten() async throws {
        try await scene.save("f", file(1))
        try await scene.save("f", file(2).displacing(try displacement("f", "f@1", .foreign, 77, size: 5)))
        #expect(try copies() == [".safebackup/versions/f@1 foreign -", "f current 02"])
        #expect(try names() == ["f replaced -", "f live f"], "no name claims content that is not there")
        try fixture.audit()
    }

    @Test("A copy whose inode alone changed, as after a restore of the disk, keeps its digest and its history")
    func movedDisk() async throws {
        try await scene.save("f", file(1))
        // The destination has read it.
        var move = try displacement("f", "f@1", .kept, 1)
        move.inode = 5
        try await scene.save("f", file(2).displacing(move))
        #expect(try copies() == [".safebackup/versions/f@1 kept 01", "f current 02"])
        #expect(try names().first == "f replaced .safebackup/versions/f@1")
        #expect(try fixture.rows("SELECT inode FROM copy WHERE role = 'kept'") == ["5"])
        try fixture.audit()
    }

    @Test("A foreign file of the same size and time in a copy's place never becomes a state of the path")
    func alike() async throws {
        try await scene.save("f", file(1))
        var move = try displacement("f", "f@1", .foreign, 1)
        move.inode = 5
        try await scene.save("f", file(2).displacing(move))
        #expect(try copies() == [".safebackup/versions/f@1 foreign -", "f current 02"])
        #expect(try names() == ["f replaced -", "f live f"])
        try fixture.audit()
    }

    @Test(
        "What stood in the way under another inode is ours if it has our content, and else somebody else's",
        arguments: [UInt8(1), 7, nil])
    func alikeInTheWay(content: UInt8?) async throws {
        try await scene.save("d", file(1))
        var move = try displacement("d", "d@1", .inTheWay, 1)
        move.inode = 5
        move.digest = content.map { digest($0) }
        try await scene.save("d/f", file(2).displacing(move))
        let isOurs = content != 7
        #expect(
            try copies() == [".safebackup/versions/d@1 \(isOurs ? "inTheWay 01" : "foreign -")", "d/f current 02"])
        // Without another inode there is nothing to decide.
        try await scene.save("e", file(1))
        var same = try displacement("e", "e@1", .inTheWay, 1)
        same.digest = digest(7)
        try await scene.save("e/f", file(2).displacing(same))
        #expect(try copies().contains(".safebackup/versions/e@1 inTheWay 01"))
        try fixture.audit()
    }

    @Test("A directory in the way takes every copy below it along, of all kinds of names, and no neighbour")
    func directoryInTheWay() async throws {
        try await scene.save("d", directory())
        var expected: Set<[UInt8]> = []
        for leaf in [Array("a".utf8), [0xFF], Array("sub/ü".utf8), [0x73, 0x2F, 0x80, 0x2F, 0x62]] {
            try await scene.save(try RelativePath(Array("d/".utf8) + leaf), file(3))
            expected.insert(Array(".safebackup/versions/d@1/".utf8) + leaf)
        }
        try await scene.save("d0", file(4))
        try await scene.save("d!", file(4))
        try await scene.save("d", file(5).displacing(try displacement("d", "d@1", .inTheWay, 0, kind: .directory)))
        let moved = try fixture.rows("SELECT hex(location) FROM copy WHERE role = 'inTheWay' AND kind = 'file'")
        #expect(Set(moved) == Set(expected.map { hexadecimal($0).uppercased() }))
        #expect(try fixture.rows("SELECT location FROM copy WHERE role = 'current' ORDER BY id") == ["d0", "d!", "d"])
        // Where a file is now, nothing can be below it.
        #expect(try fixture.rows("SELECT count(*) FROM name WHERE ended_at IS NULL") == ["3"])
        #expect(
            try fixture.rows("SELECT count(*) FROM name WHERE end_reason = 'deleted'") == ["4"],
            "they end, with their copies still known")
        try fixture.audit()
    }

    @Test("A file in the way of a directory moves to its version name")
    func fileInTheWay() async throws {
        try await scene.save("d", file(1))
        try await scene.save("d", directory().displacing(try displacement("d", "d@1", .inTheWay, 1)))
        #expect(try names() == ["d replaced .safebackup/versions/d@1", "d live -"])
        try fixture.audit()
    }

    @Test("An ancestor in the way that another job's group moved is followed once")
    func obstruction() async throws {
        try await scene.save("d", file(1))
        let move = try displacement("d", "d@1", .inTheWay, 1)
        try await scene.enqueue([try scene.change("d/a"), try scene.change("d/b")])
        try await scene.complete(try await scene.leaseDue(), .stored(file(2).displacing(move)))
        #expect(
            try copies() == [".safebackup/versions/d@1 inTheWay 01", "d/a current 02", "d/b current 02"])
        #expect(try names().contains("d live .safebackup/versions/d@1"), "only a look at the source ends the name")
        try fixture.audit()
    }

    @Test("A path whose copy lies in versions is stored anew under its own name")
    func storedAfterDisplacement() async throws {
        try await obstruction()
        try await scene.save("d", directory())
        #expect(try names().contains("d replaced .safebackup/versions/d@1"))
        try fixture.audit()
    }

    // MARK: - Ended

    @Test("A confirmed absence ends the names at and below the path, of both types, and keeps the copies")
    func endedTree() async throws {
        try await scene.save("d", directory())
        let below: [[UInt8]] = [
            Array("d/a".utf8), [0x64, 0x2F, 0xFF], Array("d/s/b".utf8), [0x64, 0x2F, 0xFE, 0x2F, 0x61],
        ]
        for path in below { try await scene.save(try RelativePath(path), file(1)) }
        for path in ["d0", "d!", "e"] { try await scene.save(path, file(2)) }
        try await scene.enqueue([try scene.change("d", .delete)])
        let bound = try await scene.due().newestName
        try await scene.complete(try await scene.leaseDue(), .ended(namesUpTo: bound))
        #expect(
            try fixture.rows("SELECT leaf FROM name WHERE ended_at IS NULL ORDER BY leaf") == ["d!", "d0", "e"])
        #expect(try copies().count == 7, "tombstones: the copies stay where they are")
        #expect(try await scene.store.counts().files == 3)
        try fixture.audit()
    }

    @Test("Names that were stored after the look do not end by it", arguments: ["d/new", "d"])
    func endedUpTo(path: String) async throws {
        try await scene.save("d", directory())
        try await scene.save("d/old", file(1))
        try await scene.enqueue([try scene.change("d", .delete)])
        let batch = try await scene.due()
        let leases = try await scene.leaseDue()
        // Meanwhile the directory is there again, and another job has stored this.
        try await scene.enqueue([try scene.change("d/new")])
        let second = try await scene.leaseDue()
        try await scene.complete(second, .stored(file(2)))
        try await scene.complete(leases, .ended(namesUpTo: batch.newestName))
        #expect(try fixture.rows("SELECT path FROM v_history WHERE ended IS NULL") == ["d/new"])
        try fixture.audit()
    }

    @Test("An id is never given twice, so that a bound on ids is a bound in time")
    func ids() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f")])
        let bound = try await scene.due().newestName
        // The newest name goes, and another one comes in its place.
        try await scene.complete(try await scene.leaseDue(), .stored(file(2)))
        let live = try #require(try await scene.look("f").live)
        #expect(live.id > bound)
    }

    @Test("A tombstone's copy is the occupant of a file that is made again")
    func tombstone() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f", .delete)])
        try await scene.complete(
            try await scene.leaseDue(), .ended(namesUpTo: try await scene.store.newestSequence()))
        try await scene.enqueue([try scene.change("f")])
        let job = try #require(try await scene.due().jobs.first)
        #expect(job.live == nil)
        #expect(job.occupant?.digest == digest(1))
        try await scene.complete(
            try await scene.leaseDue(), .stored(file(2).displacing(try displacement("f", "f@1", .kept, 1))))
        #expect(try names() == ["f deleted .safebackup/versions/f@1", "f live f"])
        try fixture.audit()
    }

    @Test("Extended attributes, link targets and large inodes come back as they were")
    func details() async throws {
        let attributes = [
            ExtendedAttribute(name: Array("user.a".utf8), value: []),
            ExtendedAttribute(name: [0x75, 0xFF], value: [UInt8](repeating: 0, count: 5_000)),
        ]
        var entry = StoredEntry(
            kind: .symlink, content: .copied(copy(1)),
            fingerprint: Fingerprint(
                inode: .max, size: 3, mtime: FileTime(nanoseconds: .min), ctime: FileTime(nanoseconds: .max)),
            metadata: FileMetadata(mode: 0o7777, uid: .max, gid: .max - 1, xattrs: attributes),
            linkTarget: [0x2F, 0xFF, 0x0A])
        entry.isRacy = true
        try await scene.save("l", entry)
        let live = try #require(try await scene.look("l").live)
        #expect(live.fingerprint == entry.fingerprint)
        #expect(live.metadata == entry.metadata)
        #expect(live.linkTarget == entry.linkTarget)
        #expect(live.kind == .symlink && live.isRacy && !live.isFuzzy)
    }

    // MARK: - Recovery

    private func recover(_ finding: RecoveredLease.Finding, _ displaced: Displacement...) async throws -> DueJob {
        let leases = try await scene.store.leases(scene.destination, limit: 10)
        try #require(leases.count == 1)
        try await scene.store.recover(
            scene.destination, [RecoveredLease(lease: leases[0], finding: finding, displaced: displaced)])
        try fixture.audit()
        #expect(try await scene.store.leases(scene.destination, limit: 10).isEmpty)
        #expect(
            try fixture.rows("SELECT count(*) FROM job WHERE stage_name IS NOT NULL OR version IS NOT NULL") == ["0"])
        return try #require(try await scene.due().jobs.first)
    }

    @Test("Leases are told after a restart exactly as they were planned")
    func leases() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f")])
        let job = try #require(try await scene.due().jobs.first)
        let plan = LeasePlan(
            stageName: "s1",
            final: .present(kind: .file, inode: .max, size: 10, mtime: FileTime(nanoseconds: -5)),
            version: RelativePath(unchecked: [0x76, 0xFF]), versionReason: .lastGood,
            obstruction: try RelativePath("o"), obstructionVersion: try RelativePath("ov"))
        try await scene.store.lease(scene.destination, [LeasedJob(job: job, plan: plan)])
        try await scene.store.reopen()
        #expect(try await scene.store.leases(scene.destination, limit: 10) == [LeasedJob(job: job, plan: plan)])
    }

    @Test("Nothing was done: the job is pending and the catalogue as it was")
    func recoverUnchanged() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f")])
        try await scene.leaseDue()
        let job = try await recover(.unchanged)
        #expect(job.live?.fingerprint == fingerprint(1) && !job.hashFirst)
    }

    @Test("The final was replaced: what is there is catalogued, and the source is hashed before it is trusted")
    func recoverReplaced() async throws {
        try await scene.save("f", file(1, mode: 0o640))
        try await scene.enqueue([try scene.change("f")])
        try await scene.leaseDue()
        let job = try await recover(
            .replaced(copy(2), kind: .file, linkTarget: nil), try displacement("f", "f@1", .kept, 1))
        #expect(job.hashFirst)
        #expect(job.occupant?.digest == digest(2) && job.occupant?.inode == nil)
        #expect(job.live?.fingerprint.inode == 0, "no source has this fingerprint")
        #expect(job.live?.metadata.mode == 0o640)
        #expect(job.keptVersions == 1)
        #expect(try copies() == [".safebackup/versions/f@1 kept 01", "f current 02"])
        // The next drain hashes the source and finds it equal.
        var same = file(2)
        same.content = .kept
        try await scene.complete(try await scene.leaseDue(), .stored(same))
        #expect(try await scene.look("f").live?.fingerprint == fingerprint(2))
        try fixture.audit()
    }

    @Test("A new path was stored before the crash: it is catalogued by what lies there")
    func recoverNew() async throws {
        try await scene.enqueue([try scene.change("l")])
        try await scene.leaseDue()
        let job = try await recover(.replaced(copy(2), kind: .symlink, linkTarget: Array("t".utf8)))
        #expect(job.live?.kind == .symlink && job.live?.linkTarget == Array("t".utf8))
        #expect(job.hashFirst)
    }

    @Test("The final is gone: no name claims it, and what was moved away is known")
    func recoverCleared() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f")])
        try await scene.leaseDue()
        let job = try await recover(.cleared, try displacement("f", "f@1", .inTheWay, 1))
        #expect(job.occupant == nil)
        #expect(try copies() == [".safebackup/versions/f@1 inTheWay 01"])
    }

    @Test("A recovery that is told twice changes nothing more")
    func recoverTwice() async throws {
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("f")])
        let leases = try await scene.leaseDue()
        let found = RecoveredLease(
            lease: leases[0], finding: .replaced(copy(2), kind: .file, linkTarget: nil),
            displaced: [try displacement("f", "f@1", .kept, 1)])
        try await scene.store.recover(scene.destination, [found])
        let (names, copies) = (try names(), try copies())
        try await scene.store.recover(scene.destination, [found])
        #expect(try self.copies() == copies)
        #expect(try self.names() == names)
        try fixture.audit()
    }

    @Test("A change that came during the lease is still there after a recovery")
    func recoverNewerChange() async throws {
        try await scene.enqueue([try scene.change("f")])
        let leases = try await scene.leaseDue()
        try await scene.enqueue([try scene.change("f", .delete)])
        let job = try await recover(.unchanged)
        #expect(job.action == .delete && job.generation > leases[0].job.generation)
    }
}
