import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// The source changes at the worst moments: between the look and the open, and while it is read.
@Suite("A source that changes")
struct ChangingSourceTests {
    enum Change: CaseIterable {
        case appended, truncated, rewritten, replaced, deleted, becameLink, becameFifo, parentBecameLink
    }

    private func apply(_ change: Change, in source: String) {
        let path = source + "/d/file"
        do {
            switch change {
            case .appended:
                let file = open(path, O_WRONLY | O_APPEND)
                _ = Glibc.write(file, "more", 4)
                close(file)
            case .truncated: truncate(path, 10)
            case .rewritten:
                let file = open(path, O_WRONLY)
                pwrite(file, "XXXX", 4, 100_000)
                close(file)
            case .replaced:
                try write(source + "/new", "quite another")
                rename(source + "/new", path)
            case .deleted: unlink(path)
            case .becameLink:
                unlink(path)
                symlink(source + "/../secret/file", path)
            case .becameFifo:
                unlink(path)
                mkfifo(path, 0o600)
            case .parentBecameLink:
                rename(source + "/d", source + "/d-moved")
                symlink("../secret", source + "/d")
            }
        } catch {
            Issue.record(error)
        }
    }

    private func makeBench() throws -> (Bench, [UInt8]) {
        let bench = try Bench()
        // Larger than one buffer, so that the change falls between two reads.
        let content = [UInt8](repeating: 7, count: 300_000)
        try make(directory: bench.sourcePath + "/d")
        try SafeBackupLocalTests.write(bench.sourcePath + "/d/file", content, mtime: 1_500_000_000)
        try write(bench.top + "/secret/file", String(repeating: "secret", count: 50_000))
        return (bench, content)
    }

    @Test(
        "Whatever happens to a file while it is read, no copy is wrong, and nothing is read through a link",
        arguments: Change.allCases, ["looked", "copying"])
    func changes(_ change: Change, at step: String) throws {
        let (bench, original) = try makeBench()
        var ledger = Ledger()
        let group = try bench.lease(["d/file"], &ledger)
        let sources = try bench.sources()
        let source = bench.sourcePath
        let plan = FaultPlan(onReach: { reached in
            if reached == step, status(of: source + "/d/file")?.st_mtim.tv_sec == 1_500_000_000 {
                self.apply(change, in: source)
            }
        })
        let outcome = plan.run { bench.destination.storeNow(group, from: sources) }[0]
        bench.enter(group, [outcome], &ledger)
        ledger.expectTruth(bench.destinationPath)
        if let stored = outcome.copied {
            // Only the file that was opened can have been stored, whole and as it was.
            #expect(change == .parentBecameLink)
            #expect(stored.digest == SHA256.digest(of: original))
        } else {
            let error = try #require(outcome.error)
            #expect(error.disposition == .transient, "\(error)")
            #expect([.torn, .changedKind].contains(error.code), "\(error)")
            #expect(status(of: bench.destinationPath + "/d/file") == nil)
        }
        #expect(try bench.staged() == [])
        // The next try finds what is there by then.
        let next = try bench.save("d/file", ledger: &ledger)[0]
        switch change {
        case .deleted, .parentBecameLink: #expect(next == .gone)
        case .becameFifo: #expect(next.error?.code == .specialFile)
        case .becameLink: #expect(next.entry?.kind == .symlink)
        default:
            #expect(
                next.copied?.digest == bytes(of: bench.sourcePath + "/d/file").map { SHA256.digest(of: $0) })
        }
        let secret = Array("secret".utf8)
        for path in try tree(bench.destinationPath) {
            #expect(bytes(of: bench.destinationPath + "/" + path)?.starts(with: secret) != true, "\(path)")
        }
    }

    @Test("A file that somebody still writes waits until it is quiet, closed, or has waited for long enough")
    func writer() throws {
        ProcessSignals.ignoreHarmful()
        let probe = WriterProbe(quiet: .seconds(2), limit: .seconds(60))
        let bench = try Bench(writerProbe: probe)
        guard try VolumeStatistics(try #require(bench.sources()[Bench.source]).root).type.hasLeases else { return }
        try bench.write("file", "half of")
        // Not before the write: a file from the future says nothing.
        bench.time.set(WallClock.system.now)
        var writer: Descriptor? = try Descriptor.open(FilePath(bench.sourcePath + "/file"), O_WRONLY)
        var ledger = Ledger()
        func store(firstSeen: Duration) throws -> JobOutcome {
            var group = try bench.lease(["file"], &ledger)
            group[0].job.firstSeenAt = bench.now + firstSeen
            return bench.destination.storeNow(group, from: try bench.sources())[0]
        }
        #expect(try store(firstSeen: .zero).error?.code == .unsettled)
        #expect(try bench.staged() == [])
        #expect(try store(firstSeen: .seconds(-61)).copied != nil, "the limit was over")
        bench.time.set(bench.now + .seconds(3))
        #expect(try store(firstSeen: .zero).copied != nil, "it was quiet")
        bench.time.set(WallClock.system.now)
        try bench.write("file", "closed by now")
        withExtendedLifetime(writer) {}
        writer = nil
        // A process that another test is just starting has our descriptors until it becomes its program.
        let deadline = ContinuousClock.now + .seconds(30)
        var last = try store(firstSeen: .zero)
        while last.error?.code == .unsettled, ContinuousClock.now < deadline { last = try store(firstSeen: .zero) }
        #expect(last.copied != nil, "nobody has it open")
    }

    @Test("A file that never holds still is kept as fuzzy at the fourth try, and the last good copy stays for ever")
    func fuzzy() throws {
        let (bench, _) = try makeBench()
        var ledger = Ledger()
        let good = try #require(try bench.save("d/file", ledger: &ledger)[0].copied)
        let source = bench.sourcePath
        var outcomes: [JobOutcome] = []
        for attempt in 1...4 {
            try bench.write("d/file", String(repeating: "log \(attempt) ", count: 40_000))
            let group = try bench.lease(["d/file"], &ledger)
            let sources = try bench.sources()
            let plan = FaultPlan(onReach: { if $0 == "copying" { self.apply(.appended, in: source) } })
            let outcome = plan.run { bench.destination.storeNow(group, from: sources) }[0]
            bench.enter(group, [outcome], &ledger)
            ledger.expectTruth(bench.destinationPath)
            outcomes.append(outcome)
        }
        #expect(outcomes[..<3].allSatisfy { $0.error?.code == .torn })
        let entry = try #require(outcomes[3].entry)
        #expect(entry.isFuzzy)
        #expect(entry.displaced.map(\.reason) == [.lastGood])
        #expect(ledger.versions.values.map(\.digest) == [good.digest])
        // Quiet now: the same bytes are read whole, and the copy is good again.
        let next = try bench.save("d/file", ledger: &ledger)[0]
        #expect(next.entry?.isFuzzy == false)
        #expect(bench.stored("d/file") == content(of: source + "/d/file"))
        #expect(ledger.versions.values.contains { $0.reason == .lastGood && $0.digest == good.digest })
    }

    @Test("A file read within two seconds of its change is racy, and is compared by digest the next time")
    func racy() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content")
        let changed = try #require(status(of: bench.sourcePath + "/file")).st_ctim
        let near = Timestamp(microseconds: Int64(changed.tv_sec) * 1_000_000 + Int64(changed.tv_nsec) / 1_000)
        bench.time.set(near + .milliseconds(1_900))
        #expect(try bench.save("file", ledger: &ledger)[0].entry?.isRacy == true)
        // Same size and the same time stamps, as a change within one step of the clock leaves them.
        let before = try #require(ledger.names["file"]).fingerprint
        try bench.write("file", "CONTENT")
        var times = [timespec](
            repeating: timespec(tv_sec: Int(before.mtime.seconds), tv_nsec: Int(before.mtime.remainder)), count: 2)
        utimensat(AT_FDCWD, bench.sourcePath + "/file", &times, 0)
        bench.advance(minutes: 60)
        let second = try bench.save("file", ledger: &ledger)[0]
        #expect(second.copied?.digest == SHA256.digest(of: Array("CONTENT".utf8)))
        #expect(second.entry?.isRacy == false)
    }

    @Test("A job that asks for a digest first stages nothing when the digest is equal, and copies when it is not")
    func hashFirst() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("file", "content", mtime: 1_500_000_000)
        try bench.save("file", ledger: &ledger)
        ledger.hashFirst = ["file"]
        let group = try bench.lease(["file"], &ledger)
        let sources = try bench.sources()
        let plan = FaultPlan(call: "write")
        let outcome = plan.run { bench.destination.storeNow(group, from: sources) }[0]
        #expect(outcome.isKept && plan.counts.calls == 0)
        // A change that the fingerprint does not show.
        try bench.write("file", "CONTENT", mtime: 1_500_000_000)
        ledger.hashFirst = ["file"]
        #expect(try bench.save("file", ledger: &ledger)[0].copied?.digest == SHA256.digest(of: Array("CONTENT".utf8)))
    }

    @Test("Unreadable files and failing reads are named, and block nothing", arguments: [true, false])
    func unreadable(isOpen: Bool) throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("one", "content")
        try bench.write("two", "content")
        let group = try bench.lease(["one", "two"], &ledger)
        let sources = try bench.sources()
        // The sentinel is read by two calls and opened by one; the path and the volume before that.
        let plan = FaultPlan(
            call: isOpen ? "open" : "read", nth: isOpen ? 4 : 3, error: isOpen ? .permissionDenied : .ioError)
        let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
        #expect(plan.counts.fired == 1)
        let failed = outcomes.compactMap(\.error)
        #expect(failed.map(\.code) == [isOpen ? .unreadable : .sourceFailed], "\(outcomes)")
        #expect(failed.first?.message.contains("one") == true)
        #expect(outcomes.compactMap(\.entry).count == 1)
    }

    @Test("A large file is written past the page cache, and through it where that is refused", arguments: [0, 1, 2, 3])
    func large(refusal: Int) throws {
        let bench = try Bench(in: Bench.disk)
        var ledger = Ledger()
        let block = (0..<65_537).map { UInt8(truncatingIfNeeded: $0 &* 131 >> 5) }
        var content: [UInt8] = []
        for _ in 0..<140 { content += block }
        try SafeBackupLocalTests.write(bench.sourcePath + "/file", content)
        let group = try bench.lease(["file"], &ledger)
        let sources = try bench.sources()
        let plan =
            switch refusal {
            case 1: FaultPlan(call: "write", nth: 1, error: .invalidArgument)
            case 2: FaultPlan(call: "write", nth: 4, error: .invalidArgument)
            case 3: FaultPlan(isShort: true)
            default: FaultPlan()
            }
        let outcome = plan.run { bench.destination.storeNow(group, from: sources) }[0]
        #expect(outcome.copied?.digest == SHA256.digest(of: content))
        #expect(bytes(of: bench.destinationPath + "/file") == content)
        bench.enter(group, [outcome], &ledger)
        content[5 << 20] ^= 1
        try SafeBackupLocalTests.write(bench.sourcePath + "/file", content)
        let again = try bench.lease(["file"], &ledger)
        let refused = FaultPlan(call: "write", nth: 3, error: .noSpace)
        let second = refused.run { bench.destination.storeNow(again, from: sources) }[0]
        #expect(second.error?.disposition == .destinationFull)
        #expect(try bench.staged() == [])
    }
}
