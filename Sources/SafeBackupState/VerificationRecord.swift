package import SafeBackupCore
import SafeBackupSystem

/// How the verification of a source at a destination ended last; one of single paths is not noted.
package struct VerificationRecord: Sendable, Hashable {
    package enum Scope: String, Sendable {
        case all
        case share
    }

    /// What a verification read of a pair's copies.
    package struct Result: Sendable, Hashable {
        package var copies = 0
        /// Of those that are sound.
        package var bytes: Int64 = 0
        /// Of these, those that had not the content that was saved.
        package var damaged = 0
        /// Of these, those that were not there.
        package var missing = 0
        /// That could not be read, or were in work whenever they were read.
        package var unverified = 0

        package init() {}
    }

    package var source: SourceID
    package var destination: DestinationID
    /// `nil`: none came to its end.
    package var endedAt: Timestamp?
    package var scope: Scope?
    /// Of a share, in percent of the destination.
    package var share: Double?
    package var result = Result()
    /// Copies of the source there that are marked as damaged or missing now, whoever found them; counted only where the
    /// verification found some.
    package var stillBad = 0
    /// When all copies were last read in one go.
    package var allAt: Timestamp?
    /// When a later one was broken off, and why.
    package var failedAt: Timestamp?
    package var failure: String?

    static func all(_ connection: Connection) throws(SafeBackupError) -> [VerificationRecord] {
        let statement = try connection.statement(
            """
            SELECT source_id, destination_id, ended_at, scope, CAST(share * 1000 AS INTEGER), copies, bytes, damaged, missing,
                unverified, all_at, failed_at, failure
            FROM verification
            """)
        defer { statement.reset() }
        var records: [VerificationRecord] = []
        while try statement.step() {
            var record = VerificationRecord(
                source: SourceID(rawValue: statement.int()), destination: DestinationID(rawValue: statement.int()),
                endedAt: statement.timestampOrNull(), scope: statement.textOrNull().flatMap(Scope.init),
                share: statement.intOrNull().map { Double($0) / 1_000 })
            record.result.copies = Int(statement.int())
            record.result.bytes = statement.int()
            record.result.damaged = Int(statement.int())
            record.result.missing = Int(statement.int())
            record.result.unverified = Int(statement.int())
            record.allAt = statement.timestampOrNull()
            record.failedAt = statement.timestampOrNull()
            record.failure = statement.textOrNull()
            records.append(record)
        }
        return records
    }
}

extension StateReader {
    package func verifications() throws(SafeBackupError) -> [VerificationRecord] {
        try read { (connection) throws(SafeBackupError) in
            var records = try VerificationRecord.all(connection)
            let count = try connection.statement(
                """
                SELECT count(*) FROM copy
                WHERE destination_id = ? AND source_id = ? AND damaged <> 0 AND removing IS NULL
                """)
            for index in records.indices where records[index].result.damaged + records[index].result.missing > 0 {
                defer { count.reset() }
                count.bind(records[index].destination.rawValue).bind(records[index].source.rawValue)
                if try count.step() { records[index].stillBad = Int(count.int()) }
            }
            return records
        }
    }
}

extension StateStore {
    /// A verification of these sources at the destination has come to its end. A share of nothing of a source is none.
    package func noteVerified(
        _ destination: DestinationID, _ results: [SourceID: VerificationRecord.Result], share: Double?
    ) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            let note = try connection.statement(
                """
                INSERT INTO verification (source_id, destination_id, ended_at, scope, share, copies, bytes, damaged, missing,
                    unverified, all_at)
                VALUES (?1, ?2, ?3, ?4, ?5 / 1000.0, ?6, ?7, ?8, ?9, ?10, ?11)
                ON CONFLICT (source_id, destination_id) DO UPDATE SET ended_at = ?3, scope = ?4, share = ?5 / 1000.0,
                    copies = ?6, bytes = ?7, damaged = ?8, missing = ?9, unverified = ?10, all_at = ifnull(?11, all_at),
                    failed_at = NULL, failure = NULL
                """)
            let scope = share == nil ? VerificationRecord.Scope.all : .share
            for (source, result) in results {
                try note.bind(source.rawValue).bind(destination.rawValue).bind(now).bind(text: scope.rawValue)
                    .bind(share.map { Int64(($0 * 1_000).rounded()) }).bind(Int64(result.copies)).bind(result.bytes)
                    .bind(Int64(result.damaged)).bind(Int64(result.missing)).bind(Int64(result.unverified))
                    .bind(share == nil ? now : nil).run()
            }
        }
    }

    /// A verification of these sources at the destination was broken off; what the last one found stays.
    package func noteVerificationFailed(
        _ destination: DestinationID, _ sources: [SourceID], _ failure: String
    ) throws(SafeBackupError) {
        let now = clock.now
        try write { (connection) throws(SafeBackupError) in
            let note = try connection.statement(
                """
                INSERT INTO verification (source_id, destination_id, failed_at, failure) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (source_id, destination_id) DO UPDATE SET failed_at = ?3, failure = ?4
                """)
            for source in sources {
                try note.bind(source.rawValue).bind(destination.rawValue).bind(now).bind(text: failure).run()
            }
        }
    }
}
