package import SafeBackupCore

/// A state that a path had, with the copy that holds it.
package struct PathVersion: Sendable, Hashable {
    /// `nil`: the path never had it as its own; something that was in the destination before us.
    package var name: NameRecord?
    package var copy: CopyRecord?
    /// `current`, `kept`, `foreign`, `inTheWay` or `lastGood`; `nil` without a copy, as of a directory.
    package var role: String?
    package var beganAt: Timestamp
    /// `nil`: until now.
    package var endedAt: Timestamp?
    /// `replaced`, `deleted`, `metadata`, `moved` or `lost`.
    package var endReason: String?
    /// The other path that the same copy was at before this, and after it.
    package var movedFrom: RelativePath?
    package var movedTo: RelativePath?
}

/// Sums over what lies below a directory in the catalogue.
package struct BelowSummary: Sendable, Hashable {
    /// Live, and no directories.
    package var files = 0
    package var bytes: Int64 = 0
    package var directories = 0
    package var fuzzy = 0
    /// Deleted at the source, and still in the backup.
    package var deleted = 0
    package var deletedBytes: Int64 = 0
    /// Older copies.
    package var versions = 0
    package var versionBytes: Int64 = 0
    /// Jobs.
    package var waiting = 0
    package var stuck = 0
    /// Entries that are not saved.
    package var notSaved = 0

    package init() {}

    package var isEmpty: Bool { self == BelowSummary() }
}

extension StateReader {
    /// The states of a path, newest first: the live one, then those before it, then copies that only their place ties
    /// to the path, as `prefix` of their location tells, or of a leaf that was too long, its beginning and `cutMark`.
    /// Up to `limit` of each kind.
    package func versions(
        _ source: SourceID, _ destination: DestinationID, _ path: RelativePath, versionsPrefix prefix: RelativePath,
        cutMark: [UInt8], limit: Int
    ) throws(SafeBackupError) -> [PathVersion] {
        try read { (connection) throws(SafeBackupError) in
            var found = try Self.names(source, destination, path, "IS NULL", limit: 1, connection)
            found += try Self.names(source, destination, path, "IS NOT NULL", limit: limit, connection)
            for index in found.indices {
                guard let name = found[index].name, let copy = name.copy else { continue }
                found[index].movedFrom = try Self.neighbour(copy, before: name.id, of: path, connection)
                found[index].movedTo = try Self.neighbour(copy, after: name.id, of: path, connection)
            }
            if !path.isRoot {
                found += try Self.strays(destination, prefix, limit: limit, connection)
                found += try Self.cutStrays(destination, prefix, cutMark, limit: limit, connection)
            }
            return found
        }
    }

    private static func names(
        _ source: SourceID, _ destination: DestinationID, _ path: RelativePath, _ ended: String, limit: Int,
        _ connection: Connection
    ) throws(SafeBackupError) -> [PathVersion] {
        let statement = try connection.prepare(
            """
            SELECT n.began_at, n.ended_at, n.end_reason, c.role, n.id, n.copy_id, n.kind, n.inode, n.size, n.mtime_ns,
                n.ctime_ns, n.mode, n.uid, n.gid, n.xattrs, n.link_target, n.fuzzy, n.racy,
                c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns, c.fuzzy, c.damaged
            FROM name n LEFT JOIN copy c ON c.id = n.copy_id
            WHERE n.source_id = ? AND n.destination_id = ? AND n.parent = ? AND n.leaf = ? AND n.ended_at \(ended)
            ORDER BY n.id DESC LIMIT ?
            """)
        statement.bind(source.rawValue).bind(destination.rawValue).bind(split: path).bind(Int64(limit))
        var versions: [PathVersion] = []
        while try statement.step() {
            let (began, endedAt, reason) = (statement.timestamp(), statement.timestampOrNull(), statement.textOrNull())
            let role = statement.textOrNull()
            let name = NameRecord.read(statement)
            versions.append(
                PathVersion(
                    name: name, copy: statement.isNull() ? nil : CopyRecord.read(statement), role: role, beganAt: began,
                    endedAt: endedAt, endReason: reason))
        }
        return versions
    }

    /// The path of the copy's name just before or after one, if it is another path.
    private static func neighbour(
        _ copy: Int64, before: Int64? = nil, after: Int64? = nil, of path: RelativePath, _ connection: Connection
    ) throws(SafeBackupError) -> RelativePath? {
        let statement =
            before == nil
            ? try connection.statement(
                "SELECT parent, leaf FROM name WHERE copy_id = ? AND id > ? ORDER BY id LIMIT 1")
            : try connection.statement(
                "SELECT parent, leaf FROM name WHERE copy_id = ? AND id < ? ORDER BY id DESC LIMIT 1")
        defer { statement.reset() }
        guard try statement.bind(copy).bind(before ?? after).step() else { return nil }
        let other = statement.path().appending(statement.bytes())
        return other == path ? nil : other
    }

    /// Copies below `versions/` that no name points to, and whose location begins like this.
    private static func strays(
        _ destination: DestinationID, _ prefix: RelativePath, limit: Int, _ connection: Connection
    ) throws(SafeBackupError) -> [PathVersion] {
        let isText = prefix.bytes.withUnsafeBytes(isText)
        // 0x40 is the @ before the time; 0x41 follows it.
        let (lower, upper) = (prefix.bytes + [0x40], prefix.bytes + [0x41])
        return try strays(destination, lower, upper, isText: isText, limit: limit, connection) { _ in true }
    }

    /// The same of a leaf that was cut, nobody here knows where: it went on with the mark of the whole.
    private static func cutStrays(
        _ destination: DestinationID, _ prefix: RelativePath, _ mark: [UInt8], limit: Int, _ connection: Connection
    ) throws(SafeBackupError) -> [PathVersion] {
        let leaf = prefix.leaf
        // A shorter one fits with the longest suffix into the shortest names that a destination may have.
        if leaf.count <= shortestCut { return [] }
        let lower = prefix.parent.appending(Array(leaf.prefix(shortestCut))).bytes
        let upper = lower + [UInt8](repeating: 0xFF, count: 4)
        var found: [PathVersion] = []
        // What was cut off may be what was no text.
        for isText in [true, false] {
            found += try strays(destination, lower, upper, isText: isText, limit: limit, connection) { location in
                guard location.parent == prefix.parent, let at = location.leaf.lastIndex(of: 0x40) else { return false }
                let cut = location.leaf[..<at]
                return cut.count > mark.count && cut.suffix(mark.count).elementsEqual(mark)
                    && leaf.starts(with: cut.dropLast(mark.count))
            }
        }
        return found
    }

    private static let shortestCut = 7

    private static func strays(
        _ destination: DestinationID, _ lower: [UInt8], _ upper: [UInt8], isText: Bool, limit: Int,
        _ connection: Connection, where isOne: (RelativePath) -> Bool
    ) throws(SafeBackupError) -> [PathVersion] {
        let statement = try connection.statement(
            """
            SELECT c.stored_at, c.role, c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns,
                c.fuzzy, c.damaged
            FROM copy c WHERE c.destination_id = ? AND c.location >= ? AND c.location < ? AND c.role <> 'current'
                AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id)
            ORDER BY c.location DESC
            """)
        defer { statement.reset() }
        statement.bind(destination.rawValue).bind(PathBound(bytes: lower, isText: isText))
            .bind(PathBound(bytes: upper, isText: isText))
        var versions: [PathVersion] = []
        while versions.count < limit, try statement.step() {
            let (stored, role) = (statement.timestamp(), statement.textOrNull())
            let copy = CopyRecord.read(statement)
            if !isOne(copy.location) { continue }
            versions.append(PathVersion(copy: copy, role: role, beganAt: stored, endedAt: stored))
        }
        return versions
    }

    /// What keeps a path waiting, with the word for it (see `ExposurePart.reason`); `nil`: it has no job.
    package func job(
        _ source: SourceID, _ destination: DestinationID, _ path: RelativePath, now: Timestamp
    ) throws(SafeBackupError) -> (job: QueuedJob, phase: String)? {
        try read { (connection) throws(SafeBackupError) in
            let columns = QueuedJob.columns.split(separator: ",").map { "j." + $0.drop { $0 == " " || $0 == "\n" } }
            let statement = try connection.prepare(
                """
                SELECT \(ExposureQuery.phase(now: "?1")), \(columns.joined(separator: ", ")) FROM job j
                    JOIN source s ON s.id = j.source_id JOIN destination d ON d.id = j.destination_id
                WHERE j.destination_id = ?2 AND j.source_id = ?3 AND j.path = ?4
                """)
            statement.bind(now).bind(destination.rawValue).bind(source.rawValue).bind(path)
            guard try statement.step() else { return nil }
            let phase = statement.text()
            return (QueuedJob.read(statement), phase)
        }
    }

    /// The outermost part of the path that is known not to be saved, and why.
    package func notSaved(
        _ source: SourceID, _ path: RelativePath
    ) throws(SafeBackupError) -> (path: RelativePath, reason: String, seenAt: Timestamp)? {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                "SELECT reason, seen_at FROM not_saved WHERE source_id = ? AND path = ?")
            defer { statement.reset() }
            for part in path.ancestors + [path] {
                statement.bind(source.rawValue).bind(part)
                if try statement.step() { return (part, statement.text(), statement.timestamp()) }
                statement.reset()
            }
            return nil
        }
    }

    /// Sums over what lies below a path; of a whole source it looks at every name.
    package func summary(
        _ source: SourceID, _ destination: DestinationID, below path: RelativePath
    ) throws(SafeBackupError) -> BelowSummary {
        try read { (connection) throws(SafeBackupError) in
            var sum = BelowSummary()
            for range in [PathRange.only(path)] + PathRange.below(path) {
                try Self.addNames(source, destination, range, to: &sum, connection)
            }
            for range in PathRange.below(path) {
                try Self.addJobs(source, destination, range, to: &sum, connection)
            }
            return sum
        }
    }

    private static func addNames(
        _ source: SourceID, _ destination: DestinationID, _ range: PathRange, to sum: inout BelowSummary,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let live = try connection.statement(
            """
            SELECT count(*) FILTER (WHERE kind <> 'directory'),
                ifnull(sum(min(size, 17592186044416)) FILTER (WHERE kind <> 'directory'), 0),
                count(*) FILTER (WHERE kind = 'directory'), ifnull(sum(fuzzy), 0) FROM name
            WHERE source_id = ? AND destination_id = ? AND parent >= ? AND parent < ? AND ended_at IS NULL
            """)
        defer { live.reset() }
        live.bind(source.rawValue).bind(destination.rawValue).bind(range.lower).bind(range.upper)
        if try live.step() {
            sum.files += Int(live.int())
            sum.bytes += live.int()
            sum.directories += Int(live.int())
            sum.fuzzy += Int(live.int())
        }
        let older = try connection.statement(
            """
            SELECT count(*) FILTER (WHERE role <> 'current'),
                ifnull(sum(min(size, 17592186044416)) FILTER (WHERE role <> 'current'), 0),
                count(*) FILTER (WHERE is_tombstone), ifnull(sum(min(size, 17592186044416)) FILTER (WHERE is_tombstone), 0)
            FROM (SELECT role, size, role = 'current' AND NOT EXISTS (SELECT 1 FROM name m WHERE m.copy_id = c.id
                    AND m.ended_at IS NULL) AS is_tombstone
                FROM copy c WHERE c.removing IS NULL AND c.id IN (SELECT copy_id FROM name WHERE source_id = ?
                    AND destination_id = ? AND parent >= ? AND parent < ? AND ended_at IS NOT NULL))
            """)
        defer { older.reset() }
        older.bind(source.rawValue).bind(destination.rawValue).bind(range.lower).bind(range.upper)
        if try older.step() {
            sum.versions += Int(older.int())
            sum.versionBytes += older.int()
            sum.deleted += Int(older.int())
            sum.deletedBytes += older.int()
        }
    }

    private static func addJobs(
        _ source: SourceID, _ destination: DestinationID, _ range: PathRange, to sum: inout BelowSummary,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let jobs = try connection.statement(
            """
            SELECT count(*) FILTER (WHERE state <> 'stuck'), count(*) FILTER (WHERE state = 'stuck') FROM job
            WHERE destination_id = ? AND source_id = ? AND path >= ? AND path < ?
            """)
        defer { jobs.reset() }
        jobs.bind(destination.rawValue).bind(source.rawValue).bind(range.lower).bind(range.upper)
        if try jobs.step() {
            sum.waiting += Int(jobs.int())
            sum.stuck += Int(jobs.int())
        }
        let others = try connection.statement(
            "SELECT count(*) FROM not_saved WHERE source_id = ? AND path >= ? AND path < ?")
        defer { others.reset() }
        others.bind(source.rawValue).bind(range.lower).bind(range.upper)
        if try others.step() { sum.notSaved += Int(others.int()) }
    }
}
