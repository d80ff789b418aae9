import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// When a destination is open: from its first job until it was idle for a while, and never while it is held or paused.
extension DestinationUnit {
    /// Opens the destination if its sentinel is there, and brings catalogue and disk together.
    func attach() async throws(SafeBackupError) {
        try await setup.run()
        let sentinel = try await knownSentinel()
        try takeClaim(sentinel)
        try await target.attach(expecting: sentinel)
        tellBlindness()
        lastWork.set(.now)
        if !isResting.value {
            try await recover()
            try await beginCopyCheck()
        }
        isResting.set(false)
        try await refreshSentinel()
        failure.withLock { $0 = nil }
        // Groups that failed had jobs waiting for them, which their time brings back.
        busyJobs.withLock { $0 = BusyJobs() }
        door.open()
    }

    /// Once, until the keys may read.
    private func tellBlindness() {
        let isBlind = target.isBlind
        if isBlind && !wasBlind.value {
            logger.warning(
                .bucketBlind,
                "The keys may store objects and not read them: saving works, restoring does not ('safebackup doctor' says more)"
            )
        }
        wasBlind.set(isBlind)
    }

    /// Ends or undoes what was under way when an agent, or a disk, went away.
    private func recover() async throws(SafeBackupError) {
        let id = id
        // All at once: where a copy moved may be another lease's matter, and there are no more than the lanes carried.
        let leaseLimit = 2 * GroupLimits.mostLanes * limits.jobs
        while true {
            let leases = try await state.durably { (store) throws(SafeBackupError) in
                try store.leases(id, limit: leaseLimit)
            }
            if leases.isEmpty { break }
            let recovered = try await target.recover(leases)
            try await state.durably { (store) throws(SafeBackupError) in
                try store.recover(id, recovered)
            }
            logger.info(.recovered, "Unfinished work was recovered", metadata: ["jobs": "\(recovered.count)"])
        }
        try await finishRetirements()
        try await target.emptyStaging()
        try await finishRemovals()
        try await holding.end()
    }

    private func record() async throws(SafeBackupError) -> DestinationRecord {
        let id = id
        let record = try await state.durably { (store) throws(SafeBackupError) in
            try store.destinations().first { $0.id == id }
        }
        if let record { return record }
        throw SafeBackupError(.stateDamaged, "The state has lost the destination", disposition: .permanent)
    }

    /// The id that the sentinel must have. A replacement that a person accepted and that a crash interrupted is
    /// finished if the new sentinel was written; else the hold stands, and the person is asked again.
    private func knownSentinel() async throws(SafeBackupError) -> String {
        let record = try await record()
        guard let accepted = record.accepted else { return record.sentinel ?? "" }
        let found = try await target.inspect().sentinel?.id
        guard found == accepted else { return record.sentinel ?? "" }
        let id = id
        try await state.durably { (store) throws(SafeBackupError) in try store.finishReplacement(of: id) }
        for source in sources.values { source.lookAgain() }
        return accepted
    }

    private func takeClaim(_ sentinel: String) throws(SafeBackupError) {
        if claimed.value?.sentinel == sentinel { return }
        claimed.set((sentinel, try DestinationDoor.claim(sentinel, at: target.location)))
    }

    /// Writes into the sentinel what a person accepted, so that it holds after a loss of the state too.
    private func refreshSentinel() async throws(SafeBackupError) {
        guard isSentinelStale.value, let sentinel = target.sentinel else { return }
        let records = try await state.durably { (store) throws(SafeBackupError) in try store.sources() }
        var entries = sentinel.sources
        for index in entries.indices {
            guard let record = records.first(where: { $0.uuid == entries[index].id }),
                entries[index].identity?.matches(record.identity) == false
            else { continue }
            entries[index].identity = record.identity
        }
        if entries != sentinel.sources { try await target.updateSentinel(sources: entries) }
        isSentinelStale.set(false)
    }

    func holdOrThrow(_ error: SafeBackupError) async throws(SafeBackupError) {
        if error.code == .stateFailed || error.code == .stateDamaged { throw error }
        isResting.set(false)
        door.shut()
        await target.detach()
        // One that was never seen may turn out to be somebody else's, which only a person can change.
        if error.disposition.isOfDestination || !setup.isDone { return try await holding.begin(error) }
        logger.error(
            .destinationFailed, "The destination failed; it is tried again",
            metadata: ["error.code": "\(error.code)", "error": "\(error.message)"])
    }

    /// Until it is tried again. Keys that are refused are not tried every two seconds: a server may lock them.
    func pause(after error: SafeBackupError) async {
        let end = ContinuousClock.now + (error.disposition == .auth ? .seconds(20) : .seconds(2))
        repeat {
            await wake.wait(atMost: end - .now)
        } while error.disposition == .auth && !stop.isRequested && ContinuousClock.now < end
    }

    // MARK: Rest

    /// Whether nothing was to be done for so long that everything was closed. Asked when no job is in work.
    func closesIdle() async throws(SafeBackupError) -> Bool {
        try await refreshSentinel()
        let isPaused = try await record().pausedAt != nil
        let isIdle = !target.traits.staysOpen && ContinuousClock.now - lastWork.value >= idleTime
        guard isPaused || isIdle, door.close() else { return false }
        await target.detach()
        isResting.set(true)
        return true
    }

    /// Waits for work while nothing is open. Looks now and then whether the destination is still there, because nobody
    /// tells that its disk was unmounted; not while a person has it paused.
    func rest() async throws(SafeBackupError) {
        let id = id
        while !stop.isRequested {
            let isPaused = try await record().pausedAt != nil
            var nextDue: Timestamp?
            if !isPaused {
                let isMirroring = try await isRetirementDue()
                let isAsked =
                    door.isWanted || removalsAreDue.value || isMirroring || isRetentionDue
                    || askedCleanings.withLock { !$0.isEmpty }
                let isCheckDue = target.traits.looksAreFree && copyCheck.withLock { $0.isDue(at: .now) }
                if !isResting.value || isAsked || isCheckDue { return }
                let now = clock.now
                let batch = try await state.durably { (store) throws(SafeBackupError) in
                    try store.due(id, limit: 1, byteLimit: 0, now: now)
                }
                if !batch.jobs.isEmpty { return }
                try await target.look(expecting: try await knownSentinel())
                nextDue = batch.nextDue
                try await lookForRoom()
            }
            await wake.wait(atMost: untilLook(untilNext(nextDue)))
        }
    }
}
