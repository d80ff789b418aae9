package import SafeBackupCore

/// A ledger in memory: what it knows ends with the process.
package actor MemoryLedger: UploadLedger {
    private var records: [Int64: UploadRecord] = [:]
    private var known: [Int64: [Int: UploadedPart]] = [:]
    private var last: Int64 = 0

    package init() {}

    package func uploads() async throws(SafeBackupError) -> [UploadRecord] { records.values.sorted { $0.id < $1.id } }

    package func parts(of upload: Int64) async throws(SafeBackupError) -> [UploadedPart] {
        (known[upload] ?? [:]).values.sorted { $0.number < $1.number }
    }

    package func begin(_ record: UploadRecord) async throws(SafeBackupError) -> Int64 {
        last += 1
        records[last] = record
        records[last]?.id = last
        return last
    }

    package func resume(_ upload: Int64, stage: String) async throws(SafeBackupError) { records[upload]?.stage = stage }

    package func add(_ parts: [UploadedPart], to upload: Int64) async throws(SafeBackupError) {
        for part in parts { known[upload, default: [:]][part.number] = part }
    }

    package func complete(_ upload: Int64, digest: Digest, size: Int64) async throws(SafeBackupError) {
        records[upload]?.digest = digest
        records[upload]?.size = size
    }

    package func end(_ upload: Int64) async throws(SafeBackupError) {
        records[upload] = nil
        known[upload] = nil
    }
}
