import Foundation
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupState

/// A source, the real state and a bucket in memory, and the rounds that the agent makes between them.
final class DestinationBench: Sendable {
    let top: String
    let store = MemoryObjectStore()
    let state: StateStore
    let io: ThreadExecutor
    let source: SourceID
    let id: DestinationID
    let settings: S3DestinationSettings
    private let current: Locked<S3Destination>

    static let prefix = "backup/"
    static let sentinel = "5d0c1f2e-0000-4000-8000-000000000001"

    /// - Parameter denied: what the keys may not do.
    init(
        denied: Set<MemoryObjectStore.Operation> = [], _ change: (inout S3DestinationSettings) -> Void = { _ in }
    ) async throws {
        let base = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
        top = base + "/safebackup-s3-" + UUID().uuidString
        for name in ["/source", "/scratch"] {
            try FileManager.default.createDirectory(atPath: top + name, withIntermediateDirectories: true)
        }
        var settings = S3DestinationSettings(name: "s3://bucket/backup", scratch: FilePath(top + "/scratch"))
        settings.prefix = Array(Self.prefix.utf8)
        settings.limits.single = 64 << 10
        settings.limits.part = 64 << 10
        settings.limits.partsAtOnce = 2
        settings.filesAtOnce = 4
        change(&settings)
        self.settings = settings
        io = try ThreadExecutor(name: "test.io", count: 2)
        // An hour ahead, so that no file counts as read in the moment of its change.
        let clock = WallClock { WallClock.system.now + .seconds(3_600) }
        (state, _) = try await StateStore.open(in: FilePath(top + "/state"), clock: clock)
        source = try await state.registerSource(
            path: Array((top + "/source").utf8),
            identity: RootIdentity(type: .ext, volume: nil, inode: 2, birthTime: nil), uuid: "source"
        ).id
        id = try await state.registerDestination(location: Array("s3://bucket/backup".utf8), kind: "s3").id
        try await state.setPair(source, id, prefix: .root)
        try await state.activate(pairs: [(source, id)])
        current = Locked(Self.destination(store, state, id, settings, io, clock))
        store.deny(denied)
        try await destination.create(id: Self.sentinel, sources: [])
        try await destination.attach(expecting: Self.sentinel)
        store.clearLog()
    }

    deinit {
        io.stop()
        // Ignored because what is left lies in a directory of temporary files.
        _ = try? FileManager.default.removeItem(atPath: top)
    }

    private static func destination(
        _ store: MemoryObjectStore, _ state: StateStore, _ id: DestinationID, _ settings: S3DestinationSettings,
        _ io: ThreadExecutor, _ clock: WallClock
    ) -> S3Destination {
        S3Destination(
            store: store, ledger: StateUploadLedger(state, id), settings: settings, io: io, clock: clock)
    }

    var destination: S3Destination { current.withLock { $0 } }

    /// Another process: nothing is known but what the state and the bucket hold.
    func restart() async throws {
        store.heal()
        current.withLock {
            $0 = Self.destination(
                store, state, id, settings, io, WallClock { WallClock.system.now + .seconds(3_600) })
        }
        try await destination.attach(expecting: Self.sentinel)
        let leases = try await state.leases(id, limit: 1_000)
        let recovered = try await destination.recover(leases)
        try await state.recover(id, recovered)
        try await destination.emptyStaging()
    }

    // MARK: - The source

    func path(_ name: String) -> String { top + "/source/" + name }

    func write(_ name: String, _ content: [UInt8]) throws {
        let path = path(name)
        try FileManager.default.createDirectory(
            atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
        try Data(content).write(to: URL(fileURLWithPath: path))
    }

    func write(_ name: String, _ content: String) throws { try write(name, Array(content.utf8)) }

    func remove(_ name: String) throws { try FileManager.default.removeItem(atPath: path(name)) }

    func rename(_ name: String, _ other: String) throws {
        try FileManager.default.moveItem(atPath: path(name), toPath: path(other))
    }

    func link(_ name: String, _ target: String) throws {
        try FileManager.default.createSymbolicLink(atPath: path(name), withDestinationPath: target)
    }

    func makeDirectory(_ name: String) throws {
        try FileManager.default.createDirectory(atPath: path(name), withIntermediateDirectories: true)
    }

    /// Bytes that are not the same anywhere.
    static func noise(_ count: Int, _ seed: UInt64 = 1) -> [UInt8] {
        var value = seed &* 0x9E37_79B9_7F4A_7C15 | 1
        return (0..<count).map { _ in
            value ^= value << 13
            value ^= value >> 7
            value ^= value << 17
            return UInt8(truncatingIfNeeded: value)
        }
    }

    // MARK: - The agent's rounds

    func queue(_ names: [String], _ action: JobAction = .store, hashFirst: Bool = false) async throws {
        var changes: [QueuedChange] = []
        for name in names {
            changes.append(
                QueuedChange(
                    path: try RelativePath(name), action: action, notBefore: Timestamp(microseconds: 0),
                    hashFirst: hashFirst))
        }
        try await queue(changes)
    }

    func queue(_ changes: [QueuedChange]) async throws {
        _ = try await state.enqueue([(id, changes)], source: source)
    }

    /// Leases what is due, with the origins of moves, stores it, and enters the outcomes. `nil`: nothing was due.
    @discardableResult
    func round() async throws -> [JobOutcome]? {
        let group = try await lease()
        if group.isEmpty { return nil }
        return try await carry(group)
    }

    func lease() async throws -> [LeasedJob] {
        var jobs = try await state.due(
            id, limit: 1_000, byteLimit: .max, now: WallClock.system.now + .seconds(90_000)
        ).jobs
        let root = try ConfinedDirectory(opening: FilePath(top + "/source"))
        for index in jobs.indices where jobs[index].action != .delete {
            guard let status = try? root.status(of: jobs[index].path), status.kind == .file else { continue }
            let question = MoveQuestion(source: source, path: jobs[index].path, status: status)
            let candidates = try await state.origins(id, [question])[0]
            for candidate in candidates
            where (try? root.status(of: candidate.origin.path))?.fingerprint.inode
                != status.fingerprint.inode
            {
                jobs[index].origin = candidate.origin
                break
            }
        }
        var leases: [LeasedJob] = []
        var failures: [Completion] = []
        for (job, plan) in zip(jobs, await destination.plan(jobs)) {
            switch plan {
            case .success(let plan): leases.append(LeasedJob(job: job, plan: plan))
            case .failure(let error): failures.append(failed(job, error))
            }
        }
        _ = try await state.complete(id, failures)
        return try await state.lease(id, leases)
    }

    private func failed(_ job: DueJob, _ error: SafeBackupError) -> Completion {
        Completion(
            job: job,
            outcome: .failed(
                error,
                error.disposition == .permanent
                    ? .stuck(retryAfter: .seconds(86_400)) : .retry(after: .zero, countsAttempt: true)))
    }

    /// Stores a group. Where a failure cannot be cleared up now, its leases stay, as those of a crash do.
    func carry(_ group: [LeasedJob]) async throws -> [JobOutcome] {
        let outcomes = await destination.store(
            group, from: [source: try ConfinedDirectory(opening: FilePath(top + "/source"))])
        var completions: [Completion] = []
        var failures: [(LeasedJob, SafeBackupError)] = []
        for (lease, outcome) in zip(group, outcomes) {
            switch outcome {
            case .stored(let entry): completions.append(Completion(job: lease.job, outcome: .stored(entry)))
            case .gone: completions.append(Completion(job: lease.job, outcome: .ended(namesUpTo: .max)))
            case .failed(let error): failures.append((lease, error))
            }
        }
        _ = try await state.complete(id, completions)
        if failures.isEmpty { return outcomes }
        do throws(SafeBackupError) {
            let recovered = try await destination.recover(failures.map(\.0))
            try await state.recover(id, recovered)
            _ = try await state.complete(id, failures.map { failed($0.0.job, $0.1) })
        } catch {
            // As when the destination is away: `restart` clears up.
        }
        return outcomes
    }

    /// Rounds until nothing is due.
    func drain(limit: Int = 20) async throws {
        for _ in 0..<limit where try await round() == nil { return }
        Issue.record("there is no end of jobs")
    }

    func save(_ names: String..., hashFirst: Bool = false) async throws {
        try await queue(names, hashFirst: hashFirst)
        try await drain()
    }

    // MARK: - What must be true

    /// Of each copy that the catalogue has, its object is there, with the content that was recorded.
    func expectTruth(_ comment: String = "", sourceLocation: SourceLocation = #_sourceLocation) throws {
        let connection = try Connection(FilePath(top + "/state/queue.db"), .readOnly)
        let select = try connection.statement("SELECT location, digest, role FROM copy WHERE removing IS NULL")
        defer { select.reset() }
        while try select.step() {
            let (location, digest, role) = (select.path(), Digest(bytes: select.bytes()), select.text())
            let key = try destination.keys.key(location)
            let object = store.object(key)
            #expect(
                object != nil, "\(location) (\(role)) is promised and not there \(comment)",
                sourceLocation: sourceLocation)
            guard let object else { continue }
            #expect(
                SHA256.digest(of: object.body) == digest, "\(location) (\(role)) differs from its digest \(comment)",
                sourceLocation: sourceLocation)
        }
    }

    /// The live names with the digests of their copies.
    func live() throws -> [String: Digest?] {
        let connection = try Connection(FilePath(top + "/state/queue.db"), .readOnly)
        let select = try connection.statement(
            """
            SELECT n.parent, n.leaf, c.digest FROM name n LEFT JOIN copy c ON c.id = n.copy_id WHERE n.ended_at IS NULL
            """)
        defer { select.reset() }
        var found: [String: Digest?] = [:]
        while try select.step() {
            let path = select.path().appending(select.bytes())
            found[path.description] = select.bytesOrNull().flatMap { Digest(bytes: $0) }
        }
        return found
    }

    /// Each of these has a live name whose copy holds what the source holds now.
    func expectSaved(
        _ names: [String], _ comment: String = "", sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let live = try live()
        for name in names {
            let content = Array(try Data(contentsOf: URL(fileURLWithPath: path(name))))
            #expect(
                live[name] == SHA256.digest(of: content), "\(name) is not saved as it is \(comment)",
                sourceLocation: sourceLocation)
        }
    }
}
