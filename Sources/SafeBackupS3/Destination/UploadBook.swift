import SafeBackupCore
import SafeBackupSystem

/// The uploads in parts of one destination, as the ledger has them, kept at hand. An object has at most one.
actor UploadBook {
    private let ledger: any UploadLedger
    private var records: [[UInt8]: UploadRecord]?
    /// Whose objects are there, in the order of that. They stay in the ledger until their leases are surely settled:
    /// after a crash before that they tell the digest of what was sent.
    private var finished: [(record: UploadRecord, at: ContinuousClock.Instant)] = []
    private static let settleTime = Duration.seconds(900)
    private static let finishedLimit = 1_000

    init(_ ledger: any UploadLedger) { self.ledger = ledger }

    /// Every upload that is not known to have ended.
    func all() async throws(SafeBackupError) -> [UploadRecord] { try await load().values.sorted { $0.id < $1.id } }

    private func load() async throws(SafeBackupError) -> [[UInt8]: UploadRecord] {
        if let records { return records }
        let found = try await ledger.uploads()
        // Another call may have been first.
        if let records { return records }
        var index: [[UInt8]: UploadRecord] = [:]
        for record in found { index[record.key] = record }
        records = index
        return index
    }

    func record(of key: ObjectKey) async throws(SafeBackupError) -> UploadRecord? { try await load()[key.bytes] }

    func parts(of record: UploadRecord) async throws(SafeBackupError) -> [UploadedPart] {
        try await ledger.parts(of: record.id)
    }

    func begin(_ record: UploadRecord) async throws(SafeBackupError) -> UploadRecord {
        _ = try await load()
        var record = record
        record.id = try await ledger.begin(record)
        records?[record.key] = record
        return record
    }

    func resume(_ record: UploadRecord, stage: String) async throws(SafeBackupError) -> UploadRecord {
        var record = record
        if record.stage != stage {
            try await ledger.resume(record.id, stage: stage)
            record.stage = stage
            records?[record.key] = record
        }
        return record
    }

    func complete(_ record: UploadRecord, digest: Digest, size: Int64) async throws(SafeBackupError) {
        try await ledger.complete(record.id, digest: digest, size: size)
        records?[record.key]?.digest = digest
        records?[record.key]?.size = size
    }

    func end(_ record: UploadRecord) async throws(SafeBackupError) {
        try await ledger.end(record.id)
        if records?[record.key]?.id == record.id { records?[record.key] = nil }
    }

    /// The object is there.
    func finish(_ record: UploadRecord) async {
        finished.append((record, .now))
        while let first = finished.first,
            finished.count > Self.finishedLimit || .now - first.at > Self.settleTime
        {
            finished.removeFirst()
            // The key may have another upload since.
            guard records?[first.record.key]?.id == first.record.id else { continue }
            do throws(SafeBackupError) {
                try await end(first.record)
            } catch {
                // Ignored because the next start ends it.
            }
        }
    }

    func log(_ record: UploadRecord) -> PartLog { PartLog(ledger, record.id) }
}

/// Records the finished parts of one upload: what finishes while others are being written goes with the next write, so
/// that a fast line does not wait for a slow disk.
actor PartLog {
    private let ledger: any UploadLedger
    private let upload: Int64
    private var pending: [UploadedPart] = []
    private var isWriting = false

    init(_ ledger: any UploadLedger, _ upload: Int64) {
        self.ledger = ledger
        self.upload = upload
    }

    func add(_ part: UploadedPart) async {
        pending.append(part)
        if isWriting { return }
        isWriting = true
        defer { isWriting = false }
        while !pending.isEmpty {
            let parts = pending
            pending = []
            do {
                try await ledger.add(parts, to: upload)
            } catch {
                // Ignored because a part that is not recorded is sent again; that the state fails is told when the job ends.
                return
            }
        }
    }
}
