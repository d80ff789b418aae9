package import SafeBackupCore

/// What an agent that starts works by, kept for those who ask.
extension StateStore {
    /// An agent begins with the source: what changed before is not known until its first walk has ended.
    package func markStarted(_ source: SourceID) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE source SET desynced = 1 WHERE id = ? AND desynced = 0")
                .bind(source.rawValue).run()
        }
    }

    /// From now on these patterns, in this order, are the source's rules; those before them are forgotten.
    package func setExcludeRules(_ source: SourceID, _ patterns: [ExcludePattern]) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            // Unchanged at most starts: then nothing is written.
            if try ExcludePattern.all(source, connection) == patterns { return }
            try connection.statement("DELETE FROM exclude_rule WHERE source_id = ?").bind(source.rawValue).run()
            let insert = try connection.statement(
                "INSERT INTO exclude_rule (source_id, position, origin, line, pattern) VALUES (?, ?, ?, ?, ?)")
            for (position, pattern) in patterns.enumerated() {
                var origin: [UInt8]?
                if case .file(let path) = pattern.origin { origin = path }
                try insert.bind(source.rawValue).bind(Int64(position)).bind(path: origin).bind(Int64(pattern.line))
                    .bind(path: pattern.bytes).run()
            }
        }
    }
}

extension ExcludePattern {
    static func all(_ source: SourceID, _ connection: Connection) throws(SafeBackupError) -> [ExcludePattern] {
        let statement = try connection.statement(
            "SELECT origin, line, pattern FROM exclude_rule WHERE source_id = ? ORDER BY position")
        defer { statement.reset() }
        statement.bind(source.rawValue)
        var patterns: [ExcludePattern] = []
        while try statement.step() {
            let origin = statement.bytesOrNull().map(Origin.file) ?? .option
            let line = Int(statement.int())
            patterns.append(ExcludePattern(bytes: statement.bytes(), origin: origin, line: line))
        }
        return patterns
    }
}
