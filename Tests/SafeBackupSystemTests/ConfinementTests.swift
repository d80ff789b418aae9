import Foundation
import Glibc
import SafeBackupCore
import SystemPackage
import Testing

@testable import SafeBackupSystem

@Suite("A confined directory")
struct ConfinementTests {
    @Test("A link on the way, or at the end, is never followed", arguments: ["inside", "outside", "absolute"])
    func links(target: String) throws {
        let temporary = try TemporaryDirectory()
        let manager = FileManager.default
        let base = temporary.path.string
        try manager.createDirectory(atPath: base + "/root/real", withIntermediateDirectories: true)
        try temporary.write("secret", to: "secret")
        try temporary.write("plain", to: "root/real/file")
        let to = ["inside": "real", "outside": "..", "absolute": base][target] ?? ""
        try manager.createSymbolicLink(atPath: base + "/root/link", withDestinationPath: to)
        let root = try ConfinedDirectory(opening: temporary.path.appending("root"))
        #expect(throws: Errno.self) { try root.open(RelativePath("link"), O_RDONLY) }
        #expect(throws: Errno.self) { try root.open(RelativePath("link/file"), O_RDONLY) }
        #expect(throws: Errno.self) { try root.open(RelativePath("link/secret"), O_RDONLY) }
        #expect(throws: Errno.self) { try root.makeDirectories(RelativePath("link/new")) }
        #expect(try root.status(of: RelativePath("link")).kind == .symlink)
        #expect(try root.open(RelativePath("real/file"), O_RDONLY).readAll() == Array("plain".utf8))
    }

    #if SAFEBACKUP_FAULTS
        @Test("Without openat2 the components are walked, and links are refused just so")
        func fallback() throws {
            let temporary = try TemporaryDirectory()
            let base = temporary.path.string
            try FileManager.default.createDirectory(atPath: base + "/a/b", withIntermediateDirectories: true)
            try temporary.write("x", to: "a/b/c")
            try FileManager.default.createSymbolicLink(atPath: base + "/l", withDestinationPath: "a")
            let root = try ConfinedDirectory(opening: temporary.path)
            for error in [Errno.noFunction, .notPermitted] {
                let plan = FaultPlan(call: "open", error: error)
                let bytes = try plan.run { try root.open(RelativePath("a/b/c"), O_RDONLY).readAll() }
                #expect(bytes == Array("x".utf8))
                #expect(plan.counts.fired == 1)
                #expect(throws: Errno.self) {
                    try FaultPlan(call: "open", error: error).run { try root.open(RelativePath("l/b/c"), O_RDONLY) }
                }
            }
        }

        @Test("An interrupted call is made again; a short read or write goes on")
        func interrupted() throws {
            let temporary = try TemporaryDirectory()
            let directory = try Descriptor.open(temporary.path, O_RDONLY | O_DIRECTORY)
            let content = (0..<100_000).map { UInt8(truncatingIfNeeded: $0) }
            try FaultPlan(nth: 2, error: .interrupted, isShort: true).run {
                try AtomicFile.write(content, to: Array("f".utf8), in: directory)
            }
            #expect(try directory.open(Array("f".utf8), O_RDONLY).readAll() == content)
        }

        @Test("Whichever call fails, the file is the old one or the new one", arguments: 1...12)
        func atomic(nth: Int) throws {
            let temporary = try TemporaryDirectory()
            let directory = try Descriptor.open(temporary.path, O_RDONLY | O_DIRECTORY)
            let (old, new) = (Array("old content".utf8), Array("the new content".utf8))
            try AtomicFile.write(old, to: Array("f".utf8), in: directory)
            let plan = FaultPlan(nth: nth, error: .noSpace)
            let failed: Bool
            do {
                try plan.run { try AtomicFile.write(new, to: Array("f".utf8), in: directory) }
                failed = false
            } catch { failed = true }
            let now = try directory.open(Array("f".utf8), O_RDONLY).readAll()
            #expect(failed ? now == old || now == new : now == new)
            #expect(failed || plan.counts.fired == 0 || nth == 1)
            try AtomicFile.write(new, to: Array("f".utf8), in: directory)
            #expect(try directory.open(Array("f".utf8), O_RDONLY).readAll() == new)
        }
    #endif

    @Test("A path of 40 components of 255 bytes can be made, opened and looked at")
    func deep() throws {
        let temporary = try TemporaryDirectory()
        let component = [UInt8](repeating: UInt8(ascii: "d"), count: 255)
        var path = RelativePath.root
        for _ in 0..<40 { path = path.appending(component) }
        let root = try ConfinedDirectory(opening: temporary.path)
        var made = 0
        let directory = try root.makeDirectories(path) { _, _ in made += 1 }
        #expect(made == 40)
        let file = try directory.open(Array("f".utf8), O_WRONLY | O_CREAT | O_EXCL)
        try file.writeAll(Array("deep".utf8))
        #expect(try root.status(of: path.appending(Array("f".utf8))).size == 4)
        // Foundation cannot remove a path longer than PATH_MAX: take it apart from below.
        try directory.remove(Array("f".utf8))
        while !path.isRoot {
            try root.openDirectory(path.parent).remove(path.leaf, isDirectory: true)
            path = path.parent
        }
    }

    @Test("The cache opens a directory once and forgets what was moved away")
    func cache() throws {
        let temporary = try TemporaryDirectory()
        let root = try ConfinedDirectory(opening: temporary.path)
        var cache = DirectoryCache(root, limit: 2)
        let path = try RelativePath("a/b")
        let first = try cache.makingDirectory(path) { _, _ in }
        #expect(try cache.directory(path) === first)
        cache.forget(try RelativePath("a"))
        #expect(try cache.directory(path) !== first)
    }

    @Test("A listing gives every name, whatever its bytes, and its kind")
    func listing() throws {
        let temporary = try TemporaryDirectory()
        let directory = try Descriptor.open(temporary.path, O_RDONLY | O_DIRECTORY)
        var names: Set<[UInt8]> = [[0xFF, 0x0A], Array("plain".utf8), [UInt8](repeating: 0x61, count: 255)]
        for index in 0..<500 { names.insert(Array("file\(index)".utf8)) }
        for name in names { _ = try directory.open(name, O_WRONLY | O_CREAT | O_EXCL) }
        var seen: Set<[UInt8]> = []
        try directory.forEachEntry { name, kind in
            #expect(kind == .file || kind == nil)
            seen.insert(name)
        }
        #expect(seen == names)
    }

    @Test("Extended attributes, times, mode and holes survive a round trip")
    func metadata() throws {
        let temporary = try TemporaryDirectory()
        let directory = try Descriptor.open(temporary.path, O_RDONLY | O_DIRECTORY)
        let file = try directory.open(Array("f".utf8), O_RDWR | O_CREAT | O_EXCL)
        let time = FileTime(seconds: -1, nanoseconds: 999_999_999)
        try file.setMode(0o640)
        try file.setSize(1 << 20)
        try file.setModified(time)
        let status = try file.status()
        #expect(status.mode == 0o640)
        #expect(status.fingerprint.mtime == time)
        #expect(status.allocated == 0)
        let content = try file.nextContent(from: 0)
        #expect(content == nil)
        let attribute = ExtendedAttribute(name: Array("user.test".utf8), value: [0, 1, 2, 255])
        try file.setExtendedAttribute(attribute)
        let attributes = try file.extendedAttributes()
        #expect(attributes.contains(attribute))
    }
}
