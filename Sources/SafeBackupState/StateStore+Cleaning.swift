package import SafeBackupCore

/// A version that may go when space is needed.
package struct CleaningCandidate: Sendable, Hashable {
    package var copy: Int64
    /// Of its content, in bytes.
    package var size: Int64
}

/// What keeping room in a destination asks of the state.
extension StateStore {
    /// Kept versions in the order of their removal: what was stored first goes first. Left out are those of a path whose
    /// live copy is fuzzy or damaged, because one of them is its last good copy, whatever the limits say.
    package func cleaningCandidates(
        _ destination: DestinationID, limit: Int
    ) throws(SafeBackupError) -> [CleaningCandidate] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT c.id, c.size FROM copy c
                WHERE c.destination_id = ? AND c.role = 'kept' AND c.removing IS NULL
                    AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id AND n.ended_at IS NULL)
                    AND NOT EXISTS (
                        SELECT 1 FROM name o
                        JOIN name l ON l.source_id = o.source_id AND l.destination_id = o.destination_id
                            AND l.parent = o.parent AND l.leaf = o.leaf AND l.ended_at IS NULL
                        JOIN copy k ON k.id = l.copy_id
                        WHERE o.copy_id = c.id AND (l.fuzzy OR k.fuzzy OR k.damaged))
                ORDER BY c.stored_at, c.id LIMIT ?
                """)
            defer { statement.reset() }
            statement.bind(destination.rawValue).bind(Int64(limit))
            var candidates: [CleaningCandidate] = []
            while try statement.step() {
                candidates.append(CleaningCandidate(copy: statement.int(), size: statement.int()))
            }
            return candidates
        }
    }

    /// The destination's room was looked at: only what is stored from now on counts towards the next look.
    package func noteCapacityChecked(_ destination: DestinationID) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                "UPDATE destination SET accumulated_size = 0 WHERE id = ? AND accumulated_size <> 0"
            )
            .bind(destination.rawValue).run()
        }
    }
}
