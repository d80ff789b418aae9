import Glibc
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import Synchronization
import SystemPackage
import Testing

/// Somebody works in a real tree while a watcher follows, and a consumer keeps names as the agent does: what it is
/// told it looks at again. In the end it must know the tree.
@Suite("Storms on a real file system", .serialized)
struct StormTests {
    /// The consumer's knowledge.
    private struct Names {
        var known: [RelativePath: FileStatus] = [:]
        var reconciles = 0

        mutating func take(_ batch: WatchBatch, _ sandbox: Sandbox) throws {
            for change in batch.changes {
                if change.kind == .vanished && change.isDirectory {
                    for path in known.keys where path.isWithin(change.path) { try look(at: path, sandbox) }
                }
                try look(at: change.path, sandbox)
            }
        }

        private mutating func look(at path: RelativePath, _ sandbox: Sandbox) throws {
            if path.isRoot { return }
            do throws(Errno) {
                known[path] = try sandbox.root.status(of: path)
            } catch {
                guard [.noSuchFileOrDirectory, .notDirectory].contains(error) else { throw error }
                known.removeValue(forKey: path)
            }
        }

        mutating func reconcile(_ sandbox: Sandbox) throws {
            reconciles += 1
            known = try Self.tree(sandbox)
        }

        static func tree(_ sandbox: Sandbox) throws -> [RelativePath: FileStatus] {
            var result: [RelativePath: FileStatus] = [:]
            var scanner = Scanner(root: sandbox.root, filter: try sandbox.filter())
            while let batch = try scanner.next() {
                for directory in batch {
                    for entry in directory.entries {
                        guard case .status(let status) = entry.finding else { continue }
                        result[directory.path.appending(entry.leaf)] = status
                    }
                }
            }
            return result
        }
    }

    /// Few names on few levels, so that everything meets everything.
    private func work(_ sandbox: Sandbox, _ outside: Sandbox, steps: Int, seed: UInt64) {
        var random = SplitMix(state: seed)
        func path() -> String {
            (0...(random.next() % 3)).map { _ in String(UnicodeScalar(97 + UInt8(random.next() % 3))) }
                .joined(separator: "/")
        }
        for step in 0..<steps {
            // Most steps that are impossible now fail, and nothing is then done: that is as good a storm.
            switch random.next() % 9 {
            case 0, 1: try? sandbox.mkdir(path())
            case 2, 3, 4: try? sandbox.write(path(), String(repeating: "x", count: step))
            case 5: try? sandbox.remove(path())
            case 6, 7: try? sandbox.move(path(), path())
            default:
                let leaf = String(step % 5)
                try? sandbox.move(path(), to: outside, leaf)
                try? outside.move(leaf, to: sandbox, path())
            }
        }
    }

    /// Follows `work`, done by another thread, to its end and compares what is then known with the tree.
    /// Returns why the source was desynced, and how often.
    private func follow(
        _ watcher: Watcher, _ sandbox: Sandbox, _ work: @escaping @Sendable () -> Void
    ) async throws -> [DesyncReason] {
        var names = Names()
        try names.reconcile(sandbox)
        let worker = try ThreadExecutor(name: "worker")
        let deadline = Task {
            do { try await Task.sleep(for: .seconds(120)) } catch { return }  // done in time
            await watcher.stop()
        }
        let isOver = Atomic(false)
        let working = Task {
            await worker.run { work() }
            isOver.store(true, ordering: .releasing)
            try sandbox.write("the end")
        }
        var reasons: [DesyncReason] = []
        while let batch = await watcher.next() {
            try names.take(batch, sandbox)
            let wasOver = isOver.load(ordering: .acquiring)
            if !batch.desynced.isEmpty {
                reasons += batch.desynced
                _ = try await watcher.resync()
                try names.reconcile(sandbox)
            }
            // What came before the end was told before it; where it was lost, the last reconcile saw a still tree.
            if batch.changes.contains(where: { $0.path == .at("the end") }) || (wasOver && !batch.desynced.isEmpty) {
                break
            }
        }
        try await working.value
        worker.stop()
        deadline.cancel()
        await watcher.stop()
        names.known[.at("the end")] = try sandbox.root.status(of: .at("the end"))
        let tree = try Names.tree(sandbox)
        #expect(Set(names.known.keys) == Set(tree.keys))
        for (path, status) in tree where status.kind == .file {
            let known = names.known[path]
            #expect(known?.fingerprint.inode == status.fingerprint.inode && known?.size == status.size, "\(path)")
        }
        return reasons
    }

    @Test(
        "After a storm every path and every last write is known",
        arguments: [(ByteCount.mebibytes(8), 65_536), (ByteCount(2_000), 65_536), (ByteCount.mebibytes(8), 20)])
    func storm(buffer: ByteCount, paths: Int) async throws {
        let (sandbox, outside) = (try Sandbox(), try Sandbox())
        var limits = Watcher.Limits()
        limits.buffer = buffer
        limits.paths = paths
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter(), limits: limits)
        _ = try await watcher.start()
        let steps = isLong ? 30_000 : 1_500
        let seed = UInt64(paths) + UInt64(buffer.bytes)
        let reasons = try await follow(watcher, sandbox) {
            work(sandbox, outside, steps: steps, seed: seed)
        }
        if buffer.bytes > 1 << 20 && paths > 1_000 { #expect(reasons.isEmpty) }
    }

    @Test(
        "When the kernel's queue overflows that is said, and after a reconcile nothing is missing",
        .enabled(if: isLong && geteuid() == 0, "sets fs.inotify.max_queued_events for a moment"))
    func kernelOverflow() async throws {
        let sandbox = try Sandbox()
        let setting = try Descriptor.open("/proc/sys/fs/inotify/max_queued_events", O_RDWR)
        let usual = try setting.readAll(limit: 64)
        // It holds for instances made from now on.
        try setting.writeAll(Array("16".utf8))
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        let started = await Task { try await watcher.start() }.result
        try setting.writeAll(usual)
        _ = try started.get()
        let reasons = try await follow(watcher, sandbox) {
            for index in 0..<20_000 {
                if index % 200 == 0 { try? sandbox.mkdir("d\(index / 200)") }  // a failure shows in the comparison
                try? sandbox.write("d\(index / 200)/\(index)")
            }
        }
        #expect(reasons.contains(.overflow))
    }
}

/// Whether the long forms of tests run.
let isLong = getenv("SAFEBACKUP_LONG") != nil
