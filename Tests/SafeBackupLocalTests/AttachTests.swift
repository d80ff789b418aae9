import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

@Suite("Attaching a destination")
struct AttachTests {
    private func other(_ path: String) throws -> LocalDestination {
        LocalDestination(path: FilePath(path), io: try ThreadExecutor(name: "test.other"))
    }

    private func code(_ body: () throws -> Void) -> SafeBackupError.Code? {
        #expect(throws: SafeBackupError.self) { try body() }?.code
    }

    @Test("The probe finds what the file system can, and leaves nothing behind")
    func probe() throws {
        let bench = try Bench(in: Bench.disk)
        let capabilities = try #require(bench.destination.sentinel?.capabilities)
        #expect(capabilities.hardLinks && capabilities.symbolicLinks && !capabilities.foldsCase)
        #expect(capabilities.nameLimit == 255)
        #expect(try bench.staged() == [])
        #expect(status(of: bench.destinationPath + "/.safebackup").map { $0.st_mode & 0o777 } == 0o700)
        #expect(
            try list(bench.destinationPath + "/.safebackup") == [
                "catalogue", "destination.json", "staging", "versions",
            ])
    }

    @Test("Inspecting tells a new place from a used one and from a destination, and writes nothing")
    func inspect() throws {
        let bench = try Bench()
        let known = try LocalDestination.inspect(FilePath(bench.destinationPath))
        #expect(known.sentinel?.id == Bench.id && known.isEmpty && known.exists)
        #expect(known.device == status(of: bench.destinationPath).map { UInt64($0.st_dev) })
        try make(directory: bench.top + "/used/lost+found")
        #expect(try LocalDestination.inspect(FilePath(bench.top + "/used")).isEmpty)
        try write(bench.top + "/used/file", "")
        let used = try LocalDestination.inspect(FilePath(bench.top + "/used"))
        #expect(used.exists && !used.isEmpty && used.sentinel == nil)
        #expect(try list(bench.top + "/used") == ["file", "lost+found"])
        #expect(try !LocalDestination.inspect(FilePath(bench.top + "/none")).exists)
        #expect(code { _ = try LocalDestination.inspect(FilePath(bench.top + "/used/file")) } == .destinationMissing)
        try write(bench.top + "/used/.safebackup/destination.json", "garbage")
        #expect(code { _ = try LocalDestination.inspect(FilePath(bench.top + "/used")) } == .sentinelForeign)
    }

    @Test("Only the destination with the known id is attached, and only once")
    func identity() throws {
        let bench = try Bench()
        #expect(code { try self.other(bench.destinationPath).attachNow(expecting: "else") } == .sentinelForeign)
        #expect(code { try self.other(bench.destinationPath).attachNow(expecting: Bench.id) } == .destinationTaken)
        #expect(code { try self.other(bench.top + "/none").attachNow(expecting: Bench.id) } == .destinationMissing)
        #expect(code { try self.other(bench.sourcePath).attachNow(expecting: Bench.id) } == .sentinelMissing)
        #expect(
            code { try self.other(bench.destinationPath).createNow(id: "new", sources: []) } == .destinationTaken)
        // Detached, and attached again, it is free for another, and for us again.
        bench.destination.detachNow()
        let second = try other(bench.destinationPath)
        try second.attachNow(expecting: Bench.id)
        #expect(code { try bench.destination.attachNow(expecting: Bench.id) } == .destinationTaken)
        second.detachNow()
        try bench.destination.attachNow(expecting: Bench.id)
    }

    @Test("A create that failed at any call can be done again, and leaves no sentinel before its end")
    func createFails() throws {
        var call = 1
        while true {
            let top = try Bench.temporaryDirectory(in: Bench.fast)
            defer { remove(tree: top) }
            let destination = try other(top + "/new")
            let plan = FaultPlan(nth: call, error: .ioError)
            do {
                try plan.run { try destination.createNow(id: Bench.id, sources: []) }
            } catch {
                do {
                    try destination.createNow(id: Bench.id, sources: [])
                } catch {
                    // The sentinel was there, and only its directory's flush had failed.
                    #expect(error.code == .destinationTaken)
                }
            }
            try destination.attachNow(expecting: Bench.id)
            #expect(try list(top + "/new/.safebackup/staging") == [], "call \(call)")
            if plan.counts.fired == 0 { break }
            call += 1
        }
        #expect(call > 30)
    }

    enum Loss: CaseIterable { case sentinelGone, sentinelForeign, pathGone, pathReplaced, pathIsLink }

    @Test("A destination that went away is not written to; its jobs wait without counting", arguments: Loss.allCases)
    func lost(_ loss: Loss) throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content")
        let group = try bench.lease(["file"], &ledger)
        let path = bench.destinationPath
        switch loss {
        case .sentinelGone: unlink(path + "/.safebackup/destination.json")
        case .sentinelForeign:
            let sentinel = Sentinel(id: "other", sources: [], capabilities: Capabilities())
            try write(path + "/.safebackup/destination.json", try sentinel.encoded())
        case .pathGone: rename(path, bench.top + "/moved")
        case .pathReplaced:
            // As when a disk is unmounted lazily: the bare mount point is there.
            rename(path, bench.top + "/moved")
            try make(directory: path)
        case .pathIsLink:
            rename(path, bench.top + "/moved")
            try make(directory: bench.top + "/elsewhere")
            symlink(bench.top + "/elsewhere", path)
        }
        let places = [path, bench.top + "/moved", bench.top + "/elsewhere"].filter { isDirectory($0) }
        let before = try places.map { try tree($0) }
        for error in bench.destination.storeNow(group, from: try bench.sources()).map(\.error) {
            #expect(error?.disposition == .destinationUnavailable, "\(String(describing: error))")
        }
        guard case .failure(let planned)? = bench.destination.planNow(group.map(\.job)).first else {
            Issue.record("a plan for a lost destination")
            return
        }
        #expect(planned.disposition == .destinationUnavailable)
        #expect(throws: SafeBackupError.self) { try bench.destination.recoverNow(group) }
        #expect(throws: SafeBackupError.self) { try bench.destination.emptyStagingNow() }
        #expect(try places.map { try tree($0) } == before)
    }

    @Test("A destination that was wiped while nothing of it was open is noticed, in the same directory too")
    func wipedAtRest() throws {
        let bench = try Bench()
        bench.destination.detachNow()
        try bench.destination.lookNow(expecting: Bench.id)
        remove(tree: bench.destinationPath + "/.safebackup")
        #expect(code { try bench.destination.lookNow(expecting: Bench.id) } == .sentinelMissing)
        rename(bench.destinationPath, bench.top + "/moved")
        #expect(code { try bench.destination.lookNow(expecting: Bench.id) } == .destinationMissing)
    }

    @Test("Where a directory cannot be locked, a file beside the sentinel is")
    func fileLock() throws {
        let bench = try Bench()
        bench.destination.detachNow()
        func attach(_ destination: LocalDestination) throws {
            try FaultPlan(call: "flock", nth: 1, error: .invalidArgument).run {
                try destination.attachNow(expecting: Bench.id)
            }
        }
        let second = try other(bench.destinationPath)
        try attach(second)
        #expect(code { try attach(bench.destination) } == .destinationTaken)
        second.detachNow()
        try attach(bench.destination)
    }

    @Test("The sentinel's sources are changed as a whole, and only ours")
    func update() throws {
        let bench = try Bench()
        let source = SentinelSource(
            id: "s", machine: "m", path: Array("/home".utf8), identity: nil, prefix: try RelativePath("home"))
        try bench.destination.updateSentinelNow { $0.sources = [source] }
        let again = try LocalDestination.inspect(FilePath(bench.destinationPath))
        #expect(again.sentinel?.sources == [source])
        // It is known as ours, not as a stranger's change.
        var ledger = Ledger()
        try bench.write("file", "content")
        #expect(try bench.save("file", ledger: &ledger)[0].error == nil)
    }

    @Test("Staging is emptied of all that is in it, and of nothing that it leads to")
    func emptyStaging() throws {
        let bench = try Bench()
        let staging = bench.destinationPath + "/.safebackup/staging"
        try write(bench.top + "/precious/file", "keep")
        try write(staging + "/s1-1", "left")
        try write(staging + "/deep/er/file", "left")
        symlink(bench.top + "/precious", staging + "/link")
        symlink(bench.top + "/precious", staging + "/deep/link")
        try bench.destination.emptyStagingNow()
        #expect(try bench.staged() == [])
        #expect(content(of: bench.top + "/precious/file") == "keep")
    }
}
