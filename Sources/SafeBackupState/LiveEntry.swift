import SafeBackupCore

/// What a reconcile needs of a live name.
struct LiveEntry {
    enum Difference {
        case none
        /// Probably the same content: compare digests.
        case metadata
        case content
    }

    var kind: EntryKind
    var size: Int64
    var mtime: Int64
    /// `nil` after a recovery.
    var inode: UInt64?
    var ctime: Int64?
    var mode: UInt32
    var uid: UInt32
    var gid: UInt32
    var isFuzzy: Bool
    var isRacy: Bool

    /// Reads kind, size, mtime_ns, inode, ctime_ns, mode, uid, gid, fuzzy, racy.
    private init(_ row: Statement) {
        kind = EntryKind(rawValue: row.text()) ?? .device
        size = row.int()
        mtime = row.int()
        inode = row.bits()
        ctime = row.intOrNull()
        mode = UInt32(truncatingIfNeeded: row.int())
        uid = UInt32(truncatingIfNeeded: row.int())
        gid = UInt32(truncatingIfNeeded: row.int())
        isFuzzy = row.bool()
        isRacy = row.bool()
    }

    /// The live names in one directory, by leaf.
    static func all(
        in parent: RelativePath, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) -> [[UInt8]: LiveEntry] {
        let statement = try connection.statement(
            """
            SELECT leaf, kind, size, mtime_ns, inode, ctime_ns, mode, uid, gid, fuzzy, racy FROM name
            WHERE source_id = ? AND destination_id = ? AND parent = ? AND ended_at IS NULL
            """)
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(parent)
        var entries: [[UInt8]: LiveEntry] = [:]
        while try statement.step() {
            let leaf = statement.bytes()
            entries[leaf] = LiveEntry(statement)
        }
        return entries
    }

    static func one(
        _ leaf: [UInt8], in parent: RelativePath, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) -> LiveEntry? {
        let statement = try connection.statement(
            """
            SELECT kind, size, mtime_ns, inode, ctime_ns, mode, uid, gid, fuzzy, racy FROM name
            WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf = ? AND ended_at IS NULL
            """)
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(parent).bind(path: leaf)
        return try statement.step() ? LiveEntry(statement) : nil
    }

    /// Nothing of it is to be made sure of by the next walk.
    var isCertain: Bool { (kind == .directory || inode != nil && ctime != nil) && !isFuzzy && !isRacy }

    /// How the source's entry differs from what was saved.
    func difference(from status: FileStatus, _ rules: ComparisonRules) -> Difference {
        if kind != status.kind { return .content }
        let hasOtherMode = mode != status.mode || uid != status.uid || gid != status.gid
        // A directory's size and times change with its entries, which are compared by themselves.
        if kind == .directory { return hasOtherMode ? .metadata : .none }
        if size != status.size || mtime != status.fingerprint.mtime.nanoseconds { return .content }
        guard let inode, let ctime else { return .metadata }
        if rules.inodesAreStable && inode != status.fingerprint.inode { return .content }
        if hasOtherMode || ctime != status.fingerprint.ctime.nanoseconds { return .metadata }
        if isFuzzy { return .content }
        return isRacy && rules.hashRacy ? .metadata : .none
    }
}
