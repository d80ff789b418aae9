import Glibc
import SafeBackup
import SafeBackupLocal
import SafeBackupSystem
import Testing

@Suite("A session on a local directory")
struct LocalBackupSessionTests {
    @Test("A copy has the content, the times and the mode of its file, and a second save replaces it")
    func saves() async throws {
        let yard = try Yard()
        let session = try await yard.session()
        let file = try yard.write("files/a", "first", age: 500)
        chmod(file.string, 0o640)
        try await session.save(file, as: "d/e/a")
        #expect(yard.copy("d/e/a") == "first")
        let status = try Descriptor.status(of: FilePath(yard.root + "/d/e/a"))
        #expect(status.mode == 0o640 && status.fingerprint.mtime.nanoseconds == (1_700_000_000 - 500) * 1_000_000_000)

        // As long as the first one, and of the same time.
        try yard.write("files/a", "other", age: 500)
        try await session.save(file, as: "d/e/a")
        #expect(yard.copy("d/e/a") == "other")
        // Through links on the way to it, and one that it is itself.
        symlink(yard.top + "/files", yard.top + "/way")
        symlink("a", yard.top + "/files/link")
        try await session.save(FilePath(yard.top + "/way/link"), as: "linked")
        #expect(yard.copy("linked") == "other")
        await session.close()
        #expect(yard.names("backup/.safebackup-session/staging").isEmpty)
        #expect(yard.names("backup") == ["d", "linked", ".safebackup-session"])
    }

    @Test("What is saved again with the same content counts as stored anew, not as old as the first copy")
    func savesAgain() async throws {
        let yard = try Yard()
        let session = try await yard.session()
        let file = try yard.write("files/a", "same")
        try await session.save(file, as: "a")
        let first = try Descriptor.status(of: FilePath(yard.root + "/a"))
        try await session.save(file, as: "a")
        let second = try Descriptor.status(of: FilePath(yard.root + "/a"))
        #expect(first.fingerprint.inode != second.fingerprint.inode || first.birthTime != second.birthTime)
        await session.close()
    }

    @Test("Sixteen tasks that save at once share their flushes")
    func sharesFlushes() async throws {
        let yard = try Yard()
        let holder = Locked<LocalBackupSession?>(nil)
        let groups = Locked<[Int]>([])
        let flushes = Locked(0)
        let session = try await LocalBackupSession(yard.configuration()) { count, store in
            groups.withLock { $0.append(count) }
            // Until all are there.
            for _ in 0..<60_000 {
                if holder.withLock({ $0?.unfinishedSaves ?? 0 }) + Self.done(yard) >= 16 { break }
                usleep(1_000)
            }
            let plan = FaultPlan(call: "fsync")
            let results = plan.run { store() }
            flushes.withLock { $0 += plan.counts.calls }
            return results
        }
        holder.withLock { $0 = session }
        for number in 0..<16 { try yard.write("files/\(number)", "content \(number)") }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<16 {
                group.addTask {
                    try await session.save(FilePath(yard.absolute("files/\(number)")), as: "\(number)")
                }
            }
            try await group.waitForAll()
        }
        for number in 0..<16 { #expect(yard.copy("\(number)") == "content \(number)") }
        let sizes = groups.withLock { $0 }
        #expect(sizes.reduce(0, +) == 16)
        // Two threads took what was there when they began; the rest is one group.
        #expect(sizes.count <= 3, "\(sizes)")
        // Each file, and the directory once a group; by itself each would take two.
        #expect(flushes.withLock { $0 } <= 16 + sizes.count)
        holder.withLock { $0 = nil }
        await session.close()
    }

    private static func done(_ yard: Yard) -> Int { yard.names("backup").count - 1 }

    @Test("Saves of one key go one after the other, and the last one wins")
    func ordersKeys() async throws {
        let yard = try Yard()
        let gate = Gate()
        let (session, tasks) = try await waiting(yard, gate) { _ in "key" }
        gate.open()
        for task in tasks { try await task.value }
        #expect(yard.copy("key") == "7")
        await session.close()
    }

    @Test("A file that changes each time it is read is not saved: the error says so, and the older copy stays")
    func tears() async throws {
        let yard = try Yard()
        let isTearing = Locked(false)
        let session = try await LocalBackupSession(yard.configuration()) { _, store in
            FaultPlan(onReach: { step in
                guard step == "copying", isTearing.withLock({ $0 }) else { return }
                do throws(Errno) {
                    let file = try Descriptor.open(FilePath(yard.absolute("files/a")), O_WRONLY | O_APPEND)
                    // Appended, whatever the offset. See: man 2 pwrite.
                    try file.writeAll([0x78])
                } catch { Issue.record("\(error)") }
            }).run { store() }
        }
        let file = try yard.write("files/a", "good")
        try await session.save(file, as: "a")
        isTearing.withLock { $0 = true }
        guard
            case .backupFailed(file, "a", let reason) = await failure({ () throws(BackupSessionError) in
                try await session.save(file, as: "a")
            })
        else {
            Issue.record("a torn file was saved")
            return
        }
        #expect(reason.code == .torn)
        #expect(yard.copy("a") == "good")
        isTearing.withLock { $0 = false }
        try await session.save(file, as: "a")
        #expect(yard.copy("a")?.hasPrefix("goodx") == true)
        await session.close()
    }

    @Test("What cannot be saved is told with the file, the key and the reason, and harms nothing else")
    func refuses() async throws {
        let yard = try Yard()
        let session = try await yard.session()
        let good = try yard.write("files/good", "good")
        try yard.make(directory: "files/directory")
        mkfifo(yard.absolute("files/fifo"), 0o600)
        for (file, code) in [
            ("files/nothing", SafeBackupError.Code.sourceGone), ("files/directory", .specialFile),
            ("files/fifo", .specialFile), ("files/good/below", .sourceGone),
        ] {
            let path = FilePath(yard.absolute(file))
            let told = await failure { () throws(BackupSessionError) in try await session.save(path, as: "k") }
            guard case .backupFailed(path, "k", let reason)? = told else {
                Issue.record("\(file): \(String(describing: told))")
                continue
            }
            #expect(reason.code == code, "\(file)")
        }
        for (key, code) in [
            ("../x", SafeBackupError.Code.invalidPath), ("/x", .invalidPath), ("a/../../x", .invalidPath),
            ("a\0b", .invalidPath), ("a//b", .invalidPath), ("", .invalidPath), (".safebackup/x", .reservedName),
            ("d/.SafeBackup/x", .reservedName), (".safebackup-session/staging/x", .reservedName),
            (String(repeating: "n", count: 256), .nameTooLong),
        ] {
            let told = await failure { () throws(BackupSessionError) in try await session.save(good, as: key) }
            guard case .backupFailed(good, _, let reason)? = told else {
                Issue.record("\(key): \(String(describing: told))")
                continue
            }
            #expect(reason.code == code, "\(key)")
        }
        #expect(yard.names("") == ["files", "backup"])
        #expect(yard.names("backup") == [".safebackup-session"])
        try await session.save(good, as: "k")
        // A key below another key, and the reverse.
        for key in ["k/below", ".", "k"] {
            _ = await failure { () throws(BackupSessionError) in try await session.save(good, as: key) }
        }
        try yard.make(directory: "backup/full")
        let told = await failure { () throws(BackupSessionError) in try await session.save(good, as: "full") }
        guard case .backupFailed(_, _, let reason)? = told else {
            Issue.record("a directory was replaced")
            return
        }
        #expect(reason.code == .nameCollision)
        #expect(yard.copy("k") == "good")
        await session.close()
    }

    @Test("Keys are bytes: 255 of them in a name, no UTF-8, two cases, composed and decomposed")
    func oddKeys() async throws {
        let yard = try Yard()
        let session = try await yard.session()
        let keys: [[UInt8]] = [
            [UInt8](repeating: 0x6E, count: 255), [0xFF, 0xFE, 0x0A, 0x08], Array("a".utf8), Array("A".utf8),
            Array("e\u{301}".utf8), Array("\u{E9}".utf8), Array(" ".utf8), Array("-rf".utf8), Array("...".utf8),
            [UInt8](repeating: 0x78, count: 200) + [0x2F] + [UInt8](repeating: 0x79, count: 255),
        ]
        for (number, key) in keys.enumerated() {
            let file = try yard.write("files/\(number)", "\(number)")
            try await session.save(file, as: RelativePath(key))
        }
        let base = ConfinedDirectory(root: try Descriptor.open(FilePath(yard.root), O_RDONLY | O_DIRECTORY))
        for (number, key) in keys.enumerated() {
            let bytes = try base.open(RelativePath(key), O_RDONLY).readAll()
            #expect(String(decoding: bytes, as: UTF8.self) == "\(number)")
        }
        await session.close()
    }

    @Test("Nothing is written through a link in the backup, neither one on the way nor one with the key's name")
    func plantedLinks() async throws {
        let yard = try Yard()
        let session = try await yard.session()
        let file = try yard.write("files/a", "saved")
        try yard.make(directory: "outside")
        try yard.write("outside/target", "untouched")
        symlink(yard.absolute("outside"), yard.root + "/way")
        symlink(yard.absolute("outside/target"), yard.root + "/leaf")
        for key in ["way/a", "way/target", "leaf"] {
            let told = await failure { () throws(BackupSessionError) in try await session.save(file, as: key) }
            guard case .backupFailed(_, key, let reason)? = told else {
                Issue.record("\(key): \(String(describing: told))")
                continue
            }
            #expect(reason.code == .nameCollision, "\(reason)")
        }
        #expect(yard.names("outside") == ["target"] && yard.read("outside/target") == "untouched")
        await session.close()
    }

    @Test("Values that cannot be are refused by name, and nothing is left behind")
    func wrongValues() async throws {
        let yard = try Yard()
        try yard.write("files/file", "")
        let cases: [(String, (inout LocalBackupConfiguration) -> Void)] = [
            ("rootDirectory", { $0.rootDirectory = "" }),
            ("rootDirectory", { $0.rootDirectory = "/" }),
            ("rootDirectory", { $0.rootDirectory = FilePath(yard.absolute("no/such/directory")) }),
            ("rootDirectory", { $0.rootDirectory = FilePath(yard.absolute("files/file")) }),
            ("checkInterval", { $0.checkInterval = ByteCount(0) }),
            ("freeSpaceThreshold", { $0.freeSpaceThreshold = ByteCount(-1) }),
            (
                "freeSpaceTarget",
                {
                    $0.freeSpaceThreshold = .gibibytes(2)
                    $0.freeSpaceTarget = .gibibytes(1)
                }
            ),
            ("freeSpaceTarget", { $0.freeSpaceTarget = ByteCount(.max) }),
            ("cleaning.limits.minFree", { $0.cleaning.limits.minFree = .gibibytes(1) }),
            ("cleaning.limits.maxSize", { $0.cleaning.limits.maxSize = ByteCount(-1) }),
            ("cleaning.limits.maxUsagePercent", { $0.cleaning.limits.maxUsagePercent = 100 }),
            ("cleaning.limits.maxUsagePercent", { $0.cleaning.limits.maxUsagePercent = .nan }),
            ("cleaning.concurrency", { $0.cleaning.concurrency = 0 }),
        ]
        for (value, change) in cases {
            do {
                _ = try await yard.session(change)
                Issue.record("\(value) was accepted")
            } catch let error as BackupSessionError {
                guard case .invalidConfiguration(value, let reason) = error else {
                    Issue.record("\(value): \(error)")
                    continue
                }
                #expect(!reason.message.isEmpty && error.description.contains(value))
            }
        }
        #expect(yard.names("").isSubset(of: ["files", "backup"]) && yard.names("files") == ["file"])
    }

    @Test("A directory that holds an agent's backup, or lies in one, is refused, and a session that finds one stops")
    func agents() async throws {
        let yard = try Yard()
        try yard.make(directory: "disk")
        try yard.make(directory: "disk/.safebackup")
        for path in ["disk", "disk/new"] {
            do {
                _ = try await yard.session { $0.rootDirectory = FilePath(yard.absolute(path)) }
                Issue.record("\(path) was opened")
            } catch let error as BackupSessionError {
                guard case .invalidConfiguration("rootDirectory", let reason) = error else {
                    Issue.record("\(error)")
                    continue
                }
                #expect(reason.code == .destinationTaken)
            }
        }
        #expect(yard.names("disk") == [".safebackup"])

        let session = try await yard.session()
        try yard.make(directory: "backup/.safebackup")
        let file = try yard.write("files/a", "a")
        let told = await failure { () throws(BackupSessionError) in try await session.save(file, as: "a") }
        guard case .backupFailed(_, _, let reason)? = told else {
            Issue.record("it was written to")
            return
        }
        #expect(reason.code == .destinationTaken && yard.copy("a") == nil)
        await session.close()
    }

    @Test("One session at a time has a directory; what an earlier one left unfinished goes when the next one opens it")
    func alone() async throws {
        let yard = try Yard()
        let first = try await yard.session()
        do {
            _ = try await yard.session()
            Issue.record("two sessions have one directory")
        } catch let error as BackupSessionError {
            guard case .invalidConfiguration("rootDirectory", let reason) = error else { throw error }
            #expect(reason.code == .destinationTaken && reason.message.contains("Another session"))
        }
        await first.close()
        try yard.write("backup/.safebackup-session/staging/s1-1", "half")
        let second = try await yard.session()
        #expect(yard.names("backup/.safebackup-session/staging").isEmpty)
        await second.close()
        await second.close()
        let file = try yard.write("files/a", "a")
        #expect(await failure { () throws(BackupSessionError) in try await second.save(file, as: "a") } == .closed)
    }

    @Test("When another directory is at the path, nothing is written to it")
    func replaced() async throws {
        let yard = try Yard()
        let session = try await yard.session()
        rename(yard.root, yard.absolute("moved"))
        try yard.make(directory: "backup")
        let file = try yard.write("files/a", "a")
        let told = await failure { () throws(BackupSessionError) in try await session.save(file, as: "a") }
        guard case .backupFailed(_, _, let reason)? = told else {
            Issue.record("it was saved")
            return
        }
        #expect(reason.code == .destinationMissing)
        #expect(yard.names("backup").isEmpty && !yard.names("moved").contains("a"))
        await session.close()
    }

    /// A session that stores nothing until the gate opens, and eight saves that wait for it.
    private func waiting(
        _ yard: Yard, _ gate: Gate, as key: @escaping @Sendable (Int) -> String
    ) async throws -> (session: LocalBackupSession, saves: [Task<Void, any Error>]) {
        let session = try await LocalBackupSession(yard.configuration()) { _, store in
            gate.pass()
            return store()
        }
        var saves: [Task<Void, any Error>] = []
        for number in 0..<8 {
            let file = try yard.write("files/\(number)", "\(number)")
            saves.append(Task { try await session.save(file, as: "\(key(number))") })
            #expect(try await eventually { session.unfinishedSaves == number + 1 })
        }
        return (session, saves)
    }

    @Test(
        "Closing waits for the saves that were asked for, also when it is cancelled, and takes no more",
        arguments: [false, true])
    func closes(isCancelled: Bool) async throws {
        let yard = try Yard()
        let gate = Gate()
        let (session, tasks) = try await waiting(yard, gate) { "\($0)" }
        let isClosed = Locked(false)
        let closing = Task {
            while isCancelled && !Task.isCancelled { await Task.yield() }
            await session.close()
            isClosed.withLock { $0 = true }
        }
        if isCancelled { closing.cancel() }
        let late = try yard.write("files/late", "late")
        #expect(try await eventually { session.isClosing })
        #expect(await failure { () throws(BackupSessionError) in try await session.save(late, as: "late") } == .closed)
        #expect(!isClosed.withLock { $0 })
        gate.open()
        await closing.value
        for task in tasks { try await task.value }
        for number in 0..<8 { #expect(yard.copy("\(number)") == "\(number)") }
        #expect(yard.copy("late") == nil)
        // It let go of the directory.
        await (try await yard.session()).close()
    }
}
