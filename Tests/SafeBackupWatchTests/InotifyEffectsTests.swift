import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupWatch

/// The digest with the real kernel, on the test's own thread, so that calls can be made to fail.
@Suite("Watching with limits and failures")
struct InotifyEffectsTests {
    private final class Fixture {
        let sandbox: Sandbox
        let inotify: Inotify
        let filter: TreeFilter
        var digest: WatchDigest

        init(_ sandbox: Sandbox) throws {
            self.sandbox = sandbox
            inotify = try Inotify()
            filter = try sandbox.filter()
            digest = WatchDigest(filter: filter)
        }

        func effects() -> InotifyEffects {
            InotifyEffects(inotify: inotify, filter: filter) { [root = sandbox.root] in root }
        }

        func place() -> WatchReport? {
            var effects = effects()
            return digest.place(&effects)
        }

        /// One pass over the directories that are not watched; later than all files. Returns those that differ, and
        /// takes them as known.
        func glances() throws -> [RelativePath] {
            var effects = effects()
            var differing: [RelativePath] = []
            var number: Int32 = 0
            while let node = digest.tree.firstNode(from: number, onlyUncertain: true) {
                number = node.rawValue + 1
                let look = digest.glance(
                    at: node, now: FileTime(nanoseconds: .max), inodesAreStable: true, watching: true, &effects)
                if let look, look.differs { differing.append(look.path) }
            }
            for path in differing {
                var scanner = Scanner(root: sandbox.root, filter: filter, from: path, depth: .entries)
                var signature = ListingSignature(now: FileTime(nanoseconds: .max), inodesAreStable: true)
                for listed in try scanner.next() ?? [] { for entry in listed.entries { signature.add(entry) } }
                digest.trustGlance(at: path, signature.value)
            }
            return differing
        }

        /// Digests what waits in the kernel's queue.
        func digestEvents() throws -> WatchBatch {
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
            defer { buffer.deallocate() }
            var effects = effects()
            while true {
                let length = try inotify.read(into: buffer)
                if length == 0 { break }
                InotifyEvent.parse(UnsafeRawBufferPointer(rebasing: buffer[..<length])) {
                    digest.digest($0, &effects)
                }
            }
            digest.endBatch(&effects)
            return digest.findings.drain()
        }
    }

    @Test("Past the system's limit of watches the rest is counted, and everything is still listed")
    func watchLimit() throws {
        let sandbox = try Sandbox()
        for index in 0..<300 { try sandbox.mkdir("\(index)") }
        let fixture = try Fixture(sandbox)
        let limited = FaultPlan(call: "inotify_add_watch", nth: 101, error: .noSpace, isForever: true)
        let report = try #require(limited.run { fixture.place() })
        #expect(report.directories == 301 && report.watched == 100)
        #expect(report.unwatched.count == 100)
        #expect(report.unwatched.allSatisfy { $0.obstacle == .watchLimit })
        // Once the limit is raised, another pass completes them.
        let complete = try #require(fixture.place())
        #expect(complete.directories == 301 && complete.watched == 301 && complete.unwatched.isEmpty)
    }

    @Test("A new directory past the limit is found whole, then looked at, and watched when a watch is free")
    func newDirectoryPastLimit() throws {
        let sandbox = try Sandbox()
        let fixture = try Fixture(sandbox)
        _ = fixture.place()
        try sandbox.mkdir("d/e")
        try sandbox.write("d/e/f")
        let limited = FaultPlan(call: "inotify_add_watch", error: .noSpace, isForever: true)
        let batch = try limited.run { try fixture.digestEvents() }
        #expect(batch.desynced.isEmpty)
        #expect(Set(batch.changes.map(\.path)) == [.at("d"), .at("d/e"), .at("d/e/f")])
        #expect(fixture.digest.watchCount == 1 && fixture.digest.directoryCount == 3)
        // The first look at each asks for a comparison; then only what changed does.
        #expect(try Set(limited.run { try fixture.glances() }) == [.at("d"), .at("d/e")])
        #expect(try limited.run { try fixture.glances() } == [])
        try sandbox.write("d/e/g")
        #expect(try limited.run { try fixture.glances() } == [.at("d/e")])
        #expect(try fixture.digestEvents().isEmpty)
        // Watched from now on; what came between the last look and the watch is compared.
        #expect(Set(try fixture.glances()) == [.at("d"), .at("d/e")])
        #expect(try fixture.glances() == [])
        #expect(fixture.digest.watchCount == 3)
        try sandbox.write("d/e/h")
        #expect(try fixture.digestEvents().changes.map(\.path) == [.at("d/e/h")])
    }

    @Test("An unreadable directory is told, and entered when its mode changes")
    func unreadable() throws {
        let sandbox = try Sandbox()
        let fixture = try Fixture(sandbox)
        _ = fixture.place()
        try sandbox.mkdir("d")
        try sandbox.write("d/f")
        let refusing = FaultPlan(call: "open", error: .permissionDenied, isForever: true)
        let refused = try refusing.run { try fixture.digestEvents() }
        #expect(refused.desynced.isEmpty && refused.notSaved.map(\.reason) == [.unreadable])
        #expect(fixture.digest.unreadableCount == 1)
        #expect(refused.changes.map(\.path) == [.at("d")])
        try sandbox.root.openDirectory(.at("d")).setMode(0o711)
        let allowed = try fixture.digestEvents()
        #expect(allowed.desynced.isEmpty)
        #expect(allowed.changes.contains(Change(path: .at("d/f"), kind: .found, isDirectory: false)))
        #expect(fixture.digest.watchCount == 2 && fixture.digest.unreadableCount == 0)
    }

    @Test("A listing that fails half way is no whole listing: it is looked at again, and stays watched")
    func failingListing() throws {
        let sandbox = try Sandbox()
        let fixture = try Fixture(sandbox)
        _ = fixture.place()
        try sandbox.mkdir("d/e")
        let failing = FaultPlan(call: "getdents", nth: 2, error: .ioError)
        let batch = try failing.run { try fixture.digestEvents() }
        #expect(failing.counts.fired == 1)
        #expect(batch.desynced.isEmpty && fixture.digest.hasDoubts)
        #expect(fixture.digest.watchCount == 3)
        #expect(try fixture.glances() == [.at("d")])
        #expect(fixture.digest.tree.firstNode(from: 0, onlyUncertain: true) == nil)
    }

    @Test("After every failing call while a directory is entered it is looked at again, or nothing is missing")
    func everyCallFails() throws {
        for error in [Errno.ioError, .tooManyOpenFiles, .noMemory, .permissionDenied] {
            for nth in 1...40 {
                let sandbox = try Sandbox()
                let fixture = try Fixture(sandbox)
                _ = fixture.place()
                try sandbox.mkdir("a/b")
                try sandbox.write("a/b/f")
                try sandbox.write("a/g")
                let plan = FaultPlan(nth: nth, error: error)
                var batch = WatchBatch()
                do {
                    batch = try plan.run { try fixture.digestEvents() }
                } catch let thrown as Errno {
                    // Reading the queue itself: nothing was taken out of it.
                    #expect(thrown == error)
                    batch = try fixture.digestEvents()
                }
                let isComplete =
                    fixture.digest.watchCount == 3
                    && Set(batch.changes.map(\.path)).isSuperset(of: [.at("a"), .at("a/b"), .at("a/b/f"), .at("a/g")])
                let isTold = batch.notSaved.contains { $0.reason == .unreadable }
                let isLookedAt = fixture.digest.tree.firstNode(from: 0, onlyUncertain: true) != nil
                #expect(isComplete || isTold || isLookedAt, "\(error) at call \(nth)")
                if plan.counts.fired == 0 { break }
                // The next pass makes up for it.
                _ = try fixture.glances()
                #expect(fixture.digest.tree.firstNode(from: 0, onlyUncertain: true) == nil)
                #expect(fixture.place()?.watched == 3, "\(error) at call \(nth)")
            }
        }
    }

    @Test("A directory renamed away for good loses its watches, also those below it")
    func unmatchedRename() throws {
        let (sandbox, outside) = (try Sandbox(), try Sandbox())
        try sandbox.mkdir("d/e/f")
        let fixture = try Fixture(sandbox)
        _ = fixture.place()
        #expect(fixture.digest.watchCount == 4)
        try sandbox.move("d", to: outside, "d")
        let batch = try fixture.digestEvents()
        #expect(batch.changes == [Change(path: .at("d"), kind: .vanished, isDirectory: true)])
        #expect(fixture.digest.watchCount == 1 && fixture.digest.directoryCount == 1)
        try outside.write("d/e/f/g")
        #expect(try fixture.digestEvents().isEmpty)
    }

    @Test("A directory renamed inside the source keeps its watches")
    func matchedRename() throws {
        let sandbox = try Sandbox()
        for index in 0..<50 { try sandbox.mkdir("d/\(index)") }
        let fixture = try Fixture(sandbox)
        _ = fixture.place()
        try sandbox.move("d", "e")
        let counting = FaultPlan(call: "inotify_add_watch")
        let batch = try counting.run { try fixture.digestEvents() }
        #expect(batch.changes.first == Change(path: .at("d"), kind: .vanished, isDirectory: true))
        #expect(batch.changes.filter { $0.kind == .vanished }.count == 1)
        #expect(fixture.digest.watchCount == 52)
        // No watch was ended, so no event of an ended watch comes.
        #expect(try fixture.inotify.read(into: .allocate(byteCount: 4_096, alignment: 16)) == 0)
    }
}
