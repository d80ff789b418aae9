import SafeBackupCapacity
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// What a cleaning of a destination would remove now, by the rules and looks that it has itself; nothing is changed.
struct RoomForecast {
    private static let pageLimit = 500

    private let directory: StateDirectory
    private let reader: StateReader
    private let place: DestinationCleaning.Place
    private var totals = CleanedTotals()
    /// What those that go hold.
    private var size: Int64 = 0
    /// Those that stay because what their paths keep is not there as it was stored.
    private var unsure = 0
    /// Of those that go, by what they are.
    private var going: [KeptCopies.Kind: KeptCopies] = [:]

    init(_ directory: StateDirectory, _ reader: StateReader, _ place: DestinationCleaning.Place) {
        self.directory = directory
        self.reader = reader
        self.place = place
    }

    mutating func make(_ report: inout RoomCleanReport) throws(SafeBackupError) {
        guard let need = place.limits.need(usage: place.usage, size: place.size) else { return }
        let id = place.record.id
        let cleanable = try reader.cleanableSources(id)
        let keepsDeleted = keepsDeleted(need)
        try go(.versions, of: [])
        if keepsDeleted == nil && unsure == 0 { try go(.deleted, of: cleanable) }
        report.note(totals)
        let missing = needLeft
        let isEnough = missing == nil
        var all = try reader.keptCopies(id)
        for (kind, gone) in going {
            all[kind]?.copies -= gone.copies
            all[kind]?.bytes -= gone.bytes
        }
        let sources = Set(try reader.pairs().filter { $0.destination == id }.map(\.source))
        var kept: [RoomCleanReport.Kept] = []
        for kind in KeptCopies.Kind.allCases {
            guard let rest = all[kind], rest.copies > 0 else { continue }
            let why =
                switch kind {
                case .live: "the newest good copy of each path that the source has always stays"
                case .versions:
                    isEnough ? "they are not needed for this" : "nothing newer of their paths is sure to be there"
                case .deleted:
                    if isEnough {
                        "older versions and older copies go first"
                    } else if let keepsDeleted {
                        keepsDeleted
                    } else if unsure > 0 {
                        "\(counted(unsure, "older version", "older versions")) will be sure to go first when what is newer "
                            + "was stored again"
                    } else if cleanable.isSuperset(of: sources) {
                        "something newer, or another copy of their paths, stays"
                    } else {
                        "a source is held, paused or emptied, or was not looked through since the agent's start"
                    }
                case .foreign: "what lay in the destination before, and what was kept for safety, always stays"
                }
            kept.append(RoomCleanReport.Kept(kind, rest, why: why))
        }
        report.kept = kept
        guard let missing else { return }
        throw SafeBackupError(
            .cannotFreeEnough,
            "All that may go is not enough: of the \(ByteCount(need.bytes)) that are needed \(ByteCount(missing)) would be "
                + "missing",
            disposition: .destinationFull)
    }

    /// Why the last copies of deleted paths stay; `nil`: they may go.
    private func keepsDeleted(_ need: CleaningNeed) -> String? {
        if !directory.holder().isHeld { return RoomCleaning.withoutAgent }
        guard let capacity = place.capacity, need.limit != .maxSize else { return nil }
        let cause = SpaceCause(capacity, available: place.usage.available, grown: place.record.accumulatedSize)
        return cause.isTaken ? RoomCleaning.taken : nil
    }

    /// What must still go when these are gone; `nil`: nothing.
    private var needLeft: Int64? {
        let (usage, freed) = (place.usage, totals.bytes)
        let then = DiskUsage(
            total: usage.total, used: ByteCount(usage.used.bytes - freed),
            available: ByteCount(usage.available.bytes + freed))
        return place.limits.need(usage: then, size: place.size.map { $0 - size })?.bytes
    }

    private mutating func go(_ stage: CleaningStage, of sources: Set<SourceID>) throws(SafeBackupError) {
        var cursor: CleaningCursor? = CleaningCursor()
        while let next = cursor, let left = needLeft {
            let page = try reader.foreseenCandidates(
                place.record.id, stage, of: sources, after: next, bytes: left, limit: Self.pageLimit)
            try look(at: page.candidates)
            cursor = page.next
        }
    }

    /// Counts those that are there, or gone already, and whose paths have what they keep.
    private mutating func look(at candidates: [CleaningCandidate]) throws(SafeBackupError) {
        let keepers = candidates.flatMap { [$0.keeper, $0.newest].compactMap { $0?.expected } }
        let expected = candidates.map(\.copy.expected)
        let looks = try LocalDestination.look(at: keepers + expected, in: place.root, place.capabilities)
        var keeperLooks = looks.prefix(keepers.count)[...]
        for (candidate, look) in zip(candidates, looks.dropFirst(keepers.count)) {
            let own = keeperLooks.prefix([candidate.keeper, candidate.newest].count { $0 != nil })
            keeperLooks = keeperLooks.dropFirst(own.count)
            let isSure = own.allSatisfy { if case .same = $0 { true } else { false } }
            if !isSure {
                unsure += 1
                continue
            }
            let frees: Int64
            switch look {
            case .same(let bytes): frees = bytes
            case .missing: frees = 0
            case .other: continue
            }
            totals.copies += 1
            totals.bytes += frees
            totals.oldest = min(totals.oldest ?? candidate.storedAt, candidate.storedAt)
            totals.newest = max(totals.newest ?? candidate.storedAt, candidate.storedAt)
            let copy = candidate.copy.expected
            if copy.kind == .directory { continue }
            let kind: KeptCopies.Kind = copy.location.isWithin(Layout.versions) ? .versions : .deleted
            going[kind, default: KeptCopies()].copies += 1
            going[kind, default: KeptCopies()].bytes += copy.held
            size += copy.held
        }
    }
}
