import CFailingVFS
import CSafeBackupSQLite
import Foundation
import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

/// A VFS of SQLite that fails on demand; one for each test, because VFS names are the process's.
private final class FailingDisk: @unchecked Sendable {
    let name = "failing-" + UUID().uuidString
    /// A constant pointer; the VFS locks its own fields.
    private let vfs: OpaquePointer

    init() throws { vfs = try #require(failing_vfs_register(name)) }
    deinit { failing_vfs_unregister(vfs) }

    var options: StateOptions { StateOptions(vfs: name) }
    var fired: Int { Int(failing_vfs_fired(vfs)) }

    func fail(
        _ operations: Int, nth: Int, code: Int32, isForever: Bool = false, isTorn: Bool = false
    ) {
        failing_vfs_plan(vfs, Int32(operations), Int32(nth), code, isForever ? 1 : 0, isTorn ? 1 : 0)
    }

    func heal() { failing_vfs_plan(vfs, 0, 0, 0, 0, 0) }
}

@Suite struct FailingDiskTests {
    /// Every call of the scenario in the long form, some of them in the short one.
    private static let stride = ProcessInfo.processInfo.environment["SAFEBACKUP_LONG"] == "1" ? 1 : 6

    struct Fault: Sendable, CustomTestStringConvertible {
        var operations: Int
        var code: Int32
        var isForever = false
        var isTorn = false

        var testDescription: String {
            "operations \(operations), SQLite \(code)\(isForever ? ", forever" : "")\(isTorn ? ", torn" : "")"
        }
    }

    private static let write = Int(FAILING_WRITE)
    private static let sync = Int(FAILING_SYNC)
    private static let truncate = Int(FAILING_TRUNCATE)
    private static let read = Int(FAILING_READ)
    private static let ioErrorWrite = SQLITE_IOERR | (3 << 8)
    private static let ioErrorSync = SQLITE_IOERR | (4 << 8)
    private static let ioErrorTruncate = SQLITE_IOERR | (6 << 8)
    private static let ioErrorRead = SQLITE_IOERR | (1 << 8)

    static let faults = [
        Fault(operations: write, code: SQLITE_FULL),
        Fault(operations: write, code: ioErrorWrite, isTorn: true),
        Fault(operations: write, code: SQLITE_FULL, isForever: true, isTorn: true),
        Fault(operations: sync, code: ioErrorSync),
        Fault(operations: sync, code: ioErrorSync, isForever: true),
        Fault(operations: truncate, code: ioErrorTruncate),
        Fault(operations: read, code: ioErrorRead),
    ]

    /// What returned calls have promised.
    private struct Promises {
        var queued: Set<String> = []
        var leased: Set<String> = []
        var saved: [String: UInt8] = [:]
    }

    /// Every kind of call once, until one fails.
    private func work(_ scene: Scene, _ promises: inout Promises) async throws(SafeBackupError) {
        do {
            for round in UInt8(1)...2 {
                let paths = (0..<4).map { "d/f\($0)" }
                try await scene.enqueue(try paths.map { try scene.change($0, size: 10) })
                promises.queued = Set(paths)
                let jobs = try await scene.due().jobs
                let leases = jobs.map { LeasedJob(job: $0, plan: LeasePlan(stageName: "s", final: .absent)) }
                try await scene.store.lease(scene.destination, leases)
                promises.leased = Set(jobs.map(\.path.description))
                let result = try await scene.store.complete(
                    scene.destination, leases.map { Completion(job: $0.job, outcome: .stored(file(round))) })
                if result.finished == 4 {
                    for path in paths { promises.saved[path] = round }
                    (promises.queued, promises.leased) = ([], [])
                }
            }
            try await scene.store.close()
        } catch let error as SafeBackupError {
            throw error
        } catch {
            Issue.record(error)
        }
    }

    @Test(
        "Whichever write, sync, truncate or read fails, no promise is broken and the state opens again",
        arguments: faults)
    func everyCall(fault: Fault) async throws {
        let disk = try FailingDisk()
        var nth = 1 - Self.stride
        var hasFailed = true
        while hasFailed {
            nth += Self.stride
            try #require(nth < 2_000, "the scenario ends")
            let fixture = try StateFixture()
            let scene = try await fixture.scene(disk.options)
            var promises = Promises()
            disk.fail(fault.operations, nth: nth, code: fault.code, isForever: fault.isForever, isTorn: fault.isTorn)
            do throws(SafeBackupError) {
                try await work(scene, &promises)
            } catch {
                #expect(error.code == .stateFailed && error.disposition == .transient, "\(error)")
                // Nothing more is done on a connection that failed.
                await expect(.stateFailed) { try await scene.store.counts() }
                if fault.isForever { await expect(.stateFailed) { try await scene.store.reopen() } }
            }
            hasFailed = disk.fired > 0
            disk.heal()
            try await verify(promises, fixture, scene, nth)
        }
        #expect(nth > 1, "the fault was met")
    }

    /// Opens the state anew, as after `kill -9` and as by `reopen`, and compares it with what was promised.
    private func verify(_ promises: Promises, _ fixture: StateFixture, _ scene: Scene, _ nth: Int) async throws {
        do {
            let report = try await scene.store.reopen()
            #expect(report.damagedMovedTo == nil, "a failed call damages nothing (fault \(nth))")
        } catch {
            // The scenario reached its close.
            #expect(error.message.contains("closed"), "\(error)")
        }
        let (store, report) = try await fixture.open()
        #expect(report.damagedMovedTo == nil && !report.isCreated)
        try fixture.audit()
        var saved: [String: UInt8] = [:]
        let page = try StateReader(in: fixture.directory).names(
            scene.source, scene.destination, within: .root, .live, after: nil, limit: 100)
        for entry in page.entries { saved[entry.path.description] = entry.copy?.digest?.bytes[0] }
        for (path, number) in promises.saved {
            #expect(try #require(saved[path]) >= number, "saved stays saved (fault \(nth))")
        }
        let leased = Set(try await store.leases(scene.destination, limit: 100).map(\.job.path.description))
        let pending = Set(try fixture.rows("SELECT path FROM job"))
        // A call that threw at its very end may have been done all the same: then the next state counts.
        let isAhead = promises.saved.count < saved.count || saved.contains { $0.value > promises.saved[$0.key] ?? 0 }
        if !isAhead {
            #expect(promises.leased.subtracting(leased).isEmpty, "a lease is told again (fault \(nth))")
            #expect(promises.queued.subtracting(pending).isEmpty, "a change stays queued (fault \(nth))")
        }
        // And it works.
        try await store.enqueue(
            [(scene.destination, [try scene.change("after")])], source: scene.source)
        try await store.close()
        #expect(try await fixture.open().1.wasClean)
    }

    @Test("A disk that fails while the state is begun leaves nothing that a later start trips over", arguments: faults)
    func creation(fault: Fault) async throws {
        let disk = try FailingDisk()
        var nth = 1 - Self.stride
        var hasFailed = true
        while hasFailed {
            nth += Self.stride
            try #require(nth < 2_000)
            let fixture = try StateFixture()
            disk.fail(fault.operations, nth: nth, code: fault.code, isForever: fault.isForever, isTorn: fault.isTorn)
            do throws(SafeBackupError) {
                let (store, _) = try await fixture.open(disk.options)
                try await store.close()
            } catch {
                #expect(error.code == .stateFailed, "\(error)")
            }
            hasFailed = disk.fired > 0
            disk.heal()
            let scene = try await fixture.scene()
            try await scene.save("f", file(1))
            try fixture.audit()
            #expect(try fixture.files().allSatisfy { !$0.contains("damaged") }, "nothing was lost, nothing is moved")
        }
    }
}
