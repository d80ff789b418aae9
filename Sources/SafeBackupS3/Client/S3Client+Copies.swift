package import SafeBackupCore
import SafeBackupSystem

// Copies within the bucket, and deletions.
extension S3Client {
    /// The largest object that one CopyObject takes.
    static let copyLimit: Int64 = 5 << 30
    private static let copyPart: Int64 = 512 << 20

    package func copy(
        _ key: ObjectKey, version: String?, size: Int64, to target: ObjectKey, _ properties: ObjectProperties?
    ) async throws(SafeBackupError) -> ObjectReceipt {
        if size > Self.copyLimit {
            return try await copyInParts(key, version: version, size: size, to: target, properties)
        }
        var call = S3Call(.copyObject, .put, target, expected: .document("CopyObjectResult"))
        call.headers = try headers(of: properties ?? ObjectProperties(), key: target)
        call.onlyIfAbsent = properties?.onlyIfAbsent ?? false
        if properties == nil {
            call.headers.removeAll { $0.name == "content-type" }
        } else {
            call.headers.append((name: "x-amz-metadata-directive", value: "REPLACE"))
        }
        if !settings.tags.isEmpty { call.headers.append((name: "x-amz-tagging-directive", value: "REPLACE")) }
        call.headers += try customerKey(ofSource: true)
        call.headers.append((name: "x-amz-copy-source", value: source(key, version)))
        call.isSlow = true
        let answer: S3Answer
        do { answer = try await perform(call) } catch { throw error.error }
        try confirmEncryption(answer, .copyObject)
        return ObjectReceipt(
            etag: answer.document.string("ETag") ?? "", version: answer.response.header("x-amz-version-id"))
    }

    private func source(_ key: ObjectKey, _ version: String?) -> String {
        var text =
            "/" + PercentEncoding.encode(settings.bucket) + "/" + PercentEncoding.encode(key.bytes, keepsSlash: true)
        if let version { text += "?versionId=" + PercentEncoding.encode(version) }
        return text
    }

    /// The ranges that make up `size` bytes: equal but for the last, at most 10,000.
    package static func copyRanges(size: Int64) -> [ClosedRange<Int64>] {
        var part = copyPart
        let mebibyte: Int64 = 1 << 20
        let least = (size + 9_999) / 10_000
        if least > part { part = (least + mebibyte - 1) / mebibyte * mebibyte }
        return stride(from: 0, to: size, by: Int64.Stride(part)).map { $0...(min($0 + part, size) - 1) }
    }

    private func copyInParts(
        _ key: ObjectKey, version: String?, size: Int64, to target: ObjectKey, _ properties: ObjectProperties?
    ) async throws(SafeBackupError) -> ObjectReceipt {
        // An upload in parts takes nothing over by itself; and the source must stay the same until the last part.
        guard let (_, head) = try await look(key, version: version) else {
            throw SafeBackupError(
                .objectRefused,
                "\"\(key)\" in bucket \(settings.bucket) cannot be copied: it is not there, or the policy must allow "
                    + "s3:GetObject there", disposition: .permanent)
        }
        if head.size != size {
            throw SafeBackupError(
                .objectRefused,
                "\"\(key)\" in bucket \(settings.bucket) has \(head.size) bytes, not \(size): somebody else changed it",
                disposition: .permanent)
        }
        let upload = try await beginUpload(target, properties ?? ObjectProperties(metadata: head.metadata))
        do {
            var parts: [PartReceipt] = []
            for (index, range) in Self.copyRanges(size: size).enumerated() {
                parts.append(try await copyPart(index + 1, of: upload, from: key, version: version, head, range))
            }
            return try await completeUpload(upload, parts, size: size)
        } catch {
            await giveUp(upload)
            throw error
        }
    }

    private func copyPart(
        _ number: Int, of upload: UploadHandle, from key: ObjectKey, version: String?, _ head: ObjectHead,
        _ range: ClosedRange<Int64>
    ) async throws(SafeBackupError) -> PartReceipt {
        var call = S3Call(.uploadPartCopy, .put, upload.key, expected: .document("CopyPartResult"))
        call.query = [("partNumber", String(number)), ("uploadId", upload.id)]
        call.headers = try customerKey() + (try customerKey(ofSource: true))
        call.headers.append((name: "x-amz-copy-source", value: source(key, version)))
        call.headers.append((name: "x-amz-copy-source-range", value: "bytes=\(range.lowerBound)-\(range.upperBound)"))
        if !head.etag.isEmpty { call.headers.append((name: "x-amz-copy-source-if-match", value: head.etag)) }
        call.isSlow = true
        let answer: S3Answer
        do { answer = try await perform(call) } catch { throw error.error }
        guard let etag = answer.document.string("ETag") else {
            throw SafeBackupError(
                .notObjectStore,
                "The server copied part \(number) of \"\(upload.key)\" without an ETag"
                    + Self.requestID(answer.response), disposition: .destinationUnavailable)
        }
        var part = PartReceipt(number: number, size: range.upperBound - range.lowerBound + 1, etag: etag)
        for algorithm in ChecksumAlgorithm.allCases {
            guard let value = answer.document.string("Checksum\(algorithm.name)") else { continue }
            part.checksum = value
            part.checksumAlgorithm = algorithm.rawValue
        }
        return part
    }

    // MARK: - Deletions

    package func delete(_ keys: [ObjectKey]) async throws(SafeBackupError) -> [SafeBackupError?] {
        var results = [SafeBackupError?](repeating: nil, count: keys.count)
        var single: [Int] = []
        var batch: [(index: Int, escaped: [UInt8])] = []
        for index in keys.indices {
            if keys.count > 1, !learnt.withLock({ $0.bulkDeleteRefused }),
                let text = XMLWriter.escape(keys[index].bytes)
            {
                batch.append((index, text))
                if batch.count == 1_000 {
                    single += try await deleteBatch(batch, keys, &results)
                    batch.removeAll(keepingCapacity: true)
                }
            } else {
                single.append(index)
            }
        }
        if batch.count == 1 {
            single.append(batch[0].index)
        } else if !batch.isEmpty {
            single += try await deleteBatch(batch, keys, &results)
        }
        for index in single { results[index] = try await deleteOne(keys[index]) }
        return results
    }

    /// What concerns the whole bucket is thrown, what concerns the key is given.
    private func deleteOne(_ key: ObjectKey) async throws(SafeBackupError) -> SafeBackupError? {
        do {
            _ = try await perform(S3Call(.deleteObject, .delete, key, expected: .nothing))
            return nil
        } catch {
            if error.rule.outcome == .absent { return nil }
            if error.rule.outcome.isOfBucket || error.error.code == .interrupted { throw error.error }
            return error.error
        }
    }

    /// - Returns: those that are to be deleted one by one.
    private func deleteBatch(
        _ batch: [(index: Int, escaped: [UInt8])], _ keys: [ObjectKey], _ results: inout [SafeBackupError?]
    ) async throws(SafeBackupError) -> [Int] {
        var writer = XMLWriter(root: "Delete")
        for item in batch {
            writer.begin("Object")
            writer.element("Key", escaped: item.escaped)
            writer.end()
        }
        var call = S3Call(.deleteObjects, .post, expected: .document("DeleteResult"))
        call.query = [("delete", nil)]
        call.content = .document(writer.finish())
        call.wantsMD5 = true
        let answer: S3Answer
        do { answer = try await perform(call) } catch {
            switch error.rule.outcome {
            case .notSupported, .ours, .setting, .absent, .object:
                let isNew = learnt.withLock { learnt in
                    defer { learnt.bulkDeleteRefused = true }
                    return !learnt.bulkDeleteRefused
                }
                if isNew { tell(.bulkDeleteMissing) }
                return batch.map(\.index)
            // Not of this request, perhaps of each key.
            case .denied: return batch.map(\.index)
            default: throw error.error
            }
        }
        // Only what the server names is deleted; a key that it does not name, or has a word about, gets a request of its
        // own, whose answer is about nothing else.
        var deleted: Set<[UInt8]> = []
        for element in answer.document.children where element.name == "Deleted" {
            if let key = element.bytes("Key") { deleted.insert(key) }
        }
        for element in answer.document.children where element.name == "Error" {
            guard let key = element.bytes("Key") else { continue }
            if element.string("Code") == "NoSuchKey" { deleted.insert(key) } else { deleted.remove(key) }
        }
        return batch.map(\.index).filter { !deleted.contains(keys[$0].bytes) }
    }
}
