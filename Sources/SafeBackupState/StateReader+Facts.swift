package import SafeBackupCore

/// What the verbs that explain ask of the state besides the status.
extension StateReader {
    /// The source's exclude rules, as the agent was last started with.
    package func excludeRules(_ source: SourceID) throws(SafeBackupError) -> [ExcludePattern] {
        try read { (connection) throws(SafeBackupError) in try ExcludePattern.all(source, connection) }
    }

    package func sources() throws(SafeBackupError) -> [SourceRecord] {
        try read { (connection) throws(SafeBackupError) in try SourceRecord.all(connection) }
    }

    package func destinations() throws(SafeBackupError) -> [DestinationRecord] {
        try read { (connection) throws(SafeBackupError) in try DestinationRecord.all(connection) }
    }

    package func pairs() throws(SafeBackupError) -> [PairRecord] {
        try read { (connection) throws(SafeBackupError) in try PairRecord.all(connection) }
    }

    /// The newest event of the journal with this name about this destination.
    package func newestEvent(
        _ event: String, of destination: DestinationID
    ) throws(SafeBackupError) -> JournalEntry? {
        try read { (connection) throws(SafeBackupError) in
            let row = try connection.statement(
                """
                SELECT at, level, event, message, source_id, destination_id, path FROM journal
                WHERE event = ? AND destination_id = ? ORDER BY id DESC LIMIT 1
                """)
            defer { row.reset() }
            row.bind(text: event).bind(destination.rawValue)
            return try row.step() ? JournalEntry.read(row) : nil
        }
    }

    /// The last number that was given to anything; all ids and sequences are at most this.
    package func newestNumber() throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in try connection.number("SELECT value FROM counter") ?? 0 }
    }

    /// When the newest name of the destination that its catalogue copy does not have began; `nil` if it has all.
    package func beganAfterCatalogueCopy(_ destination: DestinationRecord) throws(SafeBackupError) -> Timestamp? {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.prepare(
                """
                SELECT began_at FROM name NOT INDEXED WHERE destination_id = ? AND id > ? ORDER BY id LIMIT 1
                """)
            statement.bind(destination.id.rawValue).bind(destination.catalogueSequence ?? 0)
            return try statement.step() ? statement.timestamp() : nil
        }
    }
}
