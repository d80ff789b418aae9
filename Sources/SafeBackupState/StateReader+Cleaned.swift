package import SafeBackupCore

/// A copy that was removed from a destination.
package struct CleanedCopy: Sendable, Hashable {
    package var at: Timestamp
    package var location: RelativePath
    package var size: Int64
    /// Why; see `v_cleaned`.
    package var reason: String

    package init(at: Timestamp, location: RelativePath, size: Int64, reason: String) {
        self.at = at
        self.location = location
        self.size = size
        self.reason = reason
    }
}

extension StateReader {
    /// The copy of the path that was removed last, of those below one of these locations: other sources have the same
    /// paths. Looks at every row; `nil`: none of the newest 100,000 is.
    package func lastCleaned(
        _ destination: DestinationID, _ path: RelativePath, below locations: [RelativePath]
    ) throws(SafeBackupError) -> CleanedCopy? {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT at, location, size, reason FROM cleaned WHERE destination_id = ? AND path = ? ORDER BY id DESC
                """)
            defer { statement.reset() }
            statement.bind(destination.rawValue).bind(path)
            while try statement.step() {
                let copy = CleanedCopy(
                    at: statement.timestamp(), location: statement.path(), size: statement.int(),
                    reason: statement.text())
                if locations.contains(where: copy.location.isWithin) { return copy }
            }
            return nil
        }
    }
}
