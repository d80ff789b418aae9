package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// What a catalogue file says of itself.
package struct CatalogueHeader: Sendable, Hashable {
    /// Of the file's tables.
    package var format: Int64
    /// The release that wrote it.
    package var release: String
    /// The id in the sentinel of the destination whose rows these are.
    package var sentinel: String
    package var exportedAt: Timestamp
    /// The state's counter: the first number that the file may hold, and the last.
    package var sequenceFrom: Int64
    package var sequenceTo: Int64
    package var copies: Int64
    package var names: Int64
    /// Written last: nothing is missing.
    package var isFinished: Bool
}

/// The catalogue's copy beside the backups: one destination's rows as a small SQLite file that needs no agent.
package enum CatalogueFile {
    /// "sbkc".
    static let applicationID: Int64 = 0x7362_6B63
    static let format: Int64 = 1
    /// Rows read in one transaction, so that no reader keeps the agent's write-ahead log from being moved.
    private static let chunk: Int64 = 5_000

    private static let tables = """
        -- What this file is: the catalogue of one destination of safebackup, as it was at exported_at.
        CREATE TABLE header (
            format INTEGER NOT NULL,
            release TEXT NOT NULL,
            sentinel TEXT NOT NULL,
            exported_at INTEGER NOT NULL,
            sequence_from INTEGER NOT NULL,
            sequence_to INTEGER NOT NULL,
            copies INTEGER NOT NULL,
            names INTEGER NOT NULL,
            finished INTEGER NOT NULL
        ) STRICT;
        -- A tree that is saved here, under the prefix. fs_*, root_*: how its root is known again. first_save_at: when
        -- everything was saved for the first time; NULL: never yet.
        CREATE TABLE source (
            id INTEGER NOT NULL PRIMARY KEY, uuid TEXT NOT NULL, path ANY NOT NULL, fs_type INTEGER NOT NULL,
            fs_volume TEXT, root_inode INTEGER NOT NULL, root_birth_ns INTEGER, prefix ANY NOT NULL,
            first_save_at INTEGER
        ) STRICT;
        -- One stored object; see the table of the same name in the state.
        CREATE TABLE copy (
            id INTEGER NOT NULL PRIMARY KEY, source_id INTEGER NOT NULL, location ANY NOT NULL, kind TEXT NOT NULL,
            digest BLOB, size INTEGER NOT NULL, stored_at INTEGER NOT NULL, inode INTEGER, mtime_ns INTEGER,
            role TEXT NOT NULL, versioned_at INTEGER, adopted INTEGER NOT NULL, fuzzy INTEGER NOT NULL,
            damaged INTEGER NOT NULL
        ) STRICT;
        -- What a path was, from began_at to ended_at; see the table of the same name in the state. destination_id is 0.
        CREATE TABLE name (
            id INTEGER NOT NULL PRIMARY KEY, source_id INTEGER NOT NULL, destination_id INTEGER NOT NULL,
            parent ANY NOT NULL, leaf ANY NOT NULL, copy_id INTEGER, kind TEXT NOT NULL, inode INTEGER,
            size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER, mode INTEGER NOT NULL,
            uid INTEGER NOT NULL, gid INTEGER NOT NULL, xattrs BLOB, link_target ANY, fuzzy INTEGER NOT NULL,
            racy INTEGER NOT NULL, began_at INTEGER NOT NULL, ended_at INTEGER, end_reason TEXT
        ) STRICT;
        """

    private static let indexes = """
        CREATE UNIQUE INDEX copy_location ON copy (location);
        CREATE UNIQUE INDEX name_live ON name (source_id, destination_id, parent, leaf) WHERE ended_at IS NULL;
        CREATE INDEX name_history ON name (source_id, destination_id, parent, leaf) WHERE ended_at IS NOT NULL
        """

    /// Writes the destination's rows from the state in `directory` to a new file at `path`, which must not exist. Works
    /// beside the agent's own connection, in short reads. Nothing is flushed: the caller flushes the file and renames
    /// it. When this throws, the file is to be removed.
    ///
    /// - Parameter isWanted: asked every few thousand rows; once it says no, this throws `interrupted`.
    package static func write(
        from directory: FilePath, _ destination: DestinationID, to path: FilePath, release: String,
        clock: WallClock = .system, while isWanted: () -> Bool = { true }
    ) throws(SafeBackupError) -> CatalogueHeader {
        do throws(Errno) {
            _ = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW)
        } catch {
            throw SafeBackupError(
                .destinationFailed, "The catalogue copy \(path) cannot be made: \(error.explanation)",
                disposition: .transient, systemError: error.rawValue)
        }
        let state = try Connection(StateFile.path(in: directory), .readOnly)
        let file = try Connection(path, .scratch, title: "The catalogue copy")
        try file.execute(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; "
                + "PRAGMA application_id = \(applicationID); PRAGMA user_version = \(format)")
        try file.execute(tables)
        try file.begin()
        let sentinel = try state.prepare("SELECT ifnull(sentinel_id, '') FROM destination WHERE id = ?")
        sentinel.bind(destination.rawValue)
        guard try sentinel.step() else {
            throw SafeBackupError(
                .stateFailed, "The state knows no destination \(destination.rawValue)", disposition: .permanent)
        }
        // Rows that are made from here on are left out; what refers to one that goes meanwhile is without a copy, which
        // a reader ignores.
        var header = CatalogueHeader(
            format: format, release: release, sentinel: sentinel.text(), exportedAt: clock.now, sequenceFrom: 1,
            sequenceTo: try state.number("SELECT value FROM counter") ?? 0, copies: 0, names: 0, isFinished: false)
        sentinel.reset()
        try copySources(state, destination, file)
        header.copies = try copyRows(
            state, destination, header.sequenceTo, file, columns: 14, while: isWanted,
            select: """
                SELECT id, source_id, location, kind, digest, size, stored_at, inode, mtime_ns, role, versioned_at, adopted,
                    fuzzy, damaged
                FROM copy NOT INDEXED WHERE destination_id = ? AND id > ? AND id <= ? AND removing IS NULL ORDER BY id LIMIT ?
                """,
            insert: "INSERT INTO copy VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        header.names = try copyRows(
            state, destination, header.sequenceTo, file, columns: 21, while: isWanted,
            select: """
                SELECT id, source_id, 0, parent, leaf, copy_id, kind, inode, size, mtime_ns, ctime_ns, mode, uid, gid,
                    xattrs, link_target, fuzzy, racy, began_at, ended_at, end_reason
                FROM name NOT INDEXED WHERE destination_id = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?
                """,
            insert: "INSERT INTO name VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        try file.execute(indexes)
        header.isFinished = true
        try file.statement("INSERT INTO header VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)")
            .bind(header.format).bind(text: header.release).bind(text: header.sentinel).bind(header.exportedAt)
            .bind(header.sequenceFrom).bind(header.sequenceTo).bind(header.copies).bind(header.names).run()
        try file.commit()
        return header
    }

    private static func copySources(
        _ state: Connection, _ destination: DestinationID, _ file: Connection
    ) throws(SafeBackupError) {
        let select = try state.statement(
            """
            SELECT s.id, s.uuid, s.path, s.fs_type, s.fs_volume, s.root_inode, s.root_birth_ns, p.prefix,
                p.first_save_at
            FROM pair p JOIN source s ON s.id = p.source_id WHERE p.destination_id = ?
            """)
        defer { select.reset() }
        select.bind(destination.rawValue)
        let insert = try file.statement("INSERT INTO source VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
        while try select.step() {
            for _ in 0..<9 { insert.bind(columnOf: select) }
            try insert.run()
        }
    }

    /// How many rows. `select` reads by id (NOT INDEXED): an index on the destination would be sorted for each chunk.
    private static func copyRows(
        _ state: Connection, _ destination: DestinationID, _ last: Int64, _ file: Connection, columns: Int,
        while isWanted: () -> Bool, select: String, insert: String
    ) throws(SafeBackupError) -> Int64 {
        let select = try state.prepare(select)
        let insert = try file.prepare(insert)
        var (after, rows): (Int64, Int64) = (0, 0)
        while true {
            if !isWanted() {
                throw SafeBackupError(
                    .interrupted, "The catalogue copy was not written to its end: it would take too long now",
                    disposition: .transient)
            }
            var found: Int64 = 0
            select.bind(destination.rawValue).bind(after).bind(last).bind(chunk)
            while try select.step() {
                after = select.int()
                insert.bind(after)
                for _ in 1..<columns { insert.bind(columnOf: select) }
                try insert.run()
                found += 1
            }
            select.reset()
            rows += found
            if found < chunk { return rows }
        }
    }

    /// The finished file with the newest content of `paths`, and why others are not usable; missing ones are not told.
    package static func newestFinished(
        of paths: [FilePath]
    ) -> (newest: CatalogueFileReader?, refused: [(path: FilePath, error: SafeBackupError)]) {
        var newest: CatalogueFileReader?
        var refused: [(path: FilePath, error: SafeBackupError)] = []
        for path in paths {
            do throws(Errno) {
                _ = try Descriptor.open(path, O_RDONLY | O_NOFOLLOW)
            } catch {
                if error == .noSuchFileOrDirectory { continue }
            }
            do throws(SafeBackupError) {
                let reader = try CatalogueFileReader(path)
                let header = (reader.header.sequenceTo, reader.header.exportedAt)
                if let newest, header <= (newest.header.sequenceTo, newest.header.exportedAt) { continue }
                newest = reader
            } catch {
                refused.append((path, error))
            }
        }
        return (newest, refused)
    }
}

/// A finished catalogue file, to restore from on a bare machine or to rebuild a state with.
package final class CatalogueFileReader: CatalogueReading {
    /// The number of the only destination in such a file.
    package static let destination = DestinationID(rawValue: 0)

    let connection: Connection
    package let path: FilePath
    package let header: CatalogueHeader

    /// Throws `stateDamaged` for what is no whole catalogue file, and `stateNewer`.
    package init(_ path: FilePath) throws(SafeBackupError) {
        self.path = path
        // Nobody changes it: a new one is renamed over it. It may lie on a disk that is mounted read-only.
        let connection = try Connection(path, .immutable, title: "The catalogue copy")
        self.connection = connection
        let format = try connection.number("PRAGMA user_version") ?? 0
        guard try connection.number("PRAGMA application_id") == CatalogueFile.applicationID else {
            throw Self.damaged(path, "is no catalogue of safebackup, or was never finished")
        }
        if format > CatalogueFile.format {
            throw SafeBackupError(
                .stateNewer, "The catalogue copy \(path) was written by a newer release; use that one",
                disposition: .permanent)
        }
        let row = try connection.statement(
            """
            SELECT format, release, sentinel, exported_at, sequence_from, sequence_to, copies, names, finished
            FROM header
            """)
        defer { row.reset() }
        guard try row.step() else { throw Self.damaged(path, "was never finished") }
        header = CatalogueHeader(
            format: row.int(), release: row.text(), sentinel: row.text(), exportedAt: row.timestamp(),
            sequenceFrom: row.int(), sequenceTo: row.int(), copies: row.int(), names: row.int(),
            isFinished: row.bool())
        if !header.isFinished { throw Self.damaged(path, "was never finished") }
    }

    private static func damaged(_ path: FilePath, _ reason: String) -> SafeBackupError {
        SafeBackupError(.stateDamaged, "The file \(path) \(reason)", disposition: .permanent)
    }

    /// Looks at the whole file, and throws `stateDamaged` if it is not what was written.
    package func check() throws(SafeBackupError) {
        let verdict = try connection.string("PRAGMA quick_check(1)")
        guard verdict == "ok" else { throw Self.damaged(path, "is damaged: \(verdict ?? "no answer")") }
        let copies = try connection.number("SELECT count(*) FROM copy")
        let names = try connection.number("SELECT count(*) FROM name")
        guard copies == header.copies, names == header.names else {
            throw Self.damaged(path, "has not the rows that its header tells")
        }
        // Anybody may have written to the disk that it lies on.
        for query: StaticString in [
            "SELECT CASE WHEN parent = '' THEN leaf ELSE parent || '/' || leaf END, leaf FROM name",
            "SELECT location, 'x' FROM copy",
        ] {
            let paths = try connection.statement(query)
            defer { paths.reset() }
            while try paths.step() {
                let (path, leaf) = (paths.path(), paths.bytes())
                guard path.staysBelow, !path.isRoot, !leaf.isEmpty, !leaf.contains(UInt8(ascii: "/")) else {
                    throw Self.damaged(self.path, "names a path that leaves its root")
                }
            }
        }
    }

    package func catalogueSources() throws(SafeBackupError) -> [CatalogueSource] {
        let statement = try connection.statement("SELECT id, uuid, path, prefix FROM source ORDER BY id")
        defer { statement.reset() }
        var sources: [CatalogueSource] = []
        while try statement.step() {
            sources.append(
                CatalogueSource(
                    id: SourceID(rawValue: statement.int()), uuid: statement.text(), path: statement.bytes(),
                    prefix: statement.path()))
        }
        return sources
    }

    package func names(
        _ source: SourceID, _ destination: DestinationID = CatalogueFileReader.destination, within path: RelativePath,
        _ scope: NameScope, depth: NameDepth, after cursor: NameCursor?, limit: Int
    ) throws(SafeBackupError) -> NamePage {
        try NameQuery(
            connection: connection, source: source, destination: destination, path: path, scope: scope, depth: depth
        ).page(after: cursor, limit: limit)
    }

    package func firstSave(
        _ source: SourceID, _ destination: DestinationID = CatalogueFileReader.destination
    ) throws(SafeBackupError) -> FirstSave? {
        guard let began = try NameQuery.firstBegan(source, destination, connection) else { return nil }
        let statement = try connection.statement("SELECT first_save_at FROM source WHERE id = ?")
        defer { statement.reset() }
        let ended = try statement.bind(source.rawValue).step() ? statement.timestampOrNull() : nil
        return FirstSave(began: began, ended: ended)
    }
}
