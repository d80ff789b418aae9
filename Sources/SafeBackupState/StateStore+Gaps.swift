import SafeBackupCore

/// What the catalogue remembers of content that the backup holds no more.
///
/// When a copy goes, its names stay without it: a *gap* is an ended name of a file or a link whose `copy_id` is NULL. It
/// tells that something was at the path from `began_at` to `ended_at`, so that a look at that time says "not available"
/// and not "not there". Gaps that follow each other are one, and a path has no more than a few.
extension StateStore {
    /// A path has no more gaps than this, but where kept states lie between them.
    private static let gapLimit = 20
    /// A path keeps no more ended names than this that hold no content of their own.
    private static let plainLimit = 20

    /// Forgets a copy that is no more; its names become gaps.
    func removeCopy(_ id: Int64, now: Timestamp, _ connection: Connection) throws(SafeBackupError) {
        var paths: Set<GapPath> = []
        let names = try connection.statement(
            """
            SELECT source_id, destination_id, parent, leaf, kind, size, fuzzy, ended_at FROM name WHERE copy_id = ?
            """)
        do {
            defer { names.reset() }
            names.bind(id)
            while try names.step() {
                let pair = PairKey(
                    source: SourceID(rawValue: names.int()), destination: DestinationID(rawValue: names.int()))
                paths.insert(GapPath(pair: pair, path: names.path().appending(names.bytes())))
                let kind = EntryKind(rawValue: names.text()) ?? .device
                let (size, isFuzzy) = (names.int(), names.bool())
                if names.isNull() { note(pair) { $0.count(kind, size: size, isFuzzy: isFuzzy, sign: -1) } }
            }
        }
        try connection.statement(
            """
            UPDATE name SET copy_id = NULL, xattrs = NULL, link_target = NULL,
                end_reason = CASE WHEN ended_at IS NULL THEN 'replaced' ELSE end_reason END,
                ended_at = ifnull(ended_at, ?)
            WHERE copy_id = ?
            """
        ).bind(now).bind(id).run()
        for path in paths { try foldGaps(path.pair, path.path, connection) }
        try connection.statement("DELETE FROM copy WHERE id = ?").bind(id).run()
    }

    private struct GapPath: Hashable {
        var pair: PairKey
        var path: RelativePath
    }

    private struct EndedName {
        var id: Int64
        var began: Int64
        var ended: Int64
        var isGap: Bool
        var reason: String
    }

    /// Joins the path's gaps that follow each other, so that a log that is replaced for ever does not grow the catalogue.
    private func foldGaps(
        _ pair: PairKey, _ path: RelativePath, _ connection: Connection
    ) throws(SafeBackupError) {
        var names = try endedNames(pair, path, connection)
        // A gap that ends by a deletion is not joined with the next one: in between nothing was there.
        func joins(_ left: EndedName, _ right: EndedName) -> Bool {
            left.isGap && right.isGap && left.ended == right.began && left.reason != EndReason.deleted.rawValue
        }
        var index = 1
        while index < names.count {
            if joins(names[index - 1], names[index]) {
                try join(&names, at: index, connection)
            } else {
                index += 1
            }
        }
        // A lock file that comes and goes each minute: rather a few long gaps, in which it is not known.
        var excess = names.count(where: \.isGap) - Self.gapLimit
        index = 1
        while excess > 0 && index < names.count {
            if names[index - 1].isGap && names[index].isGap {
                try join(&names, at: index, connection)
                excess -= 1
            } else {
                index += 1
            }
        }
    }

    private func join(
        _ names: inout [EndedName], at index: Int, _ connection: Connection
    ) throws(SafeBackupError) {
        let right = names.remove(at: index)
        names[index - 1].ended = right.ended
        names[index - 1].reason = right.reason
        try connection.statement("UPDATE name SET ended_at = ?, end_reason = ? WHERE id = ?")
            .bind(right.ended).bind(text: right.reason).bind(names[index - 1].id).run()
        try connection.statement("DELETE FROM name WHERE id = ?").bind(right.id).run()
    }

    /// The path's ended names, oldest first.
    private func endedNames(
        _ pair: PairKey, _ path: RelativePath, _ connection: Connection
    ) throws(SafeBackupError) -> [EndedName] {
        let select = try connection.statement(
            """
            SELECT id, began_at, ended_at, copy_id IS NULL AND kind <> 'directory', ifnull(end_reason, '') FROM name
            WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf = ? AND ended_at IS NOT NULL ORDER BY id
            """)
        defer { select.reset() }
        select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path)
        var names: [EndedName] = []
        while try select.step() {
            names.append(
                EndedName(
                    id: select.int(), began: select.int(), ended: select.int(), isGap: select.bool(),
                    reason: select.text()))
        }
        return names
    }

    /// Forgets the oldest of the path's ended names that hold no content of their own (a directory's, or the same copy
    /// with other metadata, or under another path), so that a file touched for ever does not grow the catalogue. The
    /// time that one with other metadata stood for goes to the next one on the same copy: at no time is content that
    /// the backup has taken for missing.
    func pruneNames(_ pair: PairKey, _ path: RelativePath, _ connection: Connection) throws(SafeBackupError) {
        let select = try connection.statement(
            """
            SELECT id, copy_id, kind, began_at, ended_at, end_reason FROM name
            WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf = ? AND ended_at IS NOT NULL
                AND (kind = 'directory' OR copy_id IS NOT NULL AND end_reason IN ('metadata', 'moved'))
            ORDER BY id DESC LIMIT -1 OFFSET ?
            """)
        var excess: [(id: Int64, copy: Int64?, isDirectory: Bool, began: Int64, ended: Int64, reason: String?)] = []
        do {
            defer { select.reset() }
            select.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path)
                .bind(Int64(Self.plainLimit))
            while try select.step() {
                excess.append(
                    (
                        select.int(), select.intOrNull(), select.text() == EntryKind.directory.rawValue, select.int(),
                        select.int(), select.textOrNull()
                    ))
            }
        }
        for name in excess {
            if name.reason == EndReason.moved.rawValue && !name.isDirectory {
                try connection.statement(
                    "UPDATE name SET copy_id = NULL, xattrs = NULL, link_target = NULL WHERE id = ?"
                ).bind(name.id).run()
                try foldGaps(pair, path, connection)
                continue
            }
            if name.reason == EndReason.metadata.rawValue,
                let next = try nextName(after: name.id, pair, path, connection)
            {
                try connection.statement("UPDATE name SET began_at = ? WHERE id = ? AND began_at = ? AND copy_id IS ?")
                    .bind(name.began).bind(next).bind(name.ended).bind(name.copy).run()
            }
            try connection.statement("DELETE FROM name WHERE id = ?").bind(name.id).run()
        }
    }

    /// The path's name that began after this one, ended or live.
    private func nextName(
        after id: Int64, _ pair: PairKey, _ path: RelativePath, _ connection: Connection
    ) throws(SafeBackupError) -> Int64? {
        let ended = try connection.statement(
            """
            SELECT id FROM name WHERE source_id = ? AND destination_id = ? AND parent = ? AND leaf = ?
                AND ended_at IS NOT NULL AND id > ? ORDER BY id LIMIT 1
            """)
        defer { ended.reset() }
        ended.bind(pair.source.rawValue).bind(pair.destination.rawValue).bind(split: path).bind(id)
        if try ended.step() { return ended.int() }
        return try connection.liveName(pair, path)?.id
    }
}
