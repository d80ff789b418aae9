package import SafeBackupCore
package import SystemPackage

/// Where copies go. The seam between the drain and every kind of destination; all of them pass one suite of tests.
///
/// Calls carry batches and give one result per job, in the same order. No call is made while another call's group
/// holds the same path: a path has one live job.
///
/// Methods without `async` that may block are called on a thread for I/O only.
package protocol Destination: Sendable {
    /// How the state and people know it: a path, or `s3://bucket/prefix`.
    var location: [UInt8] { get }
    var traits: DestinationTraits { get }
    /// Whether files wait for their writers.
    var writerProbe: WriterProbe? { get }
    /// What is stored there may not be read: nothing is compared, moved, kept or verified.
    var isBlind: Bool { get }

    // MARK: Attaching

    /// Looks at a place that may be, or become, a destination. Writes nothing. Throws `sentinelForeign` for a sentinel
    /// that cannot be read, `destinationMissing` for what cannot be one.
    func inspect() async throws(SafeBackupError) -> DestinationInspection
    /// Makes the place a destination, its sentinel last. After a crash before the end it may be called again.
    func create(id: String, sources: [SentinelSource]) async throws(SafeBackupError)
    /// Takes the destination with this id. Throws `destinationMissing`, `sentinelMissing`, `sentinelForeign`,
    /// `destinationTaken`, `destinationReadOnly`; all of them wait for the destination.
    func attach(expecting id: String) async throws(SafeBackupError)
    /// Whether the destination with this id is there. Keeps nothing open. Throws as `attach`.
    func look(expecting id: String) async throws(SafeBackupError)
    /// Lets go of everything, as soon as the groups in flight are done.
    func detach() async
    var isAttached: Bool { get }
    /// The attached destination's.
    var sentinel: Sentinel? { get }
    /// Changes the attached destination's sentinel; after a crash the old one or the new one is there.
    func updateSentinel(sources: [SentinelSource]) async throws(SafeBackupError)
    /// Proves that the attached destination is still there and still ours, without a request of its own where that costs.
    func verify() async throws(SafeBackupError)
    /// The agent stops: what is being read or sent ends as `interrupted`, within a moment also for the largest file.
    func interrupt()
    /// Removes what is unfinished. After recovery, when no group and no catalogue export is in flight.
    func emptyStaging() async throws(SafeBackupError)

    // MARK: Jobs

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

    // MARK: Removing and retiring

    /// Removes these copies where they still are what was stored; another file at the place stays, and one that is gone
    /// is no error. Durable when it returns. Not to be called while a group is in flight.
    func remove(tombstones: [CopyRecord]) async throws(SafeBackupError)
    /// Versions have left directories that may be empty now.
    var hasVacatedVersions: Bool { get }
    /// Removes the directories of these that are empty, in the order given, and those that the last version has left; one
    /// that is gone is no error. Not to be called while a group is in flight.
    func removeEmpty(_ directories: [RelativePath]) async throws(SafeBackupError)
    /// At most one version of a path is kept in this time.
    var versionInterval: Duration { get }
    /// Where a copy goes when it is retired.
    func versionName(of copy: CopyRecord, at time: Timestamp) throws(SafeBackupError) -> RelativePath
    /// Moves these copies to their version names where they still are what was stored. What it tells is durable; when it
    /// throws, ask again. Not to be called while a group is in flight.
    func retire(_ retirements: [Retirement]) async throws(SafeBackupError) -> [RetirementOutcome]

    // MARK: Looking

    /// The indices of the copies that are not there, or are something else; nothing is read. Throws what holds the
    /// destination, and when a look fails: then nothing is known of any of them.
    func differing(_ copies: [ExpectedCopy]) async throws(SafeBackupError) -> [Int]
    /// As `differing`, with what each copy is found to be.
    func look(at copies: [ExpectedCopy]) async throws(SafeBackupError) -> [CopyLook]
    /// Space, asked now. Only of what has a volume.
    func room() async throws(SafeBackupError) -> VolumeStatistics
    /// What jobs that grow the backup leave free; `nil`: as usual. Without meaning where there is no volume.
    func keepFree(_ floor: ByteCount?)

    // MARK: Names that fold

    /// For each location the one entry that it folds onto under another spelling; `nil` if there is none.
    func otherSpellings(of locations: [RelativePath]) async -> [OtherSpelling?]
    /// Plans a job that replaces what lies under `former`, another spelling of its location.
    func plan(_ job: DueJob, replacing former: RelativePath) async -> Result<LeasePlan, SafeBackupError>

    // MARK: Catalogue copies

    /// A path for a new catalogue copy, which SQLite can open. Valid until the copy is installed, or until the path is
    /// asked for again. An unfinished copy from before is gone. Blocks.
    func catalogueStagePath() throws(SafeBackupError) -> FilePath
    /// Removes an unfinished copy. Blocks.
    func abandonCatalogueNow()
    /// No catalogue copy is being written any more, whether it was finished or not: its path is not valid from now on.
    func endCatalogueExport()
    /// Makes the finished file the newest catalogue copy; durable when this returns. The other copy stays as it is.
    func installCatalogue() async throws(SafeBackupError)
    /// The catalogue copies that are there, newest first, as paths for SQLite. Valid until `detach`.
    func catalogues() async throws(SafeBackupError) -> [FilePath]
}

/// What has neither a volume nor names that fold, says so once.
extension Destination {
    package var hasVacatedVersions: Bool { false }
    package var isBlind: Bool { false }
    package func removeEmpty(_ directories: [RelativePath]) async throws(SafeBackupError) {}
    package func keepFree(_ floor: ByteCount?) {}

    package func otherSpellings(of locations: [RelativePath]) async -> [OtherSpelling?] { locations.map { _ in nil } }

    package func plan(_ job: DueJob, replacing former: RelativePath) async -> Result<LeasePlan, SafeBackupError> {
        await plan([job])[0]
    }

    package func room() async throws(SafeBackupError) -> VolumeStatistics {
        throw SafeBackupError(
            .destinationFailed, "\(printable(location)) has no disk whose size could be asked for",
            disposition: .permanent)
    }
}
