import Foundation
import Logging
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage
import Testing

@testable import SafeBackupAgent

@Suite("What a large directory lacks")
struct QueueAbsentTests {
    private static let leaves = ["a", "b", "c"].map { Array($0.utf8) }

    /// A source that is the temporary directory's `source`, in a state that has three live names below `parent`.
    private func unit(
        _ temporary: TemporaryDirectory, parent: RelativePath
    ) async throws -> (unit: SourceUnit, root: SourceRoot, store: StateStore) {
        let source = try temporary.make("source")
        let root = try SourceRoot(path: source, known: nil)
        let (store, _) = try await StateStore.open(in: temporary.path.appending("state"))
        let record = try await store.registerSource(path: source.bytes, identity: root.identity, uuid: "uuid")
        let backup = temporary.path.appending("backup")
        let destination = try await store.registerDestination(location: backup.bytes, kind: "local").id
        try await store.setPair(record.id, destination, prefix: .root)
        try await store.activate(pairs: [(record.id, destination)])
        let changes = Self.leaves.map {
            QueuedChange(path: parent.appending($0), action: .store, notBefore: WallClock.system.now, size: 0)
        }
        _ = try await store.enqueue([(destination, changes)], source: record.id)
        let due = try await store.due(destination, limit: 9, byteLimit: .max, now: WallClock.system.now)
        let leases = try await store.lease(
            destination,
            due.jobs.map { LeasedJob(job: $0, plan: LeasePlan(stageName: "s\($0.sequence)", final: .absent)) })
        let time = FileTime(nanoseconds: 1)
        let entry = StoredEntry(
            kind: .symlink,
            content: .copied(
                StoredCopy(
                    digest: try #require(Digest(bytes: [UInt8](repeating: 0, count: 32))), size: 0, inode: 1,
                    mtime: time)),
            fingerprint: Fingerprint(inode: 1, size: 0, mtime: time, ctime: time),
            metadata: FileMetadata(mode: 0o644, uid: 1, gid: 1))
        _ = try await store.complete(
            destination, leases.map { Completion(job: $0.job, outcome: .stored(entry)) })
        let (stop, logger) = (StopSignal(), Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let unit = SourceUnit(
            record: record, destinations: [destination],
            settings: SourceUnit.Settings(
                path: source, excludes: ExcludeRules(), state: temporary.path.appending("state"),
                destinations: [backup],
                settle: [:]),
            state: StateAccess(store: store, stop: stop, logger: logger), io: try ThreadExecutor(name: "test.io"),
            clock: .system, stop: stop, logger: logger, progress: Progress(), queued: {})
        return (unit, root, store)
    }

    enum There: CaseIterable { case directory, nothing, file, link }

    @Test(
        "A directory that went since it was listed lacks everything, and holds nothing else up",
        arguments: There.allCases)
    func vanished(_ there: There) async throws {
        let temporary = try TemporaryDirectory()
        let (unit, root, store) = try await unit(temporary, parent: try RelativePath("large"))
        switch there {
        case .directory:
            _ = try temporary.make("source/large")
            try temporary.write("x", to: "source/large/b")
        case .nothing: break
        case .file: try temporary.write("x", to: "source/large")
        case .link:
            try FileManager.default.createSymbolicLink(
                atPath: temporary.path.appending("source/large").string, withDestinationPath: ".")
        }
        let absent = try await unit.queueAbsent(from: try RelativePath("large"), in: root)
        #expect(absent == (there == .directory ? 2 : 3))
        #expect(try await store.counts().pending == absent)
    }

    @Test("A directory that cannot be asked is told as such, and ends nothing")
    func unclear() async throws {
        let temporary = try TemporaryDirectory()
        // Too long a name for any file system.
        let parent = try RelativePath([UInt8](repeating: 0x78, count: 300))
        let (unit, root, store) = try await unit(temporary, parent: parent)
        #expect(try await unit.queueAbsent(from: parent, in: root) == nil)
        #expect(try await store.counts().pending == 0)
    }

    @Test("A root that went is an error of the whole source")
    func root() async throws {
        let temporary = try TemporaryDirectory()
        let parent = try RelativePath("large")
        let (unit, root, _) = try await unit(temporary, parent: parent)
        try FileManager.default.removeItem(atPath: temporary.path.appending("source").string)
        let error = await #expect(throws: SafeBackupError.self) {
            _ = try await unit.queueAbsent(from: parent, in: root)
        }
        #expect(error?.code == .rootMissing)
    }
}
