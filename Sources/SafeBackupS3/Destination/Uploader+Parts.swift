package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Sending a large file.
extension Uploader {
    /// What one part's request came to.
    private enum PartResult: Sendable {
        case sent(PartReceipt)
        case failed(SafeBackupError)
    }

    /// One part on its way.
    private struct Part: Sendable {
        var number: Int
        var buffer: PartBuffer
        var digest: Digest?
        var upload: UploadHandle
    }

    /// The parts that were sent, or why not all of them were.
    private struct Sending {
        var receipts: [Int: PartReceipt] = [:]
        var failure: SafeBackupError?
        var inFlight = 0

        mutating func note(_ result: PartResult) {
            inFlight -= 1
            switch result {
            case .sent(let receipt): receipts[receipt.number] = receipt
            case .failed(let error): failure = failure ?? error
            }
        }
    }

    func uploadInParts(
        _ order: Order, _ accept: (ReadContent) async throws(SafeBackupError) -> Bool
    ) async throws(SafeBackupError) -> ReadContent? {
        guard let plan = PartPlan(size: order.status.size, preferred: limits.part) else {
            throw SafeBackupError(
                .destinationFailed,
                "\(order.path) is not saved: it has \(ByteCount(order.status.size)), and an object in S3 has at most "
                    + "48 TiB; exclude it, or save it to a disk",
                disposition: .permanent)
        }
        let (record, known) = try await open(order, plan)
        let reader = reader(order)
        do throws(SafeBackupError) {
            let receipts = try await send(order, plan, record, known, reader)
            let content = try await io.run { () throws(SafeBackupError) in try reader.finish() }
            guard try await accept(content) else {
                await abandon(record)
                return nil
            }
            try checkGoing(order)
            // Recorded before, so that after a crash the object can be known without being read.
            try await book.complete(record, digest: content.digest, size: content.size)
            Faults.reach("s3.completing")
            let handle = UploadHandle(key: order.key, id: record.upload)
            _ = try await store.completeUpload(handle, receipts, size: content.size)
            await book.finish(record)
            return content
        } catch {
            try await settle(record, after: error)
            throw error
        }
    }

    /// What becomes of an upload that did not end well. One that may go on later stays, with its parts.
    private func settle(_ record: UploadRecord, after error: SafeBackupError) async throws(SafeBackupError) {
        switch error.code {
        case .interrupted: return
        // The server does not know it any more: it is begun again by the next attempt.
        case S3Code.uploadLost: try await book.end(record)
        // The file is another one now: its fingerprint will not be the upload's.
        case .torn, .changedKind: await abandon(record)
        default: if error.disposition == .permanent || Task.isCancelled { await abandon(record) }
        }
    }

    /// The upload of an earlier attempt with the parts that the server has of it, if it is of this very file; else a new
    /// one.
    private func open(
        _ order: Order, _ plan: PartPlan
    ) async throws(SafeBackupError) -> (UploadRecord, [Int: UploadedPart]) {
        if let record = try await book.record(of: order.key) {
            let handle = UploadHandle(key: order.key, id: record.upload)
            if record.fingerprint == order.status.fingerprint, record.partSize == plan.partSize {
                if let there = try await partsThere(handle) {
                    var known: [Int: UploadedPart] = [:]
                    let recorded = try await book.parts(of: record)
                    let servers = Dictionary(there.map { ($0.number, $0) }, uniquingKeysWith: { $1 })
                    for part in recorded {
                        guard let server = servers[part.number], server.etag == part.etag, server.size == part.size
                        else { continue }
                        known[part.number] = part
                    }
                    return (try await book.resume(record, stage: order.stage), known)
                }
                await abandon(record)
            } else {
                await abandon(record)
            }
        }
        try checkGoing(order)
        let handle = try await store.beginUpload(order.key, order.properties(nil, order.stage))
        Faults.reach("s3.begun")
        do throws(SafeBackupError) {
            let record = try await book.begin(
                UploadRecord(
                    id: 0, key: order.key.bytes, upload: handle.id, token: order.stage, stage: order.stage,
                    fingerprint: order.status.fingerprint, partSize: plan.partSize, begunAt: clock.now))
            return (record, [:])
        } catch {
            // Nobody would know of it.
            do throws(SafeBackupError) { try await store.abortUpload(handle) } catch {
                // Ignored because the first failure matters; `abandonStale` finds it.
            }
            throw error
        }
    }

    /// What the server has of an upload; `nil` if it does not know it, or the keys may not ask: then it is begun again.
    private func partsThere(_ upload: UploadHandle) async throws(SafeBackupError) -> [PartReceipt]? {
        do throws(SafeBackupError) {
            return try await store.parts(of: upload)
        } catch {
            guard error.isRefusal else { throw error }
            return nil
        }
    }

    /// Reads the file part by part, and sends those that the server has not; gives all of them, in their order.
    private func send(
        _ order: Order, _ plan: PartPlan, _ record: UploadRecord, _ known: [Int: UploadedPart], _ reader: PartReader
    ) async throws(SafeBackupError) -> [PartReceipt] {
        let handle = UploadHandle(key: order.key, id: record.upload)
        let log = await book.log(record)
        let hasFailed = Flag()
        let sending = await withTaskGroup(of: PartResult.self) { tasks in
            var sending = Sending()
            for number in 1...plan.count {
                while sending.inFlight >= limits.partsAtOnce, let result = await tasks.next() { sending.note(result) }
                let size = Int(plan.range(of: number).count)
                await budget.take(size)
                if sending.failure != nil || hasFailed.isSet {
                    budget.give(size)
                    break
                }
                let buffer: PartBuffer
                let digest: Digest?
                do throws(SafeBackupError) {
                    (buffer, digest) = try await io.run { () throws(SafeBackupError) in
                        try reader.next(size, hashesPart: true)
                    }
                } catch {
                    budget.give(size)
                    sending.failure = sending.failure ?? error
                    break
                }
                // The file was cut off since it was looked at.
                if buffer.count == 0 && number > 1 {
                    budget.give(size)
                    break
                }
                if let part = known[number], part.digest == digest, part.size == Int64(buffer.count) {
                    budget.give(size)
                    sending.receipts[number] = PartReceipt(
                        number: number, size: part.size, etag: part.etag, checksum: part.checksum,
                        checksumAlgorithm: part.checksumAlgorithm)
                    continue
                }
                sending.inFlight += 1
                let part = Part(number: number, buffer: buffer, digest: digest, upload: handle)
                tasks.addTask {
                    defer { self.budget.give(size) }
                    return await self.send(part, log, hasFailed)
                }
                if buffer.count < size { break }
            }
            if sending.failure != nil { tasks.cancelAll() }
            for await result in tasks { sending.note(result) }
            return sending
        }
        if let failure = sending.failure { throw failure }
        return sending.receipts.values.sorted { $0.number < $1.number }
    }

    private func send(_ part: Part, _ log: PartLog, _ hasFailed: Flag) async -> PartResult {
        do throws(SafeBackupError) {
            let receipt = try await store.uploadPart(
                part.number, of: part.upload, .buffer(part.buffer, sha256: part.digest))
            if let digest = part.digest {
                await log.add(
                    UploadedPart(
                        number: part.number, size: receipt.size, etag: receipt.etag, checksum: receipt.checksum,
                        checksumAlgorithm: receipt.checksumAlgorithm, digest: digest))
            }
            Faults.reach("s3.part")
            return .sent(receipt)
        } catch {
            hasFailed.set()
            return .failed(error)
        }
    }

    /// Ends uploads that nobody will go on with: of the ledger those older than a week, and of the server those below the
    /// prefix that are not in the ledger and older than a day. Not to be called while files are sent.
    package func abandonStale(below prefix: [UInt8]) async throws(SafeBackupError) {
        let now = clock.now
        var known: Set<String> = []
        for record in try await book.all() {
            let isOld = now - record.begunAt > .seconds(7 * 86_400)
            let handle = UploadHandle(key: ObjectKey(unchecked: record.key), id: record.upload)
            if isOld {
                await abandon(record)
            } else if record.digest != nil, try await store.parts(of: handle) == nil {
                // It became an object.
                try await book.end(record)
            } else {
                known.insert(record.upload)
            }
        }
        for (upload, begunAt) in try await listed(below: prefix)
        where !known.contains(upload.id) && now - begunAt > .seconds(86_400) {
            try await store.abortUpload(upload)
        }
    }

    /// None where the server or the policy does not list uploads: what is stale there is a lifecycle rule's to end.
    private func listed(
        below prefix: [UInt8]
    ) async throws(SafeBackupError) -> [(upload: UploadHandle, begunAt: Timestamp)] {
        do throws(SafeBackupError) {
            return try await store.uploads(below: prefix)
        } catch {
            guard error.isRefusal || error.code == S3Code.uploadLost else { throw error }
            return []
        }
    }

    /// The content of an object that an upload in parts made, by the token in its metadata.
    func content(ofUpload token: String, at key: ObjectKey) async throws(SafeBackupError) -> (Digest, Int64)? {
        guard let record = try await book.record(of: key), record.token == token, let digest = record.digest,
            let size = record.size
        else { return nil }
        return (digest, size)
    }

    /// Whether the object with this token was made by an upload that the lease went on with.
    func isToken(_ token: String, of stage: String, at key: ObjectKey) async throws(SafeBackupError) -> Bool {
        if token == stage { return true }
        let record = try await book.record(of: key)
        return record?.token == token && record?.stage == stage
    }
}
