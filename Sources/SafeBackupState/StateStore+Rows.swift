import SafeBackupCore

/// Changes of single rows of the catalogue, in the transaction of the caller. All keep the tally.
extension StateStore {
    // MARK: - Names

    /// A new live name; `false`, and nothing done, if the path has one that the caller did not end.
    func insertName(
        _ pair: PairKey, _ path: RelativePath, _ copy: Int64?, _ entry: StoredEntry, isRecovered: Bool = false,
        now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) -> Bool {
        let fingerprint = entry.fingerprint
        try connection.statement(
            """
            INSERT INTO name (id, source_id, destination_id, parent, leaf, copy_id, kind, inode, size, mtime_ns, ctime_ns,
                mode, uid, gid, xattrs, link_target, fuzzy, racy, began_at, born_ns, linked)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (source_id, destination_id, parent, leaf) WHERE ended_at IS NULL DO NOTHING
            """
        ).bind(nextNumber()).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path).bind(copy)
            .bind(text: entry.kind.rawValue).bind(bits: isRecovered ? nil : fingerprint.inode).bind(fingerprint.size)
            .bind(fingerprint.mtime).bind(isRecovered ? nil : fingerprint.ctime).bind(Int64(entry.metadata.mode))
            .bind(Int64(entry.metadata.uid)).bind(Int64(entry.metadata.gid))
            .bind(blob: ExtendedAttribute.encode(entry.metadata.xattrs)).bind(path: entry.linkTarget)
            .bind(entry.isFuzzy).bind(entry.isRacy).bind(now).bind(isRecovered ? nil : entry.birthTime)
            .bind(entry.hasOtherLinks).run()
        if connection.changes == 0 { return false }
        note(pair) { $0.count(entry.kind, size: fingerprint.size, isFuzzy: entry.isFuzzy, sign: 1) }
        return true
    }

    func end(
        _ name: NameRecord, _ pair: PairKey, _ reason: EndReason, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        try connection.statement("UPDATE name SET ended_at = ?, end_reason = ? WHERE id = ?")
            .bind(now).bind(text: reason.rawValue).bind(name.id).run()
        if reason == .deleted { try noteRetiring(name.copy, pair, now: now, connection) }
        note(pair) { $0.count(name.kind, size: name.fingerprint.size, isFuzzy: name.isFuzzy, sign: -1) }
    }

    /// Ends every live name below a path, up to an id, as deleted.
    func endNames(
        below path: RelativePath, _ pair: PairKey, upTo id: Int64, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        for range in [PathRange.only(path)] + PathRange.below(path) {
            let count = try connection.statement(
                """
                SELECT kind, count(*), sum(min(size, 17592186044416)), sum(fuzzy) FROM name
                WHERE source_id = ? AND destination_id = ? AND parent >= ? AND parent < ? AND ended_at IS NULL AND id <= ? GROUP BY kind
                """)
            var change = Tally()
            do {
                defer { count.reset() }
                count.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.lower).bind(range.upper)
                    .bind(id)
                while try count.step() {
                    let isDirectory = count.text() == EntryKind.directory.rawValue
                    let number = count.int()
                    let size = count.int()
                    change.fuzzy -= count.int()
                    if isDirectory {
                        change.directories -= number
                    } else {
                        change.files -= number
                        change.bytes -= size
                    }
                }
            }
            if change == Tally() { continue }
            if change.directories != 0 { try noteVacated(in: range, pair, upTo: id, connection) }
            try noteRetiring(in: range, pair, upTo: id, now: now, connection)
            try connection.statement(
                """
                UPDATE name SET ended_at = ?, end_reason = 'deleted' WHERE source_id = ? AND destination_id = ?
                    AND parent >= ? AND parent < ? AND ended_at IS NULL AND id <= ?
                """
            ).bind(now).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.lower).bind(range.upper)
                .bind(id).run()
            note(pair) {
                $0.files += change.files
                $0.directories += change.directories
                $0.bytes += change.bytes
                $0.fuzzy += change.fuzzy
            }
        }
    }

    /// Ends the live names of directories at and below a location: the backup has them there no more.
    private func endDirectories(
        within location: RelativePath, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        let prefix = try prefix(pair, connection).bytes
        let path = RelativePath(unchecked: Array(location.bytes.dropFirst(prefix.isEmpty ? 0 : prefix.count + 1)))
        if path.isRoot || !location.isWithin(RelativePath(unchecked: prefix)) { return }
        if let name = try connection.liveName(pair, path), name.kind == .directory {
            try end(name, pair, .deleted, now: now, connection)
        }
        let update = try connection.statement(
            """
            UPDATE name SET ended_at = ?, end_reason = 'deleted' WHERE source_id = ? AND destination_id = ?
                AND parent >= ? AND parent < ? AND ended_at IS NULL AND kind = 'directory'
            """)
        for range in [PathRange.only(path)] + PathRange.below(path) {
            try update.bind(now).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(range.lower)
                .bind(range.upper).run()
            let count = Int64(connection.changes)
            note(pair) { $0.directories -= count }
        }
    }

    // MARK: - Copies

    /// A new current copy's id; `nil`, and nothing done, if the catalogue has a copy at the location.
    func insertCopy(
        _ pair: PairKey, at location: RelativePath, kind: EntryKind, _ copy: StoredCopy, isFuzzy: Bool, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) -> Int64? {
        let id = nextNumber()
        try connection.statement(
            """
            INSERT INTO copy (id, source_id, destination_id, location, kind, digest, size, stored_at, inode, mtime_ns,
                role, adopted, fuzzy)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'current', ?, ?)
            ON CONFLICT (destination_id, location) DO NOTHING
            """
        ).bind(id).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(location).bind(text: kind.rawValue)
            .bind(blob: copy.digest.bytes).bind(copy.size).bind(now).bind(bits: copy.inode).bind(copy.mtime)
            .bind(copy.isAdopted).bind(isFuzzy).run()
        return connection.changes == 0 ? nil : id
    }

    /// Forgets what the catalogue has at a location, because it was replaced there and not kept.
    func removeCopy(
        _ destination: DestinationID, at location: RelativePath, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        if let copy = try connection.copy(in: destination, at: location) {
            try removeCopy(copy.id, now: now, connection)
        }
    }

    // MARK: - Displacements

    /// Follows what the destination moved to `versions/`.
    /// - Parameter location: of the job. What the catalogue has there is the concern of the job's outcome: the same
    ///   content may be stored there again.
    func displace(
        _ move: Displacement, at location: RelativePath, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        if move.kind == .directory {
            try relocate(below: move.from, to: move.to, move.reason, pair, now: now, connection)
            // For the directory itself, whatever foreign files it holds besides. One that only made room for another
            // spelling is empty soon.
            if move.from == location {
                try insertDisplaced(move, role: move.reason, pair, now: now, connection)
            } else {
                try endDirectories(within: move.from, pair, now: now, connection)
            }
            return
        }
        if let copy = try connection.copy(in: pair.destination, at: move.from) {
            if isOurs(copy, move) {
                // Our own copy, as the catalogue knows it, goes to its version name with its names.
                return try relocate(copy.id, move, pair.destination, now: now, connection)
            }
            // Where a catalogued copy should be, somebody put another file: ours is no more, the other one is kept.
            if move.from != location { try removeCopy(copy.id, now: now, connection) }
        }
        try insertDisplaced(move, role: .foreign, pair, now: now, connection)
    }

    /// Whether what was moved is the copy that the catalogue has there. The destination has compared what it calls kept
    /// or foreign, by content where the inode is another one, as on a disk that was restored; what stood in the way, only
    /// if it has a digest.
    private func isOurs(_ copy: CopyRecord, _ move: Displacement) -> Bool {
        switch move.reason {
        case .foreign: return false
        case .kept, .lastGood: return true
        case .inTheWay: break
        }
        guard copy.kind == move.kind, copy.size == move.size, (copy.mtime ?? move.mtime) == move.mtime else {
            return false
        }
        if move.digest == nil || copy.inode == nil || copy.inode == move.inode { return true }
        return move.digest == copy.digest
    }

    private func insertDisplaced(
        _ move: Displacement, role: VersionReason, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        // A displacement that is told twice, by a group and by its recovery, is one.
        try connection.statement(
            """
            INSERT INTO copy (id, source_id, destination_id, location, kind, size, stored_at, inode, mtime_ns, role,
                versioned_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (destination_id, location) DO NOTHING
            """
        ).bind(nextNumber()).bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(move.to)
            .bind(text: move.kind.rawValue).bind(move.size).bind(now).bind(bits: move.inode).bind(move.mtime)
            .bind(text: role.rawValue).bind(now).run()
    }

    private func relocate(
        _ id: Int64, _ move: Displacement, _ destination: DestinationID, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        try relocate(id, to: move.to, move.reason, destination, now: now, connection)
        try connection.statement("UPDATE copy SET inode = ?, mtime_ns = ? WHERE id = ?")
            .bind(bits: move.inode).bind(move.mtime).bind(id).run()
    }

    private func relocate(
        _ id: Int64, to location: RelativePath, _ reason: VersionReason, _ destination: DestinationID, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let update = try connection.statement(
            "UPDATE OR IGNORE copy SET location = ?, role = ?, versioned_at = ? WHERE id = ?")
        try update.bind(location).bind(text: reason.rawValue).bind(now).bind(id).run()
        if connection.changes == 1 { return }
        // What the catalogue had there was replaced by this.
        try removeCopy(destination, at: location, now: now, connection)
        try update.bind(location).bind(text: reason.rawValue).bind(now).bind(id).run()
    }

    /// Moves every copy below a directory along with it.
    private func relocate(
        below from: RelativePath, to: RelativePath, _ reason: VersionReason, _ pair: PairKey, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let select = try connection.statement(
            "SELECT id, location FROM copy WHERE destination_id = ? AND location >= ? AND location < ? LIMIT 500")
        for range in PathRange.below(from) {
            while true {
                // A chunk at a time, because each update takes a row out of the range that is being read.
                var chunk: [(id: Int64, location: RelativePath)] = []
                select.bind(pair.destination.rawValue).bind(range.lower).bind(range.upper)
                while try select.step() { chunk.append((select.int(), select.path())) }
                select.reset()
                if chunk.isEmpty { break }
                for (id, location) in chunk {
                    let rest = location.bytes[(from.bytes.count + 1)...]
                    try relocate(id, to: to.appending(rest), reason, pair.destination, now: now, connection)
                }
            }
        }
    }
}
