package import SafeBackupCore

/// Where copies go. The seam between the drain and every kind of destination; all of them pass one suite of tests.
///
/// Calls carry batches and give one result per job, in the same order. No call is made while another call's group
/// holds the same path: a path has one live job.
package protocol Destination: Sendable {
    /// Looks at the final names and decides, for each job, what a lease must record before anything is written.
    /// Writes nothing. A job that may not be leased now (no room, a reserved or impossible name) fails.
    func plan(_ jobs: [DueJob]) async -> [Result<LeasePlan, SafeBackupError>]

    /// Stores a group whose leases are durable. When this returns, everything it calls `stored` survives a power cut.
    /// A failed flush fails the whole group, which must then go through `recover`.
    func store(_ group: [LeasedJob], from sources: [SourceID: ConfinedDirectory]) async -> [JobOutcome]

    /// Compares what is on the disk with what the leases recorded, undoes what was only begun, and tells what is there.
    /// Afterwards no stage of these leases is left.
    func recover(_ leases: [LeasedJob]) async throws(SafeBackupError) -> [RecoveredLease]

    /// Removes kept versions; one that is already gone is no error. Durable when it returns.
    func remove(versions: [RelativePath]) async throws(SafeBackupError)

    /// Opens a stored copy for reading, never through a link.
    func read(_ location: RelativePath) async throws(SafeBackupError) -> Descriptor
}
