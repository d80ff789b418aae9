import CSafeBackupSQLite
import SafeBackupCore
import SystemPackage

/// SQLITE_IOERR_SHORT_READ; Swift does not import macros that compute.
private let ioErrorShortRead = SQLITE_IOERR | (2 << 8)

/// One SQLite connection without SQLite's own locks: its owner uses it from one thread at a time.
///
/// Every failure of SQLite becomes a `SafeBackupError` here, and only here: `stateDamaged` for a damaged file,
/// `stateFailed` for all else. `health` remembers the worst, because after a failed write or flush a connection must
/// not be trusted: what the page cache shows is perhaps not what the disk holds.
final class Connection {
    enum Access {
        /// The agent's: the file exists.
        case readWrite
        /// A verb's, beside an agent or without one.
        case readOnly
        /// Also without write access to the directory, when no agent runs.
        case immutable
        /// A catalogue file being made: nobody else sees it, and its maker flushes it.
        case scratch
    }

    enum Health {
        case good
        /// A read, write or flush failed, or the disk is full: to be closed and opened again.
        case failed
        /// The file is not what SQLite wrote.
        case damaged
    }

    private let handle: OpaquePointer
    private var statements: [UInt: Statement] = [:]
    private(set) var health = Health.good
    /// What a person reads in messages.
    private let name: String
    private let access: Access

    /// SQLite counts its memory under one lock for all threads, which costs more than the allocations themselves.
    /// Ignored if it is too late, because another part of the process has used SQLite before.
    private static let memoryIsUncounted = safebackup_sqlite3_forgo_statistics() == SQLITE_OK

    /// Opens the file at `path`, which exists; SQLite would create it readable by everybody.
    init(
        _ path: FilePath, _ access: Access, title: String = "The state database", vfs: String? = nil
    ) throws(SafeBackupError) {
        name =
            "\(title) \(printable(path.withPlatformString { Array(UnsafeRawBufferPointer(start: $0, count: path.length)) }))"
        self.access = access
        _ = Self.memoryIsUncounted
        var flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE
        switch access {
        case .readWrite, .scratch: flags |= SQLITE_OPEN_READWRITE
        case .readOnly: flags |= SQLITE_OPEN_READONLY
        case .immutable: flags |= SQLITE_OPEN_READONLY | SQLITE_OPEN_URI
        }
        var opened: OpaquePointer?
        let code =
            access == .immutable
            ? sqlite3_open_v2("file:" + Self.uriEscaped(path) + "?immutable=1", &opened, flags, vfs)
            : path.withPlatformString { sqlite3_open_v2($0, &opened, flags, vfs) }
        guard let opened else {
            throw SafeBackupError(
                .stateFailed, "No memory to open the state database", disposition: .transient)
        }
        handle = opened
        if code != SQLITE_OK { throw failure(code, "open the file") }
        sqlite3_busy_timeout(handle, 5_000)
    }

    deinit {
        statements.removeAll()
        sqlite3_close_v2(handle)
    }

    private static func uriEscaped(_ path: FilePath) -> String {
        path.withPlatformString { pointer in
            UnsafeRawBufferPointer(start: pointer, count: path.length).map { byte in
                switch byte {
                case 0x2D...0x39, 0x41...0x5A, 0x5F, 0x61...0x7A: String(UnicodeScalar(byte))
                default: "%" + hexadecimal([byte])
                }
            }.joined()
        }
    }

    // MARK: - Settings

    /// The -wal and the -shm survive a close, so that a reader without write access can open the file.
    func persistLog() throws(SafeBackupError) {
        let code = safebackup_sqlite3_persist_wal(handle)
        if code != SQLITE_OK { throw failure(code, "keep the write-ahead log") }
    }

    /// Takes the room on the disk that the write-ahead log's index will need, so that a full disk is an error of ours and
    /// not the end of the process: 128 MiB of log. To be called on a file that has a log, before it is read.
    func reserveLogIndex() throws(SafeBackupError) {
        let code = safebackup_sqlite3_reserve_index(handle, 8)
        if code != SQLITE_OK { throw failure(code, "take room for the write-ahead log's index") }
    }

    /// SQL can no longer damage the file on purpose.
    func defend() throws(SafeBackupError) {
        let code = safebackup_sqlite3_enable_defensive(handle)
        if code != SQLITE_OK { throw failure(code, "turn on the defensive mode") }
    }

    /// Whether a close moves the write-ahead log into the file.
    func setCheckpointOnClose(_ isOn: Bool) throws(SafeBackupError) {
        let code = safebackup_sqlite3_keep_wal_on_close(handle, isOn ? 0 : 1)
        if code != SQLITE_OK { throw failure(code, "keep the write-ahead log") }
    }

    // MARK: - Statements

    /// The prepared statement of this text; made at its first use. Literals have one address for the life of the
    /// process, so that the address is the key.
    func statement(_ sql: StaticString) throws(SafeBackupError) -> Statement {
        let key = UInt(bitPattern: sql.utf8Start)
        if let statement = statements[key] { return statement }
        let statement = try prepare(
            UnsafeRawBufferPointer(start: sql.utf8Start, count: sql.utf8CodeUnitCount),
            flags: UInt32(SQLITE_PREPARE_PERSISTENT))
        statements[key] = statement
        return statement
    }

    /// How much SQLite did for the statements so far, in steps of its virtual machine.
    var work: Int { statements.values.reduce(0) { $0 + $1.work } }

    /// A statement that is used once.
    func prepare(_ sql: String) throws(SafeBackupError) -> Statement {
        let bytes = Array(sql.utf8)
        var result: Result<Statement, SafeBackupError>?
        bytes.withUnsafeBytes { text in
            do throws(SafeBackupError) {
                result = .success(try prepare(text, flags: 0))
            } catch {
                result = .failure(error)
            }
        }
        guard let result else { throw failure(SQLITE_MISUSE, "prepare a statement") }
        return try result.get()
    }

    private func prepare(_ text: UnsafeRawBufferPointer, flags: UInt32) throws(SafeBackupError) -> Statement {
        var statement: OpaquePointer?
        let code = sqlite3_prepare_v3(
            handle, text.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(text.count), flags, &statement, nil)
        guard code == SQLITE_OK, let statement else { throw failure(code, "prepare a statement") }
        return Statement(statement, of: self)
    }

    /// Runs statements that are separated by semicolons and take no parameters.
    func execute(_ sql: String) throws(SafeBackupError) {
        let code = sqlite3_exec(handle, sql, nil, nil, nil)
        if code != SQLITE_OK { throw failure(code, "run a statement") }
    }

    /// The first column of the first row, or `nil` without a row.
    func number(_ sql: StaticString) throws(SafeBackupError) -> Int64? {
        let statement = try statement(sql)
        defer { statement.reset() }
        return try statement.step() ? statement.int() : nil
    }

    /// The first column of the first row as text, or `nil` without a row.
    func string(_ sql: String) throws(SafeBackupError) -> String? {
        let statement = try prepare(sql)
        defer { statement.reset() }
        return try statement.step() ? statement.textOrNull() : nil
    }

    /// Rows changed by the last INSERT, UPDATE or DELETE.
    var changes: Int { Int(sqlite3_changes(handle)) }

    /// The row that the last INSERT made.
    var insertedRow: Int64 { sqlite3_last_insert_rowid(handle) }

    // MARK: - Transactions

    func begin() throws(SafeBackupError) { try statement("BEGIN IMMEDIATE").run() }

    func commit() throws(SafeBackupError) {
        let isBefore = sqlite3_get_autocommit(handle) == 0
        try statement("COMMIT").run()
        // A transaction that SQLite ended by itself was rolled back (SQLITE_ABORT_ROLLBACK): nothing of it is promised.
        if !isBefore { throw failure(SQLITE_ABORT | (2 << 8), "commit") }
    }

    /// Ends a transaction without its changes; after a failure SQLite may have done so already.
    func rollBack() {
        // Readers in a transaction that is rolled back give SQLITE_ABORT_ROLLBACK at their next step; none goes on.
        for statement in statements.values { statement.reset() }
        if sqlite3_get_autocommit(handle) == 0 {
            // Ignored because the failure that led here is the one to report, and `health` decides what follows.
            sqlite3_exec(handle, "ROLLBACK", nil, nil, nil)
        }
    }

    /// Moves the whole write-ahead log into the file and cuts it to nothing; false while a reader is in the way.
    func checkpoint() throws(SafeBackupError) -> Bool {
        let code = sqlite3_wal_checkpoint_v2(handle, nil, SQLITE_CHECKPOINT_TRUNCATE, nil, nil)
        if code & 0xFF == SQLITE_BUSY || code & 0xFF == SQLITE_LOCKED { return false }
        if code != SQLITE_OK { throw failure(code, "move the write-ahead log into the file") }
        return true
    }

    // MARK: - Failures

    /// Whether tables and indexes tell the same; reads the whole file. A check that itself fails decides nothing.
    private func isConsistent() -> Bool {
        var answer: [String] = []
        withUnsafeMutablePointer(to: &answer) { answer in
            // Ignored because what the check does not tell is an ordinary failure.
            _ = sqlite3_exec(
                handle, "PRAGMA integrity_check(1)",
                { context, count, values, _ in
                    guard count > 0, let values, let text = values[0] else { return 0 }
                    context?.assumingMemoryBound(to: [String].self).pointee.append(String(cString: text))
                    return 0
                }, answer, nil)
        }
        return answer.isEmpty || answer == ["ok"]
    }

    /// What a result code of SQLite means, remembered in `health`.
    func failure(_ code: Int32, _ task: String) -> SafeBackupError {
        let explanation = String(cString: sqlite3_errmsg(handle))
        let systemError = sqlite3_system_errno(handle)
        let number = systemError == 0 ? nil : systemError
        switch code & 0xFF {
        case SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_FORMAT:
            health = .damaged
        case SQLITE_IOERR:
            // A file that ends too early is not what SQLite wrote; every other error may go by.
            health = code == ioErrorShortRead ? .damaged : max(health, .failed)
        case SQLITE_FULL, SQLITE_CANTOPEN, SQLITE_READONLY, SQLITE_NOMEM, SQLITE_PROTOCOL, SQLITE_PERM:
            health = max(health, .failed)
        case SQLITE_CONSTRAINT:
            // None of our statements offers a row twice; an index that contradicts its table sees it so.
            if !isConsistent() { health = .damaged }
        default:
            break
        }
        if health == .damaged {
            let step = access == .readWrite ? "; it is moved aside and rebuilt from the destination and a walk" : ""
            return SafeBackupError(
                .stateDamaged, "\(name) is damaged (could not \(task): \(explanation), SQLite \(code))\(step)",
                disposition: .permanent, systemError: number)
        }
        if code & 0xFF == SQLITE_CONSTRAINT || code & 0xFF == SQLITE_ERROR {
            return SafeBackupError(
                .stateFailed,
                "\(name) could not \(task): \(explanation) (SQLite \(code)); this is an error of the program, please "
                    + "report it: trying again does not help", disposition: .permanent)
        }
        let step =
            switch code & 0xFF {
            case SQLITE_FULL: "; free space where it is"
            case SQLITE_READONLY, SQLITE_PERM, SQLITE_CANTOPEN: "; check that it is there, and its owner and mode"
            case SQLITE_BUSY, SQLITE_LOCKED: "; another program holds it, close that"
            default: ""
            }
        return SafeBackupError(
            .stateFailed,
            "\(name) could not \(task): \(explanation) (SQLite \(code))\(step)",
            disposition: .transient, systemError: number)
    }
}

extension Connection.Health: Comparable {
    private var rank: Int {
        switch self {
        case .good: 0
        case .failed: 1
        case .damaged: 2
        }
    }

    static func < (left: Self, right: Self) -> Bool { left.rank < right.rank }
}
