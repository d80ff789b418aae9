package import SafeBackupCore
import SafeBackupSystem

/// What a catalogue says of a source's entries, for those who only want to know what a walk would lead to: by the same
/// comparison as a reconcile, and without writing anything. Each call is one short read.
package struct CatalogueComparison {
    /// What a walk would make of an entry that would be saved.
    package enum Verdict: Sendable, Hashable {
        /// Nothing is known at its path.
        case new
        case changed
        /// Probably the same content: it is compared first, or only its mode, owner and attributes are brought over.
        case compared
        case unchanged
    }

    /// A live name that has no entry any more.
    package struct Gone: Sendable, Hashable {
        package var leaf: [UInt8]
        package var kind: EntryKind
        package var size: Int64
    }

    /// Live names below a path.
    package struct Total: Sendable, Hashable {
        package var files = 0
        package var bytes: Int64 = 0
        package var directories = 0
        package var links = 0

        package init() {}
    }

    private let connection: Connection
    private let pair: PairKey
    /// Files are found by their inodes.
    private let findsInodes: Bool

    init(_ connection: Connection, _ pair: PairKey, findsInodes: Bool) {
        self.connection = connection
        self.pair = pair
        self.findsInodes = findsInodes
    }

    /// Whether anything is known to be there.
    package func hasNames() throws(SafeBackupError) -> Bool {
        let select = try connection.statement(
            "SELECT 1 FROM name WHERE source_id = ? AND destination_id = ? AND ended_at IS NULL LIMIT 1")
        defer { select.reset() }
        return try select.bind(pair.source.rawValue).bind(pair.destination.rawValue).step()
    }

    /// The verdict on each entry of the listing, `nil` for what is not saved; and, of a whole listing, the names that have
    /// no entry. A directory in whose place something else is now is among them too.
    package func compare(
        _ directory: ListedDirectory, _ rules: ComparisonRules
    ) throws(SafeBackupError) -> (verdicts: [Verdict?], gone: [Gone]) {
        var known = directory.isWhole ? try LiveEntry.all(in: directory.path, pair, connection) : [:]
        var verdicts: [Verdict?] = []
        verdicts.reserveCapacity(directory.entries.count)
        var gone: [Gone] = []
        for entry in directory.entries {
            let live: LiveEntry?
            if directory.isWhole {
                live = known.removeValue(forKey: entry.leaf)
            } else {
                live = try LiveEntry.one(entry.leaf, in: directory.path, pair, connection)
            }
            guard case .status(let status) = entry.finding else {
                verdicts.append(nil)
                if case .skipped(_, let kind) = entry.finding, kind?.isSpecial == true, let live {
                    gone.append(Gone(leaf: entry.leaf, kind: live.kind, size: live.size))
                }
                continue
            }
            if let live, live.kind == .directory, status.kind != .directory {
                gone.append(Gone(leaf: entry.leaf, kind: .directory, size: 0))
            }
            verdicts.append(live.map { Verdict($0.difference(from: status, rules)) } ?? .new)
        }
        for (leaf, live) in known { gone.append(Gone(leaf: leaf, kind: live.kind, size: live.size)) }
        return (verdicts, gone)
    }

    /// The live names of one directory after `leaf`, in the catalogue's order; for a directory that is listed in parts.
    package func names(in parent: RelativePath, after leaf: [UInt8]?, limit: Int) throws(SafeBackupError) -> [Gone] {
        let select = try connection.statement(
            """
            SELECT leaf, kind, size FROM name WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf > ?
                AND ended_at IS NULL ORDER BY leaf LIMIT ?
            """)
        defer { select.reset() }
        // No leaf is empty.
        select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(parent).bind(path: leaf ?? [])
            .bind(Int64(limit))
        var names: [Gone] = []
        while try select.step() {
            let leaf = select.bytes()
            names.append(Gone(leaf: leaf, kind: EntryKind(rawValue: select.text()) ?? .device, size: select.int()))
        }
        return names
    }

    /// What is known below a path, without the path itself.
    package func total(below path: RelativePath) throws(SafeBackupError) -> Total {
        var total = Total()
        for range in [PathRange.only(path)] + PathRange.below(path) {
            let select = try connection.statement(
                """
                SELECT kind, count(*), sum(min(size, 17592186044416)) FROM name
                WHERE source_id = ? AND destination_id = ? AND parent >= ? AND parent < ? AND ended_at IS NULL GROUP BY kind
                """)
            defer { select.reset() }
            select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.lower).bind(range.upper)
            while try select.step() {
                let kind = EntryKind(rawValue: select.text())
                let (count, bytes) = (Int(select.int()), select.int())
                switch kind {
                case .directory: total.directories += count
                case .symlink: total.links += count
                default:
                    total.files += count
                    total.bytes += bytes
                }
            }
        }
        return total
    }

    /// Where a file lay that is found at a path which nothing is known of, if it was renamed: the live names of its inode
    /// with its size and time. Whether they are absent is for the caller to find out.
    package func origins(of status: FileStatus) throws(SafeBackupError) -> [RelativePath] {
        if !findsInodes || status.kind != .file { return [] }
        let select = try connection.statement(
            """
            SELECT parent, leaf FROM name INDEXED BY name_inode
            WHERE source_id = ? AND destination_id = ? AND inode = ? AND copy_id IS NOT NULL AND ended_at IS NULL
                AND kind = 'file' AND size = ? AND mtime_ns = ? AND fuzzy = 0
            """)
        defer { select.reset() }
        select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(bits: status.fingerprint.inode)
            .bind(status.size).bind(status.fingerprint.mtime)
        var paths: [RelativePath] = []
        while try select.step() { paths.append(select.path().appending(select.bytes())) }
        return paths
    }
}

extension CatalogueComparison.Verdict {
    fileprivate init(_ difference: LiveEntry.Difference) {
        self =
            switch difference {
            case .none: .unchanged
            case .metadata: .compared
            case .content: .changed
            }
    }
}

extension StateReader {
    /// With what the state knows of a source at a destination.
    package func comparison(_ source: SourceID, _ destination: DestinationID) -> CatalogueComparison {
        comparison(PairKey(source: source, destination: destination))
    }
}

extension CatalogueFileReader {
    /// With what the copy beside the backups knows of a source. It has no index of inodes.
    package func comparison(_ source: SourceID) -> CatalogueComparison {
        CatalogueComparison(
            connection, PairKey(source: source, destination: Self.destination), findsInodes: false)
    }
}
