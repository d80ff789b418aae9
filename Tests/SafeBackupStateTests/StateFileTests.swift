import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupState

@Suite struct StateFileTests {
    let fixture: StateFixture

    init() throws { fixture = try StateFixture() }

    private func mode(_ path: FilePath) throws -> Int {
        let attributes = try FileManager.default.attributesOfItem(atPath: path.string)
        return try #require((attributes[.posixPermissions] as? NSNumber)?.intValue)
    }

    /// The files as a power cut would leave them, in another directory.
    private func crashImage(_ name: String = "image") throws -> FilePath {
        let image = fixture.root.appending(name)
        try FileManager.default.copyItem(atPath: fixture.directory.string, toPath: image.string)
        return image
    }

    private func open(_ directory: FilePath, _ steps: [String] = []) async throws -> (StateStore, OpenReport) {
        try await StateStore.open(
            StateFile(
                directory: directory, clock: fixture.clock.wallClock, options: StateOptions(release: "2.0"),
                migrations: Migrations(steps: Migrations.all.steps + steps)))
    }

    // MARK: - Opening

    @Test("A new state is readable by its owner only, and says what it is")
    func creation() async throws {
        let deep = fixture.root.appending("a").appending("b")
        let (store, report) = try await open(deep)
        #expect(report == OpenReport(isCreated: true, damagedMovedTo: nil, wasClean: false))
        #expect(try mode(deep) == 0o700)
        for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
            #expect(try mode(deep.appending(name)) == 0o600, "\(name)")
        }
        let connection = try Connection(deep.appending("queue.db"), .readOnly)
        #expect(try connection.rows("PRAGMA application_id") == ["1935829872"])
        #expect(try connection.rows("PRAGMA journal_mode") == ["wal"])
        #expect(try connection.rows("SELECT value FROM meta WHERE key = 'release'") == ["2.0"])
        try await store.close()
    }

    @Test("A group may read where it was asked for")
    func groupModes() async throws {
        let (store, _) = try await fixture.open(StateOptions(directoryMode: 0o750, fileMode: 0o640))
        #expect(try mode(fixture.directory) == 0o750)
        #expect(try mode(fixture.database) == 0o640)
        #expect(try mode(fixture.directory.appending("queue.db-wal")) == 0o640)
        try await store.close()
    }

    @Test("Only a close makes the state clean, and the next open makes it unclean again")
    func cleanMark() async throws {
        let (first, _) = try await fixture.open()
        #expect(try await open(try crashImage("killed")).1.wasClean == false)
        try await first.close()
        try await first.close()
        await expect(.stateFailed) { try await first.counts() }
        await expect(.stateFailed) { try await first.reopen() }
        let (second, report) = try await fixture.open()
        #expect(report == OpenReport(isCreated: false, damagedMovedTo: nil, wasClean: true))
        #expect(try await open(try crashImage("again")).1.wasClean == false)
        #expect(try await second.reopen().wasClean == false)
        try await second.close()
        let names = try fixture.files()
        #expect(names == ["queue.db", "queue.db-shm", "queue.db-wal"], "a reader finds what it needs")
    }

    @Test("What a call promised is in the files when it returns")
    func crash() async throws {
        let scene = try await fixture.scene()
        try await scene.save("f", file(1))
        try await scene.enqueue([try scene.change("g")])
        let image = try crashImage()
        let (store, report) = try await open(image)
        #expect(!report.wasClean && report.damagedMovedTo == nil)
        let batch = try await store.due(scene.destination, limit: 9, byteLimit: 9, now: fixture.clock.now)
        #expect(batch.jobs.map(\.path.description) == ["g"])
        #expect(try await store.counts().files == 1)
    }

    @Test("Each commit is flushed: synchronous is FULL on the writer's connection")
    func synchronous() async throws {
        let (store, _) = try await fixture.open()
        #expect(
            try await store.read { (connection) throws(SafeBackupError) in
                try connection.number("PRAGMA synchronous")
            } == 2)
    }

    @Test("A directory that cannot be one, and a database that is a directory, are explained")
    func refusals() async throws {
        try FileManager.default.createDirectory(
            atPath: fixture.database.string, withIntermediateDirectories: true)
        await expect(.stateFailed) { try await fixture.open() }
        let file = fixture.root.appending("file")
        try Data().write(to: URL(fileURLWithPath: file.string))
        await expect(.stateFailed) { try await open(file.appending("state")) }
    }

    // MARK: - Versions

    @Test("A newer release's state is refused by its name, and no byte of it changes", arguments: [false, true])
    func newer(inLog: Bool) async throws {
        var directory = fixture.directory
        let (store, _) = try await open(directory, ["CREATE TABLE future (x)"])
        if inLog {
            // The newer version is in the write-ahead log only.
            directory = try crashImage()
        } else {
            try await store.close()
        }
        func bytes() throws -> [Data] {
            try ["queue.db", "queue.db-wal"].map {
                try Data(contentsOf: URL(fileURLWithPath: directory.appending($0).string))
            }
        }
        let before = try bytes()
        try #require((before[1].count > 0) == inLog)
        do {
            _ = try await StateStore.open(in: directory)
            Issue.record("it was opened")
        } catch {
            #expect(error.code == .stateNewer && error.message.contains("release 2.0"), "\(error)")
        }
        #expect(try bytes() == before)
        await expect(.stateNewer) { try StateReader(in: directory) }
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.string).count == 3)
    }

    @Test(
        "A schema that has changed under us is damage, found when the state is opened",
        arguments: [("first_seen_at", "first_seem_at"), ("backoff_until INTEGER", "backoff_until INTEGES")])
    func changedSchema(from: String, to: String) async throws {
        let scene = try await fixture.scene()
        try await scene.save("f", file(1))
        try await scene.store.close()
        let text = String(decoding: try fixture.bytes(), as: UTF8.self)
        try #require(text.contains(from))
        // Byte for byte, as a failing disk would; the page's own structure stays whole.
        var bytes = try fixture.bytes()
        let pattern = Array(from.utf8)
        for start in 0..<(bytes.count - pattern.count) where Array(bytes[start..<start + pattern.count]) == pattern {
            bytes.replaceSubrange(start..<start + pattern.count, with: Array(to.utf8))
        }
        try fixture.write(bytes)
        let (store, report) = try await fixture.open()
        #expect(report.damagedMovedTo != nil)
        #expect(try await store.counts().files == 0)
    }

    @Test("A row that is refused as double is damage where the index is wrong, and else an error that no retry mends")
    func contradiction() throws {
        let file = fixture.root.appending("contradiction.db")
        try Data().write(to: URL(fileURLWithPath: file.string))
        func connection() throws -> Connection { try Connection(file, .readWrite) }
        try connection().execute("CREATE TABLE t (a TEXT); CREATE UNIQUE INDEX i ON t (a); INSERT INTO t VALUES ('x')")
        func insert() throws -> (SafeBackupError?, Connection.Health) {
            let open = try connection()
            do throws(SafeBackupError) {
                try open.prepare("INSERT INTO t VALUES ('x')").run()
                return (nil, open.health)
            } catch {
                return (error, open.health)
            }
        }
        let double = try insert()
        #expect(double.0?.code == .stateFailed && double.0?.disposition == .permanent && double.1 == .good)

        // The row goes while its index is not known.
        try connection().execute(
            """
            PRAGMA writable_schema = ON; CREATE TABLE hidden AS SELECT * FROM sqlite_schema WHERE name = 'i';
            DELETE FROM sqlite_schema WHERE name = 'i'
            """)
        try connection().execute("DELETE FROM t")
        try connection().execute("PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM hidden")
        let wrong = try insert()
        #expect(wrong.0?.code == .stateDamaged && wrong.1 == .damaged, "\(String(describing: wrong.0))")
    }

    @Test("An older state is copied aside and then migrated, with everything in it")
    func migration() async throws {
        let scene = try await fixture.scene()
        try await scene.save("f", file(1))
        try await scene.store.close()
        let (store, report) = try await open(
            fixture.directory, ["ALTER TABLE source ADD COLUMN colour TEXT", "UPDATE source SET colour = 'green'"])
        #expect(report.wasClean && !report.isCreated)
        #expect(try fixture.rows("SELECT colour FROM source") == ["green"])
        #expect(try await store.counts().files == 1)
        try await store.close()
        let copy = try #require(
            try fixture.files().first { $0.hasPrefix("queue.db.version-\(Migrations.all.version)-") })
        #expect(try mode(fixture.directory.appending(copy)) == 0o600)
        // The older release runs on it again.
        let older = fixture.root.appending("older")
        try FileManager.default.createDirectory(atPath: older.string, withIntermediateDirectories: true)
        try FileManager.default.copyItem(
            atPath: fixture.directory.appending(copy).string, toPath: older.appending("queue.db").string)
        #expect(try await open(older).0.counts().files == 1)
    }

    @Test("A migration that fails leaves the older state as it was")
    func failedMigration() async throws {
        let scene = try await fixture.scene()
        try await scene.save("f", file(1))
        try await scene.store.close()
        await expect(.stateFailed) {
            try await open(fixture.directory, ["ALTER TABLE source ADD COLUMN colour TEXT", "CREATE TABLE name (x)"])
        }
        #expect(try fixture.rows("PRAGMA user_version") == ["\(Migrations.all.version)"])
        #expect(try await fixture.open().0.counts().files == 1)
        try fixture.audit()
    }

    @Test("Another release of the same schema writes its views and its name")
    func release() async throws {
        try await open(fixture.directory).0.close()
        let (store, _) = try await fixture.open(StateOptions(release: "2.1"))
        #expect(try fixture.rows("SELECT value FROM meta WHERE key = 'release'") == ["2.1"])
        #expect(try fixture.files().count == 3, "no copy is made for that")
        try await store.close()
    }

    // MARK: - Damage

    enum Damage: CaseIterable {
        case garbage, text, cutInHeader, cutInPage, cutByPages, zeroWithLog, missingWithLog, otherDatabase
    }

    @Test("A damaged state is moved aside whole, and a new one works", arguments: Damage.allCases)
    func damage(_ damage: Damage) async throws {
        let scene = try await fixture.scene()
        for number in 0..<200 { try await scene.enqueue([try scene.change("some/path/\(number)")]) }
        var directory = fixture.directory
        if damage == .zeroWithLog || damage == .missingWithLog {
            directory = try crashImage()
        } else {
            try await scene.store.close()
        }
        let path = URL(fileURLWithPath: directory.appending("queue.db").string)
        let bytes = try Data(contentsOf: path)
        try #require(bytes.count > 40_000 || directory != fixture.directory)
        switch damage {
        case .garbage: try Data((0..<bytes.count).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }).write(to: path)
        case .text: try Data("this is no database\n".utf8).write(to: path)
        case .cutInHeader: try bytes.prefix(50).write(to: path)
        case .cutInPage: try bytes.prefix(bytes.count / 2 + 100).write(to: path)
        case .cutByPages: try bytes.prefix(4_096 * 3).write(to: path)
        case .zeroWithLog: try Data().write(to: path)
        case .missingWithLog: try FileManager.default.removeItem(at: path)
        case .otherDatabase:
            try Data().write(to: path)
            let other = try Connection(directory.appending("queue.db"), .scratch)
            try other.execute("CREATE TABLE photos (x); PRAGMA application_id = 7")
        }
        let left = damage == .missingWithLog ? nil : try Data(contentsOf: path)
        var (store, report) = try await open(directory)
        if report.damagedMovedTo == nil {
            // After a clean close the file is not looked at as a whole: the first call that meets the damage says so.
            await expect(.stateDamaged) {
                _ = try await store.due(scene.destination, limit: 1_000, byteLimit: .max, now: fixture.clock.now)
                try await store.enqueue(
                    [(scene.destination, try (0..<300).map { try scene.change("another/\($0)") })],
                    source: scene.source)
            }
            await expect(.stateDamaged) { try await store.counts() }
            report = try await store.reopen()
        }
        #expect(report.isCreated && !report.wasClean)
        let aside = try #require(report.damagedMovedTo)
        #expect(aside == directory.appending("queue.db.damaged-\(fixture.clock.now.compact)"))
        if let left, damage != .cutByPages {
            #expect(try Data(contentsOf: URL(fileURLWithPath: aside.string)) == left)
        }
        #expect(FileManager.default.fileExists(atPath: aside.string + "-wal"))
        #expect(try await store.counts() == QueueCounts())
        let fresh = try await Scene(store, fixture.clock)
        try await fresh.save("f", file(1))
        #expect(try await store.counts().files == 1)
        try await store.close()
        store = try await open(directory).0
        try await store.close()
    }

    @Test("A flipped bit is noticed at the start or at a call, or harms no structure; nothing crashes")
    func bitFlips() async throws {
        let scene = try await fixture.scene()
        for number in 0..<60 { try await scene.save("some/path/\(number)", file(UInt8(number))) }
        try await scene.enqueue(try (0..<60).map { try scene.change("other/path/\($0)") })
        try await scene.store.close()
        let bytes = try fixture.bytes()
        var random: UInt64 = 42
        var noticed = 0
        for round in 0..<40 {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            // Half of them in the first bytes of a page, where its structure is.
            let page = Int(random >> 33) % (bytes.count / 4_096)
            let offset = page * 4_096 + Int(random >> 17) % (round % 2 == 0 ? 16 : 4_096)
            var flipped = bytes
            flipped[offset] ^= 1 << UInt8(random >> 60 & 7)
            let directory = fixture.root.appending("flip-\(round)")
            try FileManager.default.createDirectory(atPath: directory.string, withIntermediateDirectories: true)
            try Data(flipped).write(to: URL(fileURLWithPath: directory.appending("queue.db").string))
            do throws(SafeBackupError) {
                let (store, report) = try await StateStore.open(in: directory, clock: fixture.clock.wallClock)
                if report.damagedMovedTo != nil { noticed += 1 }
                do throws(SafeBackupError) {
                    let batch = try await store.due(
                        scene.destination, limit: 100, byteLimit: .max, now: fixture.clock.now)
                    let leases = batch.jobs.map { LeasedJob(job: $0, plan: LeasePlan(stageName: "s", final: .absent)) }
                    try await store.lease(scene.destination, leases)
                    _ = try await store.complete(
                        scene.destination, leases.map { Completion(job: $0.job, outcome: .stored(file(1))) })
                } catch {
                    if error.code == .stateDamaged { noticed += 1 }
                    let report = try await store.reopen()
                    #expect((report.damagedMovedTo != nil) == (error.code == .stateDamaged), "\(error)")
                }
                try await store.close()
            } catch {
                // A flip in the version number looks like a newer release: refused, and a person decides.
                #expect(error.code == .stateNewer, "offset \(offset): \(error)")
            }
        }
        #expect(noticed > 0, "the test flips bits that matter")
    }
}
