import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// How many entries, and how much.
package struct PlannedAmount: Sendable, Hashable, Encodable {
    package var files = 0
    /// Of the files.
    package var bytes: Int64 = 0
    package var directories = 0
    package var links = 0

    package var isNothing: Bool { files == 0 && directories == 0 && links == 0 }

    mutating func add(_ kind: EntryKind, _ size: Int64) {
        switch kind {
        case .directory: directories += 1
        case .symlink: links += 1
        case .file, .fifo, .socket, .device:
            files += 1
            bytes += size.countedSize
        }
    }

    mutating func add(_ other: CatalogueComparison.Total) {
        files += other.files
        bytes += other.bytes
        directories += other.directories
        links += other.links
    }
}

/// What a walk of a source would have saved to one destination. Takes the walk's parts in their order.
struct PairComparison {
    private(set) var new = PlannedAmount()
    private(set) var changed = PlannedAmount()
    private(set) var compared = PlannedAmount()
    private(set) var unchanged = PlannedAmount()
    private(set) var moved = PlannedAmount()
    private(set) var gone = PlannedAmount()
    /// What the new copies take there, in whole blocks, if nothing of them is sparse.
    private(set) var need: Int64 = 0
    /// The same, if what is sparse in the source is sparse there.
    private(set) var sparseNeed: Int64 = 0

    /// `nil`: nothing is known to be there.
    private let catalogue: CatalogueComparison?
    private let rules: ComparisonRules
    /// The destination has links, and so moves a copy instead of storing it again.
    private let moves: Bool
    /// What a renamed file's other links must not claim again; of very many only the first.
    private var origins: Set<RelativePath> = []

    private static let block: Int64 = 4_096
    private static let originLimit = 50_000

    init(_ catalogue: CatalogueComparison?, rules: ComparisonRules, moves: Bool) {
        self.catalogue = catalogue
        self.rules = rules
        self.moves = moves && rules.inodesAreStable
    }

    /// Something is known to be there.
    var isCompared: Bool { catalogue != nil }

    mutating func add(_ listed: ListedDirectory, in root: ConfinedDirectory) throws(SafeBackupError) {
        guard let catalogue else {
            for entry in listed.entries { if case .status(let status) = entry.finding { store(status, isNew: true) } }
            return
        }
        let (verdicts, absent) = try catalogue.compare(listed, rules)
        for (entry, verdict) in zip(listed.entries, verdicts) {
            guard case .status(let status) = entry.finding, let verdict else { continue }
            let size = status.kind == .file ? status.size : 0
            switch verdict {
            case .new:
                if try isMoved(status, catalogue, root) {
                    moved.add(status.kind, size)
                } else {
                    store(status, isNew: true)
                }
            case .changed: store(status, isNew: false)
            case .compared: compared.add(status.kind, size)
            case .unchanged: unchanged.add(status.kind, size)
            }
        }
        for name in absent { try end(name, listed.path, catalogue) }
        if listed.isLastPart { try endAbsent(in: listed.path, catalogue, root) }
    }

    /// What was renamed does not count as deleted.
    mutating func finish() {
        gone.files = max(0, gone.files - moved.files)
        gone.bytes = max(0, gone.bytes - moved.bytes)
    }

    private mutating func store(_ status: FileStatus, isNew: Bool) {
        let size = status.kind == .file ? status.size : 0
        if isNew { new.add(status.kind, size) } else { changed.add(status.kind, size) }
        if status.kind == .directory && !isNew { return }
        need += Self.blocks(status.kind == .file ? size.countedSize : 1)
        sparseNeed += Self.blocks(status.kind == .file ? min(size, status.allocated).countedSize : 1)
    }

    private static func blocks(_ size: Int64) -> Int64 { (size + block - 1) / block * block }

    private mutating func isMoved(
        _ status: FileStatus, _ catalogue: CatalogueComparison, _ root: ConfinedDirectory
    ) throws(SafeBackupError) -> Bool {
        if !moves { return false }
        for origin in try catalogue.origins(of: status) where !origins.contains(origin) && Self.isAbsent(origin, root) {
            if origins.count < Self.originLimit { origins.insert(origin) }
            return true
        }
        return false
    }

    private static func isAbsent(_ path: RelativePath, _ root: ConfinedDirectory) -> Bool {
        do throws(Errno) {
            _ = try root.status(of: path)
            return false
        } catch {
            return [.noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels].contains(error)
        }
    }

    private mutating func end(
        _ name: CatalogueComparison.Gone, _ directory: RelativePath, _ catalogue: CatalogueComparison
    ) throws(SafeBackupError) {
        gone.add(name.kind, name.size)
        if name.kind == .directory { gone.add(try catalogue.total(below: directory.appending(name.leaf))) }
    }

    /// Of a directory that came in parts no part tells what is missing: each name is looked for.
    private mutating func endAbsent(
        in directory: RelativePath, _ catalogue: CatalogueComparison, _ root: ConfinedDirectory
    ) throws(SafeBackupError) {
        var last: [UInt8]?
        while true {
            let names = try catalogue.names(in: directory, after: last, limit: 1_000)
            for name in names where Self.isAbsent(directory.appending(name.leaf), root) {
                try end(name, directory, catalogue)
            }
            guard names.count == 1_000, let leaf = names.last?.leaf else { return }
            last = leaf
        }
    }
}
