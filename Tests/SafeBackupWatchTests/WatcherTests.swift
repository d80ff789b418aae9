import Glibc
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage
import Testing

/// What a watcher told so far, applied in order, as a consumer would: vanished directories take along what is below.
struct Seen {
    /// The last kind of each path that is there.
    var present: [RelativePath: Change.Kind] = [:]
    var vanished: Set<RelativePath> = []
    var desynced: [DesyncReason] = []
    var rootEvents: [RootEvent] = []
    var notSaved: [RelativePath: SkipReason] = [:]
    var changes: [Change] = []

    mutating func apply(_ batch: WatchBatch) {
        for change in batch.changes {
            changes.append(change)
            if change.kind == .vanished {
                vanished.insert(change.path)
                if change.isDirectory { present = present.filter { !$0.key.isWithin(change.path) } }
                present.removeValue(forKey: change.path)
            } else {
                present[change.path] = change.kind
            }
        }
        desynced += batch.desynced
        if let event = batch.rootEvent { rootEvents.append(event) }
        for entry in batch.notSaved { notSaved[entry.path] = entry.reason }
    }
}

extension Watcher {
    /// Takes batches until `isDone`, or until the deadline has passed: then the watcher is stopped.
    func follow(_ seen: Seen = Seen(), until isDone: (Seen) -> Bool) async -> Seen {
        var seen = seen
        let deadline = Task {
            do { try await Task.sleep(for: .seconds(20)) } catch { return }  // done in time
            await stop()
        }
        while !isDone(seen), let batch = await next() { seen.apply(batch) }
        deadline.cancel()
        return seen
    }
}

@Suite("Watcher, on a real file system", .serialized)
struct WatcherTests {
    /// Starts a watcher, runs `body`, makes a last file, and returns what was told up to it.
    private func watch(
        _ sandbox: Sandbox, _ patterns: [String] = [], _ body: () throws -> Void
    ) async throws -> Seen {
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter(patterns))
        _ = try await watcher.start()
        try body()
        try sandbox.write("the end")
        let seen = await watcher.follow { $0.present[.at("the end")] == .closed }
        await watcher.stop()
        #expect(seen.present[.at("the end")] == .closed, "everything was told in time")
        return seen
    }

    @Test("A file that is written and closed is told as closed, and one that stays open as modified")
    func files() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("d")
        var open: Descriptor?
        let seen = try await watch(sandbox) {
            try sandbox.write("d/closed")
            open = try sandbox.root.open(.at("d/open"), O_WRONLY | O_CREAT)
            try open?.writeAll([1, 2, 3])
            try sandbox.root.openDirectory(.at("d")).open(Array("closed".utf8), O_RDONLY).setMode(0o640)
        }
        let told = seen.changes.filter { $0.path == .at("d/closed") }.map(\.kind)
        #expect(told.contains(.closed) && Set(told).isSubset(of: [.modified, .closed, .attributes]))
        #expect(seen.present[.at("d/open")] == .modified)
        #expect(seen.desynced.isEmpty)
        _ = open
    }

    @Test("A thousand times: a file written into new directories at once is never missed")
    func newDirectories() async throws {
        let sandbox = try Sandbox()
        let seen = try await watch(sandbox) {
            for index in 0..<1_000 {
                try sandbox.mkdir("\(index)/b/c/d")
                try sandbox.write("\(index)/b/c/d/f")
            }
        }
        for index in 0..<1_000 {
            #expect(seen.present[.at("\(index)/b/c/d/f")] != nil)
            #expect(seen.present[.at("\(index)/b")] != nil)
        }
        #expect(seen.desynced.isEmpty)
    }

    @Test("Directories that are removed and made again are watched again, two hundred times")
    func recreatedDirectory() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("d")
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        _ = try await watcher.start()
        for index in 0..<200 {
            try sandbox.remove("d")
            try sandbox.mkdir("d")
            // Waits until the new directory was told, so that the file comes as an event of its own.
            var seen = await watcher.follow { $0.present[.at("d")] != nil }
            try sandbox.write("d/\(index)")
            seen = await watcher.follow(seen) { $0.present[.at("d/\(index)")] == .closed }
            try #require(seen.present[.at("d/\(index)")] == .closed)
        }
        await watcher.stop()
    }

    @Test("A tree that is moved in is told whole, and watched")
    func movedIn() async throws {
        let (sandbox, outside) = (try Sandbox(), try Sandbox())
        try outside.mkdir("tree/a/b")
        for index in 0..<100 { try outside.write("tree/a/b/\(index)") }
        try outside.link("tree/link", to: "/etc")
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        _ = try await watcher.start()
        try outside.move("tree", to: sandbox, "tree")
        var seen = await watcher.follow { $0.present.count >= 104 }
        for index in 0..<100 { #expect(seen.present[.at("tree/a/b/\(index)")] == .found) }
        #expect(seen.present[.at("tree/link")] == .found)
        try sandbox.write("tree/a/b/later")
        seen = await watcher.follow(seen) { $0.present[.at("tree/a/b/later")] == .closed }
        #expect(seen.present[.at("tree/a/b/later")] == .closed)
        await watcher.stop()
    }

    @Test("A tree that is moved out vanishes, and what happens in it later is nobody's")
    func movedOut() async throws {
        let (sandbox, outside) = (try Sandbox(), try Sandbox())
        try sandbox.mkdir("d/e")
        try sandbox.write("d/e/f")
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        let report = try await watcher.start()
        #expect(report.directories == 3)
        try sandbox.move("d", to: outside, "d")
        var seen = await watcher.follow { !$0.vanished.isEmpty }
        #expect(seen.vanished == [.at("d")])
        try sandbox.write("between")
        seen = await watcher.follow(seen) { $0.present[.at("between")] == .closed }
        try outside.write("d/e/f", "changed outside")
        try outside.write("d/e/g")
        try sandbox.write("the end")
        seen = await watcher.follow(seen) { $0.present[.at("the end")] == .closed }
        #expect(Set(seen.present.keys) == [.at("between"), .at("the end")])
        await watcher.stop()
    }

    @Test("A directory renamed inside the source is told under its new name, with all below it, and stays watched")
    func renamedDirectory() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("a/b/c")
        try sandbox.write("a/b/c/f")
        try sandbox.mkdir("z")
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        _ = try await watcher.start()
        try sandbox.move("a", "z/y")
        var seen = await watcher.follow { $0.present[.at("z/y/b/c/f")] != nil }
        #expect(seen.vanished == [.at("a")])
        #expect(seen.present[.at("z/y/b/c")] == .closed)
        try sandbox.write("z/y/b/c/g")
        seen = await watcher.follow(seen) { $0.present[.at("z/y/b/c/g")] == .closed }
        #expect(seen.present[.at("z/y/b/c/g")] == .closed)
        #expect(!seen.present.keys.contains { $0.isWithin(.at("a")) })
        await watcher.stop()
    }

    @Test("Two directories that change places, again and again, keep their watches")
    func exchangedDirectories() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("a/in-a")
        try sandbox.mkdir("b/in-b")
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        _ = try await watcher.start()
        for _ in 0..<101 {
            try sandbox.move("a", "t")
            try sandbox.move("b", "a")
            try sandbox.move("t", "b")
        }
        // Its event comes after those of the moves: when it is told, they were digested.
        try sandbox.write("marker")
        var seen = await watcher.follow { $0.present[.at("marker")] == .closed }
        try sandbox.write("a/in-b/g")
        try sandbox.write("b/in-a/g")
        seen = await watcher.follow(seen) {
            $0.present[.at("a/in-b/g")] == .closed && $0.present[.at("b/in-a/g")] == .closed
        }
        #expect(seen.present[.at("a/in-b/g")] == .closed)
        #expect(seen.present[.at("b/in-a/g")] == .closed)
        await watcher.stop()
    }

    @Test("Links, special files and second names are told as what they are")
    func kinds() async throws {
        let (sandbox, outside) = (try Sandbox(), try Sandbox())
        try sandbox.write("file")
        try outside.mkdir("d")
        let seen = try await watch(sandbox) {
            try sandbox.link("broken", to: "nowhere")
            try sandbox.link("root", to: "/")
            try sandbox.link("outside", to: outside.path + "/d")
            try sandbox.fifo("fifo")
            try sandbox.root.root.link(Array("file".utf8), to: sandbox.root.root, Array("second".utf8))
            try outside.write("d/not ours")
        }
        for leaf in ["broken", "root", "outside", "second"] { #expect(seen.present[.at(leaf)] == .closed) }
        #expect(seen.notSaved == [.at("fifo"): .special])
        #expect(seen.present[.at("fifo")] == nil)
        #expect(!seen.present.keys.contains { $0.bytes.starts(with: Array("outside/".utf8)) })
    }

    @Test("Names of any bytes are told as they are")
    func oddNames() async throws {
        let sandbox = try Sandbox()
        let leaves: [[UInt8]] = [
            Array("new\nline".utf8), [0xFF, 0xFE], [0x08], Array(repeating: 0x78, count: 255),
            Array("caf\u{E9}".utf8), Array("cafe\u{301}".utf8), Array(" ".utf8), Array("...".utf8),
        ]
        let seen = try await watch(sandbox) {
            for leaf in leaves {
                let directory = RelativePath(unchecked: leaf)
                try sandbox.mkdir(directory)
                try sandbox.write(directory.appending(leaf))
            }
        }
        for leaf in leaves {
            #expect(seen.present[RelativePath(unchecked: leaf).appending(leaf)] != nil, "\(printable(leaf))")
        }
    }

    @Test("Forty levels of 255 bytes, beyond what a path may have, are watched and told")
    func longPaths() async throws {
        let sandbox = try Sandbox()
        let leaf = [UInt8](repeating: 0x64, count: 255)
        let deep = RelativePath(unchecked: Array((0..<40).map { _ in leaf }.joined(separator: [0x2F])))
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        _ = try await watcher.start()
        var directory = sandbox.root.root
        for _ in 0..<40 {
            try directory.makeDirectory(leaf)
            directory = try directory.open(leaf, O_RDONLY | O_DIRECTORY)
        }
        var seen = await watcher.follow { $0.present[deep] != nil }
        #expect(seen.present[deep] == .closed)
        try directory.open([0x66], O_WRONLY | O_CREAT).writeAll([1])
        let file = deep.appending([0x66])
        seen = await watcher.follow(seen) { $0.present[file] == .closed }
        #expect(seen.present[file] == .closed)
        await watcher.stop()
    }

    @Test("What rules exclude has no watch and is not told; what they include again is")
    func excludes() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("node_modules/x/y")
        try sandbox.mkdir("src")
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter(["node_modules/", "*.o", "!keep.o"]))
        let report = try await watcher.start()
        #expect(report.directories == 2 && report.watched == 2)
        try sandbox.write("node_modules/x/y/f")
        try sandbox.write("src/a.o")
        try sandbox.write("src/keep.o")
        try sandbox.mkdir("src/node_modules/z")
        try sandbox.write("src/node_modules/z/f")
        try sandbox.mkdir(".safebackup")
        try sandbox.write("the end")
        var seen = await watcher.follow { $0.present[.at("the end")] == .closed }
        #expect(Set(seen.present.keys) == [.at("src/keep.o"), .at("the end")])
        #expect(seen.notSaved == [.at(".safebackup"): .reservedName])
        // Renamed to a name that is saved: everything below comes to be; and back: it vanishes.
        try sandbox.move("src/node_modules", "src/modules")
        seen = await watcher.follow(seen) { $0.present[.at("src/modules/z/f")] != nil }
        #expect(seen.present[.at("src/modules/z/f")] == .found)
        try sandbox.move("src/modules", "src/node_modules")
        seen = await watcher.follow(seen) { $0.vanished.contains(.at("src/modules")) }
        try sandbox.write("src/node_modules/z/g")
        try sandbox.write("src/last")
        seen = await watcher.follow(seen) { $0.present[.at("src/last")] == .closed }
        #expect(!seen.present.keys.contains { $0.components.contains(Array("z".utf8)) })
        await watcher.stop()
    }

    @Test("A destination and a state directory inside the source are never entered, whatever they are called")
    func ownDirectories() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("backup/inside")
        try sandbox.mkdir("state")
        let own: [FileIdentity: SkipReason] = [
            FileIdentity(try sandbox.root.status(of: .at("backup"))): .ownDestination,
            FileIdentity(try sandbox.root.status(of: .at("state"))): .ownState,
        ]
        let watcher = Watcher(root: sandbox.root, filter: try TreeFilter(root: sandbox.root, own: own))
        let report = try await watcher.start()
        #expect(report.directories == 1)
        try sandbox.write("backup/inside/f")
        try sandbox.move("backup", "renamed")
        try sandbox.write("renamed/inside/g")
        try sandbox.root.openDirectory(.at("state")).setMode(0o711)
        try sandbox.write("the end")
        let seen = await watcher.follow { $0.present[.at("the end")] == .closed }
        #expect(Set(seen.present.keys) == [.at("the end")])
        #expect(seen.notSaved[.at("renamed")] == .ownDestination)
        await watcher.stop()
    }

    @Test("A watcher whose buffer is too small says so, and completes its watches at a resync")
    func bufferFull() async throws {
        let sandbox = try Sandbox()
        var limits = Watcher.Limits()
        limits.buffer = ByteCount(0)
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter(), limits: limits)
        _ = try await watcher.start()
        try sandbox.mkdir("missed/deep")
        let seen = await watcher.follow { $0.desynced.contains(.bufferFull) }
        #expect(seen.desynced.contains(.bufferFull))
        #expect(seen.changes.isEmpty)
        let report = try await watcher.resync()
        #expect(report.directories == 3 && report.watched == 3)
        await watcher.stop()
    }

    @Test("More changes than may wait become a reason to reconcile, not memory")
    func tooManyChanges() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("crowd")
        for index in 0..<50 { try sandbox.mkdir("d\(index)") }
        var limits = Watcher.Limits()
        limits.paths = 200
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter(), limits: limits)
        _ = try await watcher.start()
        for index in 0..<600 { try sandbox.write("crowd/\(index)") }
        let seen = await watcher.follow {
            $0.desynced.contains(.crowded(.at("crowd"))) || $0.desynced.contains(.bufferFull)
        }
        #expect(seen.desynced.contains(.crowded(.at("crowd"))) || seen.desynced.contains(.bufferFull))
        await watcher.stop()
    }

    /// One that finds its root by its path each time, as the agent's does.
    private func watcher(reopening path: FilePath) throws -> Watcher {
        Watcher(filter: try TreeFilter(root: try ConfinedDirectory(opening: path))) { () throws(SafeBackupError) in
            do throws(Errno) {
                return try ConfinedDirectory(opening: path)
            } catch {
                throw SafeBackupError(.rootMissing, "gone", disposition: .sourceGone)
            }
        }
    }

    @Test("The removal of the root is told when nobody has it open")
    func rootDeleted() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("source/d")
        let path = FilePath(sandbox.path + "/source")
        let watcher = try watcher(reopening: path)
        _ = try await watcher.start()
        try sandbox.remove("source")
        let seen = await watcher.follow { !$0.rootEvents.isEmpty && $0.rootEvents != [.unreachable] }
        #expect(seen.rootEvents.contains(.deleted))
        await watcher.stop()
    }

    @Test("A root that is moved away, and replaced, is told, and nothing of the other directory is")
    func rootReplaced() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("source")
        let path = FilePath(sandbox.path + "/source")
        let watcher = try watcher(reopening: path)
        _ = try await watcher.start()
        try sandbox.move("source", "old")
        try sandbox.mkdir("source/other")
        let seen = await watcher.follow { $0.rootEvents.contains(.moved) }
        #expect(seen.rootEvents.contains(.moved))
        await #expect(throws: SafeBackupError.self) { try await watcher.resync() }
        await watcher.stop()
    }

    @Test("An unmounted root is told as that", .enabled(if: Mount.isPossible, "needs the right to mount"))
    func rootUnmounted() async throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("source")
        let path = FilePath(sandbox.path + "/source")
        let mount = try Mount("tmpfs", at: sandbox.path + "/source")
        let watcher = try watcher(reopening: path)
        _ = try await watcher.start()
        try sandbox.write("source/f")
        var seen = await watcher.follow { $0.present[.at("f")] == .closed }
        // Succeeds at once only if nobody holds a directory of it open.
        #expect(mount.unmount())
        seen = await watcher.follow(seen) { $0.rootEvents.contains(.unmounted) }
        #expect(seen.rootEvents.contains(.unmounted))
        #expect(seen.vanished.isEmpty)
        await watcher.stop()
    }

    @Test("A root that is not there, or is a file, is refused at the start")
    func noRoot() async throws {
        let sandbox = try Sandbox()
        let filter = try sandbox.filter()
        let watcher = Watcher(filter: filter) { () throws(SafeBackupError) in
            throw SafeBackupError(.rootMissing, "not there", disposition: .sourceGone)
        }
        let error = await #expect(throws: SafeBackupError.self) { try await watcher.start() }
        #expect(error?.code == .rootMissing)
        #expect(await watcher.next() == nil)
    }

    @Test("Stopping ends a wait, and a cancelled wait leaves the changes to the next")
    func stopping() async throws {
        let sandbox = try Sandbox()
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        _ = try await watcher.start()
        let cancelled = Task { await watcher.next() == nil }
        cancelled.cancel()
        #expect(await cancelled.value)
        try sandbox.write("f")
        let seen = await watcher.follow { $0.present[.at("f")] == .closed }
        #expect(seen.present[.at("f")] == .closed)
        let waiting = Task { await watcher.next() == nil }
        await watcher.stop()
        #expect(await waiting.value)
        await watcher.stop()
        #expect(try await watcher.resync() == WatchReport())
    }
}
