package import SafeBackupCore
import SafeBackupSystem

/// What goes first when space is needed.
package enum CleaningStage: Sendable, Hashable {
    /// Kept versions, those that were stored first before others.
    case versions
    /// What is left of paths that are no more, in the order in which it was stored: only when no version is left.
    case deleted
}

/// A stored copy, and what a look at the destination must find of it.
package struct CataloguedCopy: Sendable, Hashable {
    package var id: Int64
    package var expected: ExpectedCopy
}

/// A copy that may go, and what its path keeps in its place.
package struct CleaningCandidate: Sendable, Hashable {
    package var copy: CataloguedCopy
    package var storedAt: Timestamp
    /// The path's newest good state, which must be found in the destination before the copy goes; `nil`: the copy is the
    /// last that a deleted path has, or a fuzzy one of a path that has nothing good.
    package var keeper: CataloguedCopy?
    /// For a fuzzy copy that is newer than the newest good state: the path's newest fuzzy state, which must be found too.
    package var newest: CataloguedCopy?
}

/// Where the search for candidates goes on.
package struct CleaningCursor: Sendable, Hashable {
    var storedAt = Int64.min
    var id: Int64 = 0

    package init() {}

    init(storedAt: Int64, id: Int64) { (self.storedAt, self.id) = (storedAt, id) }
}

/// A part of the candidates.
package struct CleaningPage: Sendable {
    package var candidates: [CleaningCandidate]
    /// Where the rest begins; `nil`: these were the last.
    package var next: CleaningCursor?
}

/// The rule that stands above every limit, as the catalogue can tell it; the destination is asked besides.
///
/// Of each path the newest good state stays: the newest that is neither fuzzy nor damaged, and that a save has looked at.
/// A version goes only when such a state of its path is newer, or when it is fuzzy and a newer fuzzy one stays besides: of a
/// file that is torn at each save all would stay for ever. Only of a path that the source has no more that state may
/// go too, as the last of all of the path's, in the stage of the deleted.
extension Connection {
    /// Up to `limit` candidates after `cursor`, or fewer when these hold `bytes`.
    func cleaningPage(
        _ destination: DestinationID, _ stage: CleaningStage, of sources: Set<SourceID>, after cursor: CleaningCursor,
        bytes: Int64, limit: Int
    ) throws(SafeBackupError) -> CleaningPage {
        let (ids, next) = try cleaningIDs(destination, stage, after: cursor, limit: limit)
        var page = CleaningPage(candidates: [], next: next)
        var sum: Int64 = 0
        for (id, storedAt) in ids {
            guard let found = try cleaningCandidate(id, destination, stage, of: sources) else { continue }
            page.candidates.append(found)
            sum += found.copy.expected.room
            if sum >= bytes {
                page.next = CleaningCursor(storedAt: storedAt, id: id)
                break
            }
        }
        return page
    }

    func cleaningIDs(
        _ destination: DestinationID, _ stage: CleaningStage, after cursor: CleaningCursor, limit: Int
    ) throws(SafeBackupError) -> (ids: [(id: Int64, storedAt: Int64)], next: CleaningCursor?) {
        var ids: [(id: Int64, storedAt: Int64)] = []
        var (count, last) = (0, cursor)
        switch stage {
        case .versions:
            let select = try statement(
                """
                SELECT id, stored_at FROM copy WHERE destination_id = ?1 AND role = 'kept' AND stored_at >= ?2
                    AND (stored_at > ?2 OR id > ?3) AND removing IS NULL AND adopted = 0
                ORDER BY stored_at, id LIMIT ?4
                """)
            defer { select.reset() }
            select.bind(destination.rawValue).bind(cursor.storedAt).bind(cursor.id).bind(Int64(limit))
            while try select.step() {
                ids.append((select.int(), select.int()))
                count += 1
            }
            if let end = ids.last { last = CleaningCursor(storedAt: end.storedAt, id: end.id) }
        case .deleted:
            // Copies have their numbers in the order in which they were stored. An index for this would cost each save.
            let select = try statement(
                """
                SELECT c.id, c.stored_at, c.destination_id = ?1 AND c.role IN ('kept', 'current') AND c.removing IS NULL
                    AND c.adopted = 0 AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id AND n.ended_at IS NULL)
                FROM copy c NOT INDEXED WHERE c.id > ?2 ORDER BY c.id LIMIT ?3
                """)
            defer { select.reset() }
            select.bind(destination.rawValue).bind(cursor.id).bind(Int64(limit))
            while try select.step() {
                let (id, storedAt) = (select.int(), select.int())
                if select.bool() { ids.append((id, storedAt)) }
                last = CleaningCursor(storedAt: storedAt, id: id)
                count += 1
            }
        }
        return (ids, count < limit ? nil : last)
    }

    /// The copy as a candidate, by what the catalogue says now; `nil`: it stays.
    /// - Parameter sources: whose deleted paths may go.
    /// - Parameter isForeseen: what else of a deleted path may go is taken for gone.
    func cleaningCandidate(
        _ copy: Int64, _ destination: DestinationID, _ stage: CleaningStage, of sources: Set<SourceID>,
        isForeseen: Bool = false
    ) throws(SafeBackupError) -> CleaningCandidate? {
        guard let (pair, path) = try lastPath(of: copy, destination), let history = try history(pair, path),
            let index = history.states.firstIndex(where: { $0.copy == copy }), history.states[index].endedAt != nil,
            let found = try catalogued(copy, pair, path)
        else { return nil }
        let storedAt = history.states[index].storedAt
        let newestGood = history.states.firstIndex(where: \.isGood)
        switch stage {
        case .versions:
            guard history.states[index].role == "kept" else { return nil }
            if newestGood.map({ $0 >= index }) ?? true {
                return try fuzzyCandidate(found, index, history, pair, newestGood: newestGood)
            }
        case .deleted:
            guard sources.contains(pair.source), !history.isAlive, try !isAwaited(pair, path) else {
                return nil
            }
            guard ["kept", "current"].contains(history.states[index].role), try !isRetiring(copy) else { return nil }
            // The last good one goes last.
            if newestGood == index {
                let isLast =
                    isForeseen
                    ? history.states.allSatisfy { ["kept", "current"].contains($0.role) } : history.states.count == 1
                return isLast ? CleaningCandidate(copy: found, storedAt: storedAt, keeper: nil) : nil
            }
        }
        guard let newestGood else {
            // Nothing of a deleted path is good.
            return stage == .deleted ? CleaningCandidate(copy: found, storedAt: storedAt, keeper: nil) : nil
        }
        let state = history.states[newestGood]
        guard let keeper = try catalogued(state.copy, pair, path, isLive: state.endedAt == nil, isSeen: true) else {
            return nil
        }
        return CleaningCandidate(copy: found, storedAt: storedAt, keeper: keeper)
    }

    /// A fuzzy copy as a candidate that is newer than all good states of its path.
    private func fuzzyCandidate(
        _ found: CataloguedCopy, _ index: Int, _ history: PathHistory, _ pair: PairKey, newestGood: Int?
    ) throws(SafeBackupError) -> CleaningCandidate? {
        guard history.states[index].isFuzzy, let newest = history.states.firstIndex(where: \.isFuzzy), newest < index
        else { return nil }
        var candidate = CleaningCandidate(copy: found, storedAt: history.states[index].storedAt, keeper: nil)
        if let newestGood {
            // It ended: a fuzzy one is newer.
            candidate.keeper = try catalogued(history.states[newestGood].copy, pair, history.path, isSeen: true)
            if candidate.keeper == nil { return nil }
        }
        let state = history.states[newest]
        candidate.newest = try catalogued(
            state.copy, pair, history.path, isLive: state.endedAt == nil, mayBeFuzzy: true)
        return candidate.newest == nil ? nil : candidate
    }

    /// What the path of a copy that is marked for removal keeps: its newest good state that is not marked too, or where no
    /// state is good the newest fuzzy one; `nil`: there is none, as of a deleted path that is to go whole.
    func keeper(of copy: Int64, _ destination: DestinationID) throws(SafeBackupError) -> CataloguedCopy? {
        guard let (pair, path) = try lastPath(of: copy, destination), let history = try history(pair, path) else {
            return nil
        }
        for state in history.states where state.isGood && state.copy != copy {
            if let keeper = try catalogued(state.copy, pair, path, isLive: state.endedAt == nil) { return keeper }
        }
        for state in history.states where state.isFuzzy && state.copy != copy {
            if let keeper = try catalogued(state.copy, pair, path, isLive: state.endedAt == nil, mayBeFuzzy: true) {
                return keeper
            }
        }
        return nil
    }

    /// Whether it is just being moved to the versions.
    private func isRetiring(_ copy: Int64) throws(SafeBackupError) -> Bool {
        let select = try statement("SELECT 1 FROM retiring WHERE copy_id = ? AND version IS NOT NULL")
        defer { select.reset() }
        return try select.bind(copy).step()
    }

    /// The path that has the copy, or had it last; `nil` for one that no path ever had.
    private func lastPath(
        of copy: Int64, _ destination: DestinationID
    ) throws(SafeBackupError) -> (pair: PairKey, path: RelativePath)? {
        let names = try statement(
            "SELECT source_id, parent, leaf FROM name WHERE copy_id = ? AND destination_id = ? ORDER BY id DESC LIMIT 1"
        )
        defer { names.reset() }
        guard try names.bind(copy).bind(destination.rawValue).step() else { return nil }
        let pair = PairKey(source: SourceID(rawValue: names.int()), destination: destination)
        return (pair, names.path().appending(names.bytes()))
    }

    /// - Parameter isSeen: only one whose file, with its time and its digest, a save has seen: what a recovery found is
    ///   not compared with the source yet.
    private func catalogued(
        _ copy: Int64, _ pair: PairKey, _ path: RelativePath, isLive: Bool = false, isSeen: Bool = false,
        mayBeFuzzy: Bool = false
    ) throws(SafeBackupError) -> CataloguedCopy? {
        let select = try statement(
            """
            SELECT location, kind, size, mtime_ns, inode IS NOT NULL AND mtime_ns IS NOT NULL AND digest IS NOT NULL
                AND fuzzy = 0 AND damaged = 0
            FROM copy WHERE id = ? AND destination_id = ? AND removing IS NULL
            """)
        defer { select.reset() }
        guard try select.bind(copy).bind(pair.destination.rawValue).step() else { return nil }
        var found = ExpectedCopy(
            source: pair.source, path: path, location: select.path(), name: 0,
            kind: EntryKind(rawValue: select.text()) ?? .device, size: select.int(), mtimes: [])
        if let mtime = select.fileTime() { found.mtimes.append(mtime) }
        if isSeen && !select.bool() { return nil }
        if isLive, let live = try liveName(pair, path) {
            if (live.isFuzzy && !mayBeFuzzy) || live.copy != copy { return nil }
            // A save that found equal content gave it the source's time.
            if !found.mtimes.contains(live.fingerprint.mtime) { found.mtimes.append(live.fingerprint.mtime) }
            found.name = live.id
        }
        return CataloguedCopy(id: copy, expected: found)
    }

    /// Whether a directory above the path is to be looked at, or could not be: the path may be there.
    private func isAwaited(_ pair: PairKey, _ path: RelativePath) throws(SafeBackupError) -> Bool {
        let jobs = try statement("SELECT 1 FROM job WHERE destination_id = ? AND source_id = ? AND path = ?")
        let others = try statement("SELECT 1 FROM not_saved WHERE source_id = ? AND path = ?")
        defer {
            jobs.reset()
            others.reset()
        }
        for ancestor in path.ancestors {
            jobs.reset()
            others.reset()
            if try jobs.bind(pair.destination.rawValue).bind(pair.source.rawValue).bind(ancestor).step() { return true }
            if try others.bind(pair.source.rawValue).bind(ancestor).step() { return true }
        }
        return false
    }
}

/// What so many bytes of content take on a disk, about: whole blocks.
func roomOnDisk(_ size: Int64) -> Int64 { (min(max(size, 0), 1 << 60) + 4_095) & ~4_095 }

extension ExpectedCopy {
    /// What it takes on a disk, about.
    package var room: Int64 { roomOnDisk(size) }
}

/// Sums over all copies, which take a while: not for the agent's own connection.
extension StateReader {
    /// Bytes of all copies.
    package func storedBytes(_ destination: DestinationID) throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in
            let sum = try connection.statement(
                "SELECT ifnull(sum(min(size, 17592186044416)), 0) FROM copy WHERE destination_id = ? AND kind <> 'directory'"
            )
            defer { sum.reset() }
            return try sum.bind(destination.rawValue).step() ? sum.int() : 0
        }
    }

    /// How many copies there are: about as many files and directories.
    package func copyCount(_ destination: DestinationID) throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in
            let count = try connection.statement("SELECT count(*) FROM copy WHERE destination_id = ?")
            defer { count.reset() }
            return try count.bind(destination.rawValue).step() ? count.int() : 0
        }
    }

    /// Whether the copies that may go now take so much: versions, and of these sources what deleted paths have. What only
    /// the destination tells is not known here, such as copies that somebody took away.
    package func canFree(
        _ bytes: Int64, _ destination: DestinationID, deletedOf looked: Set<SourceID>
    ) throws(SafeBackupError) -> Bool {
        // Cheap, and mostly enough to say no.
        if try removableRoom(destination) < bytes { return false }
        var left = bytes
        for stage in looked.isEmpty ? [CleaningStage.versions] : [.versions, .deleted] {
            var cursor = CleaningCursor?.some(CleaningCursor())
            while left > 0, let place = cursor {
                let (room, next) = try read { (connection) throws(SafeBackupError) in
                    try connection.removableRoom(destination, stage, of: looked, after: place, limit: 1_000)
                }
                left -= room
                cursor = next
            }
        }
        return left <= 0
    }

    /// What the copies take that the rules could give up at most: versions, and what deleted paths have.
    private func removableRoom(_ destination: DestinationID) throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in
            let sum = try connection.statement(
                """
                SELECT ifnull(sum((min(size, 17592186044416) + 4095) & ~4095), 0) FROM copy c
                WHERE c.destination_id = ? AND c.role IN ('kept', 'current') AND c.adopted = 0
                    AND NOT EXISTS (SELECT 1 FROM name n WHERE n.copy_id = c.id AND n.ended_at IS NULL)
                """)
            defer { sum.reset() }
            return try sum.bind(destination.rawValue).step() ? sum.int() : 0
        }
    }
}

extension Connection {
    /// What those of the next `limit` copies take that may go in the stage, or would in the end, when others of their paths
    /// have gone in their turn; and where the rest begins.
    fileprivate func removableRoom(
        _ destination: DestinationID, _ stage: CleaningStage, of looked: Set<SourceID>, after cursor: CleaningCursor,
        limit: Int
    ) throws(SafeBackupError) -> (room: Int64, next: CleaningCursor?) {
        let sources = stage == .deleted ? try cleanableSources(destination).intersection(looked) : []
        let (ids, next) = try cleaningIDs(destination, stage, after: cursor, limit: limit)
        var room: Int64 = 0
        for (id, _) in ids {
            let version = try cleaningCandidate(id, destination, .versions, of: [])
            if stage == .versions {
                room += version?.copy.expected.room ?? 0
            } else if version == nil, try goesInTheEnd(id, destination, of: sources), let size = try size(of: id) {
                room += roomOnDisk(size)
            }
        }
        return (room, next)
    }

    /// Whether the state of a deleted path may go, be it as the last of all of the path's.
    private func goesInTheEnd(
        _ copy: Int64, _ destination: DestinationID, of sources: Set<SourceID>
    ) throws(SafeBackupError) -> Bool {
        if try cleaningCandidate(copy, destination, .deleted, of: sources) != nil { return true }
        guard let (pair, path) = try lastPath(of: copy, destination), sources.contains(pair.source),
            let history = try history(pair, path), !history.isAlive, try !isAwaited(pair, path), try !isRetiring(copy)
        else { return false }
        return history.states.allSatisfy { ["kept", "current"].contains($0.role) }
    }

    private func size(of copy: Int64) throws(SafeBackupError) -> Int64? {
        let select = try statement("SELECT size FROM copy WHERE id = ?")
        defer { select.reset() }
        return try select.bind(copy).step() ? select.int() : nil
    }

    /// The sources whose deleted paths may lose their last copies: they are run, nothing stops them or has emptied them,
    /// and they were walked since the start, so that what is deleted is known.
    func cleanableSources(_ destination: DestinationID) throws(SafeBackupError) -> Set<SourceID> {
        let select = try statement(
            """
            SELECT s.id FROM pair p JOIN source s ON s.id = p.source_id
            WHERE p.destination_id = ? AND p.active = 1 AND s.active = 1 AND s.held_reason IS NULL AND s.paused_at IS NULL
                AND s.desynced = 0 AND s.emptied_at IS NULL AND s.accepted IS NULL
            """)
        defer { select.reset() }
        select.bind(destination.rawValue)
        var sources: Set<SourceID> = []
        while try select.step() { sources.insert(SourceID(rawValue: select.int())) }
        return sources
    }
}
