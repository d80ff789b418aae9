import CSafeBackupSQLite
import SafeBackupCore

/// A prepared statement. Parameters are bound, and columns read, in order, each call going on to the next one.
///
/// Paths are stored as TEXT where they are valid UTF-8 without a NUL, so that `WHERE path = 'a/b'` works, else as
/// BLOB; both read back to the same bytes. Owned by the connection's cache and used on its thread only.
final class Statement {
    private let handle: OpaquePointer
    private unowned let connection: Connection
    private var parameter: Int32 = 0
    private var column: Int32 = 0
    /// The first bind that failed; thrown by the next step.
    private var fault: Int32 = SQLITE_OK
    /// Holds bound bytes until the reset, which spares SQLite an allocation for each.
    private let arena = UnsafeMutableRawBufferPointer.allocate(byteCount: 2_048, alignment: 8)
    private var arenaUsed = 0

    init(_ handle: OpaquePointer, of connection: Connection) {
        self.handle = handle
        self.connection = connection
    }

    deinit {
        sqlite3_finalize(handle)
        arena.deallocate()
    }

    // MARK: - Running

    /// Goes to the next row; `false` after the last one.
    func step() throws(SafeBackupError) -> Bool {
        if fault != SQLITE_OK { throw connection.failure(fault, "bind a value") }
        column = 0
        switch sqlite3_step(handle) {
        case SQLITE_ROW: return true
        case SQLITE_DONE: return false
        case let code: throw connection.failure(code, "run a statement")
        }
    }

    /// How much SQLite did for this statement so far, in steps of its virtual machine; tells a scan from a search.
    var work: Int { Int(sqlite3_stmt_status(handle, SQLITE_STMTSTATUS_VM_STEP, 0)) }

    /// Ready for new parameters.
    func reset() {
        // Ignored because it repeats the error of the step, which was thrown there.
        sqlite3_reset(handle)
        parameter = 0
        arenaUsed = 0
        fault = SQLITE_OK
    }

    /// Runs a statement that gives no rows.
    func run() throws(SafeBackupError) {
        defer { reset() }
        while try step() {}
    }

    // MARK: - Parameters

    private func check(_ code: Int32) {
        if fault == SQLITE_OK { fault = code }
    }

    @discardableResult
    func bind(_ value: Int64) -> Statement {
        parameter += 1
        check(sqlite3_bind_int64(handle, parameter, value))
        return self
    }

    @discardableResult
    func bind(_ value: Int64?) -> Statement {
        if let value { return bind(value) }
        return bindNull()
    }

    @discardableResult
    func bind(_ value: Bool) -> Statement { bind(Int64(value ? 1 : 0)) }

    @discardableResult
    func bind(_ time: Timestamp) -> Statement { bind(time.microseconds) }

    @discardableResult
    func bind(_ time: Timestamp?) -> Statement { bind(time?.microseconds) }

    @discardableResult
    func bind(_ time: FileTime?) -> Statement { bind(time?.nanoseconds) }

    /// An inode number or another unsigned number, by its bits.
    @discardableResult
    func bind(bits value: UInt64?) -> Statement { bind(value.map(Int64.init(bitPattern:))) }

    @discardableResult
    func bindNull() -> Statement {
        parameter += 1
        check(sqlite3_bind_null(handle, parameter))
        return self
    }

    @discardableResult
    func bind(text: String?) -> Statement {
        guard var text else { return bindNull() }
        return text.withUTF8 { bind(UnsafeRawBufferPointer($0), isText: true) }
    }

    @discardableResult
    func bind(blob: [UInt8]?) -> Statement {
        guard let blob else { return bindNull() }
        return blob.withUnsafeBytes { bind($0, isText: false) }
    }

    @discardableResult
    func bind(path: [UInt8]?) -> Statement {
        guard let path else { return bindNull() }
        return path.withUnsafeBytes { bind($0, isText: isText($0)) }
    }

    @discardableResult
    func bind(path: ArraySlice<UInt8>) -> Statement {
        path.withUnsafeBytes { bind($0, isText: isText($0)) }
    }

    @discardableResult
    func bind(_ path: RelativePath) -> Statement { bind(path: path.bytes) }

    /// Two parameters: the path's parent and its leaf.
    @discardableResult
    func bind(split path: RelativePath) -> Statement {
        let bytes = path.bytes
        guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")) else { return bind(path: []).bind(path: bytes) }
        return bind(path: bytes[..<slash]).bind(path: bytes[(slash + 1)...])
    }

    /// Bytes as TEXT or BLOB, as the caller says; for the bounds of a range.
    @discardableResult
    func bind(_ value: PathBound) -> Statement {
        value.bytes.withUnsafeBytes { bind($0, isText: value.isText) }
    }

    private func bind(_ bytes: UnsafeRawBufferPointer, isText: Bool) -> Statement {
        parameter += 1
        // An empty Swift buffer may have no address, and a null pointer would bind NULL.
        guard let start = bytes.baseAddress, !bytes.isEmpty else {
            check(
                isText ? sqlite3_bind_text(handle, parameter, "", 0, nil) : sqlite3_bind_zeroblob(handle, parameter, 0))
            return self
        }
        let count = Int32(clamping: bytes.count)
        var (source, lifetime) = (start, unsafeBitCast(-1, to: sqlite3_destructor_type?.self))
        if bytes.count <= arena.count - arenaUsed, let base = arena.baseAddress {
            let place = base + arenaUsed
            place.copyMemory(from: start, byteCount: bytes.count)
            arenaUsed += bytes.count
            (source, lifetime) = (UnsafeRawPointer(place), nil)
        }
        if isText {
            check(sqlite3_bind_text(handle, parameter, source.assumingMemoryBound(to: CChar.self), count, lifetime))
        } else {
            check(sqlite3_bind_blob(handle, parameter, source, count, lifetime))
        }
        return self
    }

    /// The next column of another statement's row, as it is.
    @discardableResult
    func bind(columnOf other: Statement) -> Statement {
        parameter += 1
        check(sqlite3_bind_value(handle, parameter, sqlite3_column_value(other.handle, other.column)))
        other.column += 1
        return self
    }

    // MARK: - Columns

    /// How many columns a row has.
    var columnCount: Int { Int(sqlite3_column_count(handle)) }

    /// Leaves out the next column.
    func skip() { column += 1 }

    func int() -> Int64 {
        defer { column += 1 }
        return sqlite3_column_int64(handle, column)
    }

    func intOrNull() -> Int64? {
        if isNull() {
            column += 1
            return nil
        }
        return int()
    }

    func bool() -> Bool { int() != 0 }

    func bits() -> UInt64? { intOrNull().map(UInt64.init(bitPattern:)) }

    func timestamp() -> Timestamp { Timestamp(microseconds: int()) }

    func timestampOrNull() -> Timestamp? { intOrNull().map(Timestamp.init(microseconds:)) }

    func fileTime() -> FileTime? { intOrNull().map(FileTime.init(nanoseconds:)) }

    func text() -> String {
        withBytes { String(decoding: $0, as: UTF8.self) }
    }

    func textOrNull() -> String? {
        if isNull() {
            column += 1
            return nil
        }
        return text()
    }

    /// The bytes of a TEXT or BLOB; none of a NULL.
    func bytes() -> [UInt8] {
        withBytes { Array($0) }
    }

    func bytesOrNull() -> [UInt8]? {
        if isNull() {
            column += 1
            return nil
        }
        return bytes()
    }

    func path() -> RelativePath { RelativePath(unchecked: bytes()) }

    func pathOrNull() -> RelativePath? { bytesOrNull().map(RelativePath.init(unchecked:)) }

    /// Whether the next column is NULL; does not go on.
    func isNull() -> Bool { sqlite3_column_type(handle, column) == SQLITE_NULL }

    private func withBytes<R>(_ body: (UnsafeRawBufferPointer) -> R) -> R {
        defer { column += 1 }
        // column_blob gives a TEXT's bytes as they are stored; asked for before the length. See: sqlite3_column_blob.
        let start = sqlite3_column_blob(handle, column)
        return body(UnsafeRawBufferPointer(start: start, count: Int(sqlite3_column_bytes(handle, column))))
    }
}

/// Whether a path is stored as TEXT: valid UTF-8 without a NUL, at which SQLite's own functions would end it.
func isText(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var isASCII = true
    for byte in bytes {
        if byte == 0 { return false }
        if byte >= 0x80 { isASCII = false }
    }
    if isASCII { return true }
    do {
        _ = try UTF8Span(validating: bytes.bindMemory(to: UInt8.self).span)
        return true
    } catch {
        return false
    }
}

/// One end of a range of stored paths. SQLite sorts every TEXT before every BLOB, and each by its bytes.
struct PathBound {
    var bytes: [UInt8]
    var isText: Bool
}

/// A half-open range of stored paths.
struct PathRange {
    var lower: PathBound
    var upper: PathBound

    /// The ranges that hold every path below `path`, and not `path` itself.
    static func below(_ path: RelativePath) -> [PathRange] {
        if path.isRoot {
            // The empty TEXT, the root itself, lies outside. No leaf has 256 bytes, so that nothing sorts after the end.
            return [
                PathRange(lower: PathBound(bytes: [1], isText: true), upper: PathBound(bytes: [], isText: false)),
                PathRange(
                    lower: PathBound(bytes: [1], isText: false),
                    upper: PathBound(bytes: [UInt8](repeating: 0xFF, count: 256), isText: false)),
            ]
        }
        // 0x30 follows the slash, 0x2F. What is valid UTF-8 may have paths of both types below it, what is not only BLOBs.
        let (lower, upper) = (path.bytes + [0x2F], path.bytes + [0x30])
        let types = path.bytes.withUnsafeBytes(isText) ? [true, false] : [false]
        return types.map { type in
            PathRange(lower: PathBound(bytes: lower, isText: type), upper: PathBound(bytes: upper, isText: type))
        }
    }

    /// As `below`, with `path` itself.
    static func within(_ path: RelativePath) -> [PathRange] { [only(path)] + below(path) }

    /// Nothing but `path`: a stored path holds no byte 0.
    static func only(_ path: RelativePath) -> PathRange {
        let type = path.bytes.withUnsafeBytes(isText)
        return PathRange(
            lower: PathBound(bytes: path.bytes, isText: type), upper: PathBound(bytes: path.bytes + [1], isText: type))
    }
}
