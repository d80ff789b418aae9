package import SafeBackupCore
import SafeBackupSystem

/// One change of a path, for one destination.
package struct QueuedChange: Sendable, Hashable {
    package var path: RelativePath
    package var action: JobAction
    /// When the path will have settled, if nothing more happens to it.
    package var notBefore: Timestamp
    /// Further changes move that no later than this after the first one; zero: the path need not settle.
    package var settleLimit: Duration
    package var isDirectory: Bool
    /// Bytes, where the change tells it.
    package var size: Int64?
    /// The content is probably what is stored: compare digests before anything is copied.
    package var hashFirst: Bool
    /// Where the file lay before this batch of changes, if nothing but renames was told of it in the batch; `nil` of
    /// what was written, and of what was found and not told: its content is not known by its size and time.
    package var origin: RelativePath?

    package init(
        path: RelativePath, action: JobAction, notBefore: Timestamp, settleLimit: Duration = .zero,
        isDirectory: Bool = false, size: Int64? = nil, hashFirst: Bool = false, origin: RelativePath? = nil
    ) {
        self.path = path
        self.action = action
        self.notBefore = notBefore
        self.settleLimit = settleLimit
        self.isDirectory = isDirectory
        self.size = size
        self.hashFirst = hashFirst
        self.origin = origin
    }

    /// `nil`: the change does not settle, it is found as it is.
    fileprivate func limit(from now: Timestamp) -> Timestamp? { settleLimit == .zero ? nil : now + settleLimit }
}

/// What became of a batch of changes.
package struct EnqueueResult: Sendable, Hashable {
    /// Jobs that were made.
    package var new = 0
    /// Changes that went into a job that was there.
    package var coalesced = 0

    package init(new: Int = 0, coalesced: Int = 0) {
        self.new = new
        self.coalesced = coalesced
    }
}

/// Jobs to plan, and when to ask again.
package struct DueBatch: Sendable, Hashable {
    /// By their time, then by their sequence.
    package var jobs: [DueJob]
    /// Every name that exists now has an id up to this; an absence that is confirmed later ends only those.
    package var newestName: Int64
    /// When the next job that is not in the batch is due: at once, if the batch was cut short; `nil` if there is none.
    package var nextDue: Timestamp?
    /// The sources of which something may have been moved.
    package var movedSources: Set<SourceID> = []
}

extension StateStore {
    /// Takes changes in. A path with a job gets a newer generation: a pending job's time moves, a lease stays as it is,
    /// a stuck job is pending again. When this returns, no power cut loses the changes.
    @discardableResult
    package func enqueue(
        _ batches: [(destination: DestinationID, changes: [QueuedChange])], source: SourceID
    ) throws(SafeBackupError) -> EnqueueResult {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            var result = EnqueueResult()
            for batch in batches {
                let pair = PairKey(source: source, destination: batch.destination)
                // Refused here, where the caller sees it, and not when the job is due.
                _ = try prefix(pair, connection)
                // Asked before any of them is written: in a swap each is the other's origin.
                let origins = try batch.changes.map { (change) throws(SafeBackupError) in
                    try savedOrigin(of: change, pair, connection)
                }
                for (change, origin) in zip(batch.changes, origins) {
                    switch try upsert(change, pair, renamedFrom: origin, now: now, connection) {
                    case .made: result.new += 1
                    case .coalesced, .left: result.coalesced += 1
                    }
                }
            }
            return result
        }
    }

    /// Where the file lay when it was saved, if only renames were told of it since; `nil` if that is not sure.
    private func savedOrigin(
        of change: QueuedChange, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) -> RelativePath? {
        guard let origin = change.origin else { return nil }
        let select = try connection.statement(
            "SELECT touched, renamed_from FROM job WHERE destination_id = ? AND source_id = ? AND path = ?")
        defer { select.reset() }
        select.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(origin)
        if try select.step() {
            if select.bool() { return nil }
            if let earlier = select.pathOrNull() { return earlier }
        }
        return try connection.liveName(pair, origin)?.copy == nil ? nil : origin
    }

    enum Upsert {
        case made
        case coalesced
        /// There is a job that will look at the path anyway.
        case left
    }

    /// Makes a job, or gives the path's job a newer generation. With `leavesWaiting` only a leased job gets one,
    /// because its work may have begun before the change; a job that waits will see the change as it is. With
    /// `keepsStore` a delete leaves a job that is to store a file as that: nobody said that the file is gone.
    func upsert(
        _ change: QueuedChange, _ pair: PairKey, renamedFrom origin: RelativePath? = nil, leavesWaiting: Bool = false,
        keepsStore: Bool = false, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> Upsert {
        let limit = change.limit(from: now)
        let notBefore = limit.map { min(change.notBefore, $0) } ?? change.notBefore
        let size = change.action == .delete ? nil : change.size
        let number = nextNumber()
        if change.action == .delete { noteVanished(pair) }
        try connection.statement(
            """
            INSERT INTO job (sequence, source_id, destination_id, path, state, action, generation, size, is_directory,
                hash_first, first_seen_at, not_before, settle_by, touched, renamed_from)
            VALUES (?1, ?2, ?3, ?4, 'pending', ?5, ?1, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
            ON CONFLICT (destination_id, source_id, path) DO NOTHING
            """
        ).bind(number).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(change.path)
            .bind(text: change.action.rawValue).bind(size).bind(change.isDirectory).bind(change.hashFirst).bind(now)
            .bind(notBefore).bind(limit).bind(change.action != .delete && origin == nil).bind(path: origin?.bytes).run()
        if connection.changes == 0 {
            return try coalesce(
                change, generation: number, pair, origin, leavesWaiting: leavesWaiting, keepsStore: keepsStore,
                now: now,
                connection)
        }
        note(pair) { $0.count(.pending, size: size, sign: 1) }
        return .made
    }

    private func coalesce(
        _ told: QueuedChange, generation: Int64, _ pair: PairKey, _ origin: RelativePath?, leavesWaiting: Bool,
        keepsStore: Bool, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> Upsert {
        var change = told
        let select = try connection.statement(
            """
            SELECT sequence, state, size, hash_first, settle_by, backoff_until, attempts, last_error_code, last_error,
                generation = leased_generation, action = 'delete' AND is_directory,
                action = 'store' AND NOT is_directory
            FROM job WHERE destination_id = ? AND source_id = ? AND path = ?
            """)
        defer { select.reset() }
        select.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(change.path)
        guard try select.step() else { return .left }
        let sequence = select.int()
        let state = JobState(rawValue: select.text()) ?? .pending
        if leavesWaiting && state != .leased { return .left }
        let oldSize = select.intOrNull()
        let wasHashFirst = select.bool()
        // Changes that belong together share one limit; a change after a try, or after a stuck job, begins anew.
        let oldLimit = select.timestampOrNull()
        let backoff = select.timestampOrNull()
        var attempts = select.int()
        var error = (code: select.textOrNull(), message: select.textOrNull())
        let isLeasedGeneration = select.bool()
        let isFirstOfLease = state == .leased && isLeasedGeneration
        let isBack = select.bool() && change.action == .store
        if keepsStore && select.bool() { (change.action, change.isDirectory) = (.store, false) }
        select.reset()

        let newLimit = change.limit(from: now)
        let limit = state == .stuck ? newLimit : oldLimit ?? newLimit
        var notBefore = change.notBefore
        if let limit, newLimit != nil { notBefore = min(notBefore, limit) }
        if state == .pending, let backoff {
            // A torn read, or the destination's own trouble: one more change is no reason to try earlier or to forget
            // the failures; without them an open log would never reach the attempt that keeps a fuzzy copy.
            notBefore = max(notBefore, backoff)
        } else if state != .leased {
            (attempts, error) = (0, (nil, nil))
        }
        let size = change.action == .delete ? nil : change.size ?? oldSize
        // A new content needs no comparison; a new mode alone does not make a waiting content known.
        let hashFirst = change.hashFirst && (isFirstOfLease || wasHashFirst)
        let newState: JobState = state == .leased ? .leased : .pending
        try connection.statement(
            """
            UPDATE job SET state = ?, action = ?, generation = ?, size = ?, is_directory = ?, hash_first = ?,
                not_before = ?, settle_by = ?, backoff_until = ?, attempts = ?, last_error_code = ?, last_error = ?,
                touched = max(touched, ?), renamed_from = ifnull(?, renamed_from)
            WHERE sequence = ?
            """
        ).bind(text: newState.rawValue).bind(text: change.action.rawValue).bind(generation).bind(size)
            .bind(change.isDirectory).bind(hashFirst).bind(notBefore).bind(limit)
            .bind(state == .pending ? backoff : nil).bind(attempts).bind(text: error.code).bind(text: error.message)
            .bind(told.action != .delete && origin == nil).bind(path: origin?.bytes).bind(sequence).run()
        note(pair) {
            $0.count(state, size: oldSize, sign: -1)
            $0.count(newState, size: size, sign: 1)
        }
        if isBack {
            // The directory that vanished took along what was below it; this is another one, or the same come back.
            try lookBelow(change.path, pair, notBefore: change.notBefore, now: now, connection)
        }
        return .coalesced
    }

    // MARK: - Due

    /// Pending jobs whose time has come, of active pairs and of sources that are neither held nor paused; none of a destination
    /// that is.
    /// The first one comes even if it is larger than `byteLimit`. Changes nothing but stuck jobs whose daily try has
    /// come, and times that a jump of the clock has put out of reach.
    package func due(
        _ destination: DestinationID, limit: Int, byteLimit: Int64, now: Timestamp
    ) throws(SafeBackupError) -> DueBatch {
        try reviveStuck(destination, now: now)
        try capTimes(destination, now: now)
        return try read { (connection) throws(SafeBackupError) in
            var batch = DueBatch(
                jobs: [], newestName: try connection.number("SELECT value FROM counter") ?? 0, nextDue: nil)
            if try isStopped(destination, connection) { return batch }
            var waiting: [Waiting] = []
            for pair in try runnable(destination, connection) {
                if try mayHaveMoved(pair, connection) { batch.movedSources.insert(pair.source) }
                try collect(pair, limit: limit, now: now, into: &waiting, &batch.nextDue, connection)
            }
            waiting.sort { ($0.notBefore, $0.job.sequence) < ($1.notBefore, $1.job.sequence) }
            var bytes: Int64 = 0
            for (index, candidate) in waiting.enumerated() {
                bytes += candidate.size.countedSize
                if index > 0 && (index >= limit || bytes > byteLimit) {
                    batch.nextDue = candidate.notBefore
                    break
                }
                var job = candidate.job
                try connection.look(&job, candidate.pair)
                batch.jobs.append(job)
            }
            let stuck = try connection.statement(
                """
                SELECT not_before FROM job WHERE state = 'stuck' AND state <> 'pending' AND destination_id = ?
                ORDER BY not_before LIMIT 1
                """)
            defer { stuck.reset() }
            stuck.bind(destination.rawValue)
            if try stuck.step() { batch.nextDue = min(batch.nextDue, stuck.timestamp()) }
            return batch
        }
    }

    private struct Waiting {
        var job: DueJob
        var pair: PairKey
        var size: Int64
        var notBefore: Timestamp
    }

    /// Held or paused.
    func isStopped(_ destination: DestinationID, _ connection: Connection) throws(SafeBackupError) -> Bool {
        let statement = try connection.statement(
            "SELECT held_reason IS NOT NULL OR paused_at IS NOT NULL FROM destination WHERE id = ?")
        defer { statement.reset() }
        statement.bind(destination.rawValue)
        return try statement.step() ? statement.bool() : true
    }

    /// The destination's active pairs with a source that is neither held nor paused.
    func runnable(
        _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> [PairKey] {
        let statement = try connection.statement(
            """
            SELECT s.id FROM pair p JOIN source s ON s.id = p.source_id
            WHERE p.destination_id = ? AND p.active = 1 AND s.held_reason IS NULL AND s.paused_at IS NULL
            """)
        defer { statement.reset() }
        statement.bind(destination.rawValue)
        var pairs: [PairKey] = []
        while try statement.step() {
            pairs.append(PairKey(source: SourceID(rawValue: statement.int()), destination: destination))
        }
        return pairs
    }

    /// One job more than `limit` may come, so that the caller sees when the next is due.
    private func collect(
        _ pair: PairKey, limit: Int, now: Timestamp, into waiting: inout [Waiting], _ nextDue: inout Timestamp?,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let prefix = try prefix(pair, connection)
        let statement = try connection.statement(
            """
            SELECT sequence, path, generation, action, attempts, first_seen_at, hash_first, size, not_before FROM job
            WHERE state = 'pending' AND destination_id = ? AND source_id = ? ORDER BY not_before, sequence LIMIT ?
            """)
        defer { statement.reset() }
        statement.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(Int64(max(limit, 1)) + 1)
        while try statement.step() {
            let sequence = statement.int()
            let path = statement.path()
            let job = DueJob(
                source: pair.source, path: path, location: prefix.appending(path), sequence: sequence,
                generation: statement.int(), action: JobAction(rawValue: statement.text()) ?? .store,
                attempts: Int(statement.int()), firstSeenAt: statement.timestamp(), hashFirst: statement.bool())
            let size = statement.intOrNull() ?? 0
            let notBefore = statement.timestamp()
            if notBefore > now {
                nextDue = min(nextDue, notBefore)
                return
            }
            waiting.append(Waiting(job: job, pair: pair, size: size, notBefore: notBefore))
        }
    }

    /// A stuck job whose daily try has come is pending again, with its failures: one more makes it stuck again.
    private func reviveStuck(_ destination: DestinationID, now: Timestamp) throws(SafeBackupError) {
        let isDue = try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT 1 FROM job WHERE state = 'stuck' AND state <> 'pending' AND destination_id = ? AND not_before <= ?
                LIMIT 1
                """)
            defer { statement.reset() }
            return try statement.bind(destination.rawValue).bind(now).step()
        }
        if !isDue { return }
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement(
                """
                UPDATE job SET state = 'pending', settle_by = NULL, backoff_until = NULL
                WHERE state = 'stuck' AND state <> 'pending' AND destination_id = ? AND not_before <= ?
                RETURNING source_id, size
                """)
            defer { update.reset() }
            update.bind(destination.rawValue).bind(now)
            while try update.step() {
                let pair = PairKey(source: SourceID(rawValue: update.int()), destination: destination)
                let size = update.intOrNull()
                note(pair) {
                    $0.count(.stuck, size: size, sign: -1)
                    $0.count(.pending, size: size, sign: 1)
                }
            }
        }
    }

    /// No wait of ours is longer than an hour, a stuck job's two days: later times are what a jump of the clock left.
    private func capTimes(_ destination: DestinationID, now: Timestamp) throws(SafeBackupError) {
        let (pending, stuck) = (now + .seconds(3_600), now + .seconds(2 * 86_400))
        let isBeyond = try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT EXISTS (SELECT 1 FROM pair p CROSS JOIN job j ON j.destination_id = p.destination_id
                        AND j.source_id = p.source_id AND j.state = 'pending' AND j.not_before > ?1
                    WHERE p.destination_id = ?3)
                    OR EXISTS (SELECT 1 FROM job WHERE state = 'stuck' AND state <> 'pending' AND destination_id = ?3
                        AND not_before > ?2)
                """)
            defer { statement.reset() }
            return try statement.bind(pending).bind(stuck).bind(destination.rawValue).step() && statement.bool()
        }
        if !isBeyond { return }
        try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                """
                UPDATE job SET not_before = ?1, settle_by = NULL, backoff_until = NULL
                WHERE destination_id = ?4 AND (state = 'pending' AND not_before > ?2 OR state = 'stuck' AND not_before > ?3)
                """
            ).bind(now).bind(pending).bind(stuck).bind(destination.rawValue).run()
        }
    }
}

/// The earlier of a time and perhaps none.
private func min(_ left: Timestamp?, _ right: Timestamp) -> Timestamp {
    guard let left else { return right }
    return left < right ? left : right
}
