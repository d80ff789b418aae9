import SafeBackupCore

/// The views that a person reads with `sqlite3 queue.db 'select * from v_status'`. Names and columns are a documented
/// contract. They are made anew when another release opens the file, so that they need no migration.
enum Views {
    static let names = ["v_status", "v_pending", "v_stuck", "v_history", "v_exposure", "v_cleaned"]

    /// A stored path as text: as it is, or as x'…' where it is not valid UTF-8.
    private static func path(_ column: String) -> String {
        "CASE typeof(\(column)) WHEN 'blob' THEN 'x''' || hex(\(column)) || '''' ELSE \(column) END"
    }

    /// Microseconds as 2026-11-23T03:45:12Z.
    private static func time(_ column: String) -> String {
        "strftime('%Y-%m-%dT%H:%M:%SZ', (\(column)) / 1000000, 'unixepoch')"
    }

    /// A name's parent and leaf as one path.
    private static let namePath = """
        CASE WHEN typeof(n.parent) = 'blob' OR typeof(n.leaf) = 'blob'
        THEN 'x''' || CASE WHEN length(n.parent) = 0 THEN '' ELSE hex(n.parent) || '2F' END || hex(n.leaf) || ''''
        WHEN n.parent = '' THEN n.leaf ELSE n.parent || '/' || n.leaf END
        """

    /// Microseconds now; `unixepoch('subsec')` is too new.
    private static let now = "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"

    private static let jobOrigins = """
        FROM job j JOIN source s ON s.id = j.source_id JOIN destination d ON d.id = j.destination_id
        """

    static let sql = """
        CREATE VIEW v_status AS
        SELECT \(path("s.path")) AS source, \(path("d.location")) AS destination,
            CASE WHEN p.active = 0 THEN 'inactive'
                WHEN s.held_reason IS NOT NULL THEN 'source held: ' || s.held_reason
                WHEN d.held_reason IS NOT NULL THEN 'destination held: ' || d.held_reason
                WHEN s.paused_at IS NOT NULL THEN 'source paused since ' || \(time("s.paused_at"))
                WHEN d.paused_at IS NOT NULL THEN 'destination paused since ' || \(time("d.paused_at"))
                WHEN s.desynced THEN 'reconcile due'
                WHEN ifnull(t.pending, 0) + ifnull(t.leased, 0) > 0 THEN 'saving'
                WHEN ifnull(t.stuck, 0) > 0 THEN 'stuck'
                ELSE 'in sync' END AS state,
            ifnull(t.files, 0) AS files, ifnull(t.bytes, 0) AS bytes, ifnull(t.pending, 0) AS pending,
            ifnull(t.leased, 0) AS leased, ifnull(t.stuck, 0) AS stuck, ifnull(t.fuzzy, 0) AS fuzzy,
            (SELECT count(*) FROM not_saved u WHERE u.source_id = s.id) AS not_saved, s.excluded AS excluded,
            s.directories AS directories, s.watched AS watched, s.coverage AS coverage,
            \(time("s.last_reconcile_at")) AS reconciled, \(time("p.first_save_at")) AS first_saved,
            \(time("d.last_proof_at")) AS seen, \(time("w.ended_at")) AS verified, w.scope AS verified_scope,
            w.copies AS verified_copies, w.damaged AS verified_damaged, w.missing AS verified_missing
        FROM pair p JOIN source s ON s.id = p.source_id JOIN destination d ON d.id = p.destination_id
            LEFT JOIN tally t ON t.source_id = p.source_id AND t.destination_id = p.destination_id
            LEFT JOIN verification w ON w.source_id = p.source_id AND w.destination_id = p.destination_id;

        CREATE VIEW v_pending AS
        SELECT \(path("j.path")) AS path, j.action AS action, j.state AS state, j.size AS size,
            \(time("j.first_seen_at")) AS since, \(time("j.not_before")) AS not_before, j.attempts AS attempts,
            j.last_error_code AS error, \(path("s.path")) AS source, \(path("d.location")) AS destination
        \(jobOrigins) WHERE j.state IN ('pending', 'leased') ORDER BY j.sequence;

        CREATE VIEW v_stuck AS
        SELECT \(path("j.path")) AS path, j.last_error_code AS error, j.last_error AS message, j.attempts AS attempts,
            \(time("j.first_seen_at")) AS since, \(time("j.not_before")) AS next_try,
            \(path("s.path")) AS source, \(path("d.location")) AS destination
        \(jobOrigins) WHERE j.state = 'stuck' ORDER BY j.sequence;

        CREATE VIEW v_history AS
        SELECT \(namePath) AS path, n.kind AS kind, n.size AS size, \(time("n.began_at")) AS began,
            \(time("n.ended_at")) AS ended, n.end_reason AS reason, \(path("c.location")) AS location, c.role AS role,
            nullif(lower(hex(c.digest)), '') AS sha256, n.fuzzy AS fuzzy, \(path("s.path")) AS source,
            \(path("d.location")) AS destination
        FROM name n LEFT JOIN copy c ON c.id = n.copy_id JOIN source s ON s.id = n.source_id
            JOIN destination d ON d.id = n.destination_id
        ORDER BY n.source_id, n.destination_id, n.parent, n.leaf, n.id;

        CREATE VIEW v_exposure AS
        SELECT \(path("s.path")) AS source, \(path("d.location")) AS destination, e.reason AS reason, e.files AS files,
            e.directories AS directories, e.bytes AS bytes, e.unknown_size AS unknown_size, \(time("e.oldest_at")) AS oldest
        FROM (\(ExposureQuery.parts(now: now))) e JOIN source s ON s.id = e.source_id
            JOIN destination d ON d.id = e.destination_id;

        CREATE VIEW v_cleaned AS
        SELECT \(time("c.at")) AS at, \(path("c.path")) AS path, \(path("c.location")) AS location, c.size AS size,
            c.reason AS reason, \(path("d.location")) AS destination
        FROM cleaned c JOIN destination d ON d.id = c.destination_id ORDER BY c.id;
        """

    /// Replaces all views.
    static func create(in connection: Connection) throws(SafeBackupError) {
        for name in names { try connection.execute("DROP VIEW IF EXISTS \(name)") }
        try connection.execute(sql)
    }
}
