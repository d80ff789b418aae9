import SafeBackupCore

/// The steps from an empty file to the newest schema. Appended, never edited: `user_version` is how many were done.
struct Migrations {
    /// SQL; all that a file lacks runs in one transaction.
    var steps: [String]

    static let all = Migrations(steps: [Schema.tables, Schema.watching])

    var version: Int64 { Int64(steps.count) }

    /// Does the steps that are missing from version `found` on, and writes the views anew, in one transaction: after a
    /// crash the file has its old version or the new one.
    func run(on connection: Connection, from found: Int64, release: String) throws(SafeBackupError) {
        try connection.begin()
        do throws(SafeBackupError) {
            for step in steps.dropFirst(Int(found)) { try connection.execute(step) }
            try Views.create(in: connection)
            let statement = try connection.statement("INSERT OR REPLACE INTO meta (key, value) VALUES ('release', ?)")
            try statement.bind(text: release).run()
            // Numbers of ours: PRAGMA takes no parameters.
            try connection.execute("PRAGMA application_id = \(Schema.applicationID); PRAGMA user_version = \(version)")
            try connection.commit()
        } catch {
            connection.rollBack()
            throw error
        }
    }
}
