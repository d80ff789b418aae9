package import SafeBackupCore
package import SafeBackupSystem

/// Sources, destinations and their pairs.
extension StateStore {
    /// The source at this absolute path; made, with this identity and uuid, if there is none. A known one keeps its own.
    package func registerSource(
        path: [UInt8], identity: RootIdentity, uuid: String
    ) throws(SafeBackupError) -> SourceRecord {
        try write { (connection) throws(SafeBackupError) in
            if let known = try SourceRecord.all(connection).first(where: { $0.path == path }) { return known }
            try connection.statement(
                """
                INSERT INTO source (uuid, path, fs_type, fs_volume, root_inode, root_birth_ns)
                VALUES (?, ?, ?, ?, ?, ?)
                """
            ).bind(text: uuid).bind(path: path).bind(identity.type.rawValue).bind(text: identity.volume)
                .bind(bits: identity.inode).bind(identity.birthTime).run()
            return SourceRecord(
                id: SourceID(rawValue: connection.insertedRow), uuid: uuid, path: path, identity: identity,
                isDesynced: true, isActive: false)
        }
    }

    /// The destination at this absolute path or URL; made if there is none.
    package func registerDestination(location: [UInt8], kind: String) throws(SafeBackupError) -> DestinationRecord {
        try write { (connection) throws(SafeBackupError) in
            if let known = try DestinationRecord.all(connection).first(where: { $0.location == location }) {
                return known
            }
            try connection.statement("INSERT INTO destination (location, kind) VALUES (?, ?)")
                .bind(path: location).bind(text: kind).run()
            return DestinationRecord(
                id: DestinationID(rawValue: connection.insertedRow), location: location, kind: kind,
                accumulatedSize: 0)
        }
    }

    package func sources() throws(SafeBackupError) -> [SourceRecord] {
        try read { (connection) throws(SafeBackupError) in try SourceRecord.all(connection) }
    }

    package func destinations() throws(SafeBackupError) -> [DestinationRecord] {
        try read { (connection) throws(SafeBackupError) in try DestinationRecord.all(connection) }
    }

    /// All pairs, also those that are not active.
    package func pairs() throws(SafeBackupError) -> [PairRecord] {
        try read { (connection) throws(SafeBackupError) in try PairRecord.all(connection) }
    }

    /// Keeps the id by which the destination is known again.
    package func setSentinel(_ id: String, for destination: DestinationID) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE destination SET sentinel_id = ? WHERE id = ?")
                .bind(text: id).bind(destination.rawValue).run()
        }
    }

    /// The destination's sentinel was seen just now.
    package func markProof(_ destination: DestinationID) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE destination SET last_proof_at = ? WHERE id = ?")
                .bind(now).bind(destination.rawValue).run()
        }
    }

    /// The destination's capacity was checked: the accumulated size begins again.
    package func resetAccumulatedSize(_ destination: DestinationID) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE destination SET accumulated_size = 0 WHERE id = ?")
                .bind(destination.rawValue).run()
        }
    }

    /// A copy of the catalogue that goes up to `sequence` is durable beside the backups.
    package func markCatalogueExported(
        _ destination: DestinationID, sequence: Int64
    ) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                "UPDATE destination SET catalogue_exported_at = ?, catalogue_sequence = ? WHERE id = ?"
            ).bind(now).bind(sequence).bind(destination.rawValue).run()
        }
    }

    /// Joins a source and a destination. Throws `invalidConfiguration` for another prefix than the one that copies
    /// were stored under; before the first is stored, or may be, the prefix may change.
    package func setPair(
        _ source: SourceID, _ destination: DestinationID, prefix: RelativePath
    ) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            if let known = try pairTable(connection)[PairKey(source: source, destination: destination)] {
                if known.prefix == prefix { return }
                if try hasStored(source, destination, connection) {
                    throw SafeBackupError(
                        .invalidConfiguration,
                        "This source was saved under the prefix \(known.prefix), not \(prefix); give the one it has",
                        disposition: .permanent)
                }
                try connection.statement("UPDATE pair SET prefix = ? WHERE source_id = ? AND destination_id = ?")
                    .bind(prefix).bind(source.rawValue).bind(destination.rawValue).run()
                return forgetPairs()
            }
            try connection.statement("INSERT INTO pair (source_id, destination_id, prefix) VALUES (?, ?, ?)")
                .bind(source.rawValue).bind(destination.rawValue).bind(prefix).run()
            forgetPairs()
        }
    }

    /// Whether something lies in the destination, or was about to be written there.
    private func hasStored(
        _ source: SourceID, _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let statement = try connection.statement(
            """
            SELECT EXISTS (SELECT 1 FROM copy WHERE source_id = ?1 AND destination_id = ?2)
                OR EXISTS (SELECT 1 FROM job WHERE source_id = ?1 AND destination_id = ?2 AND state = 'leased')
                OR EXISTS (SELECT 1 FROM name WHERE source_id = ?1 AND destination_id = ?2)
            """)
        defer { statement.reset() }
        return try statement.bind(source.rawValue).bind(destination.rawValue).step() && statement.bool()
    }

    /// Exactly these pairs run from now on; all others, and sources without a pair among them, are inactive. What held a
    /// destination that is not among them is not looked at any more.
    package func activate(pairs: [(source: SourceID, destination: DestinationID)]) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE pair SET active = 0").run()
            for pair in pairs {
                try connection.statement("UPDATE pair SET active = 1 WHERE source_id = ? AND destination_id = ?")
                    .bind(pair.source.rawValue).bind(pair.destination.rawValue).run()
            }
            try connection.statement(
                "UPDATE source SET active = EXISTS (SELECT 1 FROM pair p WHERE p.source_id = source.id AND p.active)"
            ).run()
            try connection.statement(
                """
                UPDATE destination SET held_reason = NULL, held_message = NULL, held_at = NULL
                WHERE held_reason IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM pair p WHERE p.destination_id = destination.id AND p.active)
                """
            ).run()
            forgetPairs()
        }
    }

    /// The pair's first walk is saved.
    package func markFullSave(_ source: SourceID, _ destination: DestinationID) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                """
                UPDATE pair SET first_save_at = ifnull(first_save_at, ?) WHERE source_id = ? AND destination_id = ?
                """
            ).bind(now).bind(source.rawValue).bind(destination.rawValue).run()
            try connection.statement("UPDATE source SET last_full_save_at = ? WHERE id = ?")
                .bind(now).bind(source.rawValue).run()
            forgetPairs()
        }
    }

    /// Events of the source are, or were, not read: until the next complete walk no rename is proof of a file's content.
    package func forgetTold(_ source: SourceID) { allToldSince[source] = nil }

    /// Whether changes of the source may have been missed.
    package func markDesynced(_ source: SourceID, _ isDesynced: Bool) throws(SafeBackupError) {
        let now = clock.now
        if isDesynced { forgetTold(source) }
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement("UPDATE source SET desynced = ?1 WHERE id = ?2 AND desynced <> ?1")
            try update.bind(isDesynced).bind(source.rawValue).run()
            if !isDesynced || connection.changes == 0 { return }
            try journal(
                JournalEntry(
                    at: now, level: .warning, event: "desynced",
                    message: "Changes may have been missed; the source is walked and compared", source: source),
                connection)
        }
    }
}
