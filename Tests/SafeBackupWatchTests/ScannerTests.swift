import FoundationEssentials
import Glibc
import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage
import Testing

@Suite("Scanner")
struct ScannerTests {
    private func scan(
        _ sandbox: Sandbox, _ filter: TreeFilter? = nil, from start: RelativePath = .root, entryLimit: Int = 4_096,
        partLimit: Int = 16_384, depth: Scanner.Depth = .tree
    ) throws -> [ListedDirectory] {
        var scanner = Scanner(
            root: sandbox.root, filter: try filter ?? sandbox.filter(), from: start, depth: depth, partLimit: partLimit)
        var result: [ListedDirectory] = []
        while let batch = try scanner.next(entryLimit: entryLimit) { result += batch }
        return result
    }

    /// Everything found, by path; what is skipped with its reason.
    private func findings(_ listed: [ListedDirectory]) -> [RelativePath: String] {
        var result: [RelativePath: String] = [:]
        for directory in listed {
            for entry in directory.entries {
                switch entry.finding {
                case .status(let status): result[directory.path.appending(entry.leaf)] = status.kind.rawValue
                case .skipped(let reason, _): result[directory.path.appending(entry.leaf)] = reason.rawValue
                }
            }
        }
        return result
    }

    @Test("Every entry is told once with its kind; links are not followed and special files not opened")
    func kinds() throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("d/e")
        try sandbox.write("d/e/f", "12345")
        try sandbox.link("d/up", to: "..")
        try sandbox.link("root", to: "/")
        try sandbox.link("broken", to: "nowhere")
        // Who opens it waits for a writer, for ever.
        try sandbox.fifo("fifo")
        try sandbox.mkdir(".safebackup/staging")
        try sandbox.mkdir("d/.safebackup")
        let listed = try scan(sandbox)
        #expect(
            findings(listed) == [
                .at("d"): "directory", .at("d/e"): "directory", .at("d/e/f"): "file", .at("d/up"): "symlink",
                .at("root"): "symlink", .at("broken"): "symlink", .at("fifo"): "special",
                .at(".safebackup"): "reservedName", .at("d/.safebackup"): "directory",
            ])
        #expect(Set(listed.map(\.path)) == [.root, .at("d"), .at("d/e"), .at("d/.safebackup")])
        #expect(listed.allSatisfy { $0.isWhole && $0.failure == nil && $0.status?.kind == .directory })
        let file = listed.first { $0.path == .at("d/e") }?.entries.first
        guard case .status(let status) = file?.finding else {
            throw SafeBackupError(.torn, "", disposition: .permanent)
        }
        #expect(status.size == 5 && status.linkCount == 1)
    }

    /// Descriptors of this process at or below the sandbox's directory.
    private func openBelow(_ sandbox: Sandbox) throws -> Int {
        try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").filter { number in
            // Ignored because other tests close theirs while we look.
            let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(number)")
            return target == sandbox.path || target?.hasPrefix(sandbox.path + "/") == true
        }.count
    }

    @Test(
        "A walk that lets go between its parts has nothing open, and misses nothing; not in the middle of a directory",
        arguments: [16_384, 3])
    func letsGo(partLimit: Int) throws {
        let sandbox = try Sandbox()
        for name in ["a/b/c/d", "a/x", "a/y/z", "e/f"] {
            try sandbox.mkdir(name)
            for number in 0..<7 { try sandbox.write("\(name)/\(number)") }
        }
        let expected = findings(try scan(sandbox, partLimit: partLimit))
        // The sandbox's own.
        let before = try openBelow(sandbox)
        var scanner = Scanner(
            root: try ConfinedDirectory(opening: FilePath(sandbox.path)), filter: try sandbox.filter(),
            partLimit: partLimit)
        var found: [ListedDirectory] = []
        var (letGo, refused) = (0, 0)
        while let batch = try scanner.next(entryLimit: 1) {
            found += batch
            guard scanner.letGo() else {
                refused += 1
                continue
            }
            letGo += 1
            #expect(try openBelow(sandbox) == before)
            scanner.goOn(in: try ConfinedDirectory(opening: FilePath(sandbox.path)))
        }
        #expect(findings(found) == expected && expected.count == 37)
        #expect(letGo >= 8 && (refused > 0) == (partLimit == 3))
    }

    @Test("Devices are listed and not opened", .enabled(if: geteuid() == 0, "needs root"))
    func devices() throws {
        let sandbox = try Sandbox()
        // The null device's numbers; a device of nobody's would do as well.
        try #require(mknod("\(sandbox.path)/null", S_IFCHR | 0o600, 0x103) == 0)
        #expect(try findings(scan(sandbox)) == [.at("null"): "special"])
    }

    @Test("Forty levels of 255 bytes are walked, and names of any bytes")
    func longPaths() throws {
        let sandbox = try Sandbox()
        let leaf = [UInt8](repeating: 0xE9, count: 255)
        var directory = sandbox.root.root
        for _ in 0..<40 {
            try directory.makeDirectory(leaf)
            directory = try directory.open(leaf, O_RDONLY | O_DIRECTORY)
        }
        try directory.open([0x0A, 0xFF, 0x08], O_WRONLY | O_CREAT).writeAll([1])
        let found = findings(try scan(sandbox))
        let deepest = try #require(found.keys.max { $0.bytes.count < $1.bytes.count })
        #expect(found.count == 41)
        #expect(deepest.bytes.count == 40 * 256 + 3 && deepest.leaf == [0x0A, 0xFF, 0x08])
    }

    @Test("A tree deeper than the directories that stay open is walked whole, siblings on every level")
    func deepTree() throws {
        let sandbox = try Sandbox()
        var path = RelativePath.root
        for _ in 0..<100 {
            try sandbox.mkdir(path.appending(Array("after".utf8)))
            try sandbox.write(path.appending(Array("after/f".utf8)))
            path = path.appending([0x6D])
            try sandbox.mkdir(path)
        }
        var scanner = Scanner(root: sandbox.root, filter: try sandbox.filter())
        var most = 0
        var files = 0
        while let batch = try scanner.next(entryLimit: 1) {
            most = max(most, try descriptorCount(below: sandbox.path))
            files += batch.reduce(0) { $0 + ($1.path.leaf == Array("after".utf8) ? $1.entries.count : 0) }
        }
        #expect(files == 100)
        #expect(most > 20 && most <= 40, "\(most) descriptors open at once")
    }

    /// Only those of this test: others run beside it.
    private func descriptorCount(below path: String) throws -> Int {
        let directory = try Descriptor.open("/proc/self/fd", O_RDONLY | O_DIRECTORY)
        var names: [[UInt8]] = []
        try directory.forEachEntry { name, _ in names.append(name) }
        return names.filter { name in
            guard let target = try? directory.linkTarget(of: name) else { return false }  // closed meanwhile
            return target.starts(with: Array(path.utf8))
        }.count
    }

    @Test("A large directory comes in parts of bounded size, and the last says that it is all")
    func parts() throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("large/sub")
        // Long names, so that the kernel gives some 250 at a time.
        let suffix = String(repeating: "x", count: 90)
        for index in 0..<1_200 { try sandbox.write("large/\(index)\(suffix)") }
        try sandbox.write("large/sub/f")
        let listed = try scan(sandbox, entryLimit: 100, partLimit: 200)
        let parts = listed.filter { $0.path == .at("large") }
        #expect(parts.count > 3)
        #expect(parts.allSatisfy { !$0.isWhole && $0.failure == nil })
        #expect(parts.dropLast().allSatisfy { !$0.isLastPart && $0.entries.count < 600 })
        #expect(parts.last?.isLastPart == true)
        #expect(Set(parts.flatMap { $0.entries.map(\.leaf) }).count == 1_201)
        #expect(parts.reduce(0) { $0 + $1.entries.count } == 1_201)
        #expect(listed.last?.path == .at("large/sub") && listed.last?.isWhole == true)
    }

    @Test("Batches hold about as many entries as asked, whatever the sizes of directories")
    func batches() throws {
        let sandbox = try Sandbox()
        for index in 0..<200 { try sandbox.mkdir("\(index)") }
        for index in 0..<50 { try sandbox.write("7/\(index)") }
        var scanner = Scanner(root: sandbox.root, filter: try sandbox.filter())
        var batches: [[ListedDirectory]] = []
        while let batch = try scanner.next(entryLimit: 20) { batches.append(batch) }
        #expect(batches.dropFirst().allSatisfy { $0.count <= 20 })
        #expect(batches.joined().count == 201)
        #expect(try scanner.next() == nil)
    }

    @Test("An excluded directory is listed and never entered; a start below it tells nothing")
    func excluded() throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("cache/deep")
        try sandbox.write("cache/deep/f")
        try sandbox.write("a.tmp")
        try sandbox.write("a")
        let filter = try sandbox.filter(["cache/", "*.tmp", "!cache/deep"])
        let listed = try scan(sandbox, filter)
        #expect(listed.count == 1)
        #expect(findings(listed) == [.at("cache"): "excluded", .at("a.tmp"): "excluded", .at("a"): "file"])
        #expect(try scan(sandbox, filter, from: .at("cache/deep")).isEmpty)
    }

    @Test("A walk may begin below the root, and may stop at the first level")
    func starts() throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("a/b/c")
        try sandbox.write("a/b/f")
        #expect(try scan(sandbox, from: .at("a")).map(\.path) == [.at("a"), .at("a/b"), .at("a/b/c")])
        #expect(try scan(sandbox, from: .at("a"), depth: .entries).map(\.path) == [.at("a")])
        #expect(try scan(sandbox, from: .at("missing")).isEmpty)
        #expect(try scan(sandbox, from: .at("a/b/f")).isEmpty)
    }

    @Test("Another file system is listed and not entered, also the same one mounted a second time")
    func otherFileSystems() throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("d")
        try sandbox.write("f")
        // As a mount would look, without one: the root's device, and then the mark of a mount.
        var other = try sandbox.root.root.status()
        other.device += 1
        let filter = TreeFilter(root: other)
        #expect(try findings(scan(sandbox, filter)) == [.at("d"): "otherFileSystem", .at("f"): "otherFileSystem"])
        var mounted = try sandbox.root.status(of: .at("d"))
        mounted.isMountRoot = true
        let own = try sandbox.filter()
        #expect(own.skipReason(of: mounted) == .otherFileSystem)
    }

    @Test(
        "A file system mounted inside the source, and a directory bound into it, stay out",
        .enabled(if: Mount.isPossible, "needs the right to mount"))
    func mounts() async throws {
        let (sandbox, outside) = (try Sandbox(), try Sandbox())
        try sandbox.mkdir("tmpfs")
        try sandbox.mkdir("bound")
        try outside.write("f")
        let first = try Mount("tmpfs", at: sandbox.path + "/tmpfs")
        let second = try Mount(outside.path, at: sandbox.path + "/bound", bind: true)
        let expected: [RelativePath: String] = [.at("tmpfs"): "otherFileSystem", .at("bound"): "otherFileSystem"]
        #expect(try findings(scan(sandbox)) == expected)
        let watcher = Watcher(root: sandbox.root, filter: try sandbox.filter())
        let report = try await watcher.start()
        #expect(report.directories == 1)
        await watcher.stop()
        second.unmount()
        first.unmount()
    }

    @Test(
        "A directory that cannot be opened or listed is a failure, never an empty directory",
        arguments: ["open", "getdents"])
    func failingDirectories(call: String) throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("a/b")
        try sandbox.write("a/b/f")
        try sandbox.write("a/f")
        let filter = try sandbox.filter()
        var failures: [SafeBackupError.Code: Int] = [:]
        // Every call fails once, in a walk of its own.
        for nth in 1...8 {
            for (error, code) in [
                (Errno.permissionDenied, SafeBackupError.Code.unreadable), (.ioError, .sourceFailed),
                (.tooManyOpenFiles, .exhausted),
            ] {
                let plan = FaultPlan(call: call, nth: nth, error: error)
                var listed: [ListedDirectory] = []
                var thrown: SafeBackupError?
                do {
                    listed = try plan.run { try scan(sandbox, filter) }
                } catch let error as SafeBackupError {
                    thrown = error
                }
                if plan.counts.fired == 0 { continue }
                let failed = listed.filter { $0.failure != nil }
                #expect(failed.count + (thrown == nil ? 0 : 1) == 1, "\(error) at \(nth)")
                #expect((thrown ?? failed.first?.failure)?.code == code)
                #expect(failed.allSatisfy { !$0.isWhole && !$0.isLastPart })
                failures[code, default: 0] += 1
            }
        }
        #expect(failures.count == 3 && failures.values.allSatisfy { $0 >= 3 }, "\(failures)")
    }

    @Test("An entry that cannot be looked at is listed as unreadable, and one that went is not listed")
    func failingLooks() throws {
        let sandbox = try Sandbox()
        for leaf in ["a", "b", "c"] { try sandbox.write(leaf) }
        let filter = try sandbox.filter()
        for nth in 2...4 {
            let plan = FaultPlan(call: "statx", nth: nth, error: .ioError)
            let listed = try plan.run { try scan(sandbox, filter) }
            #expect(findings(listed).values.sorted() == ["file", "file", "unreadable"])
            let gone = FaultPlan(call: "statx", nth: nth, error: .noSuchFileOrDirectory)
            let rest = try gone.run { try scan(sandbox, filter) }
            #expect(findings(rest).values.sorted() == ["file", "file"])
            #expect(rest.allSatisfy { $0.isWhole })
        }
    }

    @Test("A directory that goes, or becomes a link, between its name and its opening is left out")
    func vanishing() throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("a")
        try sandbox.mkdir("b")
        var scanner = Scanner(root: sandbox.root, filter: try sandbox.filter())
        let first = try #require(try scanner.next(entryLimit: 1))
        #expect(first.map(\.path) == [.root])
        try sandbox.remove("a")
        try sandbox.remove("b")
        try sandbox.link("b", to: "/etc")
        #expect(try scanner.next() == nil)
    }

    @Test("A root that is gone throws, and never lists as empty")
    func missingRoot() throws {
        let sandbox = try Sandbox()
        try sandbox.mkdir("source")
        let root = try ConfinedDirectory(opening: FilePath(sandbox.path + "/source"))
        let filter = try TreeFilter(root: root)
        try sandbox.remove("source")
        var scanner = Scanner(root: root, filter: filter)
        let error = #expect(throws: SafeBackupError.self) { try scanner.next() }
        #expect(error?.code == .rootMissing)
    }
}

/// A mount for one test; unmounted by `unmount`, at the latest with the object.
final class Mount {
    private let target: String
    private var isMounted = true

    /// Whether this process may mount.
    static let isPossible: Bool = {
        guard geteuid() == 0, let sandbox = try? Sandbox() else { return false }  // cannot make one: nor mount
        guard let mount = try? Mount("tmpfs", at: sandbox.path) else { return false }  // refused
        mount.unmount()
        return true
    }()

    init(_ what: String, at target: String, bind: Bool = false) throws {
        self.target = target
        let result =
            bind
            ? Glibc.mount(what, target, nil, UInt(MS_BIND), nil)
            : Glibc.mount(what, target, "tmpfs", 0, nil)
        try #require(result == 0)
    }

    /// Whether it is unmounted now. Somebody who looks in for a moment is waited for.
    @discardableResult
    func unmount() -> Bool {
        let deadline = monotonicSeconds() + 5
        while isMounted && monotonicSeconds() < deadline { isMounted = umount(target) != 0 }
        return !isMounted
    }

    deinit { unmount() }
}
