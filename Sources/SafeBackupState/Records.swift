package import SafeBackupCore
package import SafeBackupSystem

/// Why, and since when, a source or a destination is stopped.
package struct Hold: Sendable, Hashable {
    package var reason: SafeBackupError.Code
    package var message: String
    package var at: Timestamp

    static let columns = "held_reason, held_message, held_at"

    /// Reads `columns`.
    static func read(_ row: Statement) -> Hold? {
        let reason = row.textOrNull()
        let message = row.textOrNull()
        let at = row.timestampOrNull()
        guard let reason else { return nil }
        return Hold(
            reason: SafeBackupError.Code(rawValue: reason), message: message ?? "",
            at: at ?? Timestamp(microseconds: 0))
    }
}

/// A source, as the state knows it.
package struct SourceRecord: Sendable, Hashable {
    package var id: SourceID
    package var uuid: String
    /// Absolute.
    package var path: [UInt8]
    package var identity: RootIdentity
    package var hold: Hold?
    /// Changes may have been missed: a reconcile is due.
    package var isDesynced: Bool
    package var lastReconcileAt: Timestamp?
    package var lastFullSaveAt: Timestamp?
    package var isActive: Bool
    /// Since when a person has stopped it.
    package var pausedAt: Timestamp?
    /// The reason of a hold that a person released, until the walk that it permits has ended.
    package var accepted: SafeBackupError.Code?

    /// Reads the columns of `SELECT * FROM source`.
    static func read(_ row: Statement) -> SourceRecord {
        SourceRecord(
            id: SourceID(rawValue: row.int()), uuid: row.text(), path: row.bytes(),
            identity: RootIdentity(
                type: VolumeType(rawValue: row.int()), volume: row.textOrNull(), inode: row.bits() ?? 0,
                birthTime: row.fileTime()),
            hold: Hold.read(row), isDesynced: row.bool(), lastReconcileAt: row.timestampOrNull(),
            lastFullSaveAt: row.timestampOrNull(), isActive: row.bool(), pausedAt: row.timestampOrNull(),
            accepted: row.textOrNull().map(SafeBackupError.Code.init(rawValue:)))
    }

    static let select: StaticString = """
        SELECT id, uuid, path, fs_type, fs_volume, root_inode, root_birth_ns, held_reason, held_message, held_at,
            desynced, last_reconcile_at, last_full_save_at, active, paused_at, accepted FROM source ORDER BY id
        """

    static func all(_ connection: Connection) throws(SafeBackupError) -> [SourceRecord] {
        let statement = try connection.statement(select)
        defer { statement.reset() }
        var records: [SourceRecord] = []
        while try statement.step() { records.append(read(statement)) }
        return records
    }
}

/// A destination, as the state knows it.
package struct DestinationRecord: Sendable, Hashable {
    package var id: DestinationID
    /// An absolute path, or a URL.
    package var location: [UInt8]
    /// `local` or `s3`.
    package var kind: String
    /// The id in the sentinel that proves the place; `nil` until it was first seen.
    package var sentinel: String?
    package var hold: Hold?
    /// Bytes stored since the last check of the capacity.
    package var accumulatedSize: Int64
    package var lastProofAt: Timestamp?
    package var catalogueExportedAt: Timestamp?
    /// The counter that the newest copy of the catalogue goes up to.
    package var catalogueSequence: Int64?
    /// Since when a person has stopped it.
    package var pausedAt: Timestamp?
    /// The id of a new sentinel that a person agreed to, until the old one's copies are recorded as lost.
    package var accepted: String?

    static let select: StaticString = """
        SELECT id, location, kind, sentinel_id, held_reason, held_message, held_at, accumulated_size, last_proof_at,
            catalogue_exported_at, catalogue_sequence, paused_at, accepted FROM destination ORDER BY id
        """

    static func all(_ connection: Connection) throws(SafeBackupError) -> [DestinationRecord] {
        let statement = try connection.statement(select)
        defer { statement.reset() }
        var records: [DestinationRecord] = []
        while try statement.step() {
            records.append(
                DestinationRecord(
                    id: DestinationID(rawValue: statement.int()), location: statement.bytes(), kind: statement.text(),
                    sentinel: statement.textOrNull(), hold: Hold.read(statement), accumulatedSize: statement.int(),
                    lastProofAt: statement.timestampOrNull(), catalogueExportedAt: statement.timestampOrNull(),
                    catalogueSequence: statement.intOrNull(), pausedAt: statement.timestampOrNull(),
                    accepted: statement.textOrNull()))
        }
        return records
    }
}

/// A source that is, or was, saved to a destination.
package struct PairRecord: Sendable, Hashable {
    package var source: SourceID
    package var destination: DestinationID
    /// Of all locations of the source's current copies.
    package var prefix: RelativePath
    package var isActive: Bool
    /// When everything found by the first walk was saved.
    package var firstSaveAt: Timestamp?

    static func all(_ connection: Connection) throws(SafeBackupError) -> [PairRecord] {
        let statement = try connection.statement(
            "SELECT source_id, destination_id, prefix, active, first_save_at FROM pair")
        defer { statement.reset() }
        var records: [PairRecord] = []
        while try statement.step() {
            records.append(
                PairRecord(
                    source: SourceID(rawValue: statement.int()), destination: DestinationID(rawValue: statement.int()),
                    prefix: statement.path(), isActive: statement.bool(), firstSaveAt: statement.timestampOrNull()))
        }
        return records
    }
}
