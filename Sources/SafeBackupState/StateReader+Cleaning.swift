package import SafeBackupCore
import SafeBackupSystem

/// Why copies stay when room is made, and what they hold.
package struct KeptCopies: Sendable, Hashable {
    package enum Kind: String, Sendable, Hashable, CaseIterable {
        /// Of paths that the source has.
        case live
        /// Older versions.
        case versions
        /// What is left of deleted paths.
        case deleted
        /// What lay in the destination before, or is kept whatever the limits are.
        case foreign
    }

    package var copies = 0
    package var bytes: Int64 = 0

    package init() {}
}

/// What a look at a coming cleaning reads, beside an agent or without one.
extension StateReader {
    /// See `StateStore.capacity`.
    package func capacity(_ destination: DestinationID) throws(SafeBackupError) -> CapacityRecord? {
        try read { (connection) throws(SafeBackupError) in try CapacityRecord.read(destination, connection) }
    }

    /// See `Connection.cleanableSources`.
    package func cleanableSources(_ destination: DestinationID) throws(SafeBackupError) -> Set<SourceID> {
        try read { (connection) throws(SafeBackupError) in try connection.cleanableSources(destination) }
    }

    /// As `StateStore.cleaningCandidates`, but as if everything had gone that earlier pages named: the last good copy of a
    /// deleted path stands beside its older ones, and those that the stage of the versions names are not named again.
    package func foreseenCandidates(
        _ destination: DestinationID, _ stage: CleaningStage, of sources: Set<SourceID>, after cursor: CleaningCursor,
        bytes: Int64, limit: Int
    ) throws(SafeBackupError) -> CleaningPage {
        try read { (connection) throws(SafeBackupError) in
            let (ids, next) = try connection.cleaningIDs(destination, stage, after: cursor, limit: limit)
            var page = CleaningPage(candidates: [], next: next)
            var sum: Int64 = 0
            for (id, storedAt) in ids {
                if stage == .deleted, try connection.cleaningCandidate(id, destination, .versions, of: []) != nil {
                    continue
                }
                let found = try connection.cleaningCandidate(id, destination, stage, of: sources, isForeseen: true)
                guard let found else { continue }
                page.candidates.append(found)
                sum += found.copy.expected.room
                if sum >= bytes {
                    page.next = CleaningCursor(storedAt: storedAt, id: id)
                    break
                }
            }
            return page
        }
    }

    /// All copies of the destination that are not being removed, by what keeps them.
    package func keptCopies(_ destination: DestinationID) throws(SafeBackupError) -> [KeptCopies.Kind: KeptCopies] {
        try read { (connection) throws(SafeBackupError) in
            let sums = try connection.statement(
                """
                SELECT CASE WHEN EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id AND n.ended_at IS NULL) THEN 'live'
                    WHEN c.adopted = 1 OR c.role NOT IN ('kept', 'current') THEN 'foreign'
                    WHEN c.role = 'kept' THEN 'versions' ELSE 'deleted' END, count(*), sum(min(c.size, 17592186044416))
                FROM copy c WHERE c.destination_id = ? AND c.removing IS NULL AND c.kind <> 'directory' GROUP BY 1
                """)
            defer { sums.reset() }
            sums.bind(destination.rawValue)
            var found: [KeptCopies.Kind: KeptCopies] = [:]
            while try sums.step() {
                guard let kind = KeptCopies.Kind(rawValue: sums.text()) else { continue }
                found[kind, default: KeptCopies()].copies = Int(sums.int())
                found[kind, default: KeptCopies()].bytes = sums.int()
            }
            return found
        }
    }

    /// The number of the newest removal of all destinations; 0 before the first. Others tell by it that work goes on.
    package func newestRemoval() throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in
            try connection.number("SELECT ifnull(max(id), 0) FROM cleaned") ?? 0
        }
    }
}
