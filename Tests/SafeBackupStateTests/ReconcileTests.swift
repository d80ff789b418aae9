import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

@Suite struct ReconcileTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    private func status(
        _ number: UInt8, kind: EntryKind = .file, size: Int64 = 10, mode: UInt32 = 0o644
    ) -> FileStatus {
        FileStatus(kind: kind, fingerprint: fingerprint(number, size: size), mode: mode, uid: 1, gid: 2)
    }

    private func entry(_ leaf: String, _ status: FileStatus) -> ListedEntry {
        ListedEntry(leaf: Array(leaf.utf8), finding: .status(status))
    }

    private func skipped(_ leaf: String, _ reason: SkipReason, _ kind: EntryKind? = nil) -> ListedEntry {
        ListedEntry(leaf: Array(leaf.utf8), finding: .skipped(reason, kind))
    }

    /// One whole walk of these directories.
    @discardableResult
    private func walk(
        _ directories: [(String, [ListedEntry])], rules: ComparisonRules = ComparisonRules(), isWhole: Bool = true,
        isComplete: Bool = true
    ) async throws -> ReconcileCounts {
        let id = try await scene.store.beginReconcile(scene.source, reason: "test")
        var counts = try await scene.store.reconcile(
            id, scene.source, [scene.destination],
            try directories.map {
                ListedDirectory(path: try RelativePath($0.0), entries: $0.1, isWhole: isWhole)
            }, rules: rules, notBefore: scene.clock.now)
        counts += try await scene.store.finishReconcile(id, complete: isComplete)
        try fixture.audit()
        return counts
    }

    /// The queued jobs as `path action hash_first`.
    private func queued() throws -> [String] {
        try fixture.rows("SELECT path || ' ' || action || ' ' || hash_first FROM job ORDER BY sequence")
    }

    @Test("A first walk queues everything; a second one, after the save, nothing")
    func firstAndSecond() async throws {
        let listing: [(String, [ListedEntry])] = [
            ("", [entry("d", status(200, kind: .directory, size: 4_096, mode: 0o755)), entry("f", status(1))]),
            ("d", [entry("g", status(2, size: 5))]),
        ]
        var counts = try await walk(listing)
        #expect(counts.seen == 3 && counts.queued == 3 && counts.bytes == 15 && counts.deletes == 0)
        #expect(try await walk(listing).queued == 0, "what waits is not queued again")
        for (path, entry) in [("d", directory()), ("f", file(1)), ("d/g", file(2, size: 5))] {
            try await scene.save(path, entry)
        }
        counts = try await walk(listing)
        #expect(counts.seen == 3 && counts.queued == 0)
        let source = try #require(try await scene.store.sources().first)
        #expect(!source.isDesynced && source.lastReconcileAt == scene.clock.now)
        #expect(try await scene.store.hasLiveNames(scene.source))
    }

    @Test("A difference is copied when the content may have changed, and hashed when only the metadata did")
    func differences() async throws {
        let saved = file(1)
        for leaf in ["same", "size", "mtime", "inode", "ctime", "mode", "kind", "racy", "fuzzy"] {
            var entry = saved
            entry.isRacy = leaf == "racy"
            entry.isFuzzy = leaf == "fuzzy"
            try await scene.save(leaf, entry)
        }
        func changed(_ change: (inout FileStatus) -> Void) -> FileStatus {
            var status = status(1)
            change(&status)
            return status
        }
        let entries = [
            entry("same", status(1)),
            entry("size", changed { $0.fingerprint.size = 11 }),
            entry("mtime", changed { $0.fingerprint.mtime.nanoseconds += 1 }),
            entry("inode", changed { $0.fingerprint.inode = 99 }),
            entry("ctime", changed { $0.fingerprint.ctime.nanoseconds += 1 }),
            entry("mode", changed { $0.mode = 0o600 }),
            entry("kind", changed { $0.kind = .symlink }),
            entry("racy", status(1)),
            entry("fuzzy", status(1)),
        ]
        try await walk([("", entries)], rules: ComparisonRules(inodesAreStable: true, hashRacy: true))
        #expect(
            try queued() == [
                "size store 0", "mtime store 0", "inode store 0", "ctime store 1", "mode store 1", "kind store 0",
                "racy store 1", "fuzzy store 0",
            ])
    }

    @Test("Inodes that are not stable, and racy files where hashing was not asked for, are no difference")
    func tolerance() async throws {
        var racy = file(1)
        racy.isRacy = true
        try await scene.save("racy", racy)
        try await scene.save("inode", file(1))
        var other = status(1)
        other.fingerprint.inode = 99
        try await walk(
            [("", [entry("racy", status(1)), entry("inode", other)])],
            rules: ComparisonRules(inodesAreStable: false, hashRacy: false))
        #expect(try queued().isEmpty)
    }

    @Test("A directory differs by mode and owner only")
    func directories() async throws {
        try await scene.save("d", directory())
        var status = status(3, kind: .directory, size: 8_192, mode: 0o755)
        #expect(try await walk([("", [entry("d", status)]), ("d", [])]).queued == 0)
        status.mode = 0o700
        #expect(try await walk([("", [entry("d", status)]), ("d", [])]).queued == 1)
    }

    @Test("A recovered copy is hashed, never trusted by its times")
    func recovered() async throws {
        try await scene.enqueue([try scene.change("f")])
        let leases = try await scene.leaseDue()
        try await scene.store.recover(
            scene.destination,
            [RecoveredLease(lease: leases[0], finding: .replaced(copy(1), kind: .file, linkTarget: nil))])
        // The job is lost with the state, say, but the name is there.
        let again = try await scene.leaseDue()
        try await scene.complete(again, .ended(namesUpTo: 0))
        try await walk([("", [entry("f", status(1))])])
        #expect(try queued() == ["f store 1"])
    }

    @Test("Only a whole listing makes a missing entry a delete")
    func deletes() async throws {
        try await scene.save("gone", file(1))
        try await scene.save("d", directory())
        try await scene.save("d/below", file(1))
        #expect(try await walk([("", [])], isWhole: false).queued == 0)
        let counts = try await walk([("", [])])
        #expect(counts.queued == 2 && counts.deletes == 2)
        #expect(Set(try queued()) == ["gone delete 0", "d delete 0"], "what is below goes with its directory")
        #expect(try fixture.rows("SELECT is_directory FROM job WHERE path = 'd'") == ["1"])
    }

    @Test("What is skipped keeps its name, whatever the reason", arguments: SkipReason.allCases)
    func skipping(reason: SkipReason) async throws {
        try await scene.save("f", file(1))
        let counts = try await walk([("", [skipped("f", reason, .file)])])
        #expect(counts.queued == 0)
        let isShown = ![.excluded, .ownState, .ownDestination].contains(reason)
        #expect(try fixture.rows("SELECT path, reason FROM not_saved") == (isShown ? ["f|\(reason.rawValue)"] : []))
        #expect(counts.notSaved == (isShown ? 1 : 0))
    }

    @Test("A failed listing ends nothing, is told, and is forgotten when it works again")
    func failedListing() async throws {
        try await scene.save("d/f", file(1))
        try await scene.save("d", directory())
        let id = try await scene.store.beginReconcile(scene.source, reason: "test")
        let failure = SafeBackupError(.unreadable, "No", disposition: .transient)
        let listed = ListedDirectory(path: try RelativePath("d"), entries: [], isWhole: false, failure: failure)
        try await scene.store.reconcile(
            id, scene.source, [scene.destination], [listed], rules: ComparisonRules(), notBefore: scene.clock.now)
        try await scene.store.finishReconcile(id, complete: false)
        #expect(try queued().isEmpty)
        #expect(try await scene.store.unsavedReport(limit: 9).map { "\($0.path) \($0.code)" } == ["d unreadable"])
        #expect(try await scene.store.sources().first?.isDesynced == true, "an incomplete walk proves nothing")
        let directory = status(200, kind: .directory, size: 4_096, mode: 0o755)
        try await walk([("", [entry("d", directory)]), ("d", [entry("f", status(1))])])
        #expect(try await scene.store.unsavedReport(limit: 9).isEmpty)
    }

    @Test("Events note and forget entries that are not saved, and a walk agrees")
    func notSaved() async throws {
        try await scene.store.recordNotSaved(
            scene.source,
            [(try RelativePath("fifo"), .special, .fifo), (try RelativePath("x.tmp"), .excluded, .file)])
        #expect(try await scene.store.unsavedReport(limit: 9).map(\.path.description) == ["fifo"])
        try await walk([("", [skipped("fifo", .special, .fifo)])])
        #expect(try await scene.store.unsavedReport(limit: 9).count == 1)
        try await scene.store.forgetNotSaved(scene.source, [try RelativePath("fifo")])
        #expect(try await scene.store.unsavedReport(limit: 9).isEmpty)
        try await scene.store.recordNotSaved(scene.source, [(try RelativePath("gone"), .special, .socket)])
        try await walk([("", [])])
        #expect(try await scene.store.unsavedReport(limit: 9).isEmpty)
    }

    // MARK: - Beside jobs

    @Test("A waiting or stuck job is left as it is; a leased one is looked at again")
    func jobs() async throws {
        for path in ["waiting", "stuck", "leased"] { try await scene.save(path, file(1)) }
        try await scene.enqueue([try scene.change("stuck")])
        let error = SafeBackupError(.nameTooLong, "No", disposition: .permanent)
        try await scene.complete(try await scene.leaseDue(), .failed(error, .stuck(retryAfter: .seconds(86_400))))
        try await scene.enqueue([try scene.change("leased")])
        let leases = try await scene.leaseDue()
        try await scene.enqueue([try scene.change("waiting", .delete)])
        let before = try fixture.rows("SELECT * FROM job WHERE state <> 'leased'")
        let changed = status(9)
        let listing = [entry("waiting", changed), entry("stuck", changed), entry("leased", changed)]
        let counts = try await walk([("", listing)])
        #expect(counts.queued == 1)
        #expect(try fixture.rows("SELECT * FROM job WHERE state <> 'leased'") == before)
        // What the lease read may be older than the listing: the change must not be lost with it.
        #expect(try await scene.complete(leases, .stored(file(8))).pending == 1)
    }

    @Test("A file in the middle of its first save is not queued a second time for what it will be")
    func duringSave() async throws {
        try await scene.enqueue([try scene.change("f")])
        #expect(try await walk([("", [entry("f", status(1))])]).queued == 0)
    }

    // MARK: - Desync

    @Test("Changes that are missed during a walk leave the source desynced after it")
    func desyncDuringWalk() async throws {
        let id = try await scene.store.beginReconcile(scene.source, reason: "start")
        #expect(try await scene.store.sources().first?.isDesynced == true)
        try await scene.store.markDesynced(scene.source, true)
        try await scene.store.finishReconcile(id, complete: true)
        #expect(try await scene.store.sources().first?.isDesynced == true)
        try await walk([])
        #expect(try await scene.store.sources().first?.isDesynced == false)
    }

    @Test("A walk that is cut off by a restart leaves the source desynced")
    func interruptedWalk() async throws {
        _ = try await scene.store.beginReconcile(scene.source, reason: "start")
        try await scene.store.reopen()
        #expect(try await scene.store.sources().first?.isDesynced == true)
    }

    @Test(
        "What a person accepted is used up by the next walk that ends, also an incomplete one",
        arguments: [true, false])
    func acceptedOnce(isComplete: Bool) async throws {
        try await scene.store.accept(scene.source, .rootEmptied, identity: nil)
        #expect(try await scene.store.sources().first?.accepted == .rootEmptied)
        try await walk([("", [])], isComplete: isComplete)
        #expect(try await scene.store.sources().first?.accepted == nil)
    }

    // MARK: - Large directories, orphans

    @Test("A directory in parts is compared entry by entry, and its names are listed in chunks for the rest")
    func parts() async throws {
        let leaves = ["a", "b", "c", "ü"].map { Array($0.utf8) } + [[0xFE], [0xFF]]
        try await scene.save("d", directory())
        for leaf in leaves { try await scene.save(try RelativePath([0x64, 0x2F] + leaf), file(1)) }
        let listing = [entry("a", status(1)), entry("b", status(9)), entry("new", status(2))]
        #expect(try await walk([("d", listing)], isWhole: false).queued == 2)
        #expect(Set(try queued()) == ["d/b store 0", "d/new store 0"])
        var found: [[UInt8]] = []
        while true {
            let chunk = try await scene.store.liveLeaves(
                scene.source, scene.destination, in: try RelativePath("d"), after: found.last, limit: 2)
            if chunk.isEmpty { break }
            found += chunk
        }
        #expect(found == leaves, "each once, in order")
    }

    @Test("Names below what is no directory any more are looked at, without any listing that shows them")
    func orphans() async throws {
        try await scene.save("a", file(1))
        for path in ["a/x", "a/b", "a/b/y"] { try await scene.save(path, path == "a/b" ? directory() : file(1)) }
        let counts = try await walk([("", [entry("a", status(1))])])
        #expect(counts.deletes == 2)
        #expect(Set(try queued()) == ["a/x delete 0", "a/b delete 0"])
        #expect(try await walk([("", [entry("a", status(1))])]).queued == 0, "once")
    }

    @Test("A directory that waits for its own save makes no orphans")
    func noOrphans() async throws {
        try await scene.save("d/f", file(1))
        try await scene.enqueue([try scene.change("d")])
        let directory = status(200, kind: .directory, size: 4_096)
        #expect(try await walk([("", [entry("d", directory)]), ("d", [entry("f", status(1))])]).queued == 0)
    }

    @Test("Each destination is compared by itself")
    func twoDestinations() async throws {
        let second = try await Scene(scene.store, scene.clock, location: "/second")
        try await scene.save("f", file(1))
        let id = try await scene.store.beginReconcile(scene.source, reason: "test")
        let counts = try await scene.store.reconcile(
            id, scene.source, [scene.destination, second.destination],
            [ListedDirectory(path: .root, entries: [entry("f", status(1))], isWhole: true)],
            rules: ComparisonRules(), notBefore: scene.clock.now)
        #expect(counts.queued == 1)
        #expect(try await scene.due().jobs.isEmpty)
        #expect(try await second.due().jobs.map(\.path.description) == ["f"])
        try fixture.audit()
    }
}
