import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupState

/// A clock that stands until a test moves it.
final class TestClock: Sendable {
    private let time = Locked(Timestamp(microseconds: 1_790_000_000_000_000))

    var now: Timestamp { time.withLock { $0 } }
    var wallClock: WallClock { WallClock { self.now } }

    func advance(_ duration: Duration) { time.withLock { $0 = $0 + duration } }
}

/// A directory that goes with the test, and what most tests begin with: one source at one destination.
final class StateFixture: Sendable {
    let root: FilePath
    let clock = TestClock()

    init() throws {
        // Tests flush often; where there is a file system in memory they do not wait for a disk.
        let base = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
        let path = base + "/safebackup-state-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        root = FilePath(path)
    }

    deinit {
        // Ignored because what is left lies in a directory of temporary files.
        _ = try? FileManager.default.removeItem(atPath: root.string)
    }

    var directory: FilePath { root.appending("state") }
    var database: FilePath { directory.appending("queue.db") }

    func open(
        _ options: StateOptions = StateOptions()
    ) async throws(SafeBackupError) -> (StateStore, OpenReport) {
        try await StateStore.open(in: directory, clock: clock.wallClock, options: options)
    }

    /// A store with an active pair.
    func scene(_ options: StateOptions = StateOptions()) async throws -> Scene {
        let (store, _) = try await open(options)
        return try await Scene(store, clock)
    }

    /// Names of the files beside the database.
    func files() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: directory.string).sorted() }

    func bytes(_ name: String = "queue.db") throws -> [UInt8] {
        Array(try Data(contentsOf: URL(fileURLWithPath: directory.appending(name).string)))
    }

    func write(_ bytes: [UInt8], to name: String = "queue.db") throws {
        try Data(bytes).write(to: URL(fileURLWithPath: directory.appending(name).string))
    }

    /// The rows of a query, columns joined by `|`, through a connection of its own.
    func rows(_ sql: String) throws -> [String] {
        let connection = try Connection(database, .readOnly)
        return try connection.rows(sql)
    }

    /// Checks what must be true at every moment: the file is whole, the tally counts what is there, every name has its
    /// copy.
    func audit(sourceLocation: SourceLocation = #_sourceLocation) throws {
        let connection = try Connection(database, .readOnly)
        func expect(_ sql: String, _ expected: [String], _ comment: Comment) throws {
            let found = try connection.rows(sql)
            #expect(found == expected, comment, sourceLocation: sourceLocation)
        }
        try expect("PRAGMA integrity_check(3)", ["ok"], "the file is whole")
        try expect(
            """
            SELECT n.id FROM name n WHERE n.copy_id IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM copy c WHERE c.id = n.copy_id)
            """, [], "every name has its copy")
        try expect(
            "SELECT id FROM name WHERE (copy_id IS NULL) <> (kind = 'directory') AND ended_at IS NULL", [],
            "of what is live only directories have no copy")
        try expect(
            """
            SELECT c.id FROM copy c WHERE c.role = 'kept' AND c.adopted = 0 AND c.removing IS NULL
                AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id)
            """, [], "a kept version has a name")
        try expect(
            "SELECT sequence FROM job WHERE (state = 'leased') <> (stage_name IS NOT NULL)", [], "leases are whole")
        let counted = try connection.rows(
            """
            SELECT p.source_id, p.destination_id,
                (SELECT count(*) FROM job j WHERE j.source_id = p.source_id AND j.destination_id = p.destination_id
                    AND state = 'pending'),
                (SELECT count(*) FROM job j WHERE j.source_id = p.source_id AND j.destination_id = p.destination_id
                    AND state = 'leased'),
                (SELECT count(*) FROM job j WHERE j.source_id = p.source_id AND j.destination_id = p.destination_id
                    AND state = 'stuck'),
                (SELECT ifnull(sum(size), 0) FROM job j WHERE j.source_id = p.source_id
                    AND j.destination_id = p.destination_id AND state <> 'stuck'),
                (SELECT count(*) FROM name n WHERE n.source_id = p.source_id AND n.destination_id = p.destination_id
                    AND ended_at IS NULL AND kind <> 'directory'),
                (SELECT count(*) FROM name n WHERE n.source_id = p.source_id AND n.destination_id = p.destination_id
                    AND ended_at IS NULL AND kind = 'directory'),
                (SELECT ifnull(sum(size), 0) FROM name n WHERE n.source_id = p.source_id
                    AND n.destination_id = p.destination_id AND ended_at IS NULL AND kind <> 'directory'),
                (SELECT count(*) FROM name n WHERE n.source_id = p.source_id AND n.destination_id = p.destination_id
                    AND ended_at IS NULL AND fuzzy)
            FROM pair p ORDER BY 1, 2
            """)
        try expect(
            """
            SELECT p.source_id, p.destination_id, ifnull(pending, 0), ifnull(leased, 0), ifnull(stuck, 0),
                ifnull(job_bytes, 0), ifnull(files, 0), ifnull(directories, 0), ifnull(bytes, 0), ifnull(fuzzy, 0)
            FROM pair p LEFT JOIN tally t USING (source_id, destination_id) ORDER BY 1, 2
            """, counted, "the tally counts what is there")
    }
}

extension Connection {
    func rows(_ sql: String) throws -> [String] {
        let statement = try prepare(sql)
        var rows: [String] = []
        while try statement.step() {
            rows.append(
                (0..<statement.columnCount).map { _ in statement.textOrNull() ?? "NULL" }.joined(separator: "|"))
        }
        return rows
    }
}

/// A source at a destination, and short words for what tests do with them.
struct Scene {
    let store: StateStore
    let clock: TestClock
    let source: SourceID
    let destination: DestinationID

    init(_ store: StateStore, _ clock: TestClock, path: String = "/source", location: String = "/backup") async throws {
        self.store = store
        self.clock = clock
        let identity = RootIdentity(
            type: .ext, volume: "fsid:01", inode: UInt64.max - 1, birthTime: FileTime(nanoseconds: 5))
        source = try await store.registerSource(
            path: Array(path.utf8), identity: identity, uuid: "uuid-of-\(path)"
        ).id
        destination = try await store.registerDestination(location: Array(location.utf8), kind: "local").id
        try await store.setPair(source, destination, prefix: .root)
        let active = try await store.pairs().filter(\.isActive).map { ($0.source, $0.destination) }
        try await store.activate(pairs: active + [(source, destination)])
    }

    @discardableResult
    func enqueue(_ changes: [QueuedChange]) async throws -> EnqueueResult {
        try await store.enqueue([(destination, changes)], source: source)
    }

    func change(_ path: String, _ action: JobAction = .store, size: Int64? = nil) throws -> QueuedChange {
        QueuedChange(path: try RelativePath(path), action: action, notBefore: clock.now, size: size)
    }

    func due(limit: Int = 1_000, byteLimit: Int64 = .max) async throws -> DueBatch {
        try await store.due(destination, limit: limit, byteLimit: byteLimit, now: clock.now)
    }

    /// Leases everything that is due, or only what is due at one path, with the same plan.
    @discardableResult
    func leaseDue(only path: RelativePath? = nil, version: RelativePath? = nil) async throws -> [LeasedJob] {
        let jobs = try await due().jobs.filter { path == nil || $0.path == path }.map { job in
            LeasedJob(
                job: job,
                plan: LeasePlan(
                    stageName: "s\(job.sequence)",
                    final: job.occupant.map {
                        .present(
                            kind: $0.kind, inode: $0.inode ?? 0, size: $0.size,
                            mtime: $0.mtime ?? FileTime(nanoseconds: 0))
                    } ?? .absent,
                    version: version, versionReason: version == nil ? nil : .kept))
        }
        return try await store.lease(destination, jobs)
    }

    @discardableResult
    func complete(_ jobs: [LeasedJob], _ outcome: Completion.Outcome) async throws -> CompletionResult {
        try await store.complete(destination, jobs.map { Completion(job: $0.job, outcome: outcome) })
    }

    /// Queues, leases and stores one path.
    @discardableResult
    func save(_ path: RelativePath, _ entry: StoredEntry) async throws -> CompletionResult {
        try await enqueue([
            QueuedChange(path: path, action: .store, notBefore: clock.now, size: entry.fingerprint.size)
        ])
        let leases = try await leaseDue(only: path)
        return try await complete(leases, .stored(entry))
    }

    @discardableResult
    func save(_ path: String, _ entry: StoredEntry) async throws -> CompletionResult {
        try await save(try RelativePath(path), entry)
    }

    /// The live name and the copy at a path.
    func look(_ path: String) async throws -> (live: NameRecord?, occupant: CopyRecord?) {
        try await enqueue([try change(path, .delete)])
        let job = try #require(try await due().jobs.first { $0.path.description == path })
        let lease = LeasedJob(job: job, plan: LeasePlan(stageName: "look", final: .absent))
        try await store.lease(destination, [lease])
        // A job that ends nothing leaves the catalogue as it is.
        _ = try await store.complete(destination, [Completion(job: job, outcome: .ended(namesUpTo: 0))])
        return (job.live, job.occupant)
    }
}

/// A file's content and state, told by one number.
func file(_ number: UInt8, size: Int64 = 10, mode: UInt32 = 0o644) -> StoredEntry {
    StoredEntry(
        kind: .file, content: .copied(copy(number, size: size)), fingerprint: fingerprint(number, size: size),
        metadata: FileMetadata(mode: mode, uid: 1, gid: 2))
}

func copy(_ number: UInt8, size: Int64 = 10) -> StoredCopy {
    StoredCopy(
        digest: digest(number), size: size, inode: 1_000 + UInt64(number), mtime: FileTime(nanoseconds: Int64(number)))
}

func digest(_ number: UInt8) -> Digest {
    guard let digest = Digest(bytes: [UInt8](repeating: number, count: 32)) else { preconditionFailure("32 bytes") }
    return digest
}

func fingerprint(_ number: UInt8, size: Int64 = 10) -> Fingerprint {
    Fingerprint(
        inode: UInt64(number), size: size, mtime: FileTime(nanoseconds: Int64(number)),
        ctime: FileTime(nanoseconds: Int64(number) + 1))
}

func directory(mode: UInt32 = 0o755) -> StoredEntry {
    StoredEntry(
        kind: .directory, content: .directory, fingerprint: fingerprint(200, size: 4_096),
        metadata: FileMetadata(mode: mode, uid: 1, gid: 2))
}

extension StoredEntry {
    /// The same content under another state of the file: what a chmod or a touch leaves.
    func kept(_ number: UInt8, mode: UInt32 = 0o600) -> StoredEntry {
        var entry = self
        entry.content = .kept
        entry.fingerprint.ctime = FileTime(nanoseconds: Int64(number) + 100)
        entry.metadata.mode = mode
        return entry
    }

    func displacing(_ moves: Displacement...) -> StoredEntry {
        var entry = self
        entry.displaced = moves
        return entry
    }

    func fuzzy() -> StoredEntry {
        var entry = self
        entry.isFuzzy = true
        return entry
    }
}

/// What `file(number)` left, moved to a version name.
func displacement(
    _ from: String, _ to: String, _ reason: VersionReason = .kept, _ number: UInt8, size: Int64 = 10,
    kind: EntryKind = .file
) throws -> Displacement {
    Displacement(
        from: try RelativePath(from), to: try RelativePath(".safebackup/versions/" + to), reason: reason, kind: kind,
        inode: 1_000 + UInt64(number), size: size, mtime: FileTime(nanoseconds: Int64(number)))
}

/// Expects an error of this code.
func expect<R>(
    _ code: SafeBackupError.Code, sourceLocation: SourceLocation = #_sourceLocation, _ body: () async throws -> R
) async {
    await #expect(sourceLocation: sourceLocation) {
        _ = try await body()
    } throws: {
        ($0 as? SafeBackupError)?.code == code
    }
}
