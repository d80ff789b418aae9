import CSafeBackupSQLite
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// A copy of an agent's database as it lies on the disk, so that looking at it changes nothing: opening the original
/// could checkpoint its write-ahead log, and the next start would have less to recover from.
final class StateFile {
    /// One live name with its copy.
    struct Name {
        var path: RelativePath
        var kind: String
        /// `nil`: it has no copy, as a directory has none.
        var location: RelativePath?
    }

    private let directory: FilePath
    private let connection: OpaquePointer
    private let digester = Digester()

    init(copying state: FilePath) throws {
        directory = try Self.copy(of: state)
        connection = try Self.open(directory.appending("queue.db"))
    }

    private static func copy(of state: FilePath) throws -> FilePath {
        var template = Array("/tmp/safebackup-state.XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw Errno(rawValue: errno) }
        let directory = FilePath(platformString: made)
        // Again, until neither file changed while both were copied: a running agent writes and checkpoints.
        var before: [String: Fingerprint]
        repeat {
            before = try marks(of: state)
            for name in before.keys {
                let copy = try Descriptor.open(directory.appending(name), O_WRONLY | O_CREAT | O_TRUNC)
                try copy.write(try read(state.appending(name)), at: 0)
            }
        } while try marks(of: state) != before
        return directory
    }

    private static func open(_ file: FilePath) throws -> OpaquePointer {
        var connection: OpaquePointer?
        let result = file.withPlatformString { sqlite3_open_v2($0, &connection, SQLITE_OPEN_READWRITE, nil) }
        guard result == SQLITE_OK, let connection else {
            throw StateFailure(message: "queue.db cannot be opened: \(result)")
        }
        return connection
    }

    deinit {
        sqlite3_close(connection)
        do {
            try command(["rm", "-rf", directory])
        } catch {
            // Ignored because it is the system's temporary directory and the test has ended.
        }
    }

    /// What tells whether the files changed while they were copied; only those that are there.
    private static func marks(of state: FilePath) throws -> [String: Fingerprint] {
        let directory = try Descriptor.open(state, O_RDONLY | O_DIRECTORY)
        var marks: [String: Fingerprint] = [:]
        marks["queue.db"] = try mark(of: "queue.db", in: directory)
        marks["queue.db-wal"] = try mark(of: "queue.db-wal", in: directory)
        return marks
    }

    private static func mark(of name: String, in directory: Descriptor) throws -> Fingerprint? {
        do throws(Errno) {
            return try directory.status(of: Array(name.utf8)).fingerprint
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }

    /// The rows of a query without parameters.
    func rows(_ query: String) throws -> [[Value]] {
        var statement: OpaquePointer?
        guard sqlite3_prepare_v2(connection, query, -1, &statement, nil) == SQLITE_OK else { throw failure }
        defer { sqlite3_finalize(statement) }
        var rows: [[Value]] = []
        var result = sqlite3_step(statement)
        while result == SQLITE_ROW {
            rows.append((0..<sqlite3_column_count(statement)).map { Value(of: statement, $0) })
            result = sqlite3_step(statement)
        }
        guard result == SQLITE_DONE else { throw failure }
        return rows
    }

    private var failure: StateFailure { StateFailure(message: String(cString: sqlite3_errmsg(connection))) }

    /// What one column of a row holds.
    struct Value {
        /// Of TEXT and BLOB; `nil` for NULL.
        var bytes: [UInt8]?
        var integer: Int64

        init(of statement: OpaquePointer?, _ column: Int32) {
            integer = sqlite3_column_int64(statement, column)
            guard sqlite3_column_type(statement, column) != SQLITE_NULL else { return }
            let start = sqlite3_column_blob(statement, column)
            bytes = Array(UnsafeRawBufferPointer(start: start, count: Int(sqlite3_column_bytes(statement, column))))
        }

        var text: String { String(decoding: bytes ?? [], as: UTF8.self) }
    }

    /// All live names.
    func liveNames() throws -> [Name] {
        let rows = try rows(
            """
            SELECT n.parent, n.leaf, n.kind, c.location
            FROM name n LEFT JOIN copy c ON c.id = n.copy_id WHERE n.ended_at IS NULL
            """)
        return rows.map { row in
            Name(
                path: RelativePath(unchecked: row[0].bytes ?? []).appending(row[1].bytes ?? []), kind: row[2].text,
                location: row[3].bytes.map { RelativePath(unchecked: $0) })
        }
    }

    /// The paths that have a lease, and the locations that a lease, or a retirement, moves a copy away from.
    func leasedPaths() throws -> [RelativePath] {
        try rows(
            """
            SELECT path FROM job WHERE state = 'leased'
            UNION ALL SELECT c.location FROM job j JOIN copy c ON c.id = j.origin_copy WHERE j.state = 'leased'
            UNION ALL SELECT c.location FROM retiring r JOIN copy c ON c.id = r.copy_id WHERE r.version IS NOT NULL
            """
        ).map { RelativePath(unchecked: $0[0].bytes ?? []) }
    }

    /// Number of jobs by state.
    func jobCounts() throws -> [String: Int64] {
        let rows = try rows("SELECT state, count(*) FROM job GROUP BY state")
        return Dictionary(uniqueKeysWithValues: rows.map { ($0[0].text, $0[1].integer) })
    }

    /// Parts of uploads under way that the server has confirmed.
    func uploadedParts() throws -> Int64 { try rows("SELECT count(*) FROM upload_part").first?[0].integer ?? 0 }

    /// Every copy below `backup` that is missing or has another digest than the catalogue says, and every live name
    /// without one, unless a lease covers it: one at the path itself, or at a path above or below it, whose store moves
    /// what stands in its way.
    func lies(about backup: FilePath) throws -> [String] {
        let destination = try ConfinedDirectory(opening: backup)
        let leased = try leasedPaths()
        func isCovered(_ path: RelativePath) -> Bool {
            leased.contains { $0.isWithin(path) || path.isWithin($0) }
        }
        var lies: [String] = []
        for name in try liveNames() where name.kind != EntryKind.directory.rawValue {
            if name.location == nil && !isCovered(name.path) { lies.append("\(name.path) has no copy") }
        }
        // Also tombstones and kept versions: what once was saved stays what it was.
        let copies = try rows(
            "SELECT location, kind, digest FROM copy WHERE digest IS NOT NULL AND removing IS NULL")
        for row in copies {
            let location = RelativePath(unchecked: row[0].bytes ?? [])
            if isCovered(location) { continue }
            do {
                let found = try storedDigest(of: row[1].text, at: location, in: destination)
                if found.bytes != row[2].bytes { lies.append("\(location): the copy has another digest") }
            } catch {
                lies.append("\(location): \(error)")
            }
        }
        return lies
    }

    private func storedDigest(
        of kind: String, at location: RelativePath, in destination: ConfinedDirectory
    ) throws -> Digest {
        if kind == EntryKind.symlink.rawValue {
            return SHA256.digest(of: try destination.openDirectory(location.parent).linkTarget(of: location.leaf))
        }
        return try digester.digest(of: try destination.open(location, O_RDONLY))
    }
}

/// The database said no.
struct StateFailure: Error {
    var message: String
}
