import Logging
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// Walks, which find what no event told of.
extension SourceUnit {
    func comparisonRules(_ root: SourceRoot, drift: DriftRule? = nil) -> ComparisonRules {
        ComparisonRules(inodesAreStable: root.identity.type.hasStableInodes, hashRacy: true, drift: drift)
    }

    private func compare(
        _ listed: [ListedDirectory], _ number: ReconcileID, _ root: SourceRoot, notBefore: Timestamp,
        drift: DriftRule?
    ) async throws(SafeBackupError) -> (counts: ReconcileCounts, isComplete: Bool) {
        let (id, destinations) = (id, destinations)
        let rules = comparisonRules(root, drift: drift)
        let counts = try await state.durably { (store) throws(SafeBackupError) in
            try store.reconcile(number, id, destinations, listed, rules: rules, notBefore: notBefore)
        }
        if counts.queued > 0 { queued() }
        var isComplete = true
        for directory in listed where directory.isLastPart {
            if try await queueAbsent(from: directory.path, in: root) == nil { isComplete = false }
        }
        return (counts, isComplete)
    }

    func reconcileRepeatedly(
        _ root: SourceRoot, _ watcher: Watcher, until isOver: @Sendable () -> Bool
    ) async throws(SafeBackupError) {
        var reason = ReconcileSchedule.Reason.start
        var schedule = ReconcileSchedule(period: settings.reconcileInterval, now: .now)
        while !isOver() {
            let began = ContinuousClock.now
            schedule.noteBegin()
            if reason == .desynced {
                let report = try await watcher.resync()
                logger.debug(
                    .watchesPlaced, "The watches were placed again", metadata: ["watched": "\(report.watched)"])
            }
            try await reconcile(root, reason)
            walkedSince.set(true)
            schedule.noteEnd(at: .now, after: ContinuousClock.now - began)
            while !isOver() {
                // Something was lost, perhaps while the walk was under way.
                if reconcileWanted.take() { schedule.noteLoss(at: .now) }
                let next = schedule.next
                let now = ContinuousClock.now
                if now >= next.at {
                    reason = next.reason
                    break
                }
                await reconcileWanted.wait(atMost: next.at - now)
            }
        }
    }

    /// Walks the tree, compares it with the catalogue one directory at a time, and queues what differs.
    /// A periodic walk, with nothing known to be missing, takes a tenth of a core, and of the disk what others leave,
    /// until another walk is wanted, which must not wait for its slow end; it counts drift.
    func reconcile(
        _ root: SourceRoot, _ reason: ReconcileSchedule.Reason
    ) async throws(SafeBackupError) {
        let (id, doubtsBefore) = (id, doubts.withLock { $0 })
        let isPeriodic = reason == .periodic
        let background = isPeriodic ? backgroundThread() : nil
        let io = background ?? io
        defer { background?.stop() }
        let filter = filter(for: root)
        let scan = try await io.run { () throws(SafeBackupError) in
            SharedScanner(Scanner(root: try root.opened(), filter: filter))
        }
        let (number, mayBeEmpty) = try await state.durably { (store) throws(SafeBackupError) in
            let isAccepted = try store.sources().contains { $0.id == id && $0.accepted == .rootEmptied }
            let hasLiveNames = try store.hasLiveNames(id)
            return (try store.beginReconcile(id, reason: reason.rawValue), isAccepted || !hasLiveNames)
        }
        progress.scanning(true)
        defer { progress.scanning(false) }
        let began = ContinuousClock.now
        let walkBegan = clock.now
        let drift = isPeriodic ? DriftRule(walkBegan: walkBegan, quietSince: walkBegan + (.zero - quietTime)) : nil
        var total = ReconcileCounts()
        var (isComplete, isFirst) = (true, true)
        var rest = Duration.zero
        var ahead = try await scan.next(on: io)
        while let listed = ahead {
            if stop.isRequested { return }
            let partBegan = ContinuousClock.now
            if isFirst, !mayBeEmpty, let top = listed.first(where: { $0.path.isRoot }), top.isWhole,
                !top.entries.contains(where: \.isSaved), try await !holdsKnown(top.entries.map(\.leaf))
            {
                throw emptied()
            }
            if isFirst { try await holding.end() }
            isFirst = false
            // The next part is read while this one is compared.
            let next = Task { [io] () -> Result<[ListedDirectory]?, SafeBackupError> in
                do throws(SafeBackupError) {
                    return .success(try await scan.next(on: io))
                } catch {
                    return .failure(error)
                }
            }
            let (counts, isWhole) = try await compare(listed, number, root, notBefore: clock.now, drift: drift)
            total += counts
            isComplete = isComplete && isWhole
            progress.scanned(counts.seen)
            for directory in listed {
                guard let failure = directory.failure else { continue }
                isComplete = false
                logger.error(
                    .directoryUnreadable, "A directory cannot be read; nothing below it is saved",
                    metadata: ["path": "\(directory.path)", "error": "\(failure.message)"])
            }
            ahead = try await next.value.get()
            rest += (ContinuousClock.now - partBegan) * 9
            // Nothing stays open meanwhile; a rest that comes in the middle of a large directory waits for its end.
            if isPeriodic, ahead != nil, await scan.letGo(on: io) {
                await reconcileWanted.pause(rest)
                rest = .zero
                try await scan.goOn(in: root, on: io)
            }
        }
        // The root could have gone away during the walk: then what it did not find is not known to be absent.
        try await io.run { () throws(SafeBackupError) in try root.verify() }
        let (complete, counts) = (isComplete, total)
        let last = try await state.durably { (store) throws(SafeBackupError) in
            _ = try store.finishReconcile(
                number, complete: complete, drift: counts.drift, excluded: counts.excluded)
            return try store.newestSequence()
        }
        if doubts.withLock({ $0 }) == doubtsBefore { walkedUpTo.set(last) }
        queued()
        logger.info(
            .reconciled, "The source was compared with the catalogue",
            metadata: [
                "reason": "\(reason)", "seen": "\(total.seen)", "queued": "\(total.queued)",
                "seconds": "\(secondsText(ContinuousClock.now - began))",
            ])
        if total.drift > 0 {
            logger.warning(
                .drift, "The walk found changes that no event had told of; they are saved now; please report it",
                metadata: ["drift": "\(total.drift)"])
        }
    }

    /// For a walk that nothing waits for. `nil` where the system gives no thread: it is done as any other.
    private func backgroundThread() -> ThreadExecutor? {
        do throws(Errno) {
            return try ThreadExecutor(name: "sb.walk", isBackground: true)
        } catch {
            logger.debug(
                .walkUnlowered, "No thread for the walk", metadata: ["error": "\(error.explanation)"])
            return nil
        }
    }

    /// What changed longer ago than this was told, or looked at, if it ever will be.
    private var quietTime: Duration { (destinations.map { settle(for: $0).limit }.max() ?? .zero) * 2 + .seconds(60) }
}
