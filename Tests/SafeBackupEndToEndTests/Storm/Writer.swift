import SafeBackupCore
import SafeBackupSystem
import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// Changes a source as programs do, and remembers under which paths each publication ever stood.
///
/// A file is published by a write to a temporary name and a rename, so that no reader of the source ever sees a part
/// of one: whatever is torn in the backup, the backup tore.
final class Writer {
    private let root: FilePath
    private var random: SeededGenerator
    /// What is in the source now: a publication's number, or `nil` for a directory.
    private var present: [RelativePath: Int?] = [:]
    private var numbers = 0
    /// Under which paths a publication stood, noted before the change is made.
    private(set) var published: [Int: Set<RelativePath>] = [:]

    private static let limit = 400

    init(root: FilePath, seed: UInt64) {
        self.root = root
        random = SeededGenerator(seed: seed)
    }

    /// Makes `count` changes.
    func change(_ count: Int) throws {
        for _ in 0..<count { try change() }
    }

    private func change() throws {
        let files = present.count { $0.value != nil }
        switch Int.random(in: 0..<100, using: &random) {
        case ..<35 where files < Self.limit: try publish(at: newPath(in: anyDirectory()))
        case ..<65: try anyFile().map { try publish(at: $0) }
        case ..<72: try anyFile().map { try move($0, to: newPath(in: anyDirectory())) }
        case ..<75: try swap()
        case ..<77: try rotate()
        case ..<80:
            // Over another file: the target's content is gone, as by an editor's save.
            if let from = anyFile(), let to = anyFile(), from != to { try move(from, to: to) }
        case ..<88: try anyFile().map { try remove($0) }
        case ..<92: try makeDirectory(newPath(in: anyDirectory()))
        case ..<95: try moveDirectory()
        case ..<97: try removeDirectory()
        default: try exchangeKind()
        }
    }

    // MARK: One change each

    private func publish(at path: RelativePath) throws {
        numbers += 1
        // Mostly small, now and then large enough that a kill falls into the middle of its copy.
        let size =
            switch Int.random(in: 0..<100, using: &random) {
            case ..<80: Int.random(in: 0...8_192, using: &random)
            case ..<97: Int.random(in: 0...131_072, using: &random)
            default: Int.random(in: 1_000_000...4_000_000, using: &random)
            }
        let publication = Publication(number: numbers, payload: random.bytes(size))
        note(numbers, at: path)
        // Beside the source, on the same file system: only the rename shows.
        let temporary = root.removingLastComponent().appending("next")
        let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        try file.write(publication.content, at: 0)
        try rename(temporary, full(path))
        present[path] = .some(numbers)
    }

    private func move(_ from: RelativePath, to: RelativePath) throws {
        guard let known = present[from], let number = known else { return }
        note(number, at: to)
        try rename(full(from), full(to))
        present[from] = nil
        present[to] = .some(number)
    }

    /// Two files, or two directories, change places.
    private func swap() throws {
        let areDirectories = Int.random(in: 0..<3, using: &random) == 0
        guard let one = areDirectories ? anyDirectory() : anyFile(),
            let other = areDirectories ? anyDirectory() : anyFile(), !one.isWithin(other), !other.isWithin(one)
        else { return }
        let between = newPath(in: .root)
        for (from, to) in [(one, between), (other, one), (between, other)] {
            if areDirectories { try moveDirectory(from, to: to) } else { try move(from, to: to) }
        }
    }

    /// As logs are: the second becomes the third, the first the second, and a new first one is begun.
    private func rotate() throws {
        let directory = anyDirectory()
        let names = ["log", "log.1", "log.2"].map { directory.appending($0.utf8) }
        for index in [1, 0] where present[names[index]].flatMap({ $0 }) != nil {
            if case .some(nil) = present[names[index + 1]] { return }
            try move(names[index], to: names[index + 1])
        }
        if case .some(nil) = present[names[0]] { return }
        try publish(at: names[0])
    }

    private func remove(_ path: RelativePath) throws {
        guard full(path).withPlatformString({ unlink($0) }) == 0 else { throw Errno(rawValue: errno) }
        present[path] = nil
    }

    private func makeDirectory(_ path: RelativePath) throws {
        guard full(path).withPlatformString({ mkdir($0, 0o755) }) == 0 else { throw Errno(rawValue: errno) }
        present[path] = .some(nil)
    }

    private func moveDirectory() throws {
        let from = anyDirectory()
        let parent = anyDirectory()
        guard !from.isRoot, !parent.isWithin(from) else { return }
        try moveDirectory(from, to: newPath(in: parent))
    }

    private func moveDirectory(_ from: RelativePath, to: RelativePath) throws {
        let below = present.keys.filter { $0.isWithin(from) }
        for path in below {
            if let known = present[path], let number = known { note(number, at: moved(path, from, to)) }
        }
        try rename(full(from), full(to))
        for path in below { present[moved(path, from, to)] = present.removeValue(forKey: path) }
    }

    private func removeDirectory() throws {
        let directory = anyDirectory()
        let below = present.keys.filter { $0.isWithin(directory) }
        // Not too much at once: a source without anything left is held, and that is another test's matter.
        guard !directory.isRoot, below.count < 40 else { return }
        try command(["rm", "-r", "--", full(directory)])
        for path in below { present[path] = nil }
    }

    /// A file becomes a directory with a file in it, or an empty directory a file.
    private func exchangeKind() throws {
        if let file = anyFile(), Bool.random(using: &random) {
            try remove(file)
            try makeDirectory(file)
            try publish(at: newPath(in: file))
        } else {
            let directory = anyDirectory()
            guard !directory.isRoot, !present.keys.contains(where: { $0.parent == directory }) else { return }
            guard full(directory).withPlatformString({ rmdir($0) }) == 0 else { throw Errno(rawValue: errno) }
            try publish(at: directory)
        }
    }

    // MARK: Choices

    private func note(_ number: Int, at path: RelativePath) {
        published[number, default: []].insert(path)
    }

    private func full(_ path: RelativePath) -> FilePath {
        path.isRoot ? root : root.appending(bytes: path.bytes)
    }

    private func moved(_ path: RelativePath, _ from: RelativePath, _ to: RelativePath) -> RelativePath {
        to.appending(RelativePath(unchecked: Array(path.bytes.dropFirst(from.bytes.count + 1))))
    }

    private func rename(_ from: FilePath, _ to: FilePath) throws {
        let result = from.withPlatformString { from in to.withPlatformString { Glibc.rename(from, $0) } }
        guard result == 0 else { throw Errno(rawValue: errno) }
    }

    private func anyFile() -> RelativePath? {
        // Sorted, because the order of a dictionary differs from run to run and the seed would repeat nothing.
        present.filter { $0.value != nil }.keys.sorted().randomElement(using: &random)
    }

    private func anyDirectory() -> RelativePath {
        (present.filter { $0.value == nil }.keys.sorted() + [.root]).randomElement(using: &random) ?? .root
    }

    /// Not taken now, but perhaps once.
    private func newPath(in directory: RelativePath) -> RelativePath {
        while true {
            var leaf = Array("n\(Int.random(in: 0..<1_000, using: &random))".utf8)
            // One name in ten is not UTF-8.
            if Int.random(in: 0..<10, using: &random) == 0 { leaf.append(0xFF) }
            let path = directory.appending(leaf)
            if present[path] == nil { return path }
        }
    }
}
