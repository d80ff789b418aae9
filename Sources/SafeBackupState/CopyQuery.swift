import SafeBackupCore

/// Which copies there are, in the state or in a catalogue file beside the backups; the tables have the same names.
struct CopyQuery {
    /// What `CopyRecord.read` reads.
    static let columns = """
        c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns, c.fuzzy, c.damaged
        """

    private let connection: Connection
    private let destination: DestinationID
    /// What else holds for the rows.
    private let condition: String

    /// Of one destination of a state, without those that are being removed.
    init(state destination: DestinationID, _ connection: Connection) {
        self.connection = connection
        self.destination = destination
        // A number of ours.
        condition =
            "c.destination_id = \(destination.rawValue) AND c.removing IS NULL AND c.kind IN ('file', 'symlink')"
    }

    /// Of a catalogue file, which is about one destination, and has none that are being removed.
    init(file connection: Connection) {
        self.connection = connection
        destination = CatalogueFileReader.destination
        condition = "c.kind IN ('file', 'symlink')"
    }

    /// Up to `limit` copies that are files or links; of one path all.
    func page(_ scope: CopyScope, after cursor: CopyCursor?, limit: Int) throws(SafeBackupError) -> CopyPage {
        switch scope {
        case .all: try byNumber(cursor ?? CopyCursor(), limit)
        case .of(let source, let path): try ofPath(source, path)
        case .below(let location): try below(location, cursor ?? CopyCursor(), limit)
        }
    }

    private func byNumber(_ cursor: CopyCursor, _ limit: Int) throws(SafeBackupError) -> CopyPage {
        let statement = try connection.prepare(
            """
            SELECT \(Self.columns), c.source_id FROM copy c NOT INDEXED WHERE \(condition) AND c.id > ?
            ORDER BY c.id LIMIT ?
            """)
        statement.bind(cursor.id).bind(Int64(limit))
        var page = CopyPage(copies: [], next: nil)
        try Self.read(statement, into: &page)
        if page.copies.count == limit, let last = page.copies.last { page.next = .after(last.id) }
        return page
    }

    private func ofPath(_ source: SourceID, _ path: RelativePath) throws(SafeBackupError) -> CopyPage {
        let statement = try connection.prepare(
            """
            SELECT \(Self.columns), c.source_id FROM copy c WHERE \(condition) AND c.id IN (
                SELECT copy_id FROM name WHERE source_id = ?1 AND destination_id = ?2 AND parent = ?3 AND leaf = ?4
                    AND ended_at IS NULL
                UNION SELECT copy_id FROM name WHERE source_id = ?1 AND destination_id = ?2 AND parent = ?3 AND leaf = ?4
                    AND ended_at IS NOT NULL)
            ORDER BY c.id
            """)
        statement.bind(source.rawValue).bind(destination.rawValue).bind(split: path)
        var page = CopyPage(copies: [], next: nil)
        try Self.read(statement, into: &page)
        return page
    }

    private func below(
        _ location: RelativePath, _ cursor: CopyCursor, _ limit: Int
    ) throws(SafeBackupError) -> CopyPage {
        let ranges = PathRange.below(location)
        var page = CopyPage(copies: [], next: cursor)
        while var place = page.next, place.range < ranges.count {
            let statement = try connection.prepare(
                """
                SELECT \(Self.columns), c.source_id FROM copy c
                WHERE \(condition) AND c.location \(place.location == nil ? ">=" : ">") ? AND c.location < ?
                ORDER BY c.location LIMIT ?
                """)
            if let last = place.location { statement.bind(last) } else { statement.bind(ranges[place.range].lower) }
            statement.bind(ranges[place.range].upper).bind(Int64(limit - page.copies.count))
            try Self.read(statement, into: &page)
            if page.copies.count == limit {
                place.location = page.copies.last?.location
                page.next = place
                return page
            }
            page.next = CopyCursor(range: place.range + 1)
        }
        page.next = nil
        return page
    }

    private static func read(_ statement: Statement, into page: inout CopyPage) throws(SafeBackupError) {
        while try statement.step() {
            page.copies.append(CopyRecord.read(statement))
            page.sources.append(SourceID(rawValue: statement.int()))
        }
    }
}
