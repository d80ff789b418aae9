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

    @Test("A new directory past the limit is told, found whole, and asks for a reconcile")
    func newDirectoryPastLimit() throws {
        let sandbox = try Sandbox()
        let fixture = try Fixture(sandbox)
        _ = fixture.place()
        try sandbox.mkdir("d/e")
        try sandbox.write("d/e/f")
        let limited = FaultPlan(call: "inotify_add_watch", error: .noSpace, isForever: true)
        let batch = try limited.run { try fixture.digestEvents() }
        #expect(Set(batch.desynced) == [.watchLimit(.at("d")), .watchLimit(.at("d/e"))])
        #expect(Set(batch.changes.map(\.path)) == [.at("d"), .at("d/e"), .at("d/e/f")])
        #expect(fixture.digest.watchCount == 1 && fixture.digest.directoryCount == 3)
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
        #expect(refused.desynced == [.unreadable(.at("d"))])
        #expect(refused.changes.map(\.path) == [.at("d")])
        try sandbox.root.openDirectory(.at("d")).setMode(0o711)
        let allowed = try fixture.digestEvents()
        #expect(allowed.desynced.isEmpty)
        #expect(allowed.changes.contains(Change(path: .at("d/f"), kind: .found, isDirectory: false)))
        #expect(fixture.digest.watchCount == 2)
    }

    @Test("A listing that fails half way is no whole listing: it is told, and the directory stays watched")
    func failingListing() throws {
        let sandbox = try Sandbox()
        let fixture = try Fixture(sandbox)
        _ = fixture.place()
        try sandbox.mkdir("d/e")
        let failing = FaultPlan(call: "getdents", nth: 2, error: .ioError)
        let batch = try failing.run { try fixture.digestEvents() }
        #expect(failing.counts.fired == 1)
        #expect(batch.desynced == [.unreadable(.at("d"))])
        #expect(fixture.digest.watchCount == 3)
    }

    @Test("Every failing call while a directory is entered is told as a reason to reconcile, or changes nothing")
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
                let isTold = !batch.desynced.isEmpty || batch.notSaved.contains { $0.reason == .unreadable }
                #expect(isComplete || isTold, "\(error) at call \(nth)")
                if plan.counts.fired == 0 { break }
                // The next pass makes up for it.
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
