import Foundation
import Glibc
import SafeBackupCore
import SystemPackage
import Testing

@testable import SafeBackupSystem

@Suite("Threads, locks and digests")
struct ProcessTests {
    @Test(
        "SHA-256 of known messages; one object serves many",
        arguments: [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ])
    func digests(message: String, hex: String) {
        let hash = SHA256()
        for _ in 0..<3 {
            Array(message.utf8).withUnsafeBytes { hash.update($0) }
            #expect(hash.finish().hex == hex)
        }
    }

    @Test("A program that does not end, or does not close its output, is killed when its time is over")
    func limit() throws {
        func run(_ script: String, collects: Bool, _ limit: Duration) throws(Errno) -> ChildProcess.Result {
            try ChildProcess.run(["sh", "-c", script].map { Array($0.utf8) }, collectsOutput: collects, within: limit)
        }
        let began = ContinuousClock.now
        for (script, collects) in [
            ("exec sleep 1000", true), ("exec sleep 1000", false), ("exec sleep 1000 >&-", true),
        ] {
            #expect(throws: Errno.timedOut, "\(script)") { try run(script, collects: collects, .milliseconds(100)) }
        }
        #expect(ContinuousClock.now - began < .seconds(100))
        let ended = try run("echo told; exit 3", collects: true, .seconds(100))
        #expect(ended.code == 3 && ended.output == Array("told\n".utf8))
        // What it left running may keep its output open.
        let left = try run("sleep 5 & echo told", collects: true, .milliseconds(500))
        #expect(left.code == 0 && left.output == Array("told\n".utf8))
    }

    @Test("Who looks for the holder of a lock keeps nobody from taking it", .timeLimit(.minutes(10)))
    func lookAtLock() async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path.appending("lock")
        _ = try ProcessLock(at: path)
        let looker = Task.detached {
            while !Task.isCancelled { _ = try ProcessLock.holder(of: path) }
        }
        for _ in 0..<300 {
            let lock = try ProcessLock(at: path)
            withExtendedLifetime(lock) {}
        }
        looker.cancel()
        try await looker.value
    }

    @Test("A second process's lock is refused and names the first", .timeLimit(.minutes(10)))
    func lock() throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path.appending("lock")
        do {
            let lock = try ProcessLock(at: path)
            defer { withExtendedLifetime(lock) {} }
            // flock belongs to the open file, so a second opening in this process is refused as another process's is.
            #expect {
                _ = try ProcessLock(at: path)
            } throws: { error in
                guard case .held(let process) = error as? ProcessLock.Refusal else { return false }
                return process == getpid()
            }
            #expect(try ProcessLock.holder(of: path).isHeld)
        }
        // A process that another test is just starting holds our descriptors until it becomes its program.
        let deadline = ContinuousClock.now + .seconds(30)
        while try ProcessLock.holder(of: path).isHeld, ContinuousClock.now < deadline { sched_yield() }
        #expect(try !ProcessLock.holder(of: path).isHeld)
    }

    @Test("A name is one process's until it lets go, and keeps no file open")
    func claim() throws {
        let name = "safebackup/test/\(getpid())/\(UInt64.random(in: 0...UInt64.max))"
        var first = try NameClaim(name)
        #expect(first != nil)
        #expect(try NameClaim(name) == nil)
        #expect(try NameClaim(name + "x") != nil)
        first = nil
        // A process that another test is just starting holds our descriptors until it becomes its program.
        let deadline = ContinuousClock.now + .seconds(30)
        while try NameClaim(name) == nil, ContinuousClock.now < deadline { sched_yield() }
        #expect(try NameClaim(name) != nil)
        #expect(throws: Errno.fileNameTooLong) { try NameClaim(String(repeating: "x", count: 200)) }
    }

    @Test("Mounts are found below a directory, whatever bytes their names have")
    func mounts() throws {
        let table = [
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
            "30 22 8:2 / /home rw - ext4 /dev/sda2 rw", "31 30 8:3 /a /home/with\\040space\\134 rw - ext4 /dev/sda3 rw",
            "32 30 8:3 / /homework rw - ext4 /dev/sda3 rw", "not a line",
        ]
        func points(below root: String) -> Set<String> {
            let mounts = MountTable.mounts(
                in: Array((table.joined(separator: "\n") + "\n").utf8), below: Array(root.utf8))
            return Set(mounts.map { String(decoding: $0.point, as: UTF8.self) })
        }
        #expect(points(below: "/home") == ["/home", "/home/with space\\"])
        #expect(points(below: "/").count == 4)
        #expect(points(below: "/srv").isEmpty)
        #expect(try !MountTable.mounts(below: "/").isEmpty)
    }

    @Test("Work sent to the threads comes back with its result or its error")
    func executor() async throws {
        let threads = try ThreadExecutor(name: "test", count: 3)
        defer { threads.stop() }
        let sum = await withTaskGroup(of: Int.self) { group in
            for number in 0..<1_000 { group.addTask { await threads.run { number } } }
            return await group.reduce(0, +)
        }
        #expect(sum == 499_500)
        await #expect(throws: Errno.ioError) {
            try await threads.run { () throws(Errno) -> Int in throw Errno.ioError }
        }
    }

    @Test("Threads that the system refuses are an error, and those that it gave before end", .timeLimit(.minutes(10)))
    func refusedThread() throws {
        func named(_ name: String) throws -> Int {
            try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").filter { task in
                // Ignored because other tests' threads end while we look.
                let comm = try? String(contentsOfFile: "/proc/self/task/\(task)/comm", encoding: .utf8)
                return comm?.hasPrefix(name) == true
            }.count
        }
        #expect(throws: Errno.resourceTemporarilyUnavailable) {
            try FaultPlan(call: "pthread_create", nth: 3, error: .resourceTemporarilyUnavailable).run {
                _ = try ThreadExecutor(name: "refused", count: 4)
            }
        }
        let deadline = ContinuousClock.now + .seconds(30)
        while try named("refused") > 0, ContinuousClock.now < deadline { sched_yield() }
        #expect(try named("refused") == 0)
    }

    @Test("An actor on one thread sees its work in order and alone")
    func actorOnThread() async throws {
        actor Counter {
            let executor: ThreadExecutor
            var values: [Int] = []
            nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
            init(_ executor: ThreadExecutor) { self.executor = executor }
            func add(_ value: Int) { values.append(value) }
        }
        let executor = try ThreadExecutor(name: "test.actor")
        defer { executor.stop() }
        let counter = Counter(executor)
        for value in 0..<100 { await counter.add(value) }
        #expect(await counter.values == Array(0..<100))
    }

    @Test("A root is known by its own identity, not by its path")
    func identity() throws {
        let temporary = try TemporaryDirectory()
        let manager = FileManager.default
        let path = temporary.path.appending("root")
        try manager.createDirectory(atPath: path.string, withIntermediateDirectories: false)
        let first = try RootIdentity(of: Descriptor.open(path, O_RDONLY | O_DIRECTORY))
        #expect(first.matches(try RootIdentity(of: Descriptor.open(path, O_RDONLY | O_DIRECTORY))))
        try manager.moveItem(atPath: path.string, toPath: path.string + ".old")
        try manager.createDirectory(atPath: path.string, withIntermediateDirectories: false)
        #expect(!first.matches(try RootIdentity(of: Descriptor.open(path, O_RDONLY | O_DIRECTORY))))
    }
}
