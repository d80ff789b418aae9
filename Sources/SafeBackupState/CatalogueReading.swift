package import SafeBackupCore

/// Which of a path's names are asked for.
package enum NameScope: Sendable, Hashable {
    /// What is there now.
    case live
    /// The last one of each path that was deleted at the source.
    case deleted
    /// What was there then.
    case at(Timestamp)
    /// All.
    case history
}

/// A name with its path and its copy.
package struct CatalogueEntry: Sendable, Hashable {
    package var source: SourceID
    package var destination: DestinationID
    package var path: RelativePath
    package var name: NameRecord
    package var beganAt: Timestamp
    /// `nil`: live.
    package var endedAt: Timestamp?
    /// `replaced`, `deleted`, `metadata` or `moved`.
    package var endReason: String?
    /// `nil` for a directory, and for what the backup holds no more.
    package var copy: CopyRecord?

    /// It was there, and the backup has its content no more: it was replaced too soon to be kept, or removed since.
    package var isUnavailable: Bool {
        name.kind != .directory && copy == nil && (name.kind != .symlink || name.linkTarget == nil)
    }
}

/// A part of the names that were asked for.
package struct NamePage: Sendable, Hashable {
    package var entries: [CatalogueEntry]
    /// Where the rest begins; `nil` at the end.
    package var next: NameCursor?
}

/// A place between two names, to go on from.
package struct NameCursor: Sendable, Hashable {
    /// Live names come first, then ended ones.
    var isEnded = false
    /// 0: the path itself; then the ranges below it.
    var range = 0
    var parent: [UInt8]?
    var leaf: [UInt8] = []
    var id: Int64 = 0
}

/// How far below a path names are asked for.
package enum NameDepth: Sendable, Hashable {
    /// The path and all below it.
    case all
    /// The path, and what lies in it if it is a directory.
    case children
}

/// When a source was first saved to a destination.
package struct FirstSave: Sendable, Hashable {
    /// Of the oldest name that is still known.
    package var began: Timestamp
    /// When all that the first walk found was saved; `nil` before that, and where it is not known.
    package var ended: Timestamp?
}

/// A source as a catalogue names it.
package struct CatalogueSource: Sendable, Hashable {
    package var id: SourceID
    package var uuid: String
    /// Absolute.
    package var path: [UInt8]
    /// What its copies lie under; `nil` where that is a matter of the destination.
    package var prefix: RelativePath?
}

/// Names and copies to restore from: the state's own, or those of a catalogue file beside the backups.
///
/// Not shared between threads. Each call is one short read, so that nobody waits for a slow reader.
package protocol CatalogueReading {
    func catalogueSources() throws(SafeBackupError) -> [CatalogueSource]

    /// Up to about `limit` names at and below `path`, parents before what is below them within the live ones.
    func names(
        _ source: SourceID, _ destination: DestinationID, within path: RelativePath, _ scope: NameScope,
        depth: NameDepth, after cursor: NameCursor?, limit: Int
    ) throws(SafeBackupError) -> NamePage

    /// `nil`: nothing of it was ever saved there.
    func firstSave(_ source: SourceID, _ destination: DestinationID) throws(SafeBackupError) -> FirstSave?
}

extension CatalogueReading {
    /// As with `depth: .all`.
    package func names(
        _ source: SourceID, _ destination: DestinationID, within path: RelativePath, _ scope: NameScope,
        after cursor: NameCursor?, limit: Int
    ) throws(SafeBackupError) -> NamePage {
        try names(source, destination, within: path, scope, depth: .all, after: cursor, limit: limit)
    }
}

extension NameCursor {
    /// Where the ended names begin.
    package static let ended = NameCursor(isEnded: true)

    /// Whether only ended names follow.
    package var isAmongEnded: Bool { isEnded }
}

/// The queries of both readers; the tables have the same columns.
struct NameQuery {
    let connection: Connection
    let source: SourceID
    let destination: DestinationID
    let path: RelativePath
    let scope: NameScope
    var depth = NameDepth.all

    /// When the oldest name that is known began. Ids grow with time, so that the first row of the pair tells.
    static func firstBegan(
        _ source: SourceID, _ destination: DestinationID, _ connection: Connection
    ) throws(SafeBackupError) -> Timestamp? {
        let statement = try connection.statement(
            "SELECT began_at FROM name NOT INDEXED WHERE source_id = ? AND destination_id = ? ORDER BY id LIMIT 1")
        defer { statement.reset() }
        return try statement.bind(source.rawValue).bind(destination.rawValue).step() ? statement.timestamp() : nil
    }

    func page(after cursor: NameCursor?, limit: Int) throws(SafeBackupError) -> NamePage {
        var page = NamePage(entries: [], next: nil)
        var place = cursor ?? NameCursor(isEnded: scope == .deleted)
        let ranges = [PathRange.only(path)] + (depth == .all ? PathRange.below(path) : [])
        while true {
            if place.range == 0 {
                // The root itself has no name.
                if !path.isRoot { try exact(isEnded: place.isEnded, into: &page.entries) }
            } else {
                let rest = limit - page.entries.count
                if rest <= 0 {
                    page.next = place
                    return page
                }
                let found = try scan(ranges[place.range - 1], from: &place, limit: rest, into: &page.entries)
                if found == rest { continue }
            }
            place.range += 1
            (place.parent, place.leaf, place.id) = (nil, [], 0)
            if place.range > ranges.count {
                if place.isEnded || scope == .live { return page }
                place = NameCursor(isEnded: true)
            }
        }
    }

    /// The times that a name must have begun by and ended after.
    private var bounds: (begun: Int64, ended: Int64) {
        if case .at(let time) = scope { return (time.microseconds, time.microseconds) }
        return (.max, .min)
    }

    private func exact(isEnded: Bool, into entries: inout [CatalogueEntry]) throws(SafeBackupError) {
        let statement =
            isEnded
            ? try connection.statement(
                """
                SELECT n.parent, n.leaf, n.began_at, n.ended_at, n.end_reason, n.id, n.copy_id, n.kind, n.inode, n.size,
                    n.mtime_ns, n.ctime_ns, n.mode, n.uid, n.gid, n.xattrs, n.link_target, n.fuzzy, n.racy,
                    c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns, c.fuzzy, c.damaged
                FROM name n INDEXED BY name_history LEFT JOIN copy c ON c.id = n.copy_id
                WHERE n.source_id = ?1 AND n.destination_id = ?2 AND n.parent = ?3 AND n.leaf = ?4
                    AND n.ended_at IS NOT NULL AND n.began_at <= ?5 AND n.ended_at > ?6
                    AND (NOT ?7 OR n.end_reason = 'deleted' AND NOT EXISTS (SELECT 1 FROM name m
                            WHERE m.source_id = ?1 AND m.destination_id = ?2 AND m.parent = ?3 AND m.leaf = ?4
                                AND m.ended_at IS NULL)
                        AND NOT EXISTS (SELECT 1 FROM name m
                            WHERE m.source_id = ?1 AND m.destination_id = ?2 AND m.parent = ?3 AND m.leaf = ?4
                                AND m.ended_at IS NOT NULL AND m.id > n.id))
                ORDER BY n.id
                """)
            : try connection.statement(
                """
                SELECT n.parent, n.leaf, n.began_at, n.ended_at, n.end_reason, n.id, n.copy_id, n.kind, n.inode, n.size,
                    n.mtime_ns, n.ctime_ns, n.mode, n.uid, n.gid, n.xattrs, n.link_target, n.fuzzy, n.racy,
                    c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns, c.fuzzy, c.damaged
                FROM name n INDEXED BY name_live LEFT JOIN copy c ON c.id = n.copy_id
                WHERE n.source_id = ?1 AND n.destination_id = ?2 AND n.parent = ?3 AND n.leaf = ?4
                    AND n.ended_at IS NULL AND n.began_at <= ?5
                """)
        defer { statement.reset() }
        statement.bind(source.rawValue).bind(destination.rawValue).bind(split: path).bind(bounds.begun)
        if isEnded { statement.bind(bounds.ended).bind(scope == .deleted) }
        while try statement.step() { entries.append(read(statement)) }
    }

    /// Names in a range after `place`, which moves along; how many.
    private func scan(
        _ range: PathRange, from place: inout NameCursor, limit: Int, into entries: inout [CatalogueEntry]
    ) throws(SafeBackupError) -> Int {
        let statement =
            place.isEnded
            ? try connection.statement(
                """
                SELECT n.parent, n.leaf, n.began_at, n.ended_at, n.end_reason, n.id, n.copy_id, n.kind, n.inode, n.size,
                    n.mtime_ns, n.ctime_ns, n.mode, n.uid, n.gid, n.xattrs, n.link_target, n.fuzzy, n.racy,
                    c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns, c.fuzzy, c.damaged
                FROM name n INDEXED BY name_history LEFT JOIN copy c ON c.id = n.copy_id
                WHERE n.source_id = ?1 AND n.destination_id = ?2 AND n.parent < ?3
                    AND (n.parent, n.leaf, n.id) > (?4, ?5, ?6) AND n.ended_at IS NOT NULL
                    AND n.began_at <= ?7 AND n.ended_at > ?8
                    AND (NOT ?9 OR n.end_reason = 'deleted' AND NOT EXISTS (SELECT 1 FROM name m
                            WHERE m.source_id = n.source_id AND m.destination_id = n.destination_id
                                AND m.parent = n.parent AND m.leaf = n.leaf AND m.ended_at IS NULL)
                        AND NOT EXISTS (SELECT 1 FROM name m
                            WHERE m.source_id = n.source_id AND m.destination_id = n.destination_id
                                AND m.parent = n.parent AND m.leaf = n.leaf AND m.ended_at IS NOT NULL AND m.id > n.id))
                ORDER BY n.parent, n.leaf, n.id LIMIT ?10
                """)
            : try connection.statement(
                """
                SELECT n.parent, n.leaf, n.began_at, n.ended_at, n.end_reason, n.id, n.copy_id, n.kind, n.inode, n.size,
                    n.mtime_ns, n.ctime_ns, n.mode, n.uid, n.gid, n.xattrs, n.link_target, n.fuzzy, n.racy,
                    c.id, c.location, c.kind, c.digest, c.size, c.stored_at, c.inode, c.mtime_ns, c.fuzzy, c.damaged
                FROM name n INDEXED BY name_live LEFT JOIN copy c ON c.id = n.copy_id
                WHERE n.source_id = ?1 AND n.destination_id = ?2 AND n.parent < ?3 AND (n.parent, n.leaf) > (?4, ?5)
                    AND n.ended_at IS NULL AND n.began_at <= ?6
                ORDER BY n.parent, n.leaf LIMIT ?7
                """)
        defer { statement.reset() }
        statement.bind(source.rawValue).bind(destination.rawValue).bind(range.upper)
        if let parent = place.parent {
            statement.bind(path: parent).bind(path: place.leaf)
        } else {
            // No leaf is empty: this is before the first one.
            statement.bind(range.lower).bind(path: [])
        }
        if place.isEnded {
            statement.bind(place.id).bind(bounds.begun).bind(bounds.ended).bind(scope == .deleted)
        } else {
            statement.bind(bounds.begun)
        }
        statement.bind(Int64(limit))
        var count = 0
        while try statement.step() {
            let entry = read(statement)
            entries.append(entry)
            (place.parent, place.leaf, place.id) = (entry.path.parent.bytes, entry.path.leaf, entry.name.id)
            count += 1
        }
        return count
    }

    private func read(_ row: Statement) -> CatalogueEntry {
        let path = row.path().appending(row.bytes())
        let (began, ended, reason) = (row.timestamp(), row.timestampOrNull(), row.textOrNull())
        let name = NameRecord.read(row)
        let copy = row.isNull() ? nil : CopyRecord.read(row)
        return CatalogueEntry(
            source: source, destination: destination, path: path, name: name, beganAt: began, endedAt: ended,
            endReason: reason, copy: copy)
    }
}
