package import SafeBackupCore
package import SystemPackage

/// What an import of a catalogue file brought.
package struct ImportReport: Sendable, Hashable {
    package var copies = 0
    package var names = 0
    /// Names without a copy, and rows of sources that could not be taken over.
    package var ignored = 0
    /// Of when the file is.
    package var exportedAt: Timestamp?
}

extension StateStore {
    /// Takes a destination's rows over from its catalogue file, into a state that has none of it: all of them, or, when
    /// this throws or the machine stops, none. Sources are found again by their uuid; unknown ones are made, inactive.
    ///
    /// - Parameter aliases: sources of this state that the file may know by another uuid.
    ///
    /// Throws `stateDamaged` for a file that is damaged (this state is not), and `invalidConfiguration` when the state
    /// already has copies of this destination.
    package func importCatalogue(
        _ path: FilePath, into destination: DestinationID, knownAs aliases: [String: SourceID] = [:]
    ) throws(SafeBackupError) -> ImportReport {
        let file = try CatalogueFileReader(path)
        try file.check()
        return try write { (connection) throws(SafeBackupError) in
            let existing = try connection.statement("SELECT 1 FROM copy WHERE destination_id = ? LIMIT 1")
            defer { existing.reset() }
            if try existing.bind(destination.rawValue).step() {
                throw SafeBackupError(
                    .invalidConfiguration, "The state already has copies of this destination; nothing was imported",
                    disposition: .permanent)
            }
            // Numbers keep their order, and their distance: those that are given here so far stay below them.
            let offset = lastNumber
            let sources = try importSources(file.connection, destination, aliases, connection)
            var report = ImportReport(exportedAt: file.header.exportedAt)
            try importCopies(file.connection, destination, sources, offset, &report, connection)
            try importNames(file.connection, destination, sources, offset, &report, connection)
            raiseCounter(to: offset + file.header.sequenceTo)
            try connection.statement(
                "UPDATE destination SET catalogue_exported_at = ?, catalogue_sequence = ? WHERE id = ?"
            ).bind(file.header.exportedAt).bind(lastNumber).bind(destination.rawValue).run()
            forgetPairs()
            return report
        }
    }

    /// The state's source for each of the file's.
    private func importSources(
        _ file: Connection, _ destination: DestinationID, _ aliases: [String: SourceID], _ connection: Connection
    ) throws(SafeBackupError) -> [Int64: SourceID] {
        let select = try file.statement(
            "SELECT id, uuid, prefix, path, fs_type, fs_volume, root_inode, root_birth_ns FROM source")
        defer { select.reset() }
        var sources: [Int64: SourceID] = [:]
        while try select.step() {
            let id = select.int()
            let uuid = select.text()
            let prefix = select.path()
            let known = try connection.statement("SELECT id FROM source WHERE uuid = ?")
            defer { known.reset() }
            if try known.bind(text: uuid).step() {
                sources[id] = SourceID(rawValue: known.int())
            } else if let source = aliases[uuid], !sources.values.contains(source) {
                sources[id] = source
            } else {
                let insert = try connection.statement(
                    """
                    INSERT INTO source (uuid, path, fs_type, fs_volume, root_inode, root_birth_ns)
                    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
                    """)
                insert.bind(text: uuid)
                for _ in 0..<5 { insert.bind(columnOf: select) }
                try insert.run()
                // Another source has the path now: whose rows these are is not for us to guess.
                if connection.changes == 0 { continue }
                sources[id] = SourceID(rawValue: connection.insertedRow)
            }
            guard let source = sources[id] else { continue }
            try connection.statement(
                "INSERT INTO pair (source_id, destination_id, prefix) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            ).bind(source.rawValue).bind(destination.rawValue).bind(prefix).run()
        }
        return sources
    }

    private func importCopies(
        _ file: Connection, _ destination: DestinationID, _ sources: [Int64: SourceID], _ offset: Int64,
        _ report: inout ImportReport, _ connection: Connection
    ) throws(SafeBackupError) {
        let select = try file.statement(
            """
            SELECT id, source_id, location, kind, digest, size, stored_at, inode, mtime_ns, role, versioned_at, adopted,
                fuzzy, damaged
            FROM copy
            """)
        defer { select.reset() }
        let insert = try connection.statement(
            """
            INSERT INTO copy (id, source_id, destination_id, location, kind, digest, size, stored_at, inode, mtime_ns, role,
                versioned_at, adopted, fuzzy, damaged)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        while try select.step() {
            let id = select.int()
            guard let source = sources[select.int()] else {
                report.ignored += 1
                continue
            }
            insert.bind(id + offset).bind(source.rawValue).bind(destination.rawValue)
            for _ in 0..<12 { insert.bind(columnOf: select) }
            try insert.run()
            report.copies += 1
        }
    }

    private func importNames(
        _ file: Connection, _ destination: DestinationID, _ sources: [Int64: SourceID], _ offset: Int64,
        _ report: inout ImportReport, _ connection: Connection
    ) throws(SafeBackupError) {
        let select = try file.statement(
            """
            SELECT id, source_id, copy_id, kind, size, fuzzy, ended_at, parent, leaf, kind, inode, size, mtime_ns, ctime_ns,
                mode, uid, gid, xattrs, link_target, fuzzy, racy, began_at, ended_at, end_reason,
                copy_id IS NULL AND kind <> 'directory' AND ended_at IS NULL
                    OR copy_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM copy c WHERE c.id = copy_id)
            FROM name
            """)
        defer { select.reset() }
        let insert = try connection.statement(
            """
            INSERT INTO name (id, source_id, destination_id, copy_id, parent, leaf, kind, inode, size, mtime_ns, ctime_ns,
                mode, uid, gid, xattrs, link_target, fuzzy, racy, began_at, ended_at, end_reason)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        while try select.step() {
            let id = select.int()
            let source = sources[select.int()]
            let copy = select.intOrNull()
            let kind = EntryKind(rawValue: select.text()) ?? .device
            let (size, isFuzzy, isLive) = (select.int(), select.bool(), select.isNull())
            select.skip()
            guard let source else {
                report.ignored += 1
                continue
            }
            insert.bind(id + offset).bind(source.rawValue).bind(destination.rawValue).bind(copy.map { $0 + offset })
            for _ in 0..<17 { insert.bind(columnOf: select) }
            if select.bool() {
                insert.reset()
                report.ignored += 1
                continue
            }
            try insert.run()
            report.names += 1
            if isLive {
                note(PairKey(source: source, destination: destination)) {
                    $0.count(kind, size: size, isFuzzy: isFuzzy, sign: 1)
                }
            }
        }
    }
}
