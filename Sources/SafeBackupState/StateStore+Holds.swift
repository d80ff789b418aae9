package import SafeBackupCore
package import SafeBackupSystem

/// A source or a destination: what can be held or paused as a whole.
package enum PairSide: Sendable, Hashable {
    case source(SourceID)
    case destination(DestinationID)

    /// The table that has its row.
    fileprivate var table: String {
        switch self {
        case .source: "source"
        case .destination: "destination"
        }
    }

    fileprivate var row: Int64 {
        switch self {
        case .source(let id): id.rawValue
        case .destination(let id): id.rawValue
        }
    }
}

/// What stops a source or a destination, and what a person may do about it.
extension StateStore {
    /// Stops it until `clearHold`: none of its jobs is due. A hold that stands keeps its time. Whether the reason is
    /// new.
    @discardableResult
    package func hold(_ side: PairSide, _ error: SafeBackupError) throws(SafeBackupError) -> Bool {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            let isNew = try Self.hold(of: side, connection)?.reason != error.code
            try connection.prepare(
                """
                UPDATE \(side.table) SET held_at = CASE WHEN held_reason IS ?1 THEN held_at ELSE ?3 END,
                    held_reason = ?1, held_message = ?2 WHERE id = ?4
                """
            ).bind(text: error.code.rawValue).bind(text: error.message).bind(now).bind(side.row).run()
            if isNew { try journal(side, .error, "held", "\(error.message) (\(error.code))", now: now, connection) }
            return isNew
        }
    }

    /// Nothing holds it any more. The hold that stood, if there was one.
    @discardableResult
    package func clearHold(_ side: PairSide) throws(SafeBackupError) -> Hold? {
        // A walk asks this each time: nothing is written where nothing is held.
        let standing = try read { (connection) throws(SafeBackupError) in try Self.hold(of: side, connection) }
        guard let standing else { return nil }
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            try Self.release(side, connection)
            try journal(
                side, .notice, "released", "The \(side.table) is no longer held (\(standing.reason))", now: now,
                connection)
        }
        return standing
    }

    /// Stops leasing jobs of it, or goes on; over restarts too. Whether that was not so before.
    @discardableResult
    package func setPaused(_ side: PairSide, _ isPaused: Bool) throws(SafeBackupError) -> Bool {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            let update = try connection.prepare(
                """
                UPDATE \(side.table) SET paused_at = CASE WHEN ?1 THEN ?2 END
                WHERE id = ?3 AND (paused_at IS NOT NULL) <> ?1
                """)
            try update.bind(isPaused).bind(now).bind(side.row).run()
            if connection.changes == 0 { return false }
            let message = isPaused ? "Nothing of it is saved until 'safebackup resume'" : "It goes on"
            try journal(side, .notice, isPaused ? "paused" : "resumed", message, now: now, connection)
            return true
        }
    }

    private func journal(
        _ side: PairSide, _ level: JournalEntry.Level, _ event: String, _ message: String, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) {
        var entry = JournalEntry(at: now, level: level, event: event, message: message)
        switch side {
        case .source(let id): entry.source = id
        case .destination(let id): entry.destination = id
        }
        try journal(entry, connection)
    }

    private static func hold(of side: PairSide, _ connection: Connection) throws(SafeBackupError) -> Hold? {
        let select = try connection.prepare("SELECT \(Hold.columns) FROM \(side.table) WHERE id = ?")
        return try select.bind(side.row).step() ? Hold.read(select) : nil
    }

    private static func release(_ side: PairSide, _ connection: Connection) throws(SafeBackupError) {
        try connection.prepare(
            "UPDATE \(side.table) SET held_reason = NULL, held_message = NULL, held_at = NULL WHERE id = ?"
        ).bind(side.row).run()
    }

    // MARK: - What a person accepted

    /// A person agreed to what is found at the source's path: with `identity`, another root from now on. With
    /// `rootEmptied`, until the next walk has ended, names may end even if nothing is left. To be walked anew; done once
    /// more it changes nothing.
    package func accept(
        _ source: SourceID, _ reason: SafeBackupError.Code, identity: RootIdentity?
    ) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            if let identity {
                try connection.statement(
                    "UPDATE source SET fs_type = ?, fs_volume = ?, root_inode = ?, root_birth_ns = ? WHERE id = ?"
                ).bind(identity.type.rawValue).bind(text: identity.volume).bind(bits: identity.inode)
                    .bind(identity.birthTime).bind(source.rawValue).run()
            }
            try connection.statement("UPDATE source SET accepted = ?, desynced = 1 WHERE id = ?")
                .bind(text: reason.rawValue).bind(source.rawValue).run()
            try Self.release(.source(source), connection)
            let message = identity == nil ? "That it was emptied" : "Another directory as the source's root"
            try journal(.source(source), .notice, "accepted", message, now: now, connection)
        }
    }

    /// A person agreed that another directory takes the destination's place; its sentinel will have this id. Nothing
    /// changes until `finishReplacement`; after a crash in between, the sentinel tells whether it was written.
    package func beginReplacement(of destination: DestinationID, sentinel: String) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE destination SET accepted = ? WHERE id = ?")
                .bind(text: sentinel).bind(destination.rawValue).run()
        }
    }

    /// The new sentinel is there: what lay under the old one is lost. All live names end (`lost`), no copy is known any
    /// more, no job waits, and the destination's sources are to be walked: then everything is saved again. Done once
    /// more it changes nothing.
    package func finishReplacement(of destination: DestinationID) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            let row = destination.rawValue
            let accepted = try connection.statement(
                """
                UPDATE destination SET sentinel_id = accepted, accepted = NULL, accumulated_size = 0,
                    catalogue_exported_at = NULL, catalogue_sequence = NULL WHERE id = ? AND accepted IS NOT NULL
                """)
            try accepted.bind(row).run()
            if connection.changes == 0 { return }
            for sql in [
                "UPDATE name SET ended_at = ?2, end_reason = 'lost' WHERE destination_id = ?1 AND ended_at IS NULL",
                "DELETE FROM copy WHERE destination_id = ?1",
                "DELETE FROM job WHERE destination_id = ?1",
                "DELETE FROM tally WHERE destination_id = ?1",
                "DELETE FROM vacated WHERE destination_id = ?1",
                "DELETE FROM capacity WHERE destination_id = ?1",
                "UPDATE pair SET first_save_at = NULL WHERE destination_id = ?1",
                "UPDATE source SET desynced = 1 WHERE id IN (SELECT source_id FROM pair WHERE destination_id = ?1)",
            ] {
                let statement = try connection.prepare(sql).bind(row)
                if sql.contains("?2") { statement.bind(now) }
                try statement.run()
            }
            try Self.release(.destination(destination), connection)
            forgetPairs()
            try journal(
                .destination(destination), .notice, "accepted",
                "Another directory as the destination; what lay in the former one is recorded as lost", now: now,
                connection)
        }
    }
}
