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
}
