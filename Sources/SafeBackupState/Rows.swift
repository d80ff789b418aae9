import SafeBackupCore

/// Why a name ended.
enum EndReason: String {
    case replaced
    case deleted
    case metadata
    case moved
    /// Its copy lay in a destination that was replaced.
    case lost
}

/// A kind as its column holds it. An unknown one, of a hand that edited the database, is taken as a special file, which
/// is listed and never touched.
private func entryKind(_ row: Statement) -> EntryKind { EntryKind(rawValue: row.text()) ?? .device }

extension NameRecord {
    /// Reads id, copy_id, kind, inode, size, mtime_ns, ctime_ns, mode, uid, gid, xattrs, link_target, fuzzy, racy.
    static func read(_ row: Statement) -> NameRecord {
        NameRecord(
            id: row.int(), copy: row.intOrNull(), kind: entryKind(row),
            fingerprint: Fingerprint(
                // An inode 0 and a ctime 0 equal no file's: after a recovery the source is compared by digest.
                inode: row.bits() ?? 0, size: row.int(), mtime: FileTime(nanoseconds: row.int()),
                ctime: row.fileTime() ?? FileTime(nanoseconds: 0)),
            metadata: FileMetadata(
                mode: UInt32(truncatingIfNeeded: row.int()), uid: UInt32(truncatingIfNeeded: row.int()),
                gid: UInt32(truncatingIfNeeded: row.int()), xattrs: ExtendedAttribute.decode(row.bytesOrNull())),
            linkTarget: row.bytesOrNull(), isFuzzy: row.bool(), isRacy: row.bool())
    }
}

extension CopyRecord {
    /// Reads id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged.
    static func read(_ row: Statement) -> CopyRecord {
        CopyRecord(
            id: row.int(), location: row.path(), kind: entryKind(row),
            digest: row.bytesOrNull().flatMap(Digest.init(bytes:)),
            size: row.int(), storedAt: row.timestamp(), inode: row.bits(), mtime: row.fileTime(), isFuzzy: row.bool(),
            isDamaged: row.bool())
    }
}

extension ExtendedAttribute {
    /// As the column `xattrs` holds them; `nil` for none.
    static func encode(_ attributes: [ExtendedAttribute]) -> [UInt8]? {
        if attributes.isEmpty { return nil }
        var bytes: [UInt8] = []
        for attribute in attributes {
            for part in [attribute.name, attribute.value] {
                withUnsafeBytes(of: UInt32(clamping: part.count).littleEndian) { bytes.append(contentsOf: $0) }
                bytes.append(contentsOf: part)
            }
        }
        return bytes
    }

    /// What is cut short is left out.
    static func decode(_ bytes: [UInt8]?) -> [ExtendedAttribute] {
        guard var rest = bytes?[...] else { return [] }
        func part() -> [UInt8]? {
            guard rest.count >= 4 else { return nil }
            let length = rest.prefix(4).reversed().reduce(0) { $0 << 8 | Int($1) }
            rest = rest.dropFirst(4)
            guard rest.count >= length else { return nil }
            defer { rest = rest.dropFirst(length) }
            return Array(rest.prefix(length))
        }
        var attributes: [ExtendedAttribute] = []
        while let name = part(), let value = part() {
            attributes.append(ExtendedAttribute(name: name, value: value))
        }
        return attributes
    }
}

/// Looks at the catalogue, in the transaction of the caller.
extension Connection {
    /// What the path was when it was last saved.
    func liveName(_ pair: PairKey, _ path: RelativePath) throws(SafeBackupError) -> NameRecord? {
        let statement = try statement(
            """
            SELECT id, copy_id, kind, inode, size, mtime_ns, ctime_ns, mode, uid, gid, xattrs, link_target, fuzzy, racy
            FROM name WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf = ? AND ended_at IS NULL
            """)
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path)
        return try statement.step() ? NameRecord.read(statement) : nil
    }

    func copy(in destination: DestinationID, at location: RelativePath) throws(SafeBackupError) -> CopyRecord? {
        let statement = try statement(
            """
            SELECT id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged
            FROM copy WHERE destination_id = ? AND location = ?
            """)
        defer { statement.reset() }
        statement.bind(destination.rawValue).bind(location)
        return try statement.step() ? CopyRecord.read(statement) : nil
    }

    /// How many older copies of the path are kept by policy, and when the newest of them was made one. One that moved
    /// on to another path is that path's.
    func keptVersions(
        _ pair: PairKey, _ path: RelativePath
    ) throws(SafeBackupError) -> (count: Int, newest: Timestamp?) {
        let statement = try statement(
            """
            SELECT count(DISTINCT c.id), max(c.versioned_at) FROM name n CROSS JOIN copy c ON c.id = n.copy_id
            WHERE n.source_id = ? AND n.destination_id = ? AND n.parent = ? AND n.leaf = ? AND n.ended_at IS NOT NULL
                AND n.end_reason IN ('replaced', 'deleted') AND c.role = 'kept' AND c.removing IS NULL
            """)
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path)
        guard try statement.step() else { return (0, nil) }
        return (Int(statement.int()), statement.timestampOrNull())
    }

    /// Of the older copies of the path that are kept by policy, those that are too many; see `VersionThinning`.
    func excessVersions(
        _ pair: PairKey, _ path: RelativePath, limit: Int, now: Timestamp
    ) throws(SafeBackupError) -> [CopyRecord] {
        let statement = try statement(
            """
            SELECT id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged,
                ifnull(versioned_at, stored_at)
            FROM copy
            WHERE id IN (SELECT n.copy_id FROM name n WHERE n.source_id = ? AND n.destination_id = ? AND n.parent = ?
                    AND n.leaf = ? AND n.ended_at IS NOT NULL AND n.end_reason IN ('replaced', 'deleted'))
                AND role = 'kept' AND removing IS NULL
            ORDER BY versioned_at DESC, id DESC
            """)
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path)
        var copies: [CopyRecord] = []
        var times: [Timestamp] = []
        while try statement.step() {
            copies.append(CopyRecord.read(statement))
            times.append(statement.timestamp())
        }
        return VersionThinning.excess(times, limit: limit, now: now).map { copies[$0] }
    }

    /// Adds to a job what the catalogue knows of its path.
    func look(_ job: inout DueJob, _ pair: PairKey) throws(SafeBackupError) {
        job.live = try liveName(pair, job.path)
        job.occupant = try copy(in: pair.destination, at: job.location)
        if job.occupant != nil {
            (job.keptVersions, job.newestVersionAt) = try keptVersions(pair, job.path)
        }
    }
}
