package import SafeBackupCore
import SafeBackupSystem

/// A copy that was found damaged, as the catalogue knows it.
package struct SuspectCopy: Sendable, Hashable {
    package var copy: CopyRecord
    package var source: SourceID
    /// What has the copy now; `nil` for a version, a tombstone, and what no path ever had.
    package var live: NameRecord?
    /// The path that has it, or had it last.
    package var path: RelativePath?
}

/// What became of a copy that was found damaged.
package enum SuspectOutcome: Sendable, Hashable {
    /// Another copy took its place meanwhile, or it is being removed.
    case gone
    /// A lease is at work where it lies: whether it is damaged cannot be said now.
    case busy
    /// It is marked; with a job, where one was asked for.
    case marked
}

/// Marks copies by what a reading of them found.
extension StateStore {
    /// The copy at a location; `nil` with why nothing can be said of it.
    package func suspect(
        _ destination: DestinationID, _ id: Int64
    ) throws(SafeBackupError) -> (suspect: SuspectCopy?, outcome: SuspectOutcome) {
        try read { (connection) throws(SafeBackupError) in try suspect(destination, id, connection) }
    }

    private func suspect(
        _ destination: DestinationID, _ id: Int64, _ connection: Connection
    ) throws(SafeBackupError) -> (suspect: SuspectCopy?, outcome: SuspectOutcome) {
        let statement = try connection.statement(
            """
            SELECT source_id, id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged FROM copy
            WHERE id = ? AND destination_id = ? AND removing IS NULL
            """)
        defer { statement.reset() }
        guard try statement.bind(id).bind(destination.rawValue).step() else { return (nil, .gone) }
        let source = SourceID(rawValue: statement.int())
        var suspect = SuspectCopy(copy: CopyRecord.read(statement), source: source)
        if try isInWork(suspect.copy, PairKey(source: source, destination: destination), connection) {
            return (nil, .busy)
        }
        let names = try connection.statement(
            "SELECT parent, leaf, ended_at FROM name WHERE copy_id = ? ORDER BY id DESC LIMIT 1")
        defer { names.reset() }
        if try names.bind(id).step() {
            let path = names.path().appending(names.bytes())
            suspect.path = path
            if names.isNull() {
                suspect.live = try connection.liveName(PairKey(source: source, destination: destination), path)
            }
        }
        return (suspect, .marked)
    }

    /// Whether a lease, or a retirement, may move or replace what lies there.
    private func isInWork(
        _ copy: CopyRecord, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let leased = try connection.statement(
            """
            SELECT source_id, path, origin_copy, obstruction FROM job
            WHERE destination_id = ? AND state = 'leased' AND state <> 'pending'
            """)
        defer { leased.reset() }
        leased.bind(pair.destination.rawValue)
        while try leased.step() {
            let source = SourceID(rawValue: leased.int())
            let path = leased.path()
            if leased.intOrNull() == copy.id { return true }
            if let obstruction = leased.pathOrNull(), copy.location.isWithin(obstruction) { return true }
            let place = try prefix(PairKey(source: source, destination: pair.destination), connection).appending(path)
            if copy.location.isWithin(place) || place.isWithin(copy.location) { return true }
        }
        let retiring = try connection.statement("SELECT 1 FROM retiring WHERE copy_id = ? AND version IS NOT NULL")
        defer { retiring.reset() }
        return try retiring.bind(copy.id).step()
    }

    /// Marks a copy as damaged, if it is still what was found so; `storesAgain`: its path is queued, to be stored anew.
    /// Durable when it returns.
    package func markDamaged(
        _ destination: DestinationID, _ found: SuspectCopy, storesAgain: Bool
    ) throws(SafeBackupError) -> SuspectOutcome {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            let (known, outcome) = try suspect(destination, found.copy.id, connection)
            guard let known else { return outcome }
            guard known.copy.location == found.copy.location, known.live?.id == found.live?.id else { return .gone }
            let pair = PairKey(source: known.source, destination: destination)
            try connection.statement("UPDATE copy SET damaged = 1 WHERE id = ?").bind(known.copy.id).run()
            if storesAgain, let path = known.path, known.live != nil {
                let change = QueuedChange(
                    path: path, action: .store, notBefore: now, size: known.live?.fingerprint.size)
                _ = try upsert(change, pair, now: now, connection)
            }
            if !known.copy.isDamaged, journalBudget.spend("damaged", now: now) {
                try journal(
                    JournalEntry(
                        at: now, level: .error, event: "damaged",
                        message:
                            "The stored copy \(known.copy.location) is missing, or has not the content that was saved",
                        source: pair.source, destination: destination, path: known.path), connection)
            }
            return .marked
        }
    }

    /// Copies that were called damaged have the recorded content after all, as on a disk that was mended.
    package func markSound(_ destination: DestinationID, _ copies: [Int64]) throws(SafeBackupError) {
        if copies.isEmpty { return }
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement(
                "UPDATE copy SET damaged = 0 WHERE id = ? AND destination_id = ? AND damaged <> 0")
            for id in copies { try update.bind(id).bind(destination.rawValue).run() }
        }
    }

    /// All copies up to this number were verified; the next share begins after it.
    package func setVerified(_ destination: DestinationID, upTo id: Int64) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE destination SET verified_upto = ?, verified_at = ? WHERE id = ?")
                .bind(id).bind(now).bind(destination.rawValue).run()
        }
    }

    /// A missing or damaged copy was stored again with the content that it should have had: its row is the new copy's, so
    /// that all names on it are true again. What is left of a damaged one goes. `nil`: it is another content, or a version.
    func mend(
        _ job: DueJob, _ stored: StoredCopy, _ entry: StoredEntry, _ pair: PairKey, now: Timestamp,
        _ result: inout CompletionResult, _ connection: Connection
    ) throws(SafeBackupError) -> Int64? {
        guard let occupant = job.occupant, occupant.digest == stored.digest, occupant.kind == entry.kind,
            !occupant.isFuzzy, !entry.isFuzzy
        else { return nil }
        let select = try connection.statement("SELECT location, role FROM copy WHERE id = ? AND removing IS NULL")
        defer { select.reset() }
        guard try select.bind(occupant.id).step() else { return nil }
        let (location, role) = (select.path(), select.text())
        select.reset()
        // What the destination calls foreign may be somebody else's, and stays.
        if location != job.location && (!occupant.isDamaged || role != VersionReason.kept.rawValue) { return nil }
        // Somebody else's file took its place in the catalogue meanwhile.
        if location != job.location, try connection.copy(in: pair.destination, at: job.location) != nil { return nil }
        try connection.statement(
            """
            UPDATE copy SET location = ?, role = 'current', versioned_at = NULL, size = ?, inode = ?,
                mtime_ns = ?, adopted = ?, fuzzy = 0, damaged = 0 WHERE id = ?
            """
        ).bind(job.location).bind(stored.size).bind(bits: stored.inode).bind(stored.mtime)
            .bind(stored.isAdopted).bind(occupant.id).run()
        guard location != job.location else { return occupant.id }
        try connection.statement(
            """
            INSERT INTO copy (id, source_id, destination_id, location, kind, size, stored_at, role, versioned_at, damaged,
                removing)
            VALUES (?, ?, ?, ?, ?, ?, ?, 'kept', ?, 1, 'damaged')
            """
        ).bind(nextNumber()).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(location)
            .bind(text: occupant.kind.rawValue).bind(occupant.size).bind(occupant.storedAt).bind(now).run()
        result.hasRemovals = true
        return occupant.id
    }
}
