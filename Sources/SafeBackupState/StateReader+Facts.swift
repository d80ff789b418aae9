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
}
