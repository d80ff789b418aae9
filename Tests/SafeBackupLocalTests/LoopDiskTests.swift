import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// What only a disk of our own can show: lost page caches, full and read-only file systems.
@Suite("On a disk of its own", .enabled(if: LoopDisk.isUsable, Comment(rawValue: LoopDisk.skipReason)), .serialized)
struct LoopDiskTests {
    /// Copies the disk at chosen steps of a group's way.
    private final class Camera: Sendable {
        private struct State {
            var seen: [String: Int] = [:]
            var pictures: [(name: String, disk: LoopDisk)] = []
        }
        private let disk: LoopDisk
        private let wanted: @Sendable (String, Int) -> Bool
        private let state = Locked(State())

        init(_ disk: LoopDisk, wanted: @escaping @Sendable (String, Int) -> Bool) {
            self.disk = disk
            self.wanted = wanted
        }

        func reach(_ step: String) {
            state.withLock { state in
                let count = state.seen[step, default: 0] + 1
                state.seen[step] = count
                // The later renames are left to the group's own flush.
                if step == "renamed" && count < 8 { commitJournal() }
                guard wanted(step, count) else { return }
                do {
                    let name = "\(step)\(count)"
                    state.pictures.append((name, try LoopDisk(copying: disk, as: name)))
                } catch {
                    Issue.record(error)
                }
            }
        }

        /// A neighbour's fsync, at the worst moment: it makes renames durable, and the renamed files' content only if
        /// somebody flushed that before.
        private func commitJournal() {
            let file = open(disk.mountPoint + "/.safebackup/neighbour", O_WRONLY | O_CREAT, 0o600)
            _ = Glibc.write(file, "x", 1)
            fsync(file)
            close(file)
        }

        var pictures: [(name: String, disk: LoopDisk)] { state.withLock { $0.pictures } }
    }

    @Test(
        "With the page cache lost at any step, recovery finds every promise kept, and one more save repairs all",
        arguments: [true, false])
    func lostCache(hasLink: Bool) throws {
        let top = try Bench.temporaryDirectory()
        defer { remove(tree: top) }
        let disk = try LoopDisk(in: top, mebibytes: 16)
        let bench = try Bench(in: Bench.disk, at: disk.mountPoint)
        var scenario = try Scenario(hasLink: hasLink, bench: bench)
        let group = try bench.lease(scenario.paths, &scenario.ledger)
        let sources = try bench.sources()
        let count = group.count
        let isAll = isLong
        let camera = Camera(disk) { step, number in
            switch step {
            case "staged", "versioned": isAll || number == count
            case "renamed": isAll || [1, count / 2, count].contains(number)
            case "flushed", "durable": true
            default: false
            }
        }
        let plan = FaultPlan(onReach: { camera.reach($0) })
        let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
        #expect(outcomes.allSatisfy { $0.error == nil })
        let before = scenario.ledger
        bench.enter(group, outcomes, &scenario.ledger)
        let after = scenario.ledger
        bench.destination.detachNow()
        for (name, picture) in camera.pictures {
            try picture.mount()
            let comment = "(\(name))"
            let later = try Bench(continuing: bench, at: picture.mountPoint)
            try scenario.expectNoneTorn(picture.mountPoint, comment)
            scenario.ledger = before
            if name.hasPrefix("durable") {
                // The group had returned: all that it promised is there.
                after.expectTruth(picture.mountPoint, comment)
            }
            for recovered in try later.destination.recoverNow(group) {
                scenario.ledger.enter(recovered, at: bench.now)
            }
            try later.destination.emptyStagingNow()
            scenario.ledger.expectTruth(picture.mountPoint, comment)
            try scenario.expectRepair(comment, on: later)
            later.destination.detachNow()
            picture.unmount()
        }
        #expect(camera.pictures.count >= 7)
    }

    @Test("On a full disk nothing is lost, growing jobs wait and say so, and with space all goes on")
    func full() throws {
        let top = try Bench.temporaryDirectory()
        defer { remove(tree: top) }
        let disk = try LoopDisk(in: top, mebibytes: 16)
        let bench = try Bench(in: Bench.disk, at: disk.mountPoint)
        var ledger = Ledger()
        try bench.write("old", String(repeating: "old ", count: 20_000), mtime: 1_500_000_000)
        try bench.write("open", String(repeating: "one ", count: 20_000))
        try bench.save("old", "open", ledger: &ledger)
        // Somebody else fills the disk.
        let filler = open(disk.mountPoint + "/filler", O_WRONLY | O_CREAT, 0o600)
        var room = statvfs()
        fstatvfs(filler, &room)
        let left = 120 << 10
        posix_fallocate(filler, 0, off_t(Int(room.f_bavail) * Int(room.f_frsize) - left))
        close(filler)
        try bench.write("open", String(repeating: "two!", count: 20_000))
        try bench.write("new", "new")
        chmod(bench.sourcePath + "/old", 0o600)
        let jobs = [try ledger.due("open"), try ledger.due("new"), try ledger.due("old")]
        let plans = bench.destination.planNow(jobs)
        #expect(throws: SafeBackupError.self) { try plans[1].get() }
        if case .failure(let error) = plans[1] { #expect(error.disposition == .destinationFull) }
        let leased = [0, 2].compactMap { index in
            (try? plans[index].get()).map { LeasedJob(job: jobs[index], plan: $0) }
        }
        // No version is kept, so that a copy of the same size may replace the old one; a chmod grows nothing.
        let outcomes = bench.destination.storeNow(leased, from: try bench.sources())
        #expect(outcomes[0].entry?.displaced == [], "\(outcomes[0])")
        #expect(outcomes[1].isKept)
        bench.enter(leased, outcomes, &ledger)
        ledger.expectTruth(bench.destinationPath)
        // What is foreign is always kept, so its job waits; what does not fit is not begun.
        try write(disk.mountPoint + "/foreign", String(repeating: "theirs", count: 100))
        try bench.write("foreign", String(repeating: "ours", count: 1_000))
        try bench.write("open", String(repeating: "large", count: 200_000))
        let waiting = try bench.lease(["foreign", "open"], &ledger)
        let refused = bench.destination.storeNow(waiting, from: try bench.sources())
        #expect(refused.map { $0.error?.disposition } == [.destinationFull, .destinationFull], "\(refused)")
        #expect(refused[0].error?.message.contains("foreign") == true)
        bench.enter(waiting, refused, &ledger)
        ledger.expectTruth(bench.destinationPath)
        #expect(try bench.staged() == [])
        unlink(disk.mountPoint + "/filler")
        let after = try bench.save("foreign", "open", "new", "old", ledger: &ledger)
        #expect(after.allSatisfy { $0.entry != nil })
    }

    @Test("A disk that fills up while a group writes fails what did not fit, by its name, and leaves no stage")
    func fillsUp() throws {
        let top = try Bench.temporaryDirectory()
        defer { remove(tree: top) }
        let disk = try LoopDisk(in: top, mebibytes: 16)
        let bench = try Bench(in: Bench.disk, at: disk.mountPoint)
        var ledger = Ledger()
        let paths = (0..<8).map { "file\($0)" }
        for path in paths { try bench.write(path, String(repeating: path, count: 500_000)) }
        let group = try bench.lease(paths, &ledger)
        let outcomes = bench.destination.storeNow(group, from: try bench.sources())
        bench.enter(group, outcomes, &ledger)
        ledger.expectTruth(bench.destinationPath)
        let failed = outcomes.compactMap(\.error)
        #expect(!failed.isEmpty && failed.count < paths.count)
        #expect(failed.allSatisfy { $0.disposition == .destinationFull && $0.code == .destinationFull })
        #expect(try bench.staged() == [])
    }

    @Test("A read-only disk is not attached; one that becomes read-only fails its jobs without counting")
    func readOnly() throws {
        let top = try Bench.temporaryDirectory()
        defer { remove(tree: top) }
        let disk = try LoopDisk(in: top, mebibytes: 8)
        let bench = try Bench(in: Bench.disk, at: disk.mountPoint)
        var ledger = Ledger()
        try bench.write("file", "one")
        try bench.save("file", ledger: &ledger)
        try bench.write("file", "two")
        let group = try bench.lease(["file"], &ledger)
        try run("mount", "-o", "remount,ro", disk.mountPoint)
        let outcome = bench.destination.storeNow(group, from: try bench.sources())[0]
        #expect(outcome.error?.code == .destinationReadOnly)
        #expect(outcome.error?.disposition == .destinationUnavailable)
        let error = #expect(throws: SafeBackupError.self) {
            try bench.destination.attachNow(expecting: Bench.id)
        }
        #expect(error?.code == .destinationReadOnly)
        #expect(bench.stored("file") == "one")
        try run("mount", "-o", "remount,rw", disk.mountPoint)
        try bench.destination.attachNow(expecting: Bench.id)
        bench.enter(group, [outcome], &ledger)
        #expect(try bench.save("file", ledger: &ledger)[0].entry != nil)
    }

    @Test("An unmounted disk's bare mount point is never written to, and detaching lets go of the disk")
    func unmounted() throws {
        let top = try Bench.temporaryDirectory()
        defer { remove(tree: top) }
        let disk = try LoopDisk(in: top, mebibytes: 8)
        let bench = try Bench(in: Bench.disk, at: disk.mountPoint)
        var ledger = Ledger()
        try bench.write("file", "one")
        let group = try bench.lease(["file"], &ledger)
        try run("umount", "-l", disk.mountPoint)
        let outcome = bench.destination.storeNow(group, from: try bench.sources())[0]
        #expect(outcome.error?.code == .sentinelMissing)
        #expect(try list(disk.mountPoint) == [])
        bench.destination.detachNow()
        #expect(throws: SafeBackupError.self) { try bench.destination.attachNow(expecting: Bench.id) }
        #expect(try list(disk.mountPoint) == [])
        try disk.mount()
        try bench.destination.attachNow(expecting: Bench.id)
        #expect(try bench.destination.recoverNow(group)[0].finding == .unchanged)
        #expect(try bench.save("file", ledger: &ledger)[0].entry != nil)
        bench.destination.detachNow()
        try run("umount", disk.mountPoint)
    }
}
