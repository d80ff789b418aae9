package import SafeBackupCore
import SafeBackupSystem

/// A file of the source that may have lain under another path when it was saved.
package struct MoveQuestion: Sendable, Hashable {
    package var source: SourceID
    package var path: RelativePath
    /// What is at the path now.
    package var status: FileStatus

    package init(source: SourceID, path: RelativePath, status: FileStatus) {
        self.source = source
        self.path = path
        self.status = status
    }
}

/// What a path may have been moved from.
package struct MoveCandidate: Sendable, Hashable {
    package var origin: MoveOrigin
    /// Its path is being saved just now: what its copy will be is not known.
    package var isBusy: Bool
}

/// A job that was put off, and until when.
package struct PostponedJob: Sendable, Hashable {
    package var sequence: Int64
    package var until: Timestamp

    package init(sequence: Int64, until: Timestamp) {
        self.sequence = sequence
        self.until = until
    }
}

/// Copies that follow their file to another path.
extension StateStore {
    /// How long after its end a name is still looked at. A rename is known as an absence, or as another file, at one
    /// path and as a new file at another; which of the two is acted on first, and how long before, nobody can say.
    private static let endedFor = Duration.seconds(3_600)

    /// For each question, the names of other paths with its inode, whose copy is good and was saved with its size and
    /// mtime: live ones first, then those that ended a short time ago. Whether such a path still has the file is for the caller to see.
    package func origins(
        _ destination: DestinationID, _ questions: [MoveQuestion]
    ) throws(SafeBackupError) -> [[MoveCandidate]] {
        let since = clock.now + (.zero - Self.endedFor)
        return try read { (connection) throws(SafeBackupError) in
            var answers: [[MoveCandidate]] = []
            answers.reserveCapacity(questions.count)
            for question in questions {
                let pair = PairKey(source: question.source, destination: destination)
                answers.append(try candidates(question, pair, since: since, connection))
            }
            return answers
        }
    }

    private func candidates(
        _ question: MoveQuestion, _ pair: PairKey, since: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> [MoveCandidate] {
        let status = question.status
        let select = try connection.statement(
            """
            SELECT n.parent, n.leaf, n.born_ns, n.id, n.copy_id, n.kind, n.inode, n.size, n.mtime_ns, n.ctime_ns, n.mode,
                n.uid, n.gid, n.xattrs, n.link_target, n.fuzzy, n.racy,
                c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns, c.fuzzy, c.damaged,
                c.role = 'current', n.ended_at IS NULL, n.linked
            FROM name n INDEXED BY name_inode CROSS JOIN copy c ON c.id = n.copy_id
            WHERE n.source_id = ?1 AND n.destination_id = ?2 AND n.inode = ?3 AND n.copy_id IS NOT NULL
                AND n.size = ?4 AND n.mtime_ns = ?5 AND n.kind = ?6 AND n.fuzzy = 0
                AND c.kind = n.kind AND c.removing IS NULL AND c.fuzzy = 0 AND c.damaged = 0
                AND c.inode IS NOT NULL AND c.digest IS NOT NULL
                AND (n.ended_at IS NULL AND c.role IN ('current', 'inTheWay')
                    OR n.ended_at >= ?7 AND (n.end_reason = 'deleted' AND c.role IN ('current', 'inTheWay')
                            OR n.end_reason = 'replaced' AND c.role IN ('kept', 'inTheWay'))
                        AND NOT EXISTS (SELECT 1 FROM name m WHERE m.copy_id = n.copy_id AND m.id > n.id))
            ORDER BY n.ended_at IS NOT NULL, n.id DESC LIMIT 8
            """)
        select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(bits: status.fingerprint.inode)
            .bind(status.size).bind(status.fingerprint.mtime).bind(text: status.kind.rawValue).bind(since)
        let prefix = try prefix(pair, connection)
        let saved = try savedPath(of: question, pair, connection)
        var found: [MoveCandidate] = []
        do {
            defer { select.reset() }
            while try select.step() {
                let path = select.path().appending(select.bytes())
                let born = select.fileTime()
                let origin = MoveOrigin(
                    path: path, name: NameRecord.read(select), copy: CopyRecord.read(select), isProven: false)
                let isInPlace = select.bool()
                let isLive = select.bool()
                // Events tell of the name that a file was written by, and of no other: a write by a name that has gone
                // since, or that lies outside the source, was told of no path that still has the file.
                let wasLinked = select.bool() || status.linkCount > 1
                if isInPlace && (path == question.path || origin.copy.location != prefix.appending(path)) { continue }
                var candidate = MoveCandidate(origin: origin, isBusy: false)
                if let born, let now = status.birthTime {
                    // The inode was given to another file since.
                    if born != now { continue }
                    // A write whose mtime was put back leaves the size and the time as they were saved.
                    candidate.origin.isProven = !origin.name.isRacy && !wasLinked && isLive && path == saved
                }
                found.append(candidate)
            }
        }
        for index in found.indices {
            found[index].isBusy = try isLeased(found[index].origin.path, pair, connection)
        }
        return found
    }

    /// The path at which the question's file was saved, if every event since then is known, and none was of its content.
    private func savedPath(
        of question: MoveQuestion, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) -> RelativePath? {
        guard let since = allToldSince[pair.source] else { return nil }
        let select = try connection.statement(
            """
            SELECT renamed_from FROM job WHERE destination_id = ?1 AND source_id = ?2 AND path = ?3 AND touched = 0
                AND sequence > ?4 AND EXISTS (SELECT 1 FROM source WHERE id = ?2 AND desynced = 0)
            """)
        defer { select.reset() }
        select.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(question.path).bind(since)
        return try select.step() ? select.pathOrNull() : nil
    }

    private func isLeased(
        _ path: RelativePath, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let select = try connection.statement(
            """
            SELECT 1 FROM job WHERE destination_id = ? AND source_id = ? AND path = ? AND state = 'leased'
            """)
        defer { select.reset() }
        return try select.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(path).step()
    }

    /// Pending jobs that are not to be done before `time`, without a failure: what they need is in use.
    package func postpone(
        _ destination: DestinationID, _ jobs: [DueJob], until time: Timestamp
    ) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement(
                """
                UPDATE job SET not_before = max(not_before, ?) WHERE sequence = ? AND state = 'pending'
                    AND destination_id = ?
                """)
            for job in jobs { try update.bind(time).bind(job.sequence).bind(destination.rawValue).run() }
        }
    }

    /// Whether the catalogue has a copy at the location.
    package func holdsCopy(_ destination: DestinationID, at location: RelativePath) throws(SafeBackupError) -> Bool {
        try read { (connection) throws(SafeBackupError) in
            try connection.copy(in: destination, at: location) != nil
        }
    }

    /// Whether a directory at the destination is one of the source's, now or before, or holds copies.
    package func knowsDirectory(
        _ destination: DestinationID, _ source: SourceID, _ path: RelativePath, at location: RelativePath
    ) throws(SafeBackupError) -> Bool {
        try read { (connection) throws(SafeBackupError) in
            let names = try connection.statement(
                """
                SELECT 1 FROM name WHERE source_id = ?1 AND destination_id = ?2 AND parent = ?3 AND leaf = ?4
                    AND ended_at IS NULL AND kind = 'directory'
                UNION ALL SELECT 1 FROM name WHERE source_id = ?1 AND destination_id = ?2 AND parent = ?3 AND leaf = ?4
                    AND ended_at IS NOT NULL AND kind = 'directory'
                """)
            defer { names.reset() }
            names.bind(source.rawValue).bind(destination.rawValue).bind(split: path)
            if try names.step() { return true }
            let copies = try connection.statement(
                "SELECT 1 FROM copy WHERE destination_id = ? AND location >= ? AND location < ? LIMIT 1")
            defer { copies.reset() }
            for range in PathRange.below(location) {
                copies.bind(destination.rawValue).bind(range.lower).bind(range.upper)
                if try copies.step() { return true }
                copies.reset()
            }
            return false
        }
    }

    /// What jobs were put off for is free: they are due, those excepted that something else has put off since.
    package func resume(
        _ destination: DestinationID, _ jobs: [PostponedJob], at time: Timestamp
    ) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement(
                """
                UPDATE job SET not_before = ?1 WHERE sequence = ?2 AND state = 'pending' AND destination_id = ?3
                    AND not_before = ?4 AND not_before > ?1
                """)
            for job in jobs {
                try update.bind(time).bind(job.sequence).bind(destination.rawValue).bind(job.until).run()
            }
        }
    }

    // MARK: - Names and copies

    /// Takes a moved copy out of its place, with all others that move in the same transaction, so that each then finds
    /// its new place free: swaps and chains need no order. Its name there ends. A version that is being removed stays
    /// in the catalogue where it was, to be forgotten there.
    func takeUp(
        _ job: DueJob, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        guard let origin = job.origin else { return }
        try connection.statement(
            """
            UPDATE copy SET location = ? WHERE id = ? AND destination_id = ? AND location = ? AND removing IS NULL
            """
        ).bind(path: Self.onTheWay(job)).bind(origin.copy.id).bind(pair.destination.rawValue)
            .bind(origin.copy.location).run()
        if connection.changes == 0 { return }
        if let live = try connection.liveName(pair, origin.path), live.copy == origin.copy.id {
            try end(live, pair, .moved, now: now, connection)
        } else {
            // It was thought to be deleted, or another one took its path before it was found again.
            try connection.statement(
                """
                UPDATE name SET end_reason = 'moved' WHERE id = (SELECT max(id) FROM name WHERE copy_id = ?)
                    AND end_reason IN ('deleted', 'replaced')
                """
            ).bind(origin.copy.id).run()
        }
        try pruneNames(pair, origin.path, connection)
        try noteVacated(above: origin.path, pair, connection)
    }

    /// Where a copy is within the transaction; no location begins with a slash.
    private static func onTheWay(_ job: DueJob) -> [UInt8] { Array("/\(job.sequence)".utf8) }

    /// Puts a moved copy to its new place; what was there was displaced, moved too, or is no more. Whether the live
    /// name is still there.
    func putDown(
        _ job: DueJob, _ pair: PairKey, _ live: NameRecord?, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let isLiveThere = try makeRoom(at: job.location, pair, live, now: now, connection)
        try connection.statement(
            "UPDATE copy SET location = ?, role = 'current', versioned_at = NULL WHERE destination_id = ? AND location = ?"
        ).bind(job.location).bind(pair.destination.rawValue).bind(path: Self.onTheWay(job)).run()
        if connection.changes == 0, let copy = job.origin?.copy, let digest = copy.digest {
            // The catalogue lost it meanwhile; the disk has it.
            _ = try insertCopy(
                pair, at: job.location, kind: copy.kind,
                StoredCopy(digest: digest, size: copy.size, inode: copy.inode, mtime: copy.mtime), isFuzzy: false,
                now: now, connection)
        }
        return isLiveThere
    }

    /// Takes over a move that was found done. What the source has is for the next drain to see.
    func adoptMoved(
        _ job: DueJob, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        guard let origin = job.origin else { return }
        let live = try connection.liveName(pair, job.path)
        let isLiveThere = try putDown(job, pair, live, now: now, connection)
        if let live, isLiveThere { try end(live, pair, .replaced, now: now, connection) }
        let entry = StoredEntry(
            kind: origin.copy.kind, content: .moved, fingerprint: origin.name.fingerprint,
            metadata: origin.name.metadata, linkTarget: origin.name.linkTarget)
        let copy = try connection.copy(in: pair.destination, at: job.location)?.id
        _ = try insertName(pair, job.path, copy, entry, isRecovered: true, now: now, connection)
    }

    /// Queues the other names of a file with several links, where they differ from what was just seen of it. Each of
    /// them sees the same in turn, so that this comes to an end.
    func queueOtherLinks(
        of entry: StoredEntry, _ job: DueJob, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        let seen = entry.fingerprint
        let select = try connection.statement(
            """
            SELECT parent, leaf, size = ?4 AND mtime_ns = ?5 FROM name INDEXED BY name_inode
            WHERE source_id = ?1 AND destination_id = ?2 AND inode = ?3 AND copy_id IS NOT NULL AND ended_at IS NULL
                AND kind = 'file' AND NOT (size = ?4 AND mtime_ns = ?5 AND ifnull(ctime_ns, 0) = ?6)
            """)
        select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(bits: seen.inode).bind(seen.size)
            .bind(seen.mtime).bind(seen.ctime)
        var changes: [QueuedChange] = []
        do {
            defer { select.reset() }
            while try select.step() {
                let path = select.path().appending(select.bytes())
                if path == job.path { continue }
                changes.append(
                    QueuedChange(
                        path: path, action: .store, notBefore: now, size: seen.size, hashFirst: select.bool()))
            }
        }
        for change in changes { _ = try upsert(change, pair, leavesWaiting: true, now: now, connection) }
    }

    // MARK: - Directories that may be empty

    /// A directory's name ended.
    func noteVacated(
        _ path: RelativePath, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) {
        if path.isRoot { return }
        try connection.statement("INSERT OR IGNORE INTO vacated (destination_id, source_id, path) VALUES (?, ?, ?)")
            .bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(path).run()
    }

    /// Something left the directories above `path`: those that are gone at the source may be empty now.
    func noteVacated(
        above path: RelativePath, _ pair: PairKey, _ connection: Connection
    ) throws(SafeBackupError) {
        for directory in path.ancestors.reversed() {
            if try connection.liveName(pair, directory)?.kind == .directory { return }
            try noteVacated(directory, pair, connection)
        }
    }

    /// The live directory names in a range of parents, up to an id, are about to end.
    func noteVacated(
        in range: PathRange, _ pair: PairKey, upTo id: Int64, _ connection: Connection
    ) throws(SafeBackupError) {
        let select = try connection.statement(
            """
            SELECT parent, leaf FROM name WHERE source_id = ? AND destination_id = ? AND parent >= ? AND parent < ?
                AND ended_at IS NULL AND id <= ? AND kind = 'directory'
            """)
        defer { select.reset() }
        select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.lower).bind(range.upper).bind(id)
        while try select.step() { try noteVacated(select.path().appending(select.bytes()), pair, connection) }
    }

    /// Up to `limit` directories that may be empty, by the primary key backwards, so that what lies below another comes
    /// before it: also a path of bytes, which sorts after every text. `location`: its place in the destination, if it may be removed there.
    package func vacated(
        _ destination: DestinationID, limit: Int
    ) throws(SafeBackupError) -> [VacatedDirectory] {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT source_id, path FROM vacated WHERE destination_id = ?
                ORDER BY source_id DESC, path DESC LIMIT ?
                """)
            defer { select.reset() }
            select.bind(destination.rawValue).bind(Int64(limit))
            var found: [VacatedDirectory] = []
            while try select.step() {
                let pair = PairKey(source: SourceID(rawValue: select.int()), destination: destination)
                let path = select.path()
                let isLive = try connection.liveName(pair, path) != nil
                found.append(
                    VacatedDirectory(
                        source: pair.source, path: path,
                        location: isLive ? nil : try prefix(pair, connection).appending(path)))
            }
            return found
        }
    }

    /// These were looked at: each is removed, or must stay.
    package func forgetVacated(
        _ destination: DestinationID, _ directories: [VacatedDirectory]
    ) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            let delete = try connection.statement(
                "DELETE FROM vacated WHERE destination_id = ? AND source_id = ? AND path = ?")
            for directory in directories {
                try delete.bind(destination.rawValue).bind(directory.source.rawValue).bind(directory.path).run()
            }
        }
    }
}

/// A directory that is gone at the source, and may be empty in a destination.
package struct VacatedDirectory: Sendable, Hashable {
    package var source: SourceID
    package var path: RelativePath
    /// `nil`: it has a live name again.
    package var location: RelativePath?
}

extension Connection {
    /// What a leased move takes to its path, as the catalogue has it; `nil` if it has it no more.
    func origin(_ path: RelativePath, _ copy: Int64) throws(SafeBackupError) -> MoveOrigin? {
        let copies = try statement(
            """
            SELECT id, location, kind, digest, size, stored_at, inode, mtime_ns, fuzzy, damaged FROM copy WHERE id = ?
            """)
        defer { copies.reset() }
        guard try copies.bind(copy).step() else { return nil }
        let copy = CopyRecord.read(copies)
        let select = try statement(
            """
            SELECT id, copy_id, kind, inode, size, mtime_ns, ctime_ns, mode, uid, gid, xattrs, link_target, fuzzy, racy
            FROM name WHERE copy_id = ? ORDER BY id DESC LIMIT 1
            """)
        defer { select.reset() }
        guard try select.bind(copy.id).step() else { return nil }
        return MoveOrigin(path: path, name: NameRecord.read(select), copy: copy, isProven: false)
    }
}
