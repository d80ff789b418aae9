import SafeBackupCore

/// Changes, one entry a path, until somebody takes them. Bounded: past the limit the fullest directories become
/// *crowded*, one entry each that asks to list them again, and if that is not enough, the set is `isOverfull`: what it
/// held is given up, and only a reconcile finds it again.
///
/// How a new kind merges with what the set has of the path:
///
/// | has \ new    | closed | modified | attributes | vanished | found    |
/// |--------------|--------|----------|------------|----------|----------|
/// | `closed`     | closed | modified | closed     | vanished | closed   |
/// | `modified`   | closed | modified | modified   | vanished | modified |
/// | `attributes` | closed | modified | attributes | vanished | found    |
/// | `vanished`   | closed | modified | closed     | vanished | found    |
/// | `found`      | closed | modified | found      | vanished | found    |
///
/// A directory that vanished took everything below it along, and nobody tells that of each path; so that is kept
/// beside whatever came to be there later.
struct ChangeSet: Sendable {
    private struct Entry {
        var path: RelativePath
        /// `nil`: only the flags below.
        var kind: Change.Kind?
        var isDirectory: Bool
        /// A directory vanished here, before `kind`.
        var lostDirectory = false
        var isCrowded = false
    }

    private var entries: [Entry] = []
    private var indexes: [RelativePath: Int] = [:]
    /// How many entries are.
    private var crowded = 0
    private let limit: Int
    private(set) var isOverfull = false
    var origins = RenameOrigins()

    /// - Parameter limit: the number of paths. An entry takes some 150 bytes and twice its path's length.
    init(limit: Int = 65_536) { self.limit = limit }

    var isEmpty: Bool { entries.isEmpty && !isOverfull }
    var count: Int { entries.count }

    /// What the set has of a path, apart from the flags.
    func kind(at path: RelativePath) -> Change.Kind? {
        indexes[path].flatMap { entries[$0].kind }
    }

    /// Adds a change, or merges it with what is known of its path.
    /// - Parameter isArrival: it only tells what `arrive` noted before; else the file at the path is another since, or
    ///   may have another content.
    mutating func record(_ path: RelativePath, _ kind: Change.Kind, isDirectory: Bool, isArrival: Bool = false) {
        if isOverfull { return }
        if !isArrival { origins.touch(path) }
        let lostDirectory = kind == .vanished && isDirectory
        // A directory that is listed again anyway tells its entries by that, except for what was below them.
        if crowded > 0, !lostDirectory, !path.isRoot, let parent = indexes[path.parent], entries[parent].isCrowded {
            return
        }
        let index = index(of: path, isDirectory: isDirectory)
        entries[index].kind = entries[index].kind.map { Self.merged($0, kind) } ?? kind
        entries[index].isDirectory = isDirectory
        if lostDirectory {
            entries[index].lostDirectory = true
            if entries[index].isCrowded {
                entries[index].isCrowded = false
                crowded -= 1
            }
        }
        if entries.count > limit { collapse() }
    }

    /// A file came to `path` by a rename: from `origin`, where it lay before this set began, or from nobody knows where.
    mutating func arrive(_ path: RelativePath, from origin: RelativePath?) { origins.arrive(path, from: origin) }

    /// Where the file that leaves `path` just now lay before this set began; `nil` if something else was told of it
    /// since, or nobody knows.
    func origin(of path: RelativePath) -> RelativePath? {
        switch origins[path] {
        case .known(let origin): origin
        case .unknown: nil
        // What is told of the entries of a crowded directory is not kept.
        case .untold: crowded == 0 && indexes[path].flatMap { entries[$0].kind } == nil ? path : nil
        }
    }

    /// Asks to list the directory again, instead of telling what changed directly in it.
    mutating func crowd(_ directory: RelativePath) {
        if isOverfull { return }
        let index = index(of: directory, isDirectory: true)
        if entries[index].isCrowded { return }
        entries[index].isCrowded = true
        crowded += 1
    }

    /// Adds what another set has, as newer.
    mutating func merge(_ other: ChangeSet) {
        if other.isOverfull { giveUp() }
        // What the other set calls an origin is where the file lay when that one began.
        let arrivals = other.origins.arrivals.map { ($0.key, $0.value.flatMap { self.origin(of: $0) }) }
        if other.origins.areLost { origins.lose() }
        for entry in other.entries {
            if entry.lostDirectory { record(entry.path, .vanished, isDirectory: true) }
            if let kind = entry.kind, !(entry.lostDirectory && kind == .vanished && entry.isDirectory) {
                record(entry.path, kind, isDirectory: entry.isDirectory)
            }
            if entry.isCrowded { crowd(entry.path) }
        }
        for (path, origin) in arrivals { arrive(path, from: origin) }
    }

    /// Takes everything out. Directories that vanished come first, the rest in the order of first sight: so nothing
    /// that came to be later is mistaken for a part of what vanished.
    mutating func drain() -> (changes: [Change], crowded: [RelativePath], renames: [RelativePath: RelativePath]) {
        var changes: [Change] = []
        changes.reserveCapacity(entries.count)
        for entry in entries where entry.lostDirectory {
            changes.append(Change(path: entry.path, kind: .vanished, isDirectory: true))
        }
        for entry in entries {
            if let kind = entry.kind, !(entry.lostDirectory && kind == .vanished && entry.isDirectory) {
                changes.append(Change(path: entry.path, kind: kind, isDirectory: entry.isDirectory))
            }
        }
        let crowded = entries.filter(\.isCrowded).map(\.path)
        let renames = origins.arrivals.compactMapValues(\.self)
        self = ChangeSet(limit: limit)
        return (changes, crowded, renames)
    }

    /// The table above.
    static func merged(_ known: Change.Kind, _ new: Change.Kind) -> Change.Kind {
        switch (known, new) {
        case (_, .closed), (_, .modified), (_, .vanished): new
        case (.vanished, .attributes): .closed
        case (.attributes, .found), (.vanished, .found): .found
        case (_, .attributes), (_, .found): known
        }
    }

    private mutating func index(of path: RelativePath, isDirectory: Bool) -> Int {
        if let known = indexes[path] { return known }
        indexes[path] = entries.count
        entries.append(Entry(path: path, kind: nil, isDirectory: isDirectory))
        return entries.count - 1
    }

    /// Makes room: what vanished below a vanished directory goes, then the fullest directories become crowded,
    /// until half of the limit is free.
    private mutating func collapse() {
        // What is given up here was perhaps the only sign of a write.
        origins.lose()
        dropCovered()
        var sizes: [RelativePath: Int] = [:]
        for entry in entries where !entry.path.isRoot { sizes[entry.path.parent, default: 0] += 1 }
        var excess = entries.count - limit / 2
        var collapsed: Set<RelativePath> = []
        // By path where sizes are equal, so that the same events always give the same changes.
        for (directory, size) in sizes.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }) {
            // A listing in place of few entries gains nothing.
            if excess <= 0 || size < 8 { break }
            collapsed.insert(directory)
            excess -= size - 1
        }
        if excess > 0 { return giveUp() }
        let former = entries
        entries.removeAll(keepingCapacity: true)
        indexes.removeAll(keepingCapacity: true)
        crowded = 0
        for var entry in former {
            let isTold = !entry.path.isRoot && collapsed.contains(entry.path.parent)
            if isTold {
                if !entry.lostDirectory && !entry.isCrowded { continue }
                entry.kind = nil
            }
            indexes[entry.path] = entries.count
            entries.append(entry)
            if entry.isCrowded { crowded += 1 }
        }
        for directory in collapsed.sorted() { crowd(directory) }
        if entries.count > limit - limit / 4 { giveUp() }
    }

    /// Drops what vanished below a directory that vanished: that one stands for it.
    private mutating func dropCovered() {
        let lost = Set(entries.lazy.filter(\.lostDirectory).map(\.path))
        if lost.isEmpty { return }
        let former = entries
        entries.removeAll(keepingCapacity: true)
        indexes.removeAll(keepingCapacity: true)
        for entry in former {
            let isOnlyGone = (entry.kind ?? .vanished) == .vanished && !entry.isCrowded
            if isOnlyGone && entry.path.ancestors.contains(where: lost.contains) { continue }
            indexes[entry.path] = entries.count
            entries.append(entry)
        }
    }

    private mutating func giveUp() {
        self = ChangeSet(limit: limit)
        isOverfull = true
    }
}
