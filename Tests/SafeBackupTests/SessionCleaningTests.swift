import Glibc
import SafeBackup
import SafeBackupSystem
import Testing

@Suite("Room for a session's copies")
struct SessionCleaningTests {
    private static let block: Int64 = 4_096

    /// A disk that holds the copies and nothing else, of so many blocks.
    private func disk(_ yard: Yard, blocks: Int64) -> @Sendable () throws(SafeBackupError) -> DiskUsage? {
        { () throws(SafeBackupError) in
            let used = yard.stored()
            return DiskUsage(
                total: ByteCount(blocks * Self.block), used: ByteCount(used),
                available: ByteCount(max(0, blocks * Self.block - used)))
        }
    }

    private func name(_ event: CleaningEvent) -> String {
        switch event {
        case .started: "started"
        case .scanned: "scanned"
        case .deleting: "deleting"
        case .deletedFile(let path, _): path.description
        case .deletedDirectory(let path): "\(path)/"
        case .failed: "failed"
        case .completed: "completed"
        }
    }

    @Test("The oldest copies go, by when they were saved, until the target is free; the callbacks tell it in order")
    func cleans() async throws {
        let yard = try Yard()
        let events = Locked<[String]>([])
        let session = try await yard.session {
            $0.freeSpaceThreshold = ByteCount(10 * Self.block)
            $0.freeSpaceTarget = ByteCount(20 * Self.block)
            $0.checkInterval = ByteCount(4 * Self.block)
            $0.cleaning.concurrency = 1
            $0.cleaning.usage = disk(yard, blocks: 40)
            $0.cleaning.onEvent = { event in events.withLock { $0.append(name(event)) } }
        }
        for number in 100..<132 {
            // The newer the copy, the older its file.
            let file = try yard.write("files/a", String(repeating: "x", count: 4_096), age: Int64(number) * 100)
            try await session.save(file, as: "\(number)")
            try await session.waitForCompletion(timeout: .seconds(60))
        }
        // At 31 of 40 blocks, found by the check after 32, twelve go.
        let expected = ["started", "scanned", "deleting"] + (100..<112).map(String.init) + ["completed"]
        let told = events.withLock { $0 }
        #expect(told.prefix(3) == expected.prefix(3) && told.last == "completed")
        // Of the last stretch, all that go are known only at the end of the walk.
        #expect(Set(told) == Set(expected) && told.count == expected.count, "\(told)")
        #expect(yard.names("backup") == Set((112..<132).map(String.init) + [".safebackup-session"]))
        await session.close()
    }

    @Test("After the check interval the disk is looked at once, then after the next one; a check is no cleaning")
    func interval() async throws {
        let yard = try Yard()
        let looks = Locked(0)
        let session = try await yard.session {
            $0.freeSpaceThreshold = ByteCount(Self.block)
            $0.freeSpaceTarget = nil
            $0.checkInterval = ByteCount(10 * Self.block)
            $0.cleaning.usage = { () throws(SafeBackupError) in
                looks.withLock { $0 += 1 }
                return DiskUsage(total: .gibibytes(9), used: ByteCount(0), available: .gibibytes(9))
            }
        }
        let before = looks.withLock { $0 }
        for number in 0..<95 {
            let file = try yard.write("files/a", String(repeating: "x", count: 4_096))
            try await session.save(file, as: "\(number)")
        }
        #expect(looks.withLock { $0 } - before == 9)
        await session.close()
    }

    @Test("A cleaning that takes long is told by a timeout, and is not broken off")
    func timesOut() async throws {
        let yard = try Yard()
        let gate = Gate()
        for number in 0..<4 { try seed(yard, "\(number)") }
        let session = try await yard.session {
            $0.freeSpaceThreshold = ByteCount(2 * Self.block)
            $0.freeSpaceTarget = ByteCount(2 * Self.block)
            $0.cleaning.usage = disk(yard, blocks: 5)
            $0.cleaning.onEvent = { event in if case .scanned = event { gate.pass() } }
        }
        let told = await failure { () throws(BackupSessionError) in
            try await session.waitForCompletion(timeout: .milliseconds(20))
        }
        #expect(told == .cleaningTimeout(after: .milliseconds(20), saves: 0, isCleaning: true))
        // However short: its end must not come before the wait.
        for _ in 0..<200 {
            let told = await failure { () throws(BackupSessionError) in
                try await session.waitForCompletion(timeout: .zero)
            }
            #expect(told == .cleaningTimeout(after: .zero, saves: 0, isCleaning: true))
        }
        // Nor does a cancelled task wait.
        let waiting = Task { await failure { () throws(BackupSessionError) in try await session.waitForCompletion() } }
        waiting.cancel()
        guard case .cleaningTimeout? = await waiting.value else {
            Issue.record("it was waited for")
            return
        }
        gate.open()
        try await session.waitForCompletion(timeout: .seconds(60))
        #expect(yard.names("backup").count == 1 + 3)
        await session.close()
    }

    /// A copy that is there before the session.
    private func seed(_ yard: Yard, _ key: String) throws {
        if yard.names("backup").isEmpty { try yard.make(directory: "backup") }
        let file = try Descriptor.open(FilePath(yard.root + "/" + key), O_WRONLY | O_CREAT)
        try #require(posix_fallocate(file.raw, 0, off_t(Self.block)) == 0)
    }

    @Test("Where nothing that may go is enough, nothing goes, the session says so once, and saving stops at the floor")
    func cannotFree() async throws {
        let yard = try Yard()
        let used = Locked<Int64>(900)
        for number in 0..<3 { try seed(yard, "old \(number)") }
        let session = try await yard.session {
            $0.freeSpaceThreshold = ByteCount(200 * Self.block)
            $0.freeSpaceTarget = ByteCount(300 * Self.block)
            $0.cleaning.usage = { () throws(SafeBackupError) in
                let used = used.withLock { $0 }
                return DiskUsage(
                    total: ByteCount(1_000 * Self.block), used: ByteCount(used * Self.block),
                    available: ByteCount((1_000 - used) * Self.block))
            }
        }
        let told = await failure { () throws(BackupSessionError) in try await session.waitForCompletion() }
        guard case .cleaningFailed(let reason)? = told else {
            Issue.record("\(String(describing: told))")
            return
        }
        #expect(reason.code == .cannotFreeEnough)
        try await session.waitForCompletion()
        // There is room above the floor of 1 %.
        let file = try yard.write("files/a", String(repeating: "x", count: 4_096))
        try await session.save(file, as: "a")
        used.withLock { $0 = 995 }
        let big = try yard.write("files/b", String(repeating: "x", count: 500_000))
        let refused = await failure { () throws(BackupSessionError) in try await session.save(big, as: "b") }
        guard case .backupFailed(big, "b", let full)? = refused else {
            Issue.record("it was saved")
            return
        }
        #expect(full.code == .destinationFull && full.disposition == .destinationFull)
        #expect(yard.names("backup").isSuperset(of: ["old 0", "old 1", "old 2", "a"]) && yard.copy("b") == nil)
        // Others make room: the next save finds it.
        used.withLock { $0 = 100 }
        try await session.save(big, as: "b")
        await session.close()
    }

    @Test("A save that does not fit waits for the cleaning that makes its room")
    func waitsForRoom() async throws {
        let yard = try Yard()
        for number in 0..<1_000 { try seed(yard, "\(number)") }
        let session = try await yard.session {
            $0.freeSpaceThreshold = ByteCount(100 * Self.block)
            $0.freeSpaceTarget = ByteCount(200 * Self.block)
            $0.cleaning.usage = disk(yard, blocks: 1_005)
        }
        let file = try yard.write("files/a", String(repeating: "x", count: 40_000))
        try await session.save(file, as: "new")
        try await session.waitForCompletion()
        #expect(yard.copy("new")?.count == 40_000)
        #expect(yard.stored() <= 905 * Self.block && yard.stored() >= 700 * Self.block)
        await session.close()
    }

    @Test("The size that the copies may hold is kept after each check interval")
    func maxSize() async throws {
        let yard = try Yard()
        let session = try await yard.session {
            $0.cleaning.limits.maxSize = ByteCount(10 * Self.block)
            $0.checkInterval = ByteCount(5 * Self.block)
        }
        for number in 100..<130 {
            let file = try yard.write("files/a", String(repeating: "x", count: 4_096))
            try await session.save(file, as: "\(number)")
            try await session.waitForCompletion()
        }
        #expect(yard.names("backup") == Set((120..<130).map(String.init) + [".safebackup-session"]))
        await session.close()
    }

    @Test("A disk whose usage cannot be told is saved to all the same, and the failure is told")
    func unknownUsage() async throws {
        let yard = try Yard()
        let fails = Locked(false)
        let session = try await yard.session {
            $0.checkInterval = ByteCount(1)
            $0.cleaning.usage = { () throws(SafeBackupError) in
                if fails.withLock({ $0 }) {
                    throw SafeBackupError(.destinationFailed, "nobody knows", disposition: .transient)
                }
                return nil
            }
        }
        let file = try yard.write("files/a", "a")
        try await session.save(file, as: "a")
        try await session.waitForCompletion()
        fails.withLock { $0 = true }
        try await session.save(file, as: "b")
        let told = await failure { () throws(BackupSessionError) in try await session.waitForCompletion() }
        #expect(
            told
                == .cleaningFailed(
                    reason: SafeBackupError(.destinationFailed, "nobody knows", disposition: .transient)))
        #expect(yard.copy("b") == "a")
        await session.close()
    }

    @Test(
        "Two batches in a row, the disk full between them: all of the second is saved, and the oldest made room",
        .enabled(if: geteuid() == 0, "SKIPPED: needs root, loop devices and mkfs.ext4"))
    func twoBatches() async throws {
        let yard = try Yard()
        let mount = yard.absolute("disk")
        try yard.make(directory: "disk")
        try run("truncate", "-s", "96M", yard.absolute("image"))
        try run("mkfs.ext4", "-q", "-F", "-m", "0", yard.absolute("image"))
        try run("mount", "-o", "loop", yard.absolute("image"), mount)
        defer { try? run("umount", mount) }
        let session = try await yard.session {
            $0.rootDirectory = FilePath(mount + "/backup")
            $0.freeSpaceThreshold = .mebibytes(8)
            $0.freeSpaceTarget = .mebibytes(16)
            $0.checkInterval = .mebibytes(4)
        }
        let content = String(repeating: "0123456789abcdef", count: 65_536)
        for number in 0..<16 { try yard.write("files/\(number)", content) }
        func batch(_ name: String) async throws {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<40 {
                    group.addTask {
                        try await session.save(FilePath(yard.absolute("files/\(number % 16)")), as: "\(name)/\(number)")
                    }
                }
                try await group.waitForAll()
            }
        }
        try await batch("first")
        try await session.waitForCompletion()
        // Somebody else takes all that is left, but a little.
        let other = try Descriptor.open(FilePath(mount + "/other"), O_WRONLY | O_CREAT)
        let left = try VolumeStatistics(other).available.bytes
        try #require(posix_fallocate(other.raw, 0, off_t(left - (1 << 20))) == 0)
        try await batch("second")
        try await session.waitForCompletion()
        #expect(yard.names("disk/backup/second").count == 40 || yard.names("disk/backup/first").isEmpty)
        let newest = yard.names("disk/backup/second").count
        #expect(newest >= 24, "\(newest)")
        #expect(try VolumeStatistics(other).available >= .mebibytes(8))
        for number in yard.names("disk/backup/second") {
            #expect(yard.read("disk/backup/second/\(number)")?.utf8.count == content.utf8.count)
        }
        await session.close()
    }
}
