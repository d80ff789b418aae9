package import SafeBackupCore

/// A source whose last file was deleted.
package struct EmptiedSource: Sendable, Hashable {
    package var source: SourceID
    /// That it had, of one destination.
    package var files: Int
    package var at: Timestamp

    /// What it means, without what a person can do.
    package var message: String {
        "Its last file was deleted, of \(counted(files, "file")) that it had; every copy is kept in the backup"
    }
}

/// What a running agent remembers to tell that a source lost all its files.
struct EmptyingSources {
    /// A source that never had more loses its last file every day.
    static let least: Int64 = 10

    /// The most live files of each pair that was seen since the start, or since it had none.
    var most: [PairKey: Int64] = [:]
    /// The sources that are noted as emptied; `nil`: not read since the state was opened.
    var noted: Set<SourceID>?
}

/// Single deletes never hold a source, because nothing is removed for them; but that all files went in this way is told.
extension StateStore {
    /// In a transaction that ended or began names: notes each source that lost its last file, and that a noted one has
    /// files again. Returns those that are new.
    func noteEmptied(now: Timestamp, _ connection: Connection) throws(SafeBackupError) -> [EmptiedSource] {
        var found: [EmptiedSource] = []
        for (pair, change) in fileChanges {
            if change > 0 {
                if try notedAsEmptied(connection).contains(pair.source) {
                    try setEmptied(pair.source, at: nil, files: nil, connection)
                }
                continue
            }
            let before = try files(of: pair, connection)
            let most = max(emptying.most[pair] ?? 0, before)
            emptying.most[pair] = before + change > 0 ? most : 0
            if before + change > 0 || most < EmptyingSources.least { continue }
            // Another of its destinations was first.
            if try notedAsEmptied(connection).contains(pair.source) { continue }
            let emptied = EmptiedSource(source: pair.source, files: Int(most), at: now)
            try setEmptied(pair.source, at: now, files: most, connection)
            try journal(
                JournalEntry(at: now, level: .warning, event: "emptied", message: emptied.message, source: pair.source),
                connection)
            found.append(emptied)
        }
        return found
    }

    private func notedAsEmptied(_ connection: Connection) throws(SafeBackupError) -> Set<SourceID> {
        if let noted = emptying.noted { return noted }
        let statement = try connection.statement("SELECT id FROM source WHERE emptied_at IS NOT NULL")
        defer { statement.reset() }
        var noted: Set<SourceID> = []
        while try statement.step() { noted.insert(SourceID(rawValue: statement.int())) }
        emptying.noted = noted
        return noted
    }

    private func setEmptied(
        _ source: SourceID, at time: Timestamp?, files: Int64?, _ connection: Connection
    ) throws(SafeBackupError) {
        try connection.statement("UPDATE source SET emptied_at = ?, emptied_files = ? WHERE id = ?")
            .bind(time).bind(files).bind(source.rawValue).run()
        if time == nil { emptying.noted?.remove(source) } else { emptying.noted?.insert(source) }
    }

    /// Before the running transaction.
    private func files(of pair: PairKey, _ connection: Connection) throws(SafeBackupError) -> Int64 {
        let statement = try connection.statement("SELECT files FROM tally WHERE source_id = ? AND destination_id = ?")
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue)
        return try statement.step() ? statement.int() : 0
    }
}

extension EmptiedSource {
    /// `nil`: it has files, or never had many.
    static func read(_ source: SourceID, _ connection: Connection) throws(SafeBackupError) -> EmptiedSource? {
        let statement = try connection.statement(
            "SELECT emptied_files, emptied_at FROM source WHERE id = ? AND emptied_at IS NOT NULL")
        defer { statement.reset() }
        guard try statement.bind(source.rawValue).step() else { return nil }
        return EmptiedSource(source: source, files: Int(statement.int()), at: statement.timestamp())
    }
}
