import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// What opening the state found.
package struct OpenReport: Sendable, Hashable {
    /// There was no state before: a new one was begun.
    package var isCreated: Bool
    /// The state was damaged, and lies here now; a new one was begun.
    package var damagedMovedTo: FilePath?
    /// The agent before us closed the state; nothing is to be recovered.
    package var wasClean: Bool
}

/// How a state is opened.
package struct StateOptions: Sendable {
    /// Another SQLite VFS, for tests.
    package var vfs: String?
    /// The running release, kept in the file so that an older one can name it.
    package var release: String
    /// 0700, or 0750 when a group may read the state.
    package var directoryMode: UInt32
    /// 0600, or 0640 when a group may read the state.
    package var fileMode: UInt32

    package init(
        vfs: String? = nil, release: String = "development", directoryMode: UInt32 = 0o700, fileMode: UInt32 = 0o600
    ) {
        self.vfs = vfs
        self.release = release
        self.directoryMode = directoryMode
        self.fileMode = fileMode
    }
}

/// `queue.db` in its directory: making it, judging it, opening it, and moving a damaged one aside.
struct StateFile {
    static let leaf = Array("queue.db".utf8)

    let directory: FilePath
    let clock: WallClock
    let options: StateOptions
    var migrations = Migrations.all

    static func path(in directory: FilePath) -> FilePath { directory.appending("queue.db") }

    /// Opens the state, or begins one. A damaged one, and one that `isKnownDamaged`, is moved aside first.
    ///
    /// Throws `stateNewer` for a file of a newer release, of which nothing is changed, and `stateFailed`.
    func open(isKnownDamaged: Bool) throws(SafeBackupError) -> (Connection, OpenReport) {
        let folder = try makeDirectory()
        var movedTo: FilePath?
        let isDamaged = isKnownDamaged ? true : try hasLogAlone(in: folder)
        if isDamaged { movedTo = try moveAside(in: folder) }
        do throws(SafeBackupError) {
            return try attempt(in: folder, movedTo: movedTo)
        } catch {
            if error.code != .stateDamaged || movedTo != nil { throw error }
        }
        return try attempt(in: folder, movedTo: try moveAside(in: folder))
    }

    private func attempt(
        in folder: Descriptor, movedTo: FilePath?
    ) throws(SafeBackupError) -> (Connection, OpenReport) {
        let isCreated = try makeFile(in: folder)
        let connection = try Connection(Self.path(in: directory), .readWrite, vfs: options.vfs)
        // The first read already writes the log's index; an empty file has none.
        if try size(of: Self.leaf, in: folder) > 0 { try connection.reserveLogIndex() }
        // A newer release's file must stay as it is, its write-ahead log included.
        try connection.setCheckpointOnClose(false)
        let version = try connection.number("PRAGMA user_version") ?? 0
        let application = try connection.number("PRAGMA application_id") ?? 0
        let tables = try connection.number("SELECT count(*) FROM sqlite_schema") ?? 0
        let isEmpty = version == 0 && application == 0 && tables == 0
        if !isEmpty && (application != Schema.applicationID || version < 1) {
            throw damaged("it is not a database of safebackup")
        }
        if version > migrations.version { throw newer(version, connection) }
        try connection.setCheckpointOnClose(true)
        try configure(connection)
        let wasClean = isEmpty ? false : try isMarkedClean(connection)
        if !isEmpty && !wasClean { try check(connection) }
        try migrate(connection, from: version, isEmpty: isEmpty, in: folder)
        if !isEmpty { try compareSchema(connection) }
        if wasClean {
            // From here on only a close makes the state clean again.
            try connection.statement("DELETE FROM meta WHERE key = 'clean'").run()
        }
        return (
            connection, OpenReport(isCreated: isCreated || isEmpty, damagedMovedTo: movedTo, wasClean: wasClean)
        )
    }

    // MARK: - Files

    private func makeDirectory() throws(SafeBackupError) -> Descriptor {
        do throws(Errno) {
            do throws(Errno) {
                return try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
            } catch {
                if error != .noSuchFileOrDirectory { throw error }
            }
            try makeDirectories(directory)
            return try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
        } catch {
            throw SafeBackupError(
                .stateFailed,
                "The state directory \(directory) cannot be made or opened: \(error.explanation); give another by --state",
                disposition: .transient, systemError: error.rawValue)
        }
    }

    private func makeDirectories(_ path: FilePath) throws(Errno) {
        let parent = path.removingLastComponent()
        guard let leaf = path.lastComponent else { return }
        let above = parent.isEmpty ? FilePath(".") : parent
        let folder: Descriptor
        do throws(Errno) {
            folder = try Descriptor.open(above, O_RDONLY | O_DIRECTORY)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
            try makeDirectories(above)
            folder = try Descriptor.open(above, O_RDONLY | O_DIRECTORY)
        }
        do throws(Errno) {
            try folder.makeDirectory(
                leaf.withPlatformString { Array(UnsafeRawBufferPointer(start: $0, count: strlen($0))) },
                mode: mode_t(options.directoryMode))
        } catch {
            // Somebody else made it meanwhile.
            if error != .fileExists { throw error }
        }
        try folder.sync()
    }

    /// Makes an empty file with the right mode, which SQLite gives to -wal and -shm too; `false` if there is one.
    private func makeFile(in folder: Descriptor) throws(SafeBackupError) -> Bool {
        do throws(Errno) {
            _ = try folder.open(Self.leaf, O_RDWR | O_CREAT | O_EXCL, mode: mode_t(options.fileMode))
            try folder.sync()
            return true
        } catch {
            if error == .fileExists { return false }
            throw failed(error, "make")
        }
    }

    /// Whether changes lie in the write-ahead log although their file is empty or gone. SQLite would throw the log away.
    private func hasLogAlone(in folder: Descriptor) throws(SafeBackupError) -> Bool {
        if try size(of: Self.leaf, in: folder) > 0 { return false }
        return try size(of: Self.leaf + Array("-wal".utf8), in: folder) > 0
    }

    private func size(of leaf: [UInt8], in folder: Descriptor) throws(SafeBackupError) -> Int64 {
        do throws(Errno) {
            return try folder.status(of: leaf).size
        } catch {
            if error == .noSuchFileOrDirectory { return 0 }
            throw failed(error, "look at")
        }
    }

    /// Renames the file, then its -wal and -shm, so that `sqlite3` can open what is left of it. After a crash in
    /// between, the log is alone and follows at the next start.
    private func moveAside(in folder: Descriptor) throws(SafeBackupError) -> FilePath {
        let aside = "queue.db.damaged-\(clock.now.compact)"
        for suffix in ["", "-wal", "-shm"] {
            do throws(Errno) {
                try folder.renameWithoutReplacing(
                    Self.leaf + Array(suffix.utf8), to: folder, Array((aside + suffix).utf8))
            } catch {
                if error != .noSuchFileOrDirectory { throw failed(error, "move aside") }
            }
        }
        do throws(Errno) { try folder.sync() } catch { throw failed(error, "move aside") }
        return directory.appending(aside)
    }

    // MARK: - Judging

    private func configure(_ connection: Connection) throws(SafeBackupError) {
        try connection.persistLog()
        try connection.defend()
        let mode = try connection.string("PRAGMA journal_mode = WAL")
        guard mode == "wal" else {
            throw SafeBackupError(
                .stateFailed,
                "The state directory \(directory) is on a file system without shared memory, which SQLite needs; "
                    + "give one on a local disk by --state",
                disposition: .permanent)
        }
        try connection.reserveLogIndex()
        try connection.execute(
            """
            PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
            PRAGMA cache_size = -16000; PRAGMA temp_store = FILE; PRAGMA wal_autocheckpoint = 4000;
            PRAGMA journal_size_limit = 67108864
            """)
        // NORMAL would lose acknowledged commits at a power cut; a build of SQLite may refuse to change it.
        guard try connection.number("PRAGMA synchronous") == 2 else {
            throw SafeBackupError(
                .stateFailed, "This SQLite does not flush each commit (synchronous = FULL); use another build of it",
                disposition: .permanent)
        }
    }

    private func isMarkedClean(_ connection: Connection) throws(SafeBackupError) -> Bool {
        try connection.string("SELECT value FROM meta WHERE key = 'clean'") == "1"
    }

    private func check(_ connection: Connection) throws(SafeBackupError) {
        // After a failed flush the log may be whole in memory only. Moving it into the file flushes it anew, or fails.
        _ = try connection.checkpoint()
        let verdict = try connection.string("PRAGMA quick_check(1)")
        guard verdict == "ok" else { throw damaged(verdict ?? "its check gave no answer") }
    }

    /// Throws `stateDamaged` where a table or an index is not as the migrations make it: no check of SQLite's own knows
    /// what our columns are called, and every statement would fail without end.
    private func compareSchema(_ connection: Connection) throws(SafeBackupError) {
        let model = try Connection(":memory:", .scratch)
        try migrations.run(on: model, from: 0, release: options.release)
        let expected = try Self.outline(model)
        let missing = expected.subtracting(try Self.outline(connection))
        if let first = missing.min() { throw damaged("its schema has changed (\(first))") }
    }

    /// Every column of tables and indexes, without the text that made them, which another SQLite may write otherwise.
    private static func outline(_ connection: Connection) throws(SafeBackupError) -> Set<String> {
        let statement = try connection.prepare(
            """
            SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || c.pk
            FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'
            UNION ALL SELECT m.name || '(' || c.seqno || ') ' || ifnull(c.name, '') || ' ' || c."desc"
            FROM sqlite_schema m JOIN pragma_index_xinfo(m.name) c WHERE m.type = 'index'
            """)
        var outline: Set<String> = []
        while try statement.step() { outline.insert(statement.text()) }
        return outline
    }

    private func migrate(
        _ connection: Connection, from version: Int64, isEmpty: Bool, in folder: Descriptor
    ) throws(SafeBackupError) {
        if version == migrations.version {
            if try connection.string("SELECT value FROM meta WHERE key = 'release'") == options.release { return }
        } else if !isEmpty {
            try copyAside(connection, version, in: folder)
        }
        try migrations.run(on: connection, from: version, release: options.release)
    }

    /// Copies the file before it is migrated, for whoever must go back to the older release.
    private func copyAside(_ connection: Connection, _ version: Int64, in folder: Descriptor) throws(SafeBackupError) {
        let leaf = Array("queue.db.version-\(version)-\(clock.now.compact)".utf8)
        do throws(Errno) {
            // Made here, because SQLite would let others read it; VACUUM INTO takes an empty file.
            _ = try folder.open(leaf, O_RDWR | O_CREAT | O_EXCL, mode: mode_t(options.fileMode))
        } catch {
            throw failed(error, "copy")
        }
        let path = directory.appending(String(decoding: leaf, as: UTF8.self))
        let statement = try connection.prepare("VACUUM INTO ?")
        try statement.bind(
            path: path.withPlatformString { Array(UnsafeRawBufferPointer(start: $0, count: path.length)) }
        )
        .run()
        do throws(Errno) {
            try folder.open(leaf, O_RDONLY).sync()
            try folder.sync()
        } catch {
            throw failed(error, "copy")
        }
    }

    private func newer(_ version: Int64, _ connection: Connection) -> SafeBackupError {
        var release = "a newer release"
        do throws(SafeBackupError) {
            if let name = try connection.string("SELECT value FROM meta WHERE key = 'release'") {
                release = "release \(name)"
            }
        } catch {
            // Ignored because a newer release may keep its name elsewhere: the refusal stands without it.
        }
        return SafeBackupError(
            .stateNewer,
            "The state database in \(directory) was written by the newer \(release) (schema \(version), this release knows "
                + "\(migrations.version)); nothing was touched: run that release, or give another --state",
            disposition: .permanent)
    }

    private func damaged(_ reason: String) -> SafeBackupError {
        SafeBackupError(
            .stateDamaged, "The state database in \(directory) is damaged: \(reason)", disposition: .permanent)
    }

    private func failed(_ error: Errno, _ task: String) -> SafeBackupError {
        SafeBackupError(
            .stateFailed, "Could not \(task) the state database in \(directory): \(error.explanation)",
            disposition: .transient, systemError: error.rawValue)
    }
}
