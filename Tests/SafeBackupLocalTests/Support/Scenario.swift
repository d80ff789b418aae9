import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// A group that takes every way through the protocol: new, rewritten with and without a version, foreign, adopted,
/// metadata only, file ↔ directory, a new link, new parents.
struct Scenario {
    let bench: Bench
    var ledger = Ledger()
    let paths: [String]

    /// - Parameters:
    ///   - hasLink: a symbolic link makes even a small group use `syncfs`.
    ///   - hasHardLinks: without them older copies are renamed away before they are replaced.
    init(hasLink: Bool, hasHardLinks: Bool = true, bench: Bench? = nil) throws {
        let bench = try bench ?? Bench(capabilities: { $0.hardLinks = hasHardLinks })
        self.bench = bench
        try write(bench.destinationPath + "/foreign", "theirs")
        try write(bench.destinationPath + "/adopted", "the same", mtime: 1_400_000_000)
        // They were there long before us.
        try Descriptor.open(FilePath(bench.destinationPath), O_RDONLY).syncFileSystem()
        for name in ["rewritten", "dropped", "mode", "becomes-directory", "way", "touched"] {
            try bench.write(name, "old \(name)", mtime: 1_500_000_000)
        }
        try bench.write("becomes-file/below", "old below", mtime: 1_500_000_000)
        try bench.save(
            "becomes-directory", "becomes-file", "becomes-file/below", "dropped", "mode", "rewritten", "way",
            "touched", ledger: &ledger)
        // Its version is fresh, so that the next copy is dropped.
        try bench.write("dropped", "older dropped", mtime: 1_500_000_001)
        try bench.save("dropped", ledger: &ledger)

        try bench.write("rewritten", "new rewritten", mtime: 1_600_000_000)
        try bench.write("dropped", "new dropped", mtime: 1_600_000_000)
        try bench.write("touched", "old touched", mtime: 1_600_000_000)
        chmod(bench.sourcePath + "/mode", 0o600)
        for name in ["becomes-directory", "way", "becomes-file"] { remove(tree: bench.sourcePath + "/" + name) }
        try bench.write("becomes-directory/x", "new x", mtime: 1_600_000_000)
        try bench.write("way/y", "new y", mtime: 1_600_000_000)
        try bench.write("becomes-file", "new file", mtime: 1_600_000_000)
        try bench.write("foreign", "ours", mtime: 1_600_000_000)
        try bench.write("adopted", "the same", mtime: 1_600_000_000)
        try bench.write("a/b/c/new", "new new", mtime: 1_600_000_000)
        var paths = [
            "rewritten", "dropped", "touched", "mode", "becomes-directory", "becomes-directory/x", "way/y",
            "becomes-file", "becomes-file/below", "foreign", "adopted", "a/b/c/new",
        ]
        if hasLink {
            symlink("target", bench.sourcePath + "/link")
            paths.append("link")
        }
        self.paths = paths
    }

    /// No file under a final name is a mixture: each has the whole old or the whole new content.
    func expectNoneTorn(_ destination: String, _ comment: String) throws {
        for path in try tree(destination) where !path.hasPrefix(".safebackup/") {
            guard let found = content(of: destination + "/" + path) else { continue }
            let name = path.split(separator: "/").last.map(String.init) ?? path
            let whole = [
                "old \(name)", "older \(name)", "new \(name)", "new file", "theirs", "ours", "the same", "old way",
                "old becomes-directory",
            ]
            #expect(whole.contains(found), "\(path) \(comment)")
        }
    }

    /// Saves everything once more, and expects the destination to equal the source.
    mutating func expectRepair(_ comment: String, on bench: Bench) throws {
        for _ in 0..<4 {
            let group = try bench.lease(paths, &ledger)
            let outcomes = bench.destination.storeNow(group, from: try bench.sources())
            bench.enter(group, outcomes, &ledger)
            ledger.expectTruth(bench.destinationPath, comment)
            if outcomes.allSatisfy({ $0.error == nil }) { break }
        }
        for path in try tree(bench.sourcePath) {
            let (from, to) = (bench.sourcePath + "/" + path, bench.destinationPath + "/" + path)
            #expect(bytes(of: from) == bytes(of: to), "\(path) \(comment)")
            #expect(linkTarget(of: from) == linkTarget(of: to), "\(path) \(comment)")
            let (left, right) = (try #require(status(of: from)), try #require(status(of: to), "\(path) \(comment)"))
            #expect(left.st_mode == right.st_mode, "\(path) \(comment)")
        }
        #expect(try bench.staged() == [], "\(comment)")
        // What was the destination's before us is somewhere, for ever.
        let kept = try bench.versions().values
        #expect(kept.contains("theirs") && kept.contains("old rewritten"), "\(comment)")
    }
}
