import Glibc
import Logging
package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
package import SafeBackupWatch
import Synchronization
package import SystemPackage

/// One source at work: watches it, walks it, and turns what changed into jobs. Holds it while its root is not the
/// one that is known.
package final class SourceUnit: Sendable {
    package struct Settings: Sendable {
        package var path: FilePath
        package var excludes: ExcludeRules
        /// Left out if they lie below the source.
        package var state: FilePath
        /// Of the whole agent: what one source writes must not be saved by another.
        package var destinations: [FilePath]
        package var settle: [DestinationID: SettlePolicy]
        /// From the end of one walk to the next, when nothing is known to be missing.
        package var reconcileInterval = Duration.seconds(86_400)
        /// Taken for the type of the source's file system.
        var declaredType: VolumeType?
    }

    package let id: SourceID
    package let destinations: [DestinationID]
    let settings: Settings
    private let record: SourceRecord
    let state: StateAccess
    let io: ThreadExecutor
    let clock: WallClock
    let stop: StopSignal
    let logger: Logger
    let progress: Progress
    /// Called after jobs were queued.
    let queued: @Sendable () -> Void
    private let root = Locked<SourceRoot?>(nil)
    let reconcileWanted = ReconcileCall()
    /// Ends the pause between two looks at the root.
    let rootDoubted = TaskSignal()
    /// Ends the pause between two tries.
    private let pausing = TaskSignal()
    /// Every job that the last complete walk knew has a sequence up to this.
    let walkedUpTo = Shared<Int64?>(nil)
    /// Since it is watched, it was compared with the catalogue.
    let walkedSince = Shared(false)
    let holding: Holding
    /// How often somebody asked to look again; a walk that began before does not count as a full one.
    let doubts = Locked(0)

    init(
        record: SourceRecord, destinations: [DestinationID], settings: Settings, state: StateAccess,
        io: ThreadExecutor, clock: WallClock, stop: StopSignal, logger: Logger, progress: Progress,
        queued: @escaping @Sendable () -> Void
    ) {
        id = record.id
        self.record = record
        self.destinations = destinations
        self.settings = settings
        self.state = state
        self.io = io
        self.clock = clock
        self.stop = stop
        var logger = logger
        logger[metadataKey: "source.path"] = "\(printable(settings.path.bytes))"
        self.logger = logger
        self.progress = progress
        self.queued = queued
        holding = Holding(.source(record.id), state: state, logger: logger)
        stop.onRequest { [pausing] in pausing.signal() }
    }

    /// The root that reads start from; `nil` while the source is held.
    package var knownRoot: SourceRoot? { root.withLock { $0 } }

    /// Looks at once whether the root is there and the one that is known, and compares the source with the catalogue:
    /// somebody found it changed, or a person accepted something.
    func lookAgain() {
        doubts.withLock { $0 += 1 }
        walkedUpTo.set(nil)
        rootDoubted.signal()
        pausing.signal()
        reconcileWanted.signal()
    }

    /// Up to which sequence jobs must be done for the last complete walk to be saved; `nil` before one has ended.
    var walkedSequence: Int64? { walkedUpTo.value }

    /// Since the source is watched, everything that was there before was found.
    var hasWalked: Bool { walkedSince.value }

    /// Nothing that was there at the start is unknown, or nothing of it can be read.
    var isWalkedOrAway: Bool { hasWalked || walkedSequence != nil || knownRoot == nil }

    // MARK: Once

    /// One walk. Returns when everything that differs is queued.
    func walkOnce() async throws(SafeBackupError) {
        let root = try await open()
        try await reconcile(root, .start)
    }

    /// A look that the root which was opened is still there.
    func verify() async throws(SafeBackupError) {
        guard let root = knownRoot else { return }
        try await io.run { () throws(SafeBackupError) in try root.verify() }
    }

    // MARK: Continuous

    /// Watches until the stop is requested; `ready` is called when all watches are in place for the first time, or, with
    /// `isReadyWhenHeld`, when the source is found to be held before.
    func run(isReadyWhenHeld: Bool = false, ready: @Sendable @escaping () -> Void) async throws(SafeBackupError) {
        let isAnnounced = Atomic(false)
        // What an agent said that was killed.
        try await noteUnwatched()
        while !stop.isRequested {
            do throws(SafeBackupError) {
                let root = try await open()
                try await watch(root) {
                    if !isAnnounced.exchange(true, ordering: .acquiringAndReleasing) { ready() }
                }
            } catch {
                close()
                switch error.code {
                case .stateFailed, .stateDamaged: throw error
                case .rootMissing, .rootReplaced, .rootEmptied, .unreadable, .sourceFailed, .notAnswering:
                    try await holding.begin(error)
                default:
                    logger.error(
                        .sourceFailed, "The source cannot be watched now; it is tried again",
                        metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
                }
                if isReadyWhenHeld, !isAnnounced.exchange(true, ordering: .acquiringAndReleasing) { ready() }
                await pausing.wait(atMost: .seconds(2))
            }
        }
        close()
        try await noteUnwatched()
    }

    private func open() async throws(SafeBackupError) -> SourceRoot {
        let id = id
        // Asked each time, because a person may have accepted another root.
        let record = try await state.durably { (store) throws(SafeBackupError) in
            try store.sources().first { $0.id == id }
        }
        let (path, known) = (settings.path, (record ?? self.record).identity)
        let opened = try await io.run { () throws(SafeBackupError) in try SourceRoot(path: path, known: known) }
        if record?.hold?.reason == .rootEmptied, record?.accepted != .rootEmptied {
            try await expectKnownEntry(in: opened)
        }
        root.withLock { $0 = opened }
        return opened
    }

    private func close() { root.withLock { $0 = nil } }

    /// A source that was emptied stays held until something is there again that was saved: a stranger is no sign that
    /// the rest is gone on purpose.
    private func expectKnownEntry(in root: SourceRoot) async throws(SafeBackupError) {
        let filter = filter(for: root)
        let leaves = try await io.run { () throws(SafeBackupError) -> [[UInt8]] in
            var leaves: [[UInt8]] = []
            var scanner = Scanner(root: try root.opened(), filter: filter, depth: .entries)
            while let listed = try scanner.next() {
                leaves += listed.flatMap(\.entries).map(\.leaf)
                // One of the first thousands is enough.
                if leaves.count > 4_096 { break }
            }
            return leaves
        }
        let isKnown = try await holdsKnown(leaves)
        if !isKnown { throw emptied() }
    }

    /// Whether nothing was saved, or one of these leaves at the top was; also what is not saved now keeps its name.
    func holdsKnown(_ leaves: [[UInt8]]) async throws(SafeBackupError) -> Bool {
        let id = id
        return try await state.durably { (store) throws(SafeBackupError) in
            if try !store.hasLiveNames(id) { return true }
            return try store.hasLiveName(of: id, among: leaves)
        }
    }

    func emptied() -> SafeBackupError {
        let name = printable(settings.path.bytes)
        return SafeBackupError(
            .rootEmptied,
            "The source \(name) is suddenly empty, although files of it were saved; nothing is removed from the backup; "
                + "saving goes on by itself when something of what was saved is there again; if it was emptied on "
                + "purpose, 'safebackup accept \(name)' shows what would follow",
            disposition: .transient)
    }

    func filter(for root: SourceRoot) -> TreeFilter {
        // Asked each time, because all may have been made, or mounted, since the last.
        let own = TreeFilter.ownPlaces(state: settings.state, destinations: settings.destinations, in: settings.path)
        return TreeFilter(root: root.status, rules: settings.excludes, own: own)
    }

    func settle(for destination: DestinationID) -> SettlePolicy { settings.settle[destination] ?? SettlePolicy() }
}

/// With one decimal.
func secondsText(_ duration: Duration) -> String {
    let tenths = (duration.components.seconds * 10) + duration.components.attoseconds / 100_000_000_000_000_000
    return "\(tenths / 10).\(tenths % 10)"
}
