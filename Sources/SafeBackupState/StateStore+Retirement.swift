package import SafeBackupCore
import SafeBackupSystem

/// Deleted paths' copies that go to the versions, where a destination mirrors deletions. As with a removal, the row
/// tells before the file moves; what was begun and not finished is told by `retirements` after a crash, and done again.
extension StateStore {
    /// From now on the deletions of these destinations are noted; what others had noted, and not begun, is forgotten.
    package func setMirroring(_ destinations: Set<DestinationID>) throws(SafeBackupError) {
        mirroring = destinations
        try write { (connection) throws(SafeBackupError) in
            let known = try connection.statement("SELECT DISTINCT destination_id FROM retiring WHERE version IS NULL")
            var others: [Int64] = []
            while try known.step() {
                let id = known.int()
                if !destinations.contains(DestinationID(rawValue: id)) { others.append(id) }
            }
            known.reset()
            let forget = try connection.statement(
                "DELETE FROM retiring WHERE destination_id = ? AND version IS NULL")
            for id in others { try forget.bind(id).run() }
            // Of another disk in the place of the one that had them, or of a copy that was removed.
            try connection.statement(
                "DELETE FROM retiring WHERE NOT EXISTS (SELECT 1 FROM copy c WHERE c.id = copy_id)"
            ).run()
        }
    }

    /// Notes what was deleted before deletions were mirrored, or noted by another state: of up to `limit` copies after
    /// `id`. The last of them; `nil` when all were looked at.
    package func noteTombstones(
        _ destination: DestinationID, after id: Int64, limit: Int = 5_000
    ) throws(SafeBackupError) -> Int64? {
        let last: Int64? = try read { (connection) throws(SafeBackupError) in
            let end = try connection.statement(
                "SELECT max(id) FROM (SELECT id FROM copy WHERE id > ? ORDER BY id LIMIT ?)")
            defer { end.reset() }
            guard try end.bind(id).bind(Int64(limit)).step() else { return nil }
            return end.intOrNull()
        }
        guard let last else { return nil }
        try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                """
                INSERT OR IGNORE INTO retiring (copy_id, source_id, destination_id, not_before)
                SELECT c.id, c.source_id, c.destination_id, 0 FROM copy c
                WHERE c.id > ? AND c.id <= ? AND c.destination_id = ? AND c.role = 'current' AND c.removing IS NULL
                    AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id AND n.ended_at IS NULL)
                    AND EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id AND n.end_reason = 'deleted')
                """
            ).bind(id).bind(last).bind(destination.rawValue).run()
        }
        return last
    }

    /// When the next is due; `nil` if none waits, or its source is held, paused, one of `except`, or has just lost all of
    /// its files.
    package func nextRetirement(
        _ destination: DestinationID, except: Set<SourceID> = []
    ) throws(SafeBackupError) -> Timestamp? {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT not_before FROM retiring WHERE destination_id = ? AND source_id = ? AND version IS NULL
                ORDER BY not_before LIMIT 1
                """)
            defer { select.reset() }
            var next: Timestamp?
            for source in try calmSources(of: destination, connection) where !except.contains(source) {
                select.bind(destination.rawValue).bind(source.rawValue)
                if try select.step() {
                    let time = select.timestamp()
                    next = next.map { Swift.min($0, time) } ?? time
                }
                select.reset()
            }
            return next
        }
    }

    /// Begins up to `limit` retirements that are due, each looked at once more: a deleted path's last copy at its own
    /// place, where the path has neither come back nor may. `wait`: as long as this after a path's newest version
    /// became one, its next copy stays where it is; see `VersionPolicy`. To be called while nothing is leased.
    /// - Parameter version: where a copy goes.
    package func beginRetirement(
        _ destination: DestinationID, limit: Int, now: Timestamp, wait: Duration, except: Set<SourceID> = [],
        version: @Sendable (CopyRecord) throws(SafeBackupError) -> RelativePath
    ) throws(SafeBackupError) -> [Retirement] {
        let due = try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT copy_id FROM retiring WHERE destination_id = ? AND source_id = ? AND version IS NULL
                    AND not_before <= ? ORDER BY not_before LIMIT ?
                """)
            defer { select.reset() }
            var due: [Int64] = []
            for source in try calmSources(of: destination, connection) where !except.contains(source) {
                select.bind(destination.rawValue).bind(source.rawValue).bind(now).bind(Int64(limit - due.count))
                while try select.step() { due.append(select.int()) }
                select.reset()
            }
            return due
        }
        if due.isEmpty { return [] }
        return try write { (connection) throws(SafeBackupError) in
            let begin = try connection.statement("UPDATE retiring SET version = ? WHERE copy_id = ?")
            let postpone = try connection.statement("UPDATE retiring SET not_before = ? WHERE copy_id = ?")
            let forget = try connection.statement("DELETE FROM retiring WHERE copy_id = ?")
            var begun: [Retirement] = []
            for id in due {
                switch try verdict(id, destination, now: now, wait: wait, connection) {
                case .retire(let copy, let source):
                    let place = try version(copy)
                    try begin.bind(place).bind(id).run()
                    begun.append(Retirement(source: source, copy: copy, version: place))
                case .wait(let until): try postpone.bind(until).bind(id).run()
                case .never: try forget.bind(id).run()
                }
            }
            return begun
        }
    }

    private enum Verdict {
        case retire(CopyRecord, SourceID)
        case wait(until: Timestamp)
        /// It is no deleted path's current copy any more.
        case never
    }

    private func verdict(
        _ id: Int64, _ destination: DestinationID, now: Timestamp, wait: Duration, _ connection: Connection
    ) throws(SafeBackupError) -> Verdict {
        let copies = try connection.statement(
            """
            SELECT id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged FROM copy
            WHERE id = ? AND destination_id = ? AND role = 'current' AND removing IS NULL
            """)
        defer { copies.reset() }
        guard try copies.bind(id).bind(destination.rawValue).step() else { return .never }
        let copy = CopyRecord.read(copies)
        let names = try connection.statement(
            "SELECT source_id, parent, leaf, ended_at, end_reason FROM name WHERE copy_id = ? ORDER BY id DESC LIMIT 1")
        defer { names.reset() }
        guard try names.bind(id).step() else { return .never }
        let pair = PairKey(source: SourceID(rawValue: names.int()), destination: destination)
        let path = names.path().appending(names.bytes())
        guard names.timestampOrNull() != nil, names.textOrNull() == EndReason.deleted.rawValue,
            try connection.liveName(pair, path) == nil
        else { return .never }
        let jobs = try connection.statement(
            "SELECT state = 'stuck' FROM job WHERE destination_id = ? AND source_id = ? AND path = ?")
        defer { jobs.reset() }
        // It may just come back.
        if try jobs.bind(destination.rawValue).bind(pair.source.rawValue).bind(path).step() {
            return .wait(until: now + (jobs.bool() ? .seconds(600) : .seconds(5)))
        }
        if let newest = try connection.keptVersions(pair, path).newest {
            let distance = newest > now ? newest - now : now - newest
            if distance < wait { return .wait(until: now + (wait - distance)) }
        }
        return .retire(copy, pair.source)
    }

    /// Those that were begun and are not finished.
    package func retirements(_ destination: DestinationID, limit: Int) throws(SafeBackupError) -> [Retirement] {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT c.id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged, r.source_id, r.version
                FROM retiring r JOIN copy c ON c.id = r.copy_id
                WHERE r.destination_id = ? AND r.version IS NOT NULL ORDER BY r.copy_id LIMIT ?
                """)
            defer { select.reset() }
            select.bind(destination.rawValue).bind(Int64(limit))
            var begun: [Retirement] = []
            while try select.step() {
                let copy = CopyRecord.read(select)
                begun.append(Retirement(source: SourceID(rawValue: select.int()), copy: copy, version: select.path()))
            }
            return begun
        }
    }

    /// What the destination told of them. A copy that moved is a version of its path from now on; the oldest beyond
    /// `versionLimit` come back, for `beginRemoval`.
    package func finishRetirement(
        _ destination: DestinationID, _ results: [(Retirement, RetirementOutcome)],
        versionLimit: Int = VersionThinning.limit
    ) throws(SafeBackupError) -> [CopyRecord] {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            let forget = try connection.statement("DELETE FROM retiring WHERE copy_id = ?")
            let postpone = try connection.statement(
                "UPDATE retiring SET version = NULL, not_before = ? WHERE copy_id = ?")
            var excess: [CopyRecord] = []
            // What changes the catalogue counts: its copy beside the backups is older now.
            _ = nextNumber()
            for (retirement, outcome) in results {
                let pair = PairKey(source: retirement.source, destination: destination)
                switch outcome {
                case .moved(let move):
                    // Found where another copy is known to lie, which is what the disk told of that one.
                    if move.to != retirement.version, try connection.copy(in: destination, at: move.to) != nil {
                        try forget.bind(retirement.copy.id).run()
                        continue
                    }
                    try displace(move, at: move.from, pair, now: now, connection)
                    if let path = try newestPath(of: retirement.copy.id, connection) {
                        try noteVacated(above: path, pair, connection)
                        excess += try connection.excessVersions(pair, path, limit: versionLimit, now: now)
                    }
                    try forget.bind(retirement.copy.id).run()
                case .postponed: try postpone.bind(now + .seconds(600)).bind(retirement.copy.id).run()
                case .notThere, .refused: try forget.bind(retirement.copy.id).run()
                }
            }
            return excess
        }
    }

    /// A deletion of a path with this copy was confirmed.
    func noteRetiring(
        _ copy: Int64?, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        guard let copy, mirroring.contains(pair.destination) else { return }
        try connection.statement(
            "INSERT OR IGNORE INTO retiring (copy_id, source_id, destination_id, not_before) VALUES (?, ?, ?, ?)"
        ).bind(copy).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(now).run()
    }

    /// The live names in a range of parents, up to an id, are about to end as deleted.
    func noteRetiring(
        in range: PathRange, _ pair: PairKey, upTo id: Int64, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        if !mirroring.contains(pair.destination) { return }
        try connection.statement(
            """
            INSERT OR IGNORE INTO retiring (copy_id, source_id, destination_id, not_before)
            SELECT copy_id, source_id, destination_id, ? FROM name WHERE source_id = ? AND destination_id = ?
                AND parent >= ? AND parent < ? AND ended_at IS NULL AND id <= ? AND copy_id IS NOT NULL
            """
        ).bind(now).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.lower).bind(range.upper)
            .bind(id).run()
    }

    private func newestPath(of copy: Int64, _ connection: Connection) throws(SafeBackupError) -> RelativePath? {
        let names = try connection.statement(
            "SELECT parent, leaf FROM name WHERE copy_id = ? ORDER BY id DESC LIMIT 1")
        defer { names.reset() }
        return try names.bind(copy).step() ? names.path().appending(names.bytes()) : nil
    }

    /// Of those that may be worked for, the ones that have not just lost all of their files: that may be a mistake.
    private func calmSources(
        of destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> [SourceID] {
        if try isStopped(destination, connection) { return [] }
        let emptied = try connection.statement("SELECT emptied_at IS NOT NULL FROM source WHERE id = ?")
        defer { emptied.reset() }
        var calm: [SourceID] = []
        for pair in try runnable(destination, connection) {
            if try emptied.bind(pair.source.rawValue).step(), !emptied.bool() { calm.append(pair.source) }
            emptied.reset()
        }
        return calm
    }
}
