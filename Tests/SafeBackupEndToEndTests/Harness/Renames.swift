import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// Which file of the backup is the copy of which file of the source, by their inodes: a copy that was moved keeps its
/// inode, one that was stored again has another.
struct CopyInodes {
    /// An inode alone is given again as soon as it is free.
    private struct File: Hashable {
        var inode: UInt64
        var mtime: FileTime
    }

    private var copies: [File: UInt64] = [:]

    /// Of what source and backup hold now.
    init(_ bench: Bench) throws {
        let backup = try Self.files(below: bench.backup)
        for (path, file) in try Self.files(below: bench.source) { copies[file] = backup[path]?.inode }
    }

    private static func files(below root: FilePath) throws -> [RelativePath: File] {
        let tree = try ConfinedDirectory(opening: root)
        var found: [RelativePath: File] = [:]
        for (path, entry) in try Tree(root).entries where entry.kind != .directory {
            let fingerprint = try tree.status(of: path).fingerprint
            found[path] = File(inode: fingerprint.inode, mtime: fingerprint.mtime)
        }
        return found
    }

    /// Files of the source that were known and whose copy is another one now.
    func storedAgain(_ bench: Bench) throws -> [RelativePath] {
        let backup = try Self.files(below: bench.backup)
        return try Self.files(below: bench.source).filter { path, file in
            copies[file].map { $0 != backup[path]?.inode } ?? false
        }.keys.sorted()
    }
}

/// Everything that a rename can be: of a file, of a directory with others below it, over another file, a swap of files
/// and of directories, a chain, a rotation, where a file was deleted before, and where a directory comes in a file's
/// place.
struct Renames {
    let bench: Bench
    let inodes: CopyInodes
    private let contents: Set<Digest>

    /// Saves a source.
    init(in bench: Bench) async throws {
        self.bench = bench
        for name in ["file", "over", "a", "b", "c1", "c2", "log", "log.1", "tomb", "into", "place"] {
            try bench.write(name, "first content of \(name)\n")
        }
        for directory in ["old", "old/below/deep", "x", "y"] {
            for number in 0..<3 { try bench.write("\(directory)/\(number)", "\(number) in \(directory)\n") }
        }
        try command(["mkdir", bench.at("old/empty")])
        try command(["ln", "-s", "target", bench.at("old/link")])
        // Long ago, so that nothing needs to be compared by digest.
        try command(["find", bench.source, "-exec", "touch", "-h", "-d", "2020-01-02 03:04:05.678", "{}", "+"])
        try await bench.saveOnce()
        try command(["rm", bench.at("tomb")])
        try await bench.saveOnce()
        inodes = try CopyInodes(bench)
        contents = try Self.contents(bench)
    }

    /// Renames; the agent may run.
    func make() throws {
        func move(_ from: String, _ to: String) throws { try command(["mv", "-T", bench.at(from), bench.at(to)]) }
        try move("file", "renamed")
        try move("over", "into")
        for (one, other) in [("a", "b"), ("x", "y")] {
            try move(one, "swapping")
            try move(other, one)
            try move("swapping", other)
        }
        try move("c2", "c3")
        try move("c1", "c2")
        try move("log.1", "tomb")
        try move("log", "log.1")
        try bench.write("log", "a new log\n")
        try move("old", "new")
        try move("place", "elsewhere")
        try bench.write("place/inside", "in a directory now\n")
    }

    /// The digests of all files anywhere below the destination.
    private static func contents(_ bench: Bench) throws -> Set<Digest> {
        var found = Set(try Tree(bench.backup).entries.values.compactMap(\.digest))
        for name in ["staging", "versions"] {
            found.formUnion(
                try Tree(bench.backup.appending(".safebackup/\(name)")).entries.values.compactMap(\.digest))
        }
        return found
    }

    /// Every content that was saved is somewhere in the destination.
    func expectNothingLost(sourceLocation: SourceLocation = #_sourceLocation) throws {
        let lost = contents.subtracting(try Self.contents(bench))
        #expect(lost.isEmpty, "contents are lost: \(lost.map(\.hex))", sourceLocation: sourceLocation)
    }

    /// Source and backup are equal, directories and all; no copy was stored again; no old name is left.
    func expectMoved(sourceLocation: SourceLocation = #_sourceLocation) throws {
        try bench.expectSaved(sourceLocation: sourceLocation)
        let again = try inodes.storedAgain(bench)
        #expect(again.isEmpty, "stored again: \(again)", sourceLocation: sourceLocation)
        let more = try Tree(bench.source).differences(in: try Tree(bench.backup))
        #expect(more == [], sourceLocation: sourceLocation)
        try expectNothingLost(sourceLocation: sourceLocation)
    }
}
