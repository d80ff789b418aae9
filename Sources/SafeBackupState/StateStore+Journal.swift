package import SafeBackupCore
import SafeBackupSystem

/// One event of the journal: what a person asks for when a backup is missing.
package struct JournalEntry: Sendable, Hashable {
    package enum Level: String, Sendable, Hashable {
        /// In the course of things.
        case info
        /// Somebody did it, or it is good news.
        case notice
        /// Goes by, perhaps.
        case warning
        /// Somebody must look.
        case error
    }

    package var at: Timestamp
    package var level: Level
    /// A stable word: `started`, `stopped`, `held`, `released`, `paused`, `resumed`, `accepted`, `desynced`, `reconciled`,
    /// `stateRebuilt`, `catalogueRead`, `emptied`, `failing`, `stuck`, `fuzzy`, `copiesChanged`,
    /// `catalogueFailed`, or a request's verb.
    package var event: String
    /// A sentence.
    package var message: String
    /// `nil`: it is about no single one.
    package var source: SourceID?
    package var destination: DestinationID?
    package var path: RelativePath?

    /// Reads at, level, event, message, source_id, destination_id, path.
    static func read(_ row: Statement) -> JournalEntry {
        JournalEntry(
            at: row.timestamp(), level: Level(rawValue: row.text()) ?? .info, event: row.text(), message: row.text(),
            source: row.intOrNull().map(SourceID.init(rawValue:)),
            destination: row.intOrNull().map(DestinationID.init(rawValue:)), path: row.pathOrNull())
    }
}

/// What the running agent may still write of each reason, so that a full disk does not push everything else out of the
/// journal.
struct JournalBudget {
    private static let window = Duration.seconds(600)
    private static let limit = 100
    private var spent: [String: (since: Timestamp, count: Int)] = [:]

    /// Whether one more event of this reason fits; then it is counted.
    mutating func spend(_ reason: String, now: Timestamp) -> Bool {
        var entry = spent[reason] ?? (now, 0)
        // Also after the clock was set back.
        if now < entry.since || now - entry.since > Self.window { entry = (now, 0) }
        if entry.count >= Self.limit { return false }
        spent[reason] = (entry.since, entry.count + 1)
        return true
    }
}

extension StateStore {
    /// Events of single paths, and as many others, are kept.
    static let journalHalf = 5_000

    /// Adds an event for people. The newest 5,000 about single paths, and the newest 5,000 others, are kept.
    package func record(
        level: String, event: String, message: String, source: SourceID? = nil, destination: DestinationID? = nil,
        path: RelativePath? = nil
    ) throws(SafeBackupError) {
        let entry = JournalEntry(
            at: clock.now, level: JournalEntry.Level(rawValue: level) ?? .info, event: event, message: message,
            source: source, destination: destination, path: path)
        try write { (connection) throws(SafeBackupError) in try journal(entry, connection) }
    }

    /// Adds an event in the transaction of the caller.
    func journal(_ entry: JournalEntry, _ connection: Connection) throws(SafeBackupError) {
        try connection.statement(
            """
            INSERT INTO journal (at, level, event, message, source_id, destination_id, path) VALUES (?, ?, ?, ?, ?, ?, ?)
            """
        ).bind(entry.at).bind(text: entry.level.rawValue).bind(text: entry.event).bind(text: entry.message)
            .bind(entry.source?.rawValue).bind(entry.destination?.rawValue).bind(path: entry.path?.bytes).run()
        // A little more than the limit stays for a while: each look for the oldest reads as many rows as are kept.
        if connection.insertedRow % 64 != 0 { return }
        try connection.statement(
            """
            DELETE FROM journal WHERE path IS NOT NULL AND id <= (SELECT id FROM journal WHERE path IS NOT NULL
                ORDER BY id DESC LIMIT 1 OFFSET ?)
            """
        ).bind(Int64(Self.journalHalf)).run()
        try connection.statement(
            """
            DELETE FROM journal WHERE path IS NULL AND id <= (SELECT id FROM journal WHERE path IS NULL
                ORDER BY id DESC LIMIT 1 OFFSET ?)
            """
        ).bind(Int64(Self.journalHalf)).run()
    }

    /// A request of a person was answered.
    package func recordRequest(
        _ verb: String, _ arguments: [[UInt8]], _ answer: Answer
    ) throws(SafeBackupError) {
        var level = JournalEntry.Level.notice
        let text: String
        switch answer {
        case .done(let answer), .nothing(let answer): text = answer
        case .failed(let answer): (level, text) = (.warning, "Refused: \(answer)")
        }
        // An argument list may be as long as a command line; the first ones tell enough.
        var asked = arguments.prefix(8).map { printable($0.prefix(200)) }
        if arguments.count > 8 { asked.append("and \(arguments.count - 8) more") }
        let request = asked.isEmpty ? "" : " (\(asked.joined(separator: ", ")))"
        try record(level: level.rawValue, event: verb, message: text + request)
    }

    // MARK: - Jobs

    /// A job failed. Told once for each reason in a row, and when it becomes stuck.
    func journalFailure(
        _ job: DueJob, _ pair: PairKey, _ error: SafeBackupError, isStuck: Bool, before code: String?, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) {
        if !isStuck && code == error.code.rawValue { return }
        let event = isStuck ? "stuck" : "failing"
        guard journalBudget.spend("\(event) \(error.code)", now: now) else { return }
        try journal(
            JournalEntry(
                at: now, level: isStuck ? .error : .warning, event: event, message: "\(error.message) (\(error.code))",
                source: pair.source, destination: pair.destination, path: job.path), connection)
    }

    /// A copy that mixes several states was stored; told of the first in a row.
    func journalFuzzy(
        _ job: DueJob, _ pair: PairKey, now: Timestamp, _ connection: Connection
    ) throws(SafeBackupError) {
        if job.live?.isFuzzy == true || !journalBudget.spend("fuzzy", now: now) { return }
        try journal(
            JournalEntry(
                at: now, level: .warning, event: "fuzzy",
                message: "It changed each time it was read; the stored copy mixes several states and is replaced later",
                source: pair.source, destination: pair.destination, path: job.path), connection)
    }

    // MARK: - Sources and destinations

    /// A walk ended; its row has its numbers.
    func journalReconcile(
        _ id: ReconcileID, _ source: SourceID, _ isComplete: Bool, _ drift: Int, now: Timestamp,
        _ connection: Connection
    ) throws(SafeBackupError) {
        let statement = try connection.statement("SELECT reason, seen, queued, began_at FROM reconcile WHERE id = ?")
        defer { statement.reset() }
        guard try statement.bind(id.rawValue).step() else { return }
        let (reason, seen, queued, began) = (statement.text(), statement.int(), statement.int(), statement.timestamp())
        statement.reset()
        let seconds = max(0, (now - began).components.seconds)
        var message =
            "Walk (\(reason)): \(counted(Int(seen), "entry", "entries")) compared in \(seconds) s, "
            + "\(counted(Int(queued), "difference")) queued"
        if drift > 0 { message += ", \(drift) of which no event had told (drift)" }
        if !isComplete { message += "; it is not complete, because something could not be read" }
        try journal(
            JournalEntry(
                at: now, level: isComplete && drift == 0 ? .info : .warning, event: "reconciled", message: message,
                source: source), connection)
    }
}

extension StateReader {
    /// The newest events about one path of a source, newest first.
    package func journal(
        _ source: SourceID, _ path: RelativePath, limit: Int
    ) throws(SafeBackupError) -> [JournalEntry] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT at, level, event, message, source_id, destination_id, path FROM journal
                WHERE path IS NOT NULL AND path = ? AND ifnull(source_id, ?) = ? ORDER BY id DESC LIMIT ?
                """)
            defer { statement.reset() }
            statement.bind(path).bind(source.rawValue).bind(source.rawValue).bind(Int64(limit))
            return try JournalEntry.rows(statement)
        }
    }

    /// The newest events about no single path that are more than the course of things, newest first.
    package func remarkableEvents(limit: Int) throws(SafeBackupError) -> [JournalEntry] {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT at, level, event, message, source_id, destination_id, path FROM journal
                WHERE path IS NULL AND level <> 'info' ORDER BY id DESC LIMIT ?
                """)
            defer { statement.reset() }
            statement.bind(Int64(limit))
            return try JournalEntry.rows(statement)
        }
    }
}

extension JournalEntry {
    fileprivate static func rows(_ statement: Statement) throws(SafeBackupError) -> [JournalEntry] {
        var entries: [JournalEntry] = []
        while try statement.step() { entries.append(read(statement)) }
        return entries
    }
}
