package import SafeBackupCore
import SafeBackupSystem

/// A copy whose removal was begun.
package struct Removal: Sendable, Hashable {
    package var copy: CopyRecord
    package var reason: String
}

/// Removing copies: the catalogue says so before the file goes, and forgets it after.
extension StateStore {
    /// Marks copies as being removed, and gives those that may be: only versions kept by policy, which lie under names
    /// that nothing is ever stored under again, and never the newest good state of a path. When this returns, a crash
    /// leaves them in `removals`.
    package func beginRemoval(
        _ destination: DestinationID, _ copies: [Int64], reason: String
    ) throws(SafeBackupError) -> [CopyRecord] {
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement(
                """
                UPDATE copy SET removing = ? WHERE id = ? AND destination_id = ? AND role = 'kept'
                    AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = copy.id AND n.ended_at IS NULL)
                RETURNING id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged
                """)
            var marked: [CopyRecord] = []
            for id in copies {
                if let history = try history(of: id, destination, connection),
                    let state = history.states.first(where: { $0.copy == id }),
                    !history.mayGo(state, isExpired: false)
                {
                    continue
                }
                update.bind(text: reason).bind(id).bind(destination.rawValue)
                while try update.step() { marked.append(CopyRecord.read(update)) }
                update.reset()
            }
            return marked
        }
    }

    /// The files are gone: forgets the copies, whose names become gaps, and notes each removal.
    package func finishRemoval(_ destination: DestinationID, _ copies: [Int64]) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            let note = try connection.statement(
                """
                INSERT INTO cleaned (destination_id, path, location, size, reason, at)
                SELECT c.destination_id, ?, c.location, c.size, c.removing, ? FROM copy c
                WHERE c.id = ? AND c.removing IS NOT NULL AND c.role IN ('kept', 'current')
                    AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id AND n.ended_at IS NULL)
                """)
            for id in copies {
                let owner = try owner(of: id, connection)
                try note.bind(path: owner?.path.bytes).bind(now).bind(id).run()
                if connection.changes == 0 { continue }
                try removeCopy(id, now: now, connection)
                if let owner { try noteVacated(above: owner.path, owner.pair, connection) }
            }
            // The newest are history enough.
            try connection.statement("DELETE FROM cleaned WHERE id <= (SELECT max(id) FROM cleaned) - 100000").run()
        }
    }

    /// A copy that cannot be removed stays, as if its removal had not been begun.
    package func keepAfterAll(_ destination: DestinationID, _ copy: Int64) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE copy SET removing = NULL WHERE id = ? AND destination_id = ?")
                .bind(copy).bind(destination.rawValue).run()
        }
    }

    /// Up to `limit` removals that were begun and not finished; to be done again after a crash, as a file that is
    /// already gone is no error.
    package func removals(_ destination: DestinationID, limit: Int) throws(SafeBackupError) -> [Removal] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged, removing FROM copy
                WHERE destination_id = ? AND removing IS NOT NULL AND role = 'kept' ORDER BY id LIMIT ?
                """)
            defer { statement.reset() }
            statement.bind(destination.rawValue).bind(Int64(limit))
            var removals: [Removal] = []
            while try statement.step() {
                removals.append(Removal(copy: CopyRecord.read(statement), reason: statement.text()))
            }
            return removals
        }
    }

    /// The source and the path of a copy: its newest name's.
    private func owner(
        of copy: Int64, _ connection: Connection
    ) throws(SafeBackupError) -> (pair: PairKey, path: RelativePath)? {
        let statement = try connection.statement(
            "SELECT source_id, destination_id, parent, leaf FROM name WHERE copy_id = ? ORDER BY id DESC LIMIT 1")
        defer { statement.reset() }
        guard try statement.bind(copy).step() else { return nil }
        let pair = PairKey(
            source: SourceID(rawValue: statement.int()), destination: DestinationID(rawValue: statement.int()))
        return (pair, statement.path().appending(statement.bytes()))
    }
}
