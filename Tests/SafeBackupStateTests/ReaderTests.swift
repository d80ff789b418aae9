import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupState

/// The steps that the database has done.
extension StateStore {
    func work() throws(SafeBackupError) -> Int {
        try read { (connection) throws(SafeBackupError) in connection.work }
    }
}

@Suite struct ReaderTests {
    let fixture: StateFixture
    let scene: Scene

    init() async throws {
        fixture = try StateFixture()
        scene = try await fixture.scene()
    }

    /// All pages, a few names at a time, as `path number-of-the-copy`.
    private func names(
        _ reader: some CatalogueReading, _ scope: NameScope, at path: String = "", source: SourceID? = nil,
        destination: DestinationID? = nil, limit: Int = 2
    ) throws -> [String] {
        var found: [String] = []
        var cursor: NameCursor?
        repeat {
            let page = try reader.names(
                source ?? scene.source, destination ?? scene.destination, within: try RelativePath(path), scope,
                after: cursor, limit: limit)
            #expect(page.entries.count <= limit + 1)
            found += page.entries.map { "\($0.path) \($0.copy?.digest?.bytes.first.map(String.init) ?? "-")" }
            cursor = page.next
        } while cursor != nil
        return found
    }

    /// A tree with a history: t0 first save, t1 second, t2 deletes.
    private func history() async throws -> [Timestamp] {
        var times: [Timestamp] = []
        try await scene.save("d", directory())
        for path in ["d/a", "d/b", "d/s/c", "e"] { try await scene.save(path, file(1)) }
        times.append(scene.clock.now)
        scene.clock.advance(.seconds(10))
        try await scene.save("d/a", file(2).displacing(try displacement("d/a", "d/a@1", .kept, 1)))
        try await scene.save(try RelativePath([0x64, 0x2F, 0xFF]), file(3))
        times.append(scene.clock.now)
        scene.clock.advance(.seconds(10))
        try await scene.enqueue([try scene.change("d/b", .delete)])
        try await scene.complete(
            try await scene.leaseDue(), .ended(namesUpTo: try await scene.store.newestSequence()))
        times.append(scene.clock.now)
        return times
    }

    @Test(
        "Names are told as they are, as they were, and as they were deleted; in pages of any size",
        arguments: [1, 2, 100])
    func scopes(limit: Int) async throws {
        let times = try await history()
        let reader = try StateReader(in: fixture.directory)
        #expect(try names(reader, .live, limit: limit) == ["d -", "e 1", "d/a 2", "d/\\xff 3", "d/s/c 1"])
        #expect(Set(try names(reader, .at(times[0]), limit: limit)) == ["d -", "e 1", "d/a 1", "d/b 1", "d/s/c 1"])
        #expect(
            Set(try names(reader, .at(times[1]), limit: limit))
                == ["d -", "e 1", "d/a 2", "d/b 1", "d/s/c 1", "d/\\xff 3"])
        #expect(try names(reader, .deleted, limit: limit) == ["d/b 1"])
        #expect(try names(reader, .live, at: "d", limit: limit) == ["d -", "d/a 2", "d/\\xff 3", "d/s/c 1"])
        #expect(try names(reader, .history, at: "d/a", limit: limit) == ["d/a 2", "d/a 1"])
        #expect(try names(reader, .deleted, at: "d/b", limit: limit) == ["d/b 1"])
        #expect(try names(reader, .live, at: "d/b", limit: limit) == [])
        #expect(try names(reader, .history, at: "nothing", limit: limit) == [])
    }

    @Test("A path that was deleted and made again is not among the deleted")
    func deletedAndMadeAgain() async throws {
        _ = try await history()
        try await scene.save("d/b", file(9))
        #expect(try names(try StateReader(in: fixture.directory), .deleted) == [])
    }

    @Test("A reader beside the writer sees each commit at once, and never half of one")
    func besideWriter() async throws {
        let reader = try StateReader(in: fixture.directory)
        for number in UInt8(1)...20 {
            try await scene.save("f\(number)", file(number))
            let status = try reader.status()
            #expect(status.sources.first?.files == Int(number))
            #expect(status.destinations.first?.counts.pending == 0)
        }
    }

    @Test("The status tells of each source, destination and pair what a person asks")
    func status() async throws {
        try await scene.save("f", file(1, size: 100))
        scene.clock.advance(.seconds(10))
        try await scene.enqueue([try scene.change("g", size: 5)])
        let since = scene.clock.now
        scene.clock.advance(.seconds(10))
        try await scene.enqueue([try scene.change("h", size: 6)])
        try await scene.store.recordNotSaved(
            scene.source, [(try RelativePath("p"), .special, .fifo), (try RelativePath("q"), .special, .socket)])
        try await scene.store.setSentinel("id-1", for: scene.destination)
        try await scene.store.markProof(scene.destination)
        try await scene.store.markFullSave(scene.source, scene.destination)
        let status = try StateReader(in: fixture.directory).status()
        #expect(status.release == "development")
        let source = try #require(status.sources.first)
        #expect(source.files == 1 && source.bytes == 100 && source.notSaved == ["special": 2])
        #expect(source.record.path == Array("/source".utf8) && source.record.isActive)
        #expect(source.record.identity.inode == UInt64.max - 1)
        let destination = try #require(status.destinations.first)
        #expect(destination.counts.pending == 2 && destination.counts.pendingBytes == 11)
        #expect(destination.oldestPending == since)
        #expect(destination.record.sentinel == "id-1" && destination.record.lastProofAt == scene.clock.now)
        #expect(status.pairs.first?.record.firstSaveAt == scene.clock.now)
    }

    @Test("A state without an agent is readable, also where nothing may be written")
    func withoutAgent() async throws {
        _ = try await history()
        try await scene.store.close()
        #expect(try names(try StateReader(in: fixture.directory), .live).count == 5)
        for name in ["queue.db-wal", "queue.db-shm"] {
            try FileManager.default.removeItem(atPath: fixture.directory.appending(name).string)
        }
        #expect(try names(try StateReader(in: fixture.directory), .live).count == 5)
    }

    @Test("Where there is no state the reader says so, and makes none")
    func noState() async throws {
        let nowhere = fixture.root.appending("nowhere")
        await expect(.stateFailed) { try StateReader(in: nowhere) }
        try FileManager.default.createDirectory(atPath: nowhere.string, withIntermediateDirectories: true)
        await expect(.stateFailed) { try StateReader(in: nowhere) }
        #expect(try FileManager.default.contentsOfDirectory(atPath: nowhere.string).isEmpty)
    }

    @Test("Every view reads, with times and paths for people")
    func views() async throws {
        _ = try await history()
        try await scene.enqueue([try scene.change("bad", size: 3)])
        let error = SafeBackupError(.nameTooLong, "Too long", disposition: .permanent)
        try await scene.complete(try await scene.leaseDue(), .failed(error, .stuck(retryAfter: .seconds(86_400))))
        try await scene.enqueue([try scene.change("later", size: 4)])
        for view in Views.names { _ = try fixture.rows("SELECT * FROM \(view)") }
        #expect(
            try fixture.rows("SELECT source, destination, state, files, pending, stuck FROM v_status")
                == ["/source|/backup|reconcile due|4|1|1"])
        #expect(try fixture.rows("SELECT path, since FROM v_pending") == ["later|\(scene.clock.now.iso8601)"])
        #expect(try fixture.rows("SELECT path, error, message FROM v_stuck") == ["bad|nameTooLong|Too long"])
        #expect(try fixture.rows("SELECT DISTINCT path FROM v_history WHERE path LIKE 'x''%'") == ["x'642FFF'"])
        #expect(
            try fixture.rows("SELECT reason, files, bytes FROM v_exposure ORDER BY 1")
                == ["queued|1|4", "stuck|1|3"])
    }

    /// How much more the database does for a call on a large state than on a small one.
    private func growth(_ body: (Scene) async throws -> Void) async throws -> Int {
        var work: [Int] = []
        for count in [5, 1_500] {
            let fixture = try StateFixture()
            let scene = try await fixture.scene()
            let paths = (0..<count).map { "d\($0 % 7)/f\($0)" }
            try await scene.enqueue(try paths.map { try scene.change($0, size: 1) })
            try await scene.complete(try await scene.leaseDue(), .stored(file(1)))
            try await scene.enqueue(try paths.map { try scene.change($0, size: 1) })
            try await scene.complete(
                try await scene.leaseDue(),
                .failed(
                    SafeBackupError(.torn, "No", disposition: .transient),
                    .retry(after: .seconds(60), countsAttempt: true)))
            try await scene.enqueue(try paths.map { try scene.change("new/\($0)", size: 1) })
            let before = try await scene.store.work()
            try await body(scene)
            work.append(try await scene.store.work() - before)
        }
        return work[1] - work[0]
    }

    @Test("What is asked for each job or each second costs no more with a large backlog")
    func cost() async throws {
        #expect(try await growth { _ = try await $0.due(limit: 1) } < 100)
        #expect(try await growth { _ = try await $0.store.counts() } < 100)
        #expect(try await growth { _ = try await $0.store.leases($0.destination, limit: 5) } < 100)
        #expect(try await growth { _ = try await $0.store.removals($0.destination, limit: 5) } < 100)
        #expect(try await growth { _ = try await $0.store.hasLiveNames($0.source) } < 100)
        #expect(
            try await growth { scene in
                let job = try #require(try await scene.due(limit: 1).jobs.first)
                let lease = LeasedJob(job: job, plan: LeasePlan(stageName: "s", final: .absent))
                try await scene.store.lease(scene.destination, [lease])
                // On the large state it replaces a copy, whose name becomes a gap.
                try await scene.complete([lease], .stored(file(2)))
            } < 400)
        #expect(
            try await growth {
                _ = try await $0.store.outstanding($0.destination, upTo: try await $0.store.newestSequence())
            } < 100)
        #expect(
            try await growth {
                _ = try await $0.store.liveLeaves($0.source, $0.destination, in: .root, after: nil, limit: 5)
            } < 100)
    }

    @Test("What a person asks for is found, not searched for")
    func readerCost() async throws {
        for number in 0..<300 { try await scene.enqueue([try scene.change("d/f\(number)")]) }
        try await scene.complete(try await scene.leaseDue(), .stored(file(1)))
        let reader = try StateReader(in: fixture.directory)
        for (path, scope) in [
            ("d/f7", NameScope.live), ("d/f7", .history), ("d/f7", .deleted), ("x", .at(scene.clock.now)),
        ] {
            let before = reader.work
            _ = try names(reader, scope, at: path)
            #expect(reader.work - before < 300, "\(path) \(scope)")
        }
    }

    // MARK: - Requests

    @Test("A verb's request reaches the agent within a look at the data version, and its answer comes back")
    func requests() async throws {
        let before = try await scene.store.dataVersion()
        #expect(try await scene.store.dataVersion() == before, "the agent's own commits do not count")
        #expect(try await scene.store.takeRequests().isEmpty)
        let arguments: [[UInt8]] = [Array("a b".utf8), [], [0xFF, 0x0A], Array("ü".utf8)]
        let id = try StateStore.submitRequest(
            in: fixture.directory, verb: "retry", arguments: arguments, clock: scene.clock.wallClock)
        let second = try StateStore.submitRequest(in: fixture.directory, verb: "pause", arguments: [])
        #expect(try await scene.store.dataVersion() != before)
        #expect(try StateStore.readAnswer(id, in: fixture.directory) == nil)
        let requests = try await scene.store.takeRequests()
        #expect(requests.map(\.verb) == ["retry", "pause"])
        #expect(requests.map(\.arguments) == [arguments, []])
        #expect(try await scene.store.takeRequests().isEmpty)
        try await scene.store.answer(id, .done("3 paths"))
        #expect(try StateStore.readAnswer(id, in: fixture.directory) == .done("3 paths"))

        // The agent ends before it answers the second.
        try await scene.store.reopen()
        #expect(try await scene.store.interruptedRequests().map(\.id) == [second])
        try await scene.store.answer(second, .failed("agentRestarted"))
        #expect(try StateStore.readAnswer(second, in: fixture.directory) == .failed("agentRestarted"))
        #expect(try await scene.store.interruptedRequests().isEmpty)
    }

    @Test("Requests and the agent's own writing never fail for each other")
    func requestsBesideWriting() async throws {
        let directory = fixture.directory
        let submitter = Task.detached {
            for number in 0..<50 {
                _ = try StateStore.submitRequest(in: directory, verb: "retry", arguments: [Array("\(number)".utf8)])
            }
        }
        var taken = 0
        for number in 0..<50 {
            try await scene.save("f\(number % 7)", file(UInt8(number)))
            taken += try await scene.store.takeRequests().count
        }
        try await submitter.value
        taken += try await scene.store.takeRequests().count
        #expect(taken == 50)
        try fixture.audit()
    }

    @Test("A request is refused where no agent's state is, or another release's")
    func refusedRequests() async throws {
        await expect(.stateFailed) {
            try StateStore.submitRequest(in: fixture.root, verb: "retry", arguments: [])
        }
        try await scene.store.close()
        let connection = try Connection(fixture.database, .readWrite)
        try connection.execute("PRAGMA user_version = 99")
        await expect(.stateFailed) {
            try StateStore.submitRequest(in: fixture.directory, verb: "retry", arguments: [])
        }
    }

    // MARK: - Registry

    @Test("Sources and destinations are found again, and a prefix that copies lie under cannot change")
    func registry() async throws {
        try await scene.store.hold(
            .source(scene.source), SafeBackupError(.rootReplaced, "Another directory", disposition: .permanent))
        try await scene.store.reopen()
        let other = RootIdentity(type: .xfs, volume: nil, inode: 9, birthTime: nil)
        let known = try await scene.store.registerSource(path: Array("/source".utf8), identity: other, uuid: "new")
        #expect(known.id == scene.source && known.uuid == "uuid-of-/source" && known.identity.type == .ext)
        #expect(known.hold?.reason == .rootReplaced)
        try await scene.store.accept(scene.source, .rootReplaced, identity: other)
        let accepted = try #require(try await scene.store.sources().first)
        #expect(accepted.identity == other && accepted.hold == nil && accepted.isDesynced)
        #expect(accepted.accepted == .rootReplaced)
        let prefix = try RelativePath("p")
        try await scene.store.setPair(scene.source, scene.destination, prefix: .root)
        // Nothing lies there yet, and then something is about to.
        try await scene.store.setPair(scene.source, scene.destination, prefix: prefix)
        try await scene.enqueue([try scene.change("f")])
        try await scene.store.setPair(scene.source, scene.destination, prefix: .root)
        let leases = try await scene.leaseDue()
        #expect(leases.first?.job.location.description == "f")
        for isStored in [false, true] {
            if isStored { try await scene.complete(leases, .stored(file(1))) }
            await expect(.invalidConfiguration) {
                try await scene.store.setPair(scene.source, scene.destination, prefix: prefix)
            }
        }
        let odd = try await scene.store.registerDestination(location: [0x2F, 0xFF], kind: "local")
        #expect(try await scene.store.registerDestination(location: [0x2F, 0xFF], kind: "local") == odd)
    }

    @Test("A destination that is not run any more is not held any more; a source keeps what holds it")
    func inactiveHold() async throws {
        let away = SafeBackupError(.sentinelMissing, "Away", disposition: .destinationUnavailable)
        let emptied = SafeBackupError(.rootEmptied, "Empty", disposition: .transient)
        try await scene.store.hold(.destination(scene.destination), away)
        try await scene.store.hold(.source(scene.source), emptied)
        try await scene.store.activate(pairs: [(scene.source, scene.destination)])
        #expect(try await scene.store.destinations().first?.hold?.reason == .sentinelMissing)
        try await scene.store.activate(pairs: [])
        #expect(try await scene.store.destinations().first?.hold == nil)
        #expect(try await scene.store.sources().first?.hold?.reason == .rootEmptied)
    }

    @Test("A hold that stands keeps the time it began")
    func holdTime() async throws {
        let began = scene.clock.now
        for _ in 0..<3 {
            try await scene.store.hold(
                .destination(scene.destination),
                SafeBackupError(.sentinelMissing, "Away", disposition: .destinationUnavailable))
            scene.clock.advance(.seconds(60))
        }
        #expect(try await scene.store.destinations().first?.hold?.at == began)
    }
}
