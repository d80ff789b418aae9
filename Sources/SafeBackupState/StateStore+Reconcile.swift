package import SafeBackupCore
import SafeBackupSystem

/// The state's number of a reconcile.
package struct ReconcileID: RawRepresentable, Hashable, Sendable {
    package let rawValue: Int64
    package init(rawValue: Int64) { self.rawValue = rawValue }
}

/// What a comparison found.
package struct ReconcileCounts: Sendable, Hashable {
    /// Entries that were compared, for each destination.
    package var seen = 0
    /// Entries, and names without an entry, that differ.
    package var differences = 0
    /// Of these, queued because no waiting job covered them.
    package var queued = 0
    /// Of these, for names without an entry.
    package var deletes = 0
    /// Of these, bytes to store.
    package var bytes: Int64 = 0
    /// Entries that are not saved.
    package var notSaved = 0
    /// Entries that the rules leave out; a directory is one, whatever is in it.
    package var excluded = 0
    /// Of those queued, what no event had told of; counted only with a `DriftRule`.
    package var drift = 0

    package init() {}

    package static func += (left: inout ReconcileCounts, right: ReconcileCounts) {
        left.seen += right.seen
        left.differences += right.differences
        left.queued += right.queued
        left.deletes += right.deletes
        left.bytes += right.bytes
        left.notSaved += right.notSaved
        left.excluded += right.excluded
        left.drift += right.drift
    }
}

/// How a listing is compared with the catalogue.
package struct ComparisonRules: Sendable, Hashable {
    /// The source's file system keeps a file's inode number (see `VolumeType.hasStableInodes`).
    package var inodesAreStable: Bool
    /// Compare digests of files that were read too soon after a change.
    package var hashRacy: Bool
    /// Count what no event had told of.
    package var drift: DriftRule?

    package init(inodesAreStable: Bool = true, hashRacy: Bool = false, drift: DriftRule? = nil) {
        self.inodesAreStable = inodesAreStable
        self.hashRacy = hashRacy
        self.drift = drift
    }
}

extension StateStore {
    /// Begins a walk of a source. A desync that is marked from now on outlives it.
    package func beginReconcile(_ source: SourceID, reason: String) throws(SafeBackupError) -> ReconcileID {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            let id = nextNumber()
            try connection.statement("INSERT INTO reconcile (id, source_id, reason, began_at) VALUES (?, ?, ?, ?)")
                .bind(id).bind(source.rawValue).bind(text: reason).bind(now).run()
            // 2: a reconcile runs; still true for whoever asks, and back to 1 if changes are missed meanwhile. Of what
            // happened before the watches were placed nothing is known until the first walk has ended.
            if reason == "start" { allToldSince[source] = nil }
            try connection.statement("UPDATE source SET desynced = 2 WHERE id = ? AND (desynced <> 0 OR ?)")
                .bind(source.rawValue).bind(reason == "start").run()
            return ReconcileID(rawValue: id)
        }
    }

    /// Compares listings with the live names, a directory at a time, and queues only what differs and has no waiting
    /// job. A whole listing makes a name without an entry a delete; an entry that was skipped keeps its name.
    @discardableResult
    package func reconcile(
        _ id: ReconcileID, _ source: SourceID, _ destinations: [DestinationID], _ directories: [ListedDirectory],
        rules: ComparisonRules, notBefore: Timestamp
    ) throws(SafeBackupError) -> ReconcileCounts {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            let counts = try compare(
                directories, id, source, destinations, rules, notBefore: notBefore, now: now, connection)
            try connection.statement("UPDATE reconcile SET seen = seen + ?, queued = queued + ? WHERE id = ?")
                .bind(Int64(counts.seen)).bind(Int64(counts.queued)).bind(id.rawValue).run()
            return counts
        }
    }

    /// In the transaction of the caller.
    func compare(
        _ directories: [ListedDirectory], _ id: ReconcileID, _ source: SourceID, _ destinations: [DestinationID],
        _ rules: ComparisonRules, notBefore: Timestamp, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> ReconcileCounts {
        var counts = ReconcileCounts()
        for directory in directories {
            try noteSkipped(directory, id, source, now: now, &counts, connection)
            for destination in destinations {
                let pair = PairKey(source: source, destination: destination)
                try compare(directory, pair, rules, notBefore: notBefore, now: now, &counts, connection)
            }
        }
        return counts
    }

    /// Ends a walk. A complete one forgets what it did not see again of the entries that are not saved, queues a look
    /// at names whose directory is none any more, and clears the desync that it began with. What a person accepted is used
    /// up by any walk that came to its end, so that one agreement never permits a second emptying.
    @discardableResult
    package func finishReconcile(
        _ id: ReconcileID, complete isComplete: Bool, drift: Int = 0, excluded: Int = 0
    ) throws(SafeBackupError) -> ReconcileCounts {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            var counts = ReconcileCounts()
            let select = try connection.statement("SELECT source_id FROM reconcile WHERE id = ?")
            defer { select.reset() }
            guard try select.bind(id.rawValue).step() else { return counts }
            let source = SourceID(rawValue: select.int())
            if isComplete {
                try connection.statement("DELETE FROM not_saved WHERE source_id = ? AND reconcile < ?")
                    .bind(source.rawValue).bind(id.rawValue).run()
                for (pair, record) in try pairTable(connection) where pair.source == source && record.isActive {
                    try queueOrphans(pair, now: now, &counts, connection)
                }
                try connection.statement(
                    "UPDATE source SET last_reconcile_at = ?, excluded = ? WHERE id = ?"
                ).bind(now).bind(Int64(excluded)).bind(source.rawValue).run()
            }
            try connection.statement("UPDATE source SET accepted = NULL WHERE id = ? AND accepted IS NOT NULL")
                .bind(source.rawValue).run()
            try connection.statement("UPDATE source SET desynced = ? WHERE id = ? AND desynced = 2")
                .bind(!isComplete).bind(source.rawValue).run()
            if isComplete && allToldSince[source] == nil { try noteAllTold(source, connection) }
            try connection.statement(
                "UPDATE reconcile SET ended_at = ?, complete = ?, queued = queued + ?, drift = ? WHERE id = ?"
            ).bind(now).bind(isComplete).bind(Int64(counts.queued)).bind(Int64(drift)).bind(id.rawValue).run()
            try journalReconcile(id, source, isComplete, drift, now: now, connection)
            // A year of daily walks is history enough.
            try connection.statement(
                """
                DELETE FROM reconcile WHERE id IN (SELECT id FROM reconcile WHERE source_id = ?
                    ORDER BY id DESC LIMIT -1 OFFSET 400)
                """
            ).bind(source.rawValue).run()
            return counts
        }
    }

    /// Since the walk that ended just now no event was lost, if none was during it.
    private func noteAllTold(_ source: SourceID, _ connection: Connection) throws(SafeBackupError) {
        let select = try connection.statement("SELECT 1 FROM source WHERE id = ? AND desynced = 0")
        defer { select.reset() }
        if try select.bind(source.rawValue).step() { allToldSince[source] = lastNumber }
    }

    /// Whether anything of the source was saved and not deleted since; for the question whether it was emptied.
    package func hasLiveNames(_ source: SourceID) throws(SafeBackupError) -> Bool {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                "SELECT 1 FROM name WHERE source_id = ? AND ended_at IS NULL LIMIT 1")
            defer { statement.reset() }
            return try statement.bind(source.rawValue).step()
        }
    }

    /// Whether one of these leaves is a live name at the source's top.
    package func hasLiveName(of source: SourceID, among leaves: [[UInt8]]) throws(SafeBackupError) -> Bool {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT 1 FROM pair p CROSS JOIN name n ON n.source_id = p.source_id
                    AND n.destination_id = p.destination_id AND n.parent = '' AND n.leaf = ?2 AND n.ended_at IS NULL
                WHERE p.source_id = ?1 LIMIT 1
                """)
            for leaf in leaves {
                defer { statement.reset() }
                if try statement.bind(source.rawValue).bind(path: leaf).step() { return true }
            }
            return false
        }
    }

    /// The leaves of the live names in one directory, in the state's order, after `leaf`; for a directory that is
    /// listed in parts.
    package func liveLeaves(
        _ source: SourceID, _ destination: DestinationID, in parent: RelativePath, after leaf: [UInt8]?, limit: Int
    ) throws(SafeBackupError) -> [[UInt8]] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT leaf FROM name WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf > ?
                    AND ended_at IS NULL ORDER BY leaf LIMIT ?
                """)
            defer { statement.reset() }
            // No leaf is empty.
            statement.bind(source.rawValue).bind(destination.rawValue).bind(parent).bind(path: leaf ?? [])
                .bind(Int64(limit))
            var leaves: [[UInt8]] = []
            while try statement.step() { leaves.append(statement.bytes()) }
            return leaves
        }
    }

    // MARK: - Entries that are not saved

    /// Notes entries that an event showed and that are not saved.
    package func recordNotSaved(
        _ source: SourceID, _ entries: [(path: RelativePath, reason: SkipReason, kind: EntryKind?)]
    ) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            let newest = try newestReconcile(source, connection)
            for entry in entries where entry.reason.isShown {
                try noteSkipped(source, entry.path, entry.reason, entry.kind, newest, now: now, connection)
            }
        }
    }

    /// These paths are saved, excluded or gone.
    package func forgetNotSaved(_ source: SourceID, _ paths: [RelativePath]) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            let delete = try connection.statement("DELETE FROM not_saved WHERE source_id = ? AND path = ?")
            for path in paths { try delete.bind(source.rawValue).bind(path).run() }
        }
    }

    private func noteSkipped(
        _ directory: ListedDirectory, _ id: ReconcileID, _ source: SourceID, now: Timestamp,
        _ counts: inout ReconcileCounts, _ connection: Connection
    ) throws(SafeBackupError) {
        if directory.failure != nil {
            try noteSkipped(source, directory.path, .unreadable, .directory, id, now: now, connection)
            counts.notSaved += 1
        }
        for entry in directory.entries {
            guard case .skipped(let reason, let kind) = entry.finding else { continue }
            if reason == .excluded { counts.excluded += 1 }
            if !reason.isShown { continue }
            try noteSkipped(source, directory.path.appending(entry.leaf), reason, kind, id, now: now, connection)
            counts.notSaved += 1
        }
    }

    private func noteSkipped(
        _ source: SourceID, _ path: RelativePath, _ reason: SkipReason, _ kind: EntryKind?, _ id: ReconcileID,
        now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        try connection.statement(
            """
            INSERT INTO not_saved (source_id, path, reason, kind, seen_at, reconcile) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET reason = excluded.reason, kind = excluded.kind, reconcile = excluded.reconcile
            """
        ).bind(source.rawValue).bind(path).bind(text: reason.rawValue).bind(text: kind?.rawValue).bind(now)
            .bind(id.rawValue).run()
    }

    /// What was renamed while nobody watched is found as a new path and as an absence: the new path comes first, so that
    /// its copy moves and no name ends as deleted in between.
    private static let absenceDelay = Duration.milliseconds(500)

    // MARK: - Comparing

    private func compare(
        _ directory: ListedDirectory, _ pair: PairKey, _ rules: ComparisonRules, notBefore: Timestamp, now: Timestamp,
        _ counts: inout ReconcileCounts, _ connection: Connection
    ) throws(SafeBackupError) {
        // A part of a huge directory is looked up entry by entry, or each part would load the whole of it.
        var known = directory.isWhole ? try LiveEntry.all(in: directory.path, pair, connection) : [:]
        for entry in directory.entries {
            let live: LiveEntry?
            if directory.isWhole {
                live = known.removeValue(forKey: entry.leaf)
            } else {
                live = try LiveEntry.one(entry.leaf, in: directory.path, pair, connection)
            }
            guard case .status(let status) = entry.finding else {
                // A FIFO, socket or device in the place of what was saved: that is gone.
                if case .skipped(_, let kind) = entry.finding, kind?.isSpecial == true, let live {
                    known[entry.leaf] = live
                }
                continue
            }
            counts.seen += 1
            let difference = live.map { $0.difference(from: status, rules) } ?? .content
            if difference == .none { continue }
            counts.differences += 1
            let change = QueuedChange(
                path: directory.path.appending(entry.leaf), action: .store, notBefore: notBefore,
                isDirectory: status.kind == .directory, size: status.kind == .directory ? 0 : status.size,
                hashFirst: difference == .metadata)
            let queued = try upsert(change, pair, leavesWaiting: true, now: now, connection)
            if queued == .left { continue }
            counts.queued += 1
            // Without inode and ctime, or when it was read too soon, the catalogue only asks to be sure.
            if queued == .made, live?.isCertain ?? true, let rule = rules.drift,
                rule.isQuiet([status, live == nil ? directory.status : nil]),
                try rule.isQuiet(pair, change.path, connection)
            {
                counts.drift += 1
            }
            if difference == .content { counts.bytes += (change.size ?? 0).countedSize }
        }
        counts.differences += known.count
        for (leaf, live) in known {
            let change = QueuedChange(
                path: directory.path.appending(leaf), action: .delete, notBefore: notBefore + Self.absenceDelay,
                isDirectory: live.kind == .directory)
            let queued = try upsert(change, pair, leavesWaiting: true, now: now, connection)
            if queued == .left { continue }
            counts.queued += 1
            counts.deletes += 1
            if queued == .made, let rule = rules.drift, rule.isQuiet([directory.status]),
                try rule.isQuiet(pair, change.path, connection)
            {
                counts.drift += 1
            }
        }
    }

    /// Queues a look at live names whose parent is no live directory and has no job: what a directory left behind that
    /// became a file while they were being saved. No listing shows them.
    private func queueOrphans(
        _ pair: PairKey, now: Timestamp, _ counts: inout ReconcileCounts, _ connection: Connection
    ) throws(SafeBackupError) {
        let next = try connection.statement(
            """
            SELECT parent FROM name WHERE source_id = ? AND destination_id = ? AND parent > ? AND ended_at IS NULL
            ORDER BY parent LIMIT 1
            """)
        let isKnown = try connection.statement(
            """
            SELECT EXISTS (SELECT 1 FROM name WHERE source_id = ?1 AND destination_id = ?2 AND parent = ?3 AND leaf = ?4
                    AND ended_at IS NULL AND kind = 'directory')
                OR EXISTS (SELECT 1 FROM job WHERE source_id = ?1 AND destination_id = ?2 AND path = ?5)
            """)
        let children = try connection.statement(
            """
            SELECT leaf, kind FROM name WHERE source_id = ? AND destination_id = ? AND parent = ? AND ended_at IS NULL
            """)
        var parent = RelativePath.root
        while true {
            next.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(parent)
            guard try next.step() else { break }
            parent = next.path()
            next.reset()
            isKnown.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: parent).bind(parent)
            let isFine = try isKnown.step() && isKnown.bool()
            isKnown.reset()
            if isFine { continue }
            children.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(parent)
            while try children.step() {
                let path = parent.appending(children.bytes())
                let change = QueuedChange(
                    path: path, action: .delete, notBefore: now,
                    isDirectory: children.text() == EntryKind.directory.rawValue)
                if try upsert(change, pair, leavesWaiting: true, now: now, connection) == .left { continue }
                counts.queued += 1
                counts.deletes += 1
            }
            children.reset()
        }
        next.reset()
    }
}

extension SkipReason {
    /// Whether a person must hear of it: what was excluded on purpose, or is our own, is no gap in the backup.
    fileprivate var isShown: Bool { self != .excluded && self != .ownState && self != .ownDestination }
}
