package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage

/// What a verb asks of the running agent.
package struct Request: Sendable, Hashable {
    package var id: Int64
    package var verb: String
    /// Bytes, because most are paths; none holds a NUL.
    package var arguments: [[UInt8]]
    package var createdAt: Timestamp
    /// When an agent took it; one that is taken and not answered was interrupted.
    package var takenAt: Timestamp?

    /// Reads id, verb, arguments, created_at, taken_at.
    static func read(_ row: Statement) -> Request {
        let (id, verb, joined) = (row.int(), row.text(), row.bytes())
        return Request(
            id: id, verb: verb,
            // A byte 0 follows each argument, so that no argument and one empty argument differ.
            arguments: joined.split(separator: 0, omittingEmptySubsequences: false).dropLast().map(Array.init),
            createdAt: row.timestamp(), takenAt: row.timestampOrNull())
    }
}

/// An answer of the agent.
package enum Answer: Sendable, Hashable {
    case done(String)
    /// There was nothing that it could be done to.
    case nothing(String)
    case failed(String)
}

extension StateStore {
    // MARK: - The agent's side

    /// Changes whenever another connection has committed: look at the requests then.
    package func dataVersion() throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in try connection.number("PRAGMA data_version") ?? 0 }
    }

    /// The requests that nobody has taken, oldest first; they are taken now.
    package func takeRequests() throws(SafeBackupError) -> [Request] {
        let now = clock.now
        let waiting = try requests("taken_at IS NULL")
        // Nothing is written where nothing was asked: this runs each second.
        if waiting.isEmpty { return [] }
        return try write { (connection) throws(SafeBackupError) in
            for request in waiting {
                try connection.statement("UPDATE request SET taken_at = ? WHERE id = ?")
                    .bind(now).bind(request.id).run()
            }
            return waiting
        }
    }

    /// The requests that an agent took and did not answer, before it ended; to be run again where that does no harm.
    package func interruptedRequests() throws(SafeBackupError) -> [Request] { try requests("taken_at IS NOT NULL") }

    package func answer(_ id: Int64, _ answer: Answer) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            let update = try connection.statement(
                "UPDATE request SET answered_at = ?, answer = ?, error = ? WHERE id = ?")
            switch answer {
            case .done(let text): try update.bind(now).bind(text: text).bindNull().bind(id).run()
            case .nothing(let text): try update.bind(now).bind(text: text).bind(text: "nothing").bind(id).run()
            case .failed(let text): try update.bind(now).bindNull().bind(text: text).bind(id).run()
            }
            try connection.statement("DELETE FROM request WHERE answered_at IS NOT NULL AND id <= ?")
                .bind(id - 1_000).run()
        }
    }

    private func requests(_ condition: String) throws(SafeBackupError) -> [Request] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.prepare(
                """
                SELECT id, verb, arguments, created_at, taken_at FROM request
                WHERE answered_at IS NULL AND \(condition) ORDER BY id
                """)
            var requests: [Request] = []
            while try statement.step() { requests.append(Request.read(statement)) }
            return requests
        }
    }

    // MARK: - The verb's side

    /// Asks the agent that has the state in `directory`, from another process; the number to read the answer by.
    /// Throws `stateFailed` when there is no state, when it is of another release's schema, or when it cannot be
    /// written.
    package static func submitRequest(
        in directory: FilePath, verb: String, arguments: [[UInt8]], clock: WallClock = .system
    ) throws(SafeBackupError) -> Int64 {
        let connection = try Connection(StateFile.path(in: directory), .readWrite)
        // The agent's write-ahead log is its own to move, also when this is the last connection.
        try connection.setCheckpointOnClose(false)
        try connection.persistLog()
        let version = try connection.number("PRAGMA user_version")
        let application = try connection.number("PRAGMA application_id")
        guard version == Migrations.all.version, application == Schema.applicationID else {
            throw SafeBackupError(
                .stateFailed,
                "The state database in \(directory) is of another release; ask with the release that the agent runs",
                disposition: .permanent)
        }
        try connection.execute("PRAGMA synchronous = FULL")
        var joined: [UInt8] = []
        for argument in arguments { joined += argument + [0] }
        try connection.statement("INSERT INTO request (verb, arguments, created_at) VALUES (?, ?, ?)")
            .bind(text: verb).bind(path: joined).bind(clock.now).run()
        return connection.insertedRow
    }

    /// The agent's answer, or `nil` while there is none.
    package static func readAnswer(_ id: Int64, in directory: FilePath) throws(SafeBackupError) -> Answer? {
        let connection = try Connection(StateFile.path(in: directory), .readOnly)
        let statement = try connection.statement("SELECT answered_at, answer, error FROM request WHERE id = ?")
        defer { statement.reset() }
        guard try statement.bind(id).step() else { return nil }
        guard statement.intOrNull() != nil else { return nil }
        let answer = statement.textOrNull()
        guard let error = statement.textOrNull() else { return .done(answer ?? "") }
        return answer.map(Answer.nothing) ?? .failed(error)
    }
}
