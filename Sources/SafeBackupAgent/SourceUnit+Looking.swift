import Logging
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch

/// Finds what no event tells: in directories that cannot be watched, and on file systems that others change too.
extension SourceUnit {
    /// Looks again and again, at a pace that the cost decides, and keeps what the state says of the coverage true.
    /// Looks begin after the first walk, because that sees everything.
    func lookRepeatedly(
        _ root: SourceRoot, _ watcher: Watcher, _ over: TaskSignal, until isOver: @Sendable () -> Bool
    ) async throws(SafeBackupError) {
        var (pace, hasLooked) = (LookPace(), false)
        var due = ContinuousClock.now + pace.interval
        var noted: SourceCoverage?
        var rest = Rest()
        while !isOver() {
            var assessment = CoverageAssessment(coverage: watcher.coverage, type: type(of: root))
            let isNeeded = assessment.coverage.needsLook || assessment.looksEverywhere
            if isNeeded, hasWalked, ContinuousClock.now >= due {
                pace.noteEnd(try await lookAround(root, watcher, everywhere: assessment.looksEverywhere, isOver))
                due = .now + pace.interval
                hasLooked = true
                assessment.coverage = watcher.coverage
            }
            assessment.interval = hasLooked ? pace.interval : nil
            // While a directory is just being entered again, nothing is said that the next look takes back.
            if hasLooked || !isNeeded || noted == nil { noted = try await note(assessment.result, after: noted) }
            try await release(&rest)
            let untilDue = isNeeded && hasWalked ? max(due - .now, .milliseconds(50)) : .seconds(2)
            await over.wait(atMost: min(.seconds(2), untilDue))
        }
    }

    /// What was there at the last look whether anything happens.
    private struct Rest {
        var sequence: Int64?
        var asked = ContinuousClock.now
        var isReleased = false
    }

    /// What a walk or a save needed is given back when nothing was queued or saved for ten seconds.
    private func release(_ rest: inout Rest) async throws(SafeBackupError) {
        if ContinuousClock.now - rest.asked < .seconds(10) { return }
        rest.asked = .now
        let sequence = try await state.durably { (store) throws(SafeBackupError) in try store.newestSequence() }
        if sequence != rest.sequence {
            rest = Rest(sequence: sequence)
        } else if !rest.isReleased && hasWalked {
            rest.isReleased = true
            try await state.durably { (store) throws(SafeBackupError) in try store.releaseMemory() }
            await io.run { ProcessMemory.giveBack() }
        }
    }

    /// The file system's type; a test may declare another.
    private func type(of root: SourceRoot) -> VolumeType { settings.declaredType ?? root.identity.type }

    /// Writes what changed; says in the log what a person should know.
    private func note(
        _ coverage: SourceCoverage, after former: SourceCoverage?
    ) async throws(SafeBackupError) -> SourceCoverage {
        if coverage == former { return coverage }
        let id = id
        try await state.durably { (store) throws(SafeBackupError) in try store.setCoverage(id, coverage) }
        if coverage.extent != former?.extent {
            if let message = coverage.message {
                logger.warning(
                    .coverageLimited, "Not all changes are told by events", metadata: ["coverage": "\(message)"])
            } else if former != nil {
                logger.notice(
                    .coverageComplete, "All changes are told by events now",
                    metadata: ["watched": "\(coverage.watched)"])
            }
        }
        return coverage
    }

    /// Nobody watches the source.
    func noteUnwatched() async throws(SafeBackupError) {
        let id = id
        try await state.durably { (store) throws(SafeBackupError) in try store.setCoverage(id, nil) }
    }

    /// One pass. Returns what it cost.
    private func lookAround(
        _ root: SourceRoot, _ watcher: Watcher, everywhere: Bool, _ isOver: @Sendable () -> Bool
    ) async throws(SafeBackupError) -> LookCost {
        var cost = LookCost()
        let passBegan = ContinuousClock.now
        var next: Int32? = 0
        while let number = next, !isOver() {
            let part = await watcher.glance(
                from: number, everywhere: everywhere,
                now: FileTime(clock.now),
                inodesAreStable: root.identity.type.hasStableInodes)
            cost.looking += part.busy
            let began = ContinuousClock.now
            if !part.differing.isEmpty {
                await watcher.noteComparison(try await compareEntries(of: part.differing, root))
            }
            cost.comparing += ContinuousClock.now - began
            next = part.next
        }
        cost.elapsed = ContinuousClock.now - passBegan
        return cost
    }

    /// Compares the entries of single directories with the catalogue, and queues what differs.
    func compareEntries(
        of paths: [RelativePath], _ root: SourceRoot
    ) async throws(SafeBackupError) -> GlanceComparison {
        let tree = try await io.run { () throws(SafeBackupError) in try root.opened() }
        let scan = Locked(EntryScan(root: tree, filter: filter(for: root), paths: paths[...]))
        let (id, destinations, rules, now) = (id, destinations, comparisonRules(root), clock.now)
        var comparison = GlanceComparison()
        // The last one: it may come in parts.
        var open: OpenDirectory?
        while true {
            let listed = try await io.run { () throws(SafeBackupError) in
                try scan.withLock { (scan) throws(SafeBackupError) in try scan.next() }
            }
            guard var listed else { break }
            if let top = listed.firstIndex(where: { $0.path.isRoot && $0.isWhole }),
                !listed[top].entries.contains(where: \.isSaved)
            {
                // A source that is suddenly empty is a matter for the walk, which knows what that may mean.
                listed.remove(at: top)
                reconcileWanted.signal()
            }
            let parts = listed
            let (counts, isKnown) = try await state.durably { (store) throws(SafeBackupError) in
                try store.compare(id, destinations, parts, rules: rules, notBefore: now)
            }
            if counts.queued > 0 { queued() }
            for (directory, isKnown) in zip(parts, isKnown) {
                var whole = OpenDirectory(
                    path: directory.path,
                    signature: ListingSignature(now: FileTime(now), inodesAreStable: rules.inodesAreStable))
                if let open, open.path == directory.path { whole = open }
                for entry in directory.entries { whole.signature.add(entry) }
                whole.isKnown = whole.isKnown && isKnown
                var hasFailed = directory.failure != nil
                if directory.isLastPart {
                    let absent = try await queueAbsent(from: directory.path, in: root)
                    if absent != 0 { whole.isKnown = false }
                    hasFailed = absent == nil
                }
                open = whole
                if directory.failure?.code == .unreadable {
                    comparison.known.append((directory.path, ListingSignature.closed))
                } else if hasFailed {
                    comparison.failed.append(directory.path)
                } else if whole.isKnown && (directory.isWhole || directory.isLastPart) {
                    comparison.known.append((directory.path, whole.signature.value))
                }
            }
        }
        // The root could have gone away meanwhile: then what was not found is not known to be absent.
        try await io.run { () throws(SafeBackupError) in try root.verify() }
        return comparison
    }
}

extension FileTime {
    init(_ time: Timestamp) { self.init(nanoseconds: time.microseconds &* 1_000) }
}

/// What a comparison knows so far of one directory.
private struct OpenDirectory {
    var path: RelativePath
    var signature: ListingSignature
    var isKnown = true
}

/// The listings of some directories, without what is below them.
private struct EntryScan: Sendable {
    let root: ConfinedDirectory
    let filter: TreeFilter
    var paths: ArraySlice<RelativePath>
    var current: Scanner?

    /// `nil` after the last. Blocks.
    mutating func next() throws(SafeBackupError) -> [ListedDirectory]? {
        var batch: [ListedDirectory] = []
        var count = 0
        while count < 4_096 {
            if current == nil {
                guard let path = paths.popFirst() else { break }
                current = Scanner(root: root, filter: filter, from: path, depth: .entries)
            }
            guard let part = try current?.next() else {
                current = nil
                continue
            }
            count += part.reduce(0) { $0 + $1.entries.count + 1 }
            batch += part
        }
        return batch.isEmpty ? nil : batch
    }
}
