import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// A number generator with a seed, so that a failure can be seen again.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// Few names and every kind of change, of failure and of meddling, at random: what no single case thought of.
@Suite("At random")
struct RandomTests {
    private static let paths = ["a", "a/x", "a/y", "a/b", "a/b/x", "c", "c/x", "d", "e"]

    private func changeSource(_ bench: Bench, _ random: inout SplitMix, _ counter: inout Int) throws {
        let path = bench.sourcePath + "/" + (Self.paths.randomElement(using: &random) ?? "a")
        counter += 1
        // The parent may be a file or a link by now; then this change is none.
        let parent = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
        guard isDirectory(String(parent)) else { return }
        switch Int.random(in: 0..<8, using: &random) {
        case 0: remove(tree: path)
        case 1:
            remove(tree: path)
            try make(directory: path)
        case 2:
            remove(tree: path)
            symlink("target \(counter)", path)
        case 3:
            if linkTarget(of: path) == nil { chmod(path, [0o600, 0o644, 0o755].randomElement(using: &random) ?? 0) }
        default:
            if isDirectory(path) || linkTarget(of: path) != nil { remove(tree: path) }
            try write(path, "content \(counter)")
        }
    }

    /// Somebody works in the backup. What they put there is theirs and must never be lost.
    private func changeDestination(
        _ bench: Bench, _ random: inout SplitMix, _ counter: inout Int, _ foreign: inout Set<String>,
        _ ledger: inout Ledger
    ) throws {
        let name = Self.paths.randomElement(using: &random) ?? "a"
        let path = bench.destinationPath + "/" + name
        let parent = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
        guard isDirectory(String(parent)), !isDirectory(path) else { return }
        if let old = content(of: path), foreign.contains(old) { return }
        counter += 1
        unlink(path)
        try ledger.betray(name)
        if Bool.random(using: &random) {
            try write(path, "foreign \(counter)")
            foreign.insert("foreign \(counter)")
        }
    }

    private func expectForeign(_ bench: Bench, _ foreign: Set<String>, _ comment: String) throws {
        let all = try tree(bench.destinationPath).compactMap { content(of: bench.destinationPath + "/" + $0) }
        #expect(foreign.isSubset(of: all), "\(foreign.subtracting(all)) \(comment)")
    }

    @Test(
        "Every promise holds after every round, and a quiet source is equal in the end",
        arguments: 1...(isLong ? 500 : 8))
    func rounds(seed: UInt64) throws {
        var random = SplitMix(state: seed)
        let hasHardLinks = seed % 4 != 0
        let bench = try Bench(capabilities: { $0.hardLinks = hasHardLinks })
        var ledger = Ledger()
        var counter = 0
        var foreign: Set<String> = []
        // Not EPERM: what the destination refuses of the metadata is no failure.
        let errors: [Errno] = [.noSpace, .ioError, .tooManyOpenFiles, .noMemory, .readOnlyFileSystem]
        for round in 1...25 {
            for _ in 0..<Int.random(in: 1...5, using: &random) { try changeSource(bench, &random, &counter) }
            if round % 3 == 0 { try changeDestination(bench, &random, &counter, &foreign, &ledger) }
            bench.advance(minutes: Int64.random(in: 0...8, using: &random))
            let comment = "(seed \(seed), round \(round))"
            let group = try bench.lease(Self.paths.shuffled(using: &random), &ledger)
            let sources = try bench.sources()
            let isEnd = Bool.random(using: &random)
            let plan = FaultPlan(
                nth: Int.random(in: 1...160, using: &random), error: errors.randomElement(using: &random),
                isForever: isEnd)
            let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
            if isEnd && plan.counts.fired > 0 {
                for recovered in try bench.destination.recoverNow(group) { ledger.enter(recovered, at: bench.now) }
            } else {
                bench.enter(group, outcomes, &ledger)
            }
            ledger.expectTruth(bench.destinationPath, comment)
            try expectForeign(bench, foreign, comment)
            #expect(try bench.staged() == [], "\(comment)")
            if round % 5 == 0 { try expectEqual(bench, &ledger, comment) }
        }
    }

    private func expectEqual(_ bench: Bench, _ ledger: inout Ledger, _ comment: String) throws {
        for _ in 0..<4 {
            let group = try bench.lease(Self.paths, &ledger)
            let outcomes = bench.destination.storeNow(group, from: try bench.sources())
            bench.enter(group, outcomes, &ledger)
            ledger.expectTruth(bench.destinationPath, comment)
            if outcomes.allSatisfy({ $0.error == nil }) { break }
        }
        for path in Self.paths {
            let (from, to) = (bench.sourcePath + "/" + path, bench.destinationPath + "/" + path)
            guard let wanted = status(of: from) else { continue }
            let found = status(of: to)
            // Directories keep u+rwx.
            let mode = wanted.st_mode | (isDirectory(from) ? 0o700 : 0)
            #expect(found?.st_mode == mode, "\(path) \(comment)")
            #expect(bytes(of: from) == bytes(of: to) || isDirectory(from), "\(path) \(comment)")
            #expect(linkTarget(of: from) == linkTarget(of: to), "\(path) \(comment)")
        }
    }
}
