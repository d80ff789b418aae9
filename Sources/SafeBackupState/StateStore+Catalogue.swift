package import SafeBackupCore
import SafeBackupSystem

/// How a job ended, as the agent tells it after the destination's outcome and, for an absence, its own look.
package struct Completion: Sendable, Hashable {
    package enum Outcome: Sendable, Hashable {
        /// Durable under its final name.
        case stored(StoredEntry)
        /// The path is confirmed to be absent: the live names at and below it with an id up to this end.
        case ended(namesUpTo: Int64)
        /// The job is pending again with a back-off, or stuck.
        case failed(SafeBackupError, BackoffPolicy.Verdict)
    }

    /// As `due` or `leases` gave it.
    package var job: DueJob
    package var outcome: Outcome
    /// A fuzzy copy was stored: the path is tried again then.
    package var requeueAt: Timestamp?

    package init(job: DueJob, outcome: Outcome, requeueAt: Timestamp? = nil) {
        self.job = job
        self.outcome = outcome
        self.requeueAt = requeueAt
    }
}

/// What a batch of completions did.
package struct CompletionResult: Sendable, Hashable {
    /// Jobs that are done: nothing newer is known of their paths.
    package var finished = 0
    /// Jobs that are pending again: a newer change, a fuzzy copy, or a failure.
    package var pending = 0
    package var stuck = 0
    /// Bytes of new copies.
    package var bytes: Int64 = 0
    /// What they take on a disk, about.
    package var room: Int64 = 0
    /// What the copies took that were replaced and not kept.
    package var released: Int64 = 0
    /// Kept versions beyond the limit, for `beginRemoval`.
    package var excessVersions: [CopyRecord] = []
    /// Removals were begun: of damaged copies that have been stored again.
    package var hasRemovals = false
    /// Sources that had many files and have none since.
    package var emptied: [EmptiedSource] = []
}

extension StateStore {
    /// Ends jobs and writes what they did into the catalogue, in one transaction: only when this has returned may
    /// anybody be told that the paths are saved. Jobs need not be leased: a plan may have failed. What was stored by a
    /// lease that is no more is left out: the destination may be another one since, or this was told before.
    package func complete(
        _ destination: DestinationID, _ completions: [Completion], versionLimit: Int = VersionThinning.limit
    ) throws(SafeBackupError) -> CompletionResult {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            var result = CompletionResult()
            let hasUnsaved = try connection.number("SELECT EXISTS (SELECT 1 FROM not_saved)") == 1
            let completions = try standing(completions, destination, connection)
            for completion in completions {
                guard case .stored(let entry) = completion.outcome, entry.content == .moved else { continue }
                let pair = PairKey(source: completion.job.source, destination: destination)
                try takeUp(completion.job, pair, now: now, connection)
            }
            for completion in completions {
                let pair = PairKey(source: completion.job.source, destination: destination)
                if hasUnsaved { try forgetNotSaved(completion, connection) }
                try complete(completion, pair, versionLimit: versionLimit, now: now, &result, connection)
            }
            if result.room > 0 {
                try connection.statement("UPDATE destination SET accumulated_size = accumulated_size + ? WHERE id = ?")
                    .bind(result.room).bind(destination.rawValue).run()
            }
            result.emptied = try noteEmptied(now: now, connection)
            return result
        }
    }

    /// Without those that were stored by a lease that is no more.
    private func standing(
        _ completions: [Completion], _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> [Completion] {
        var standing: [Completion] = []
        standing.reserveCapacity(completions.count)
        for completion in completions {
            if case .stored = completion.outcome, try !isLeased(completion.job, destination, connection) { continue }
            standing.append(completion)
        }
        return standing
    }

    /// A path that is saved, or gone, is no longer one that is not saved.
    private func forgetNotSaved(_ completion: Completion, _ connection: Connection) throws(SafeBackupError) {
        switch completion.outcome {
        case .failed: return
        // What is noted of a directory is that it could not be listed: only a walk knows that it can be again.
        case .stored(let entry) where entry.kind == .directory: return
        case .stored, .ended: break
        }
        try connection.statement("DELETE FROM not_saved WHERE source_id = ? AND path = ?")
            .bind(completion.job.source.rawValue).bind(completion.job.path).run()
    }

    /// What a job's row tells when the job ends.
    private struct EndedJob {
        var state: JobState
        var size: Int64?
        /// The counter at the lease.
        var leasedUpTo: Int64?
        var finalInode: UInt64?
        var leasedAt: Timestamp?
    }

    private func complete(
        _ completion: Completion, _ pair: PairKey, versionLimit: Int, now: Timestamp, _ result: inout CompletionResult,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let job = completion.job
        switch completion.outcome {
        case .failed(let error, let verdict):
            try fail(job, pair, error, verdict, now: now, &result, connection)
        case .ended(let id):
            if let live = try connection.liveName(pair, job.path), live.id <= id {
                try end(live, pair, .deleted, now: now, connection)
                if live.kind == .directory { try noteVacated(job.path, pair, connection) }
            }
            try endNames(below: job.path, pair, upTo: id, now: now, connection)
            _ = try finish(completion, pair, now: now, &result, connection)
        case .stored(let entry):
            let ended = try finish(completion, pair, now: now, &result, connection)
            for move in entry.displaced { try displace(move, at: job.location, pair, now: now, connection) }
            let isTrue = try store(entry, job, pair, ended, now: now, &result, connection)
            if !isTrue { try requeue(job, pair, now: now, connection) }
            if entry.hasOtherLinks { try queueOtherLinks(of: entry, job, pair, now: now, connection) }
            if entry.isFuzzy { try journalFuzzy(job, pair, now: now, connection) }
            let isKeptNow = entry.displaced.contains { $0.from == job.location && $0.reason == .kept }
            // A last good copy that is not needed as such any more is a kept version too.
            if isKeptNow && job.keptVersions >= versionLimit || job.live?.isFuzzy == true {
                result.excessVersions += try connection.excessVersions(pair, job.path, limit: versionLimit, now: now)
            }
        }
    }

    // MARK: - The job's row

    /// Deletes the job, or makes it pending for what is newer. `nil` if there is no such job any more.
    private func finish(
        _ completion: Completion, _ pair: PairKey, now: Timestamp, _ result: inout CompletionResult,
        _ connection: Connection
    ) throws(SafeBackupError) -> EndedJob? {
        let job = completion.job
        let select = try connection.statement(
            """
            SELECT state, size, leased_upto, final_inode, leased_at, generation, not_before FROM job WHERE sequence = ?
            """)
        defer { select.reset() }
        guard try select.bind(job.sequence).step() else { return nil }
        let ended = readEnded(select)
        let isNewer = select.int() != job.generation
        let notBefore = select.timestamp()
        select.reset()
        if !isNewer && completion.requeueAt == nil {
            try connection.statement("DELETE FROM job WHERE sequence = ?").bind(job.sequence).run()
            note(pair) { $0.count(ended.state, size: ended.size, sign: -1) }
            result.finished += 1
            return ended
        }
        result.pending += 1
        // What waits now is another job than the one that is done: it gets a new place in the order, so that whoever
        // waits for the jobs known at one moment does not wait for a log that is written for ever.
        try connection.statement(
            """
            UPDATE job SET sequence = ?, state = 'pending', touched = 1, first_seen_at = ?, not_before = ?, backoff_until = ?,
                attempts = ?, last_error_code = ?, last_error = ?, leased_generation = NULL, leased_action = NULL,
                leased_at = NULL, leased_upto = NULL, stage_name = NULL, version = NULL, version_reason = NULL,
                obstruction = NULL, obstruction_version = NULL, final_kind = NULL, final_inode = NULL,
                final_size = NULL, final_mtime_ns = NULL, origin_path = NULL, origin_copy = NULL
            WHERE sequence = ?
            """
        ).bind(nextNumber()).bind(ended.leasedAt ?? now)
            .bind(completion.requeueAt.map { isNewer ? max($0, notBefore) : $0 } ?? notBefore)
            .bind(completion.requeueAt).bind(completion.requeueAt == nil ? 0 : Int64(job.attempts))
            .bind(text: completion.requeueAt == nil ? nil : SafeBackupError.Code.torn.rawValue)
            .bind(
                text: completion.requeueAt == nil ? nil : "The stored copy mixes states of the file; it is read again"
            )
            .bind(job.sequence).run()
        note(pair) {
            $0.count(ended.state, size: ended.size, sign: -1)
            $0.count(.pending, size: ended.size, sign: 1)
        }
        return ended
    }

    private func readEnded(_ row: Statement) -> EndedJob {
        EndedJob(
            state: JobState(rawValue: row.text()) ?? .pending, size: row.intOrNull(), leasedUpTo: row.intOrNull(),
            finalInode: row.bits(), leasedAt: row.timestampOrNull())
    }

    /// The catalogue lost what the job relied on, by another job of its group: it is looked at again at once.
    private func requeue(
        _ job: DueJob, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        let change = QueuedChange(path: job.path, action: job.action, notBefore: now, isDirectory: false)
        _ = try upsert(change, pair, now: now, connection)
    }

    private func fail(
        _ job: DueJob, _ pair: PairKey, _ error: SafeBackupError, _ verdict: BackoffPolicy.Verdict, now: Timestamp,
        _ result: inout CompletionResult, _ connection: Connection
    ) throws(SafeBackupError) {
        let select = try connection.statement(
            "SELECT state, size, generation, not_before, last_error_code FROM job WHERE sequence = ?")
        defer { select.reset() }
        guard try select.bind(job.sequence).step() else { return }
        let state = JobState(rawValue: select.text()) ?? .pending
        let size = select.intOrNull()
        let isNewer = select.int() != job.generation
        let knownNotBefore = select.timestamp()
        let lastCode = select.textOrNull()

        var newState = JobState.pending
        var attempts = Int64(job.attempts)
        var notBefore = knownNotBefore
        var backoff: Timestamp?
        // These do not go by because the path changed once more; see `coalesce`.
        let outlastsChanges =
            error.code == .torn
            || [.destinationUnavailable, .destinationFull, .auth, .throttled].contains(error.disposition)
        // What was told to be gone, and is there, is not a deletion any more.
        let action: JobAction = job.action == .delete ? .delete : .store
        switch verdict {
        case .retry(let wait, let countsAttempt):
            attempts += countsAttempt ? 1 : 0
            if outlastsChanges {
                backoff = now + wait
                notBefore = isNewer ? max(knownNotBefore, now + wait) : now + wait
            } else if isNewer {
                attempts = 0
            } else {
                notBefore = now + wait
            }
        case .stuck(let wait):
            attempts += 1
            if isNewer {
                attempts = 0
            } else {
                newState = .stuck
                notBefore = now + wait
            }
        }
        try connection.statement(
            """
            UPDATE job SET state = ?, not_before = ?, backoff_until = ?, attempts = ?, last_error_code = ?, last_error = ?,
                action = CASE WHEN generation = ? THEN ? ELSE action END, settle_by = CASE WHEN generation = ? THEN NULL ELSE settle_by END, leased_generation = NULL,
                leased_action = NULL, leased_at = NULL, leased_upto = NULL, stage_name = NULL, version = NULL,
                version_reason = NULL, obstruction = NULL, obstruction_version = NULL, final_kind = NULL,
                final_inode = NULL, final_size = NULL, final_mtime_ns = NULL, origin_path = NULL, origin_copy = NULL
            WHERE sequence = ?
            """
        ).bind(text: newState.rawValue).bind(notBefore).bind(backoff).bind(attempts).bind(text: error.code.rawValue)
            .bind(text: error.message).bind(job.generation).bind(text: action.rawValue).bind(job.generation)
            .bind(job.sequence).run()
        note(pair) {
            $0.count(state, size: size, sign: -1)
            $0.count(newState, size: size, sign: 1)
        }
        if newState == .stuck { result.stuck += 1 } else { result.pending += 1 }
        try journalFailure(
            job, pair, error, isStuck: newState == .stuck, before: lastCode, now: now, connection)
    }

    // MARK: - The catalogue

    /// Writes the copy and the name of a stored entry, after its displacements. `false` if the entry relies on a copy
    /// that the catalogue does not have.
    private func store(
        _ entry: StoredEntry, _ job: DueJob, _ pair: PairKey, _ ended: EndedJob?, now: Timestamp,
        _ result: inout CompletionResult, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        if case .copied(let stored) = entry.content, job.live == nil, job.occupant == nil {
            // Most files of a first save: two inserts, and a look only if one of them finds something there.
            let copy = try insertCopy(
                pair, at: job.location, kind: entry.kind, stored, isFuzzy: entry.isFuzzy, now: now, connection)
            if copy != nil, try insertName(pair, job.path, copy, entry, now: now, connection) {
                result.bytes += stored.size
                result.room += roomOnDisk(stored.size)
                return true
            }
        }
        let live = try connection.liveName(pair, job.path)
        var isLiveThere = live != nil
        let copy: Int64?
        switch entry.content {
        case .copied(let stored):
            if let mended = try mend(job, stored, entry, pair, now: now, &result, connection) {
                copy = mended
            } else {
                (copy, isLiveThere) = try replaceCopy(
                    job.location, pair, live, entry.kind, stored, isFuzzy: entry.isFuzzy, now: now, connection)
            }
            result.bytes += stored.size
            result.room += roomOnDisk(stored.size)
            if let occupant = job.occupant, !entry.displaced.contains(where: { $0.from == job.location }) {
                result.released += roomOnDisk(occupant.size)
            }
            if live?.isFuzzy == true && !entry.isFuzzy { try demoteLastGood(pair, job.path, connection) }
        case .kept:
            guard let occupant = try connection.copy(in: pair.destination, at: job.location) else { return false }
            try follow(entry, occupant, live, ended, connection)
            copy = occupant.id
        case .moved:
            isLiveThere = try putDown(job, pair, live, now: now, connection)
            guard let moved = try connection.copy(in: pair.destination, at: job.location) else { return false }
            copy = moved.id
            if live?.isFuzzy == true { try demoteLastGood(pair, job.path, connection) }
        case .directory:
            isLiveThere = try makeRoom(at: job.location, pair, live, now: now, connection)
            copy = nil
            if live == nil { result.room += roomOnDisk(1) }
        }
        if let live, isLiveThere {
            let isSame =
                live.copy == copy && live.kind == entry.kind && live.fingerprint == entry.fingerprint
                && live.metadata == entry.metadata && live.linkTarget == entry.linkTarget
            if isSame {
                try setFlags(live, entry, pair, connection)
                return true
            }
            let isSameContent = live.copy == copy && live.kind == entry.kind
            try end(live, pair, isSameContent ? .metadata : .replaced, now: now, connection)
            if isSameContent { try pruneNames(pair, job.path, connection) }
        }
        if live == nil && entry.kind == .directory { try pruneNames(pair, job.path, connection) }
        _ = try insertName(pair, job.path, copy, entry, now: now, connection)
        if live?.kind == .directory && entry.kind != .directory {
            // Where a file is, nothing is below it: true of every name that was stored before the file was read.
            try endNames(
                below: job.path, pair, upTo: ended?.leasedUpTo ?? job.generation, now: now, connection)
        }
        return true
    }

    /// Forgets a copy that was replaced and not kept. Whether the live name is still there.
    func makeRoom(
        at location: RelativePath, _ pair: PairKey, _ live: NameRecord?, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        guard let occupant = try connection.copy(in: pair.destination, at: location) else { return live != nil }
        try removeCopy(occupant.id, now: now, connection)
        return live != nil && live?.copy != occupant.id
    }

    /// Catalogues a new copy, in the place of one that was not kept.
    func replaceCopy(
        _ location: RelativePath, _ pair: PairKey, _ live: NameRecord?, _ kind: EntryKind, _ stored: StoredCopy,
        isFuzzy: Bool, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> (copy: Int64?, isLiveThere: Bool) {
        if let copy = try insertCopy(
            pair, at: location, kind: kind, stored, isFuzzy: isFuzzy, now: now, connection)
        {
            return (copy, live != nil)
        }
        let isLiveThere = try makeRoom(at: location, pair, live, now: now, connection)
        let copy = try insertCopy(pair, at: location, kind: kind, stored, isFuzzy: isFuzzy, now: now, connection)
        return (copy, isLiveThere)
    }

    private func setFlags(
        _ live: NameRecord, _ entry: StoredEntry, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) {
        if live.isRacy == entry.isRacy && live.isFuzzy == entry.isFuzzy { return }
        try connection.statement("UPDATE name SET racy = ?, fuzzy = ? WHERE id = ?")
            .bind(entry.isRacy).bind(entry.isFuzzy).bind(live.id).run()
        note(pair) { $0.fuzzy += (entry.isFuzzy ? 1 : 0) - (live.isFuzzy ? 1 : 0) }
    }

    /// The copy under the final name was kept and has the source's mtime now, if that changed.
    private func follow(
        _ entry: StoredEntry, _ occupant: CopyRecord, _ live: NameRecord?, _ ended: EndedJob?, _ connection: Connection
    ) throws(SafeBackupError) {
        let isTouched = live == nil || live?.fingerprint.mtime != entry.fingerprint.mtime
        let mtime = isTouched || occupant.mtime == nil ? entry.fingerprint.mtime : occupant.mtime
        let inode = occupant.inode ?? ended?.finalInode
        if mtime == occupant.mtime && inode == occupant.inode { return }
        try connection.statement("UPDATE copy SET mtime_ns = ?, inode = ? WHERE id = ?")
            .bind(mtime).bind(bits: inode).bind(occupant.id).run()
    }

    /// A good copy is there again: the last good one before it is a kept version like others.
    private func demoteLastGood(
        _ pair: PairKey, _ path: RelativePath, _ connection: Connection
    ) throws(SafeBackupError) {
        try connection.statement(
            """
            UPDATE copy SET role = 'kept' WHERE role = 'lastGood' AND id IN (SELECT copy_id FROM name
                WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf = ? AND ended_at IS NOT NULL
                    AND end_reason IN ('replaced', 'deleted'))
            """
        ).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path).run()
    }

    // MARK: - Recovery

    /// Takes over what the destination found of unfinished leases: every job is pending again, and what lies under a
    /// final name is catalogued, to be compared with the source by digest at the next drain.
    package func recover(
        _ destination: DestinationID, _ findings: [RecoveredLease]
    ) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            // Of a lease that is no more, the finding is old: the catalogue has gone on since.
            // What was moved comes before what was stored in its place.
            var (moves, others): ([RecoveredLease], [RecoveredLease]) = ([], [])
            for found in findings where try isLeased(found.lease.job, destination, connection) {
                if found.lease.job.origin == nil { others.append(found) } else { moves.append(found) }
            }
            let findings = moves + others
            for found in findings where found.finding == .moved {
                let job = found.lease.job
                try takeUp(job, PairKey(source: job.source, destination: destination), now: now, connection)
            }
            for found in findings {
                let job = found.lease.job
                let pair = PairKey(source: job.source, destination: destination)
                for move in found.displaced { try displace(move, at: job.location, pair, now: now, connection) }
                var hashFirst = false
                switch found.finding {
                case .unchanged: break
                case .cleared: try removeCopy(destination, at: job.location, now: now, connection)
                case .moved:
                    hashFirst = true
                    try adoptMoved(job, pair, now: now, connection)
                case .replaced(let stored, let kind, let linkTarget):
                    hashFirst = true
                    try adopt(stored, kind, linkTarget, job, pair, now: now, connection)
                }
                try returnLease(job, pair, hashFirst: hashFirst, now: now, connection)
            }
            _ = try noteEmptied(now: now, connection)
        }
    }

    private func isLeased(
        _ job: DueJob, _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let statement = try connection.statement(
            """
            SELECT 1 FROM job WHERE sequence = ? AND state = 'leased' AND leased_generation = ? AND destination_id = ?
            """)
        defer { statement.reset() }
        return try statement.bind(job.sequence).bind(job.generation).bind(destination.rawValue).step()
    }

    private func adopt(
        _ stored: StoredCopy, _ kind: EntryKind, _ linkTarget: [UInt8]?, _ job: DueJob, _ pair: PairKey, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let live = try connection.liveName(pair, job.path)
        var unseen = stored
        unseen.inode = nil
        let (copy, isLiveThere) = try replaceCopy(
            job.location, pair, live, kind, unseen, isFuzzy: false, now: now, connection)
        if let live, isLiveThere { try end(live, pair, .replaced, now: now, connection) }
        let entry = StoredEntry(
            kind: kind, content: .copied(unseen),
            fingerprint: Fingerprint(
                inode: 0, size: stored.size, mtime: stored.mtime ?? FileTime(nanoseconds: 0),
                ctime: FileTime(nanoseconds: 0)),
            // Nobody knows the new ones before the source is read; the old ones are the best guess.
            metadata: live?.metadata ?? FileMetadata(mode: 0o600, uid: 0, gid: 0), linkTarget: linkTarget)
        _ = try insertName(pair, job.path, copy, entry, isRecovered: true, now: now, connection)
    }

    private func returnLease(
        _ job: DueJob, _ pair: PairKey, hashFirst: Bool, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        try connection.statement(
            """
            UPDATE job SET state = 'pending', hash_first = max(hash_first, ?), not_before = min(not_before, ?),
                leased_generation = NULL, leased_action = NULL, leased_at = NULL, leased_upto = NULL,
                stage_name = NULL, version = NULL, version_reason = NULL, obstruction = NULL,
                obstruction_version = NULL, final_kind = NULL, final_inode = NULL, final_size = NULL,
                final_mtime_ns = NULL, origin_path = NULL, origin_copy = NULL
            WHERE sequence = ? AND state = 'leased' AND destination_id = ?
            """
        ).bind(hashFirst).bind(now).bind(job.sequence).bind(pair.destination.rawValue).run()
        if connection.changes == 0 { return }
        note(pair) {
            $0.leased -= 1
            $0.pending += 1
        }
    }
}
