package import SafeBackupCore

/// How much of a destination can be verified.
package struct VerifiableTotal: Sendable, Hashable {
    /// With a recorded digest.
    package var copies: Int64
    package var bytes: Int64
    /// Without one: somebody else's files that were moved aside.
    package var withoutDigest: Int64
}

/// Which copies are to be verified.
package enum CopyScope: Sendable, Hashable {
    /// All of the destination, by their numbers.
    case all
    /// Those that a path's names point to, now or before.
    case of(SourceID, RelativePath)
    /// Those that lie below a location.
    case below(RelativePath)
}

/// A place between two copies, to go on from.
package struct CopyCursor: Sendable, Hashable {
    var id: Int64 = 0
    var range = 0
    var location: RelativePath?

    /// After the copy with this number, of `CopyScope.all`.
    package static func after(_ id: Int64) -> CopyCursor { CopyCursor(id: id) }
}

/// A part of the copies that were asked for.
package struct CopyPage: Sendable {
    package var copies: [CopyRecord]
    /// Whose they are, in the same order.
    package var sources: [SourceID] = []
    /// Where the rest begins; `nil` at the end.
    package var next: CopyCursor?
}

/// What `safebackup verify` reads. Each call is one short read.
extension StateReader {
    /// Looks at every copy's row.
    package func verifiable(_ destination: DestinationID) throws(SafeBackupError) -> VerifiableTotal {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                """
                SELECT count(digest), ifnull(sum(min(size, 17592186044416)) FILTER (WHERE digest IS NOT NULL), 0),
                    count(*) - count(digest)
                FROM copy WHERE destination_id = ? AND removing IS NULL AND kind IN ('file', 'symlink')
                """)
            defer { statement.reset() }
            guard try statement.bind(destination.rawValue).step() else {
                return VerifiableTotal(copies: 0, bytes: 0, withoutDigest: 0)
            }
            return VerifiableTotal(copies: statement.int(), bytes: statement.int(), withoutDigest: statement.int())
        }
    }

    /// The number of the copy that the last rolling share ended with; 0 before the first.
    package func verifiedUpTo(_ destination: DestinationID) throws(SafeBackupError) -> Int64 {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement("SELECT ifnull(verified_upto, 0) FROM destination WHERE id = ?")
            defer { statement.reset() }
            return try statement.bind(destination.rawValue).step() ? statement.int() : 0
        }
    }

    /// Up to `limit` copies that are files or links, and are not being removed.
    package func copies(
        _ destination: DestinationID, _ scope: CopyScope, after cursor: CopyCursor?, limit: Int
    ) throws(SafeBackupError) -> CopyPage {
        try read { (connection) throws(SafeBackupError) in
            try CopyQuery(state: destination, connection).page(scope, after: cursor, limit: limit)
        }
    }

    /// The copy as it is known now; `nil` if it is no more.
    package func copy(_ id: Int64) throws(SafeBackupError) -> CopyRecord? {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.prepare(
                "SELECT \(CopyQuery.columns) FROM copy c WHERE c.id = ? AND c.removing IS NULL")
            return try statement.bind(id).step() ? CopyRecord.read(statement) : nil
        }
    }

    /// The path that has, or had last, the copy.
    package func path(ofCopy id: Int64) throws(SafeBackupError) -> RelativePath? {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.statement(
                "SELECT parent, leaf FROM name WHERE copy_id = ? ORDER BY id DESC LIMIT 1")
            defer { statement.reset() }
            return try statement.bind(id).step() ? statement.path().appending(statement.bytes()) : nil
        }
    }

    /// The newest state of the copy's path that is neither fuzzy nor damaged; `nil` if the backup has none.
    package func newestGoodVersion(
        besides id: Int64
    ) throws(SafeBackupError) -> (copy: CopyRecord, began: Timestamp)? {
        try read { (connection) throws(SafeBackupError) in
            let statement = try connection.prepare(
                """
                SELECT n.began_at, \(CopyQuery.columns) FROM name m JOIN name n ON n.source_id = m.source_id
                        AND n.destination_id = m.destination_id AND n.parent = m.parent AND n.leaf = m.leaf
                        AND n.ended_at IS NOT NULL
                    JOIN copy c ON c.id = n.copy_id
                WHERE m.id = (SELECT max(id) FROM name WHERE copy_id = ?1) AND c.id <> ?1 AND c.fuzzy = 0
                    AND c.damaged = 0 AND c.removing IS NULL AND c.digest IS NOT NULL
                ORDER BY n.id DESC LIMIT 1
                """)
            guard try statement.bind(id).step() else { return nil }
            let began = statement.timestamp()
            return (CopyRecord.read(statement), began)
        }
    }

    /// Where the copy's destination has a sound copy of the same content, as far as is known, rather a current one.
    /// Looks at every copy's row.
    package func sameContent(as copy: CopyRecord) throws(SafeBackupError) -> RelativePath? {
        guard let digest = copy.digest else { return nil }
        return try read { (connection) throws(SafeBackupError) in
            let statement = try connection.prepare(
                """
                SELECT c.location FROM copy c NOT INDEXED
                WHERE c.destination_id = (SELECT destination_id FROM copy WHERE id = ?1) AND c.id <> ?1 AND c.digest = ?2
                    AND c.kind = ?3 AND c.fuzzy = 0 AND c.damaged = 0 AND c.removing IS NULL
                ORDER BY c.role <> 'current', c.id LIMIT 1
                """)
            statement.bind(copy.id).bind(blob: digest.bytes).bind(text: copy.kind.rawValue)
            return try statement.step() ? statement.path() : nil
        }
    }
}
