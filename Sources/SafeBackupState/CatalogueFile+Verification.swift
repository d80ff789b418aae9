package import SafeBackupCore

/// What `safebackup verify --from` reads of a catalogue copy. `check` comes before: what is asked here trusts the rows.
extension CatalogueFileReader {
    /// Up to `limit` copies that are files or links.
    package func copies(
        _ scope: CopyScope, after cursor: CopyCursor?, limit: Int
    ) throws(SafeBackupError) -> CopyPage {
        try CopyQuery(file: connection).page(scope, after: cursor, limit: limit)
    }

    /// Whether the catalogue knows what lies there.
    package func hasCopy(at location: RelativePath) throws(SafeBackupError) -> Bool {
        let statement = try connection.statement("SELECT 1 FROM copy WHERE location = ?")
        defer { statement.reset() }
        return try statement.bind(location).step()
    }

    /// The path that has, or had last, the copy.
    /// - Parameter searches: looks at every name where the location does not tell, as the file has no index for it.
    package func owner(
        of copy: CopyRecord, searches: Bool
    ) throws(SafeBackupError) -> (source: SourceID, path: RelativePath)? {
        for source in try catalogueSources() {
            guard let path = Self.path(at: copy.location, of: source) else { continue }
            if try isName(path, of: source.id, copy.id) { return (source.id, path) }
        }
        guard searches else { return nil }
        let statement = try connection.statement(
            "SELECT source_id, parent, leaf FROM name NOT INDEXED WHERE copy_id = ? ORDER BY id DESC LIMIT 1")
        defer { statement.reset() }
        guard try statement.bind(copy.id).step() else { return nil }
        return (SourceID(rawValue: statement.int()), statement.path().appending(statement.bytes()))
    }

    /// What a location is for, by how locations are made: below the prefix, and of a version its name before the last @.
    private static func path(at location: RelativePath, of source: CatalogueSource) -> RelativePath? {
        var components = location.components
        let versions = [Array(".safebackup".utf8), Array("versions".utf8)]
        let isVersion = components.starts(with: versions)
        if isVersion { components.removeFirst(versions.count) }
        let prefix = (source.prefix ?? .root).components
        guard components.starts(with: prefix), var leaf = components.last, components.count > prefix.count else {
            return nil
        }
        if isVersion {
            guard let at = leaf.lastIndex(of: UInt8(ascii: "@")), at > 0 else { return nil }
            leaf = Array(leaf[..<at])
        }
        return components.dropFirst(prefix.count).dropLast().reduce(RelativePath.root) { $0.appending($1) }.appending(
            leaf)
    }

    private func isName(
        _ path: RelativePath, of source: SourceID, _ copy: Int64
    ) throws(SafeBackupError) -> Bool {
        // Each of the two indexes holds one kind of names.
        for query: StaticString in [
            """
            SELECT 1 FROM name WHERE source_id = ? AND destination_id = 0 AND parent = ? AND leaf = ? AND copy_id = ?
                AND ended_at IS NULL
            """,
            """
            SELECT 1 FROM name WHERE source_id = ? AND destination_id = 0 AND parent = ? AND leaf = ? AND copy_id = ?
                AND ended_at IS NOT NULL
            """,
        ] {
            let statement = try connection.statement(query)
            defer { statement.reset() }
            if try statement.bind(source.rawValue).bind(split: path).bind(copy).step() { return true }
        }
        return false
    }

    /// The newest ended state of the path that is neither fuzzy nor known to be damaged.
    package func newestGoodVersion(
        of path: RelativePath, _ source: SourceID, besides id: Int64
    ) throws(SafeBackupError) -> (copy: CopyRecord, began: Timestamp)? {
        let statement = try connection.prepare(
            """
            SELECT n.began_at, \(CopyQuery.columns) FROM name n JOIN copy c ON c.id = n.copy_id
            WHERE n.source_id = ? AND n.destination_id = 0 AND n.parent = ? AND n.leaf = ? AND n.ended_at IS NOT NULL
                AND c.id <> ? AND c.fuzzy = 0 AND c.damaged = 0 AND c.digest IS NOT NULL
            ORDER BY n.id DESC LIMIT 1
            """)
        guard try statement.bind(source.rawValue).bind(split: path).bind(id).step() else { return nil }
        let began = statement.timestamp()
        return (CopyRecord.read(statement), began)
    }
}
