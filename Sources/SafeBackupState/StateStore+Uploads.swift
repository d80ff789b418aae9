package import SafeBackupCore
import SafeBackupSystem

/// Uploads in parts, so that a restart goes on with them.
extension StateStore {
    func uploads(_ destination: DestinationID) throws(SafeBackupError) -> [UploadRecord] {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT id, object_key, upload, token, stage_name, inode, size, mtime_ns, ctime_ns, part_size, begun_at,
                    digest, stored_size
                FROM upload WHERE destination_id = ? ORDER BY id
                """)
            defer { select.reset() }
            select.bind(destination.rawValue)
            var found: [UploadRecord] = []
            while try select.step() {
                var record = UploadRecord(
                    id: select.int(), key: select.bytes(), upload: select.text(), token: select.text(),
                    stage: select.text(),
                    fingerprint: Fingerprint(
                        inode: select.bits() ?? 0, size: select.int(),
                        mtime: select.fileTime() ?? FileTime(nanoseconds: 0),
                        ctime: select.fileTime() ?? FileTime(nanoseconds: 0)),
                    partSize: select.int(), begunAt: select.timestamp())
                record.digest = select.bytesOrNull().flatMap { Digest(bytes: $0) }
                record.size = select.intOrNull()
                found.append(record)
            }
            return found
        }
    }

    func uploadParts(_ upload: Int64) throws(SafeBackupError) -> [UploadedPart] {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement(
                """
                SELECT number, size, etag, checksum, checksum_algorithm, digest FROM upload_part WHERE upload_id = ?
                ORDER BY number
                """)
            defer { select.reset() }
            select.bind(upload)
            var found: [UploadedPart] = []
            while try select.step() {
                let (number, size, etag) = (select.int(), select.int(), select.text())
                let (checksum, algorithm) = (select.textOrNull(), select.textOrNull())
                guard let digest = Digest(bytes: select.bytes()) else { continue }
                found.append(
                    UploadedPart(
                        number: Int(number), size: size, etag: etag, checksum: checksum, checksumAlgorithm: algorithm,
                        digest: digest))
            }
            return found
        }
    }

    func beginUpload(
        _ destination: DestinationID, _ record: UploadRecord
    ) throws(SafeBackupError) -> Int64 {
        try write { (connection) throws(SafeBackupError) in
            let id = nextNumber()
            try connection.statement(
                """
                INSERT INTO upload (id, destination_id, object_key, upload, token, stage_name, inode, size, mtime_ns,
                    ctime_ns, part_size, begun_at)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """
            ).bind(id).bind(destination.rawValue).bind(path: record.key).bind(text: record.upload)
                .bind(text: record.token).bind(text: record.stage).bind(bits: record.fingerprint.inode)
                .bind(record.fingerprint.size).bind(record.fingerprint.mtime).bind(record.fingerprint.ctime)
                .bind(record.partSize).bind(record.begunAt).run()
            return id
        }
    }

    func resumeUpload(_ upload: Int64, stage: String) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE upload SET stage_name = ? WHERE id = ?").bind(text: stage).bind(upload)
                .run()
        }
    }

    func add(_ parts: [UploadedPart], toUpload upload: Int64) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            // Of an upload that has ended nothing is kept.
            let insert = try connection.statement(
                """
                INSERT OR REPLACE INTO upload_part (upload_id, number, size, etag, checksum, checksum_algorithm, digest)
                SELECT id, ?, ?, ?, ?, ?, ? FROM upload WHERE id = ?
                """)
            for part in parts {
                try insert.bind(Int64(part.number)).bind(part.size).bind(text: part.etag).bind(text: part.checksum)
                    .bind(text: part.checksumAlgorithm).bind(blob: part.digest.bytes).bind(upload).run()
            }
        }
    }

    func completeUpload(_ upload: Int64, digest: Digest, size: Int64) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("UPDATE upload SET digest = ?, stored_size = ? WHERE id = ?")
                .bind(blob: digest.bytes).bind(size).bind(upload).run()
        }
    }

    func endUpload(_ upload: Int64) throws(SafeBackupError) {
        try write { (connection) throws(SafeBackupError) in
            try connection.statement("DELETE FROM upload_part WHERE upload_id = ?").bind(upload).run()
            try connection.statement("DELETE FROM upload WHERE id = ?").bind(upload).run()
        }
    }
}

/// The ledger of one destination's uploads in the state.
package struct StateUploadLedger: UploadLedger {
    private let state: StateStore
    private let destination: DestinationID

    package init(_ state: StateStore, _ destination: DestinationID) {
        self.state = state
        self.destination = destination
    }

    package func uploads() async throws(SafeBackupError) -> [UploadRecord] { try await state.uploads(destination) }

    package func parts(of upload: Int64) async throws(SafeBackupError) -> [UploadedPart] {
        try await state.uploadParts(upload)
    }

    package func begin(_ record: UploadRecord) async throws(SafeBackupError) -> Int64 {
        try await state.beginUpload(destination, record)
    }

    package func resume(_ upload: Int64, stage: String) async throws(SafeBackupError) {
        try await state.resumeUpload(upload, stage: stage)
    }

    package func add(_ parts: [UploadedPart], to upload: Int64) async throws(SafeBackupError) {
        try await state.add(parts, toUpload: upload)
    }

    package func complete(_ upload: Int64, digest: Digest, size: Int64) async throws(SafeBackupError) {
        try await state.completeUpload(upload, digest: digest, size: size)
    }

    package func end(_ upload: Int64) async throws(SafeBackupError) { try await state.endUpload(upload) }
}
