import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

@Suite("Never out of the root, and never two groups against each other")
struct ConfinementTests {
    @Test("A link planted in the destination, as a file, as a parent, or while a group runs, is never followed")
    func plantedLinks() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try make(directory: bench.top + "/secret")
        try write(bench.top + "/secret/file", "secret")
        symlink("../secret", bench.destinationPath + "/parent")
        symlink("../secret/file", bench.destinationPath + "/file")
        try bench.write("parent/file", "content")
        try bench.write("parent/deep/new", "content")
        try bench.write("file", "content")
        let outcomes = try bench.save("parent/file", "file", "parent/deep/new", ledger: &ledger)
        #expect(outcomes.allSatisfy { $0.entry != nil }, "\(outcomes)")
        #expect(bench.stored("parent/file") == "content")
        #expect(try bench.versions().count == 2)
        // Planted after the plan: the directory is open already, or the way is refused.
        for step in ["looked", "staged", "versioned", "flushed"] {
            try bench.write("late-\(step)/sub/file", "content")
            let group = try bench.lease(["late-\(step)/sub/file"], &ledger)
            let sources = try bench.sources()
            let path = bench.destinationPath
            let plan = FaultPlan(onReach: {
                if $0 == step { symlink("../secret", path + "/late-\(step)") }
            })
            let outcome = plan.run { bench.destination.storeNow(group, from: sources) }[0]
            #expect(outcome.error?.disposition == .transient)
            bench.enter(group, [outcome], &ledger)
            #expect(try bench.save("late-\(step)/sub/file", ledger: &ledger)[0].entry != nil)
        }
        #expect(try tree(bench.top + "/secret") == ["file"])
        #expect(content(of: bench.top + "/secret/file") == "secret")
    }

    @Test("A name that safebackup keeps for itself, or that cannot be held, is refused before anything is written")
    func refusedNames() throws {
        let bench = try Bench(capabilities: {
            $0.nameLimit = 100
            $0.foldsCase = true
        })
        try write(bench.destinationPath + "/Taken", "theirs")
        try write(bench.destinationPath + "/Dir/x", "theirs")
        let names = [
            ".safebackup", ".safebackup/x", ".SAFEBACKUP/x", String(repeating: "n", count: 101),
            "d/" + String(repeating: "n", count: 101), "taken", "dir/y", "Taken", "Dir/x", "new",
        ]
        var jobs: [DueJob] = []
        for (number, name) in names.enumerated() {
            let path = try RelativePath(name)
            jobs.append(
                DueJob(
                    source: Bench.source, path: path, location: path, sequence: Int64(number), generation: 1,
                    action: .store))
        }
        let codes = bench.destination.planNow(jobs).map { plan -> SafeBackupError.Code? in
            guard case .failure(let error) = plan else { return nil }
            #expect(error.disposition == .permanent)
            return error.code
        }
        #expect(
            codes == [
                .reservedName, .reservedName, .reservedName, .nameTooLong, .nameTooLong, .nameCollision, .nameCollision,
                nil, nil, nil,
            ])
    }

    @Test("A group that stores below a directory which another moves away meanwhile promises nothing there")
    func movedUnderneath() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("x/old", "old")
        try bench.save("x", "x/old", ledger: &ledger)
        try bench.write("x/old", "rewritten")
        try bench.write("x/new", "new")
        // The first holds the directory open, because it keeps an older copy; the second has not looked there yet.
        let below = try bench.lease(["x/old", "x/new"], &ledger)
        let sources = try bench.sources()
        let mover = Locked<(leases: [LeasedJob], outcomes: [JobOutcome])>(([], []))
        mover.withLock { $0.leases = (try? bench.lease(["x"], &ledger)) ?? [] }
        let destination = bench.destination
        let path = bench.sourcePath
        let plan = FaultPlan(onReach: { step in
            guard step == "flushed", isDirectory(path + "/x") else { return }
            remove(tree: path + "/x")
            try? write(path + "/x", "a file")
            // As on a second thread: the first group has not begun to publish.
            mover.withLock { $0.outcomes = destination.storeNow($0.leases, from: sources) }
        })
        let outcomes = plan.run { bench.destination.storeNow(below, from: sources) }
        #expect(outcomes.map { $0.error?.disposition } == [.transient, .transient])
        let moved = mover.withLock { $0 }
        #expect(moved.outcomes.first?.entry?.displaced.map(\.kind) == [.directory])
        bench.enter(moved.leases, moved.outcomes, &ledger)
        bench.enter(below, outcomes, &ledger)
        ledger.expectTruth(bench.destinationPath)
        #expect(bench.stored("x") == "a file")
        // Both links of the old copy; nothing new went where the directory went.
        #expect(try bench.versions().values.sorted() == ["old", "old"])
        #expect(try bench.staged() == [])
    }

    @Test("A directory that another group made and has not flushed is flushed by whoever stores below it first")
    func sharedNewDirectory() throws {
        let bench = try Bench()
        var ledger = Ledger()
        try bench.write("a/b/one", "content")
        try bench.write("a/b/two", "content")
        let (first, second) = (try bench.lease(["a/b/one"], &ledger), try bench.lease(["a/b/two"], &ledger))
        let sources = try bench.sources()
        let (destination, path) = (bench.destination, bench.destinationPath)
        let counts = Locked<[Int]>([])
        let plan = FaultPlan(onReach: { step in
            // The first group has made a/b and renamed its file there; nothing of that is flushed.
            guard step == "renamed", isDirectory(path + "/a/b"), counts.withLock({ $0.isEmpty }) else { return }
            counts.withLock { $0.append(0) }
            let inner = FaultPlan(call: "fsync")
            let outcomes = inner.run { destination.storeNow(second, from: sources) }
            #expect(outcomes.first?.entry != nil)
            counts.withLock { $0.append(inner.counts.calls) }
        })
        #expect(plan.run { destination.storeNow(first, from: sources) }[0].entry != nil)
        // The file, a/b with its name, and a and the root with the directories in them.
        #expect(counts.withLock { $0 } == [0, 4])
    }

    @Test("Groups on several threads share new directories, versions and flushes")
    func parallelGroups() async throws {
        let bench = try Bench()
        let executor = try ThreadExecutor(name: "test.par", count: 3)
        defer { executor.stop() }
        let root = try ConfinedDirectory(opening: FilePath(bench.sourcePath))
        var ledger = Ledger()
        for round in 0..<3 {
            var groups: [[LeasedJob]] = []
            for group in 0..<6 {
                // Interleaved, so that all groups make and fill the same directories.
                let paths = (0..<40).map { "d\($0 % 7)/e\($0 % 3)/file\(group)-\($0)" }
                for path in paths { try bench.write(path, "content \(round) \(path)") }
                groups.append(try bench.lease(paths, &ledger))
            }
            let destination = bench.destination
            let outcomes = await withTaskGroup(of: (Int, [JobOutcome]).self) { tasks in
                for (number, group) in groups.enumerated() {
                    tasks.addTask {
                        (number, await executor.run { destination.storeNow(group, from: [Bench.source: root]) })
                    }
                }
                var all: [Int: [JobOutcome]] = [:]
                for await (number, outcomes) in tasks { all[number] = outcomes }
                return all
            }
            for (number, group) in groups.enumerated() {
                let of = try #require(outcomes[number])
                #expect(of.allSatisfy { $0.entry != nil })
                bench.enter(group, of, &ledger)
            }
            ledger.expectTruth(bench.destinationPath)
        }
        #expect(try bench.staged() == [])
        // One version of each, of the first round.
        #expect(try bench.versions().count == 240)
    }
}
