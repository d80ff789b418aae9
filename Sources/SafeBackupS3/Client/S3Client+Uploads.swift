package import SafeBackupCore
import SafeBackupSystem

// Uploads in parts.
extension S3Client {
    package func beginUpload(
        _ key: ObjectKey, _ properties: ObjectProperties
    ) async throws(SafeBackupError) -> UploadHandle {
        // Whether something may be under the key is said when the parts become the object.
        var properties = properties
        properties.onlyIfAbsent = false
        var call = S3Call(.createUpload, .post, key, expected: .document("InitiateMultipartUploadResult"))
        call.query = [("uploads", nil)]
        call.headers = try headers(of: properties, key: key)
        let algorithm = objectChecksum(try address())
        if let algorithm, algorithm != .md5 {
            call.headers.append((name: "x-amz-checksum-algorithm", value: algorithm.name))
            if algorithm == .crc64nvme { call.headers.append((name: "x-amz-checksum-type", value: "FULL_OBJECT")) }
        }
        let answer: S3Answer
        do { answer = try await perform(call, hasChecksum: algorithm != nil && algorithm != .md5) } catch {
            // The checksum's headers are made anew, without.
            if error.rule.action == .dropChecksums, learnt.withLock({ $0.checksumsRefused }) {
                return try await beginUpload(key, properties)
            }
            throw error.error
        }
        guard let id = answer.document.string("UploadId") else {
            throw SafeBackupError(
                .notObjectStore,
                "The server began an upload of \"\(key)\" without giving its id"
                    + Self.requestID(answer.response), disposition: .destinationUnavailable)
        }
        let upload = UploadHandle(key: key, id: id)
        do { try confirmEncryption(answer, .createUpload) } catch {
            await giveUp(upload)
            throw error
        }
        return upload
    }

    package func uploadPart(
        _ number: Int, of upload: UploadHandle, _ body: ObjectBody
    ) async throws(SafeBackupError) -> PartReceipt {
        var call = S3Call(.uploadPart, .put, upload.key, expected: .receipt)
        call.query = [("partNumber", String(number)), ("uploadId", upload.id)]
        call.headers = try customerKey()
        call.content = .object(body)
        let answer: S3Answer
        do { answer = try await perform(call) } catch { throw error.error }
        guard let etag = answer.response.header("etag"), !etag.isEmpty else {
            throw SafeBackupError(
                .notObjectStore,
                "The server took part \(number) of \"\(upload.key)\" without an ETag, so it cannot be put together"
                    + Self.requestID(answer.response), disposition: .destinationUnavailable)
        }
        let checksum = answer.checksum.flatMap { $0.algorithm == .md5 ? nil : $0 }
        return PartReceipt(
            number: number, size: Int64(body.count), etag: etag, checksum: checksum?.value,
            checksumAlgorithm: checksum?.algorithm.rawValue)
    }

    package func completeUpload(
        _ upload: UploadHandle, _ parts: [PartReceipt], size: Int64
    ) async throws(SafeBackupError) -> ObjectReceipt {
        let parts = parts.sorted { $0.number < $1.number }
        var writer = XMLWriter(root: "CompleteMultipartUpload")
        for part in parts {
            writer.begin("Part")
            writer.element("PartNumber", String(part.number))
            writer.element("ETag", part.etag)
            if let checksum = part.checksum, let algorithm = part.checksumAlgorithm {
                writer.element("Checksum\(algorithm.uppercased())", checksum)
            }
            writer.end()
        }
        var call = S3Call(.completeUpload, .post, upload.key, expected: .document("CompleteMultipartUploadResult"))
        call.query = [("uploadId", upload.id)]
        call.headers = try customerKey()
        call.content = .document(writer.finish())
        call.isSlow = true
        let whole = Self.wholeChecksum(of: parts)
        if try address().isAWS {
            // A part that is missing or short is noticed there.
            call.headers.append((name: "x-amz-mp-object-size", value: String(size)))
            if let whole {
                call.headers.append((name: "x-amz-checksum-crc64nvme", value: whole))
                call.headers.append((name: "x-amz-checksum-type", value: "FULL_OBJECT"))
            }
        }
        do {
            let answer = try await perform(call)
            return ObjectReceipt(
                etag: answer.document.string("ETag") ?? "", version: answer.response.header("x-amz-version-id"))
        } catch {
            guard error.rule.action == .verify else { throw error.error }
            if let receipt = try await completed(upload.key, parts, whole: whole, size: size) { return receipt }
            throw error.error
        }
    }

    /// Whether the object is made of exactly these parts: the server completed the upload, and its answer was lost.
    ///
    /// Only the checksum of the whole, or an ETag that is made of those of the parts, proves it. An older object of the
    /// same length does not: the upload begins again then, which loses time and no data.
    private func completed(
        _ key: ObjectKey, _ parts: [PartReceipt], whole: String?, size: Int64
    ) async throws(SafeBackupError) -> ObjectReceipt? {
        guard let (response, head) = try await look(key, version: nil, withChecksum: whole != nil), head.size == size
        else { return nil }
        if let whole, response.header("x-amz-checksum-crc64nvme") == whole {
            return ObjectReceipt(etag: head.etag, version: head.version)
        }
        if let etag = Self.wholeETag(of: parts), Self.bare(head.etag) == etag {
            return ObjectReceipt(etag: head.etag, version: head.version)
        }
        return nil
    }

    /// The CRC64NVME of all parts together, in Base64; `nil` unless each part has one.
    static func wholeChecksum(of parts: [PartReceipt]) -> String? {
        var whole = CRC(.crc64nvme)
        for part in parts {
            guard part.checksumAlgorithm == ChecksumAlgorithm.crc64nvme.rawValue, let text = part.checksum,
                let bytes = Base64.decode(text.utf8), bytes.count == 8
            else { return nil }
            let value = bytes.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            whole.append(CRC(.crc64nvme, value: value), count: part.size)
        }
        return parts.isEmpty ? nil : Base64.encode(whole.bytes)
    }

    /// The MD5 of the parts' MD5s and their count, as most servers make the ETag; `nil` where the parts' ETags are no
    /// MD5s or OpenSSL has none.
    static func wholeETag(of parts: [PartReceipt]) -> String? {
        var all: [UInt8] = []
        for part in parts {
            let digits = Array(bare(part.etag).utf8)
            guard digits.count == 32 else { return nil }
            for index in stride(from: 0, to: 32, by: 2) {
                guard let byte = UInt8(String(decoding: digits[index..<(index + 2)], as: UTF8.self), radix: 16) else {
                    return nil
                }
                all.append(byte)
            }
        }
        if parts.isEmpty { return nil }
        let digest: [UInt8]
        // Without MD5 nothing is proved, and the upload begins again.
        do throws(SafeBackupError) { digest = try ChecksumAlgorithm.md5.value(of: .bytes(all)) } catch { return nil }
        return "\(hexadecimal(digest))-\(parts.count)"
    }

    static func bare(_ etag: String) -> String {
        etag.count >= 2 && etag.hasPrefix("\"") && etag.hasSuffix("\"") ? String(etag.dropFirst().dropLast()) : etag
    }

    /// After a failure that is told itself.
    func giveUp(_ upload: UploadHandle) async {
        do throws(SafeBackupError) {
            try await abortUpload(upload)
        } catch {
            tell(.uploadLeft(key: upload.key, reason: error.message))
        }
    }

    package func abortUpload(_ upload: UploadHandle) async throws(SafeBackupError) {
        var call = S3Call(.abortUpload, .delete, upload.key, expected: .nothing)
        call.query = [("uploadId", upload.id)]
        do { _ = try await perform(call) } catch {
            if error.rule.outcome == .uploadLost || error.rule.outcome == .absent { return }
            throw error.error
        }
    }

    package func parts(of upload: UploadHandle) async throws(SafeBackupError) -> [PartReceipt]? {
        var parts: [PartReceipt] = []
        var marker: String?
        while true {
            var call = S3Call(.listParts, .get, upload.key, expected: .document("ListPartsResult"))
            call.query = [("uploadId", upload.id), ("max-parts", "1000")]
            if let marker { call.query.append(("part-number-marker", marker)) }
            call.headers = try customerKey()
            let page: XMLElement
            do { page = try await perform(call).document } catch {
                if error.rule.outcome == .uploadLost || error.rule.outcome == .absent { return nil }
                throw error.error
            }
            for element in page.children where element.name == "Part" {
                guard let number = element.number("PartNumber"), let size = element.number("Size") else { continue }
                var part = PartReceipt(number: Int(number), size: size, etag: element.string("ETag") ?? "")
                for algorithm in ChecksumAlgorithm.allCases {
                    guard let value = element.string("Checksum\(algorithm.name)") else { continue }
                    part.checksum = value
                    part.checksumAlgorithm = algorithm.rawValue
                }
                parts.append(part)
            }
            guard page.string("IsTruncated") == "true" else { return parts.sorted { $0.number < $1.number } }
            let next = page.string("NextPartNumberMarker") ?? parts.last.map { String($0.number) }
            guard let next, next != marker else { throw Self.endless(.listParts, settings.bucket) }
            marker = next
        }
    }

    /// A listing that repeats itself.
    static func endless(_ operation: S3Operation, _ bucket: String) -> SafeBackupError {
        SafeBackupError(
            .serverFailed, "\(operation.rawValue) in bucket \(bucket) does not go on: the server repeats a page",
            disposition: .throttled)
    }

    package func uploads(
        below prefix: [UInt8]
    ) async throws(SafeBackupError) -> [(upload: UploadHandle, begunAt: Timestamp)] {
        var uploads: [(upload: UploadHandle, begunAt: Timestamp)] = []
        var marker: (key: String, id: String)?
        while true {
            var call = S3Call(.listUploads, .get, expected: .document("ListMultipartUploadsResult"))
            call.query = [("uploads", nil), ("encoding-type", "url"), ("prefix", try Self.text(prefix))]
            if let marker {
                call.query += [("key-marker", marker.key), ("upload-id-marker", marker.id)]
            }
            let page: XMLElement
            do { page = try await perform(call).document } catch {
                // Some servers do not have it; what they keep is then for a lifecycle rule.
                if error.rule.outcome == .notSupported { return uploads }
                throw error.error
            }
            let isEncoded = page.string("EncodingType") == "url"
            for element in page.children where element.name == "Upload" {
                guard let key = Self.key(element.bytes("Key"), isEncoded), let id = element.string("UploadId") else {
                    continue
                }
                let begun = element.string("Initiated").flatMap(S3Date.iso) ?? now
                uploads.append((UploadHandle(key: ObjectKey(unchecked: key), id: id), begun))
            }
            guard page.string("IsTruncated") == "true" else { return uploads }
            guard let key = Self.key(page.bytes("NextKeyMarker"), isEncoded), let id = page.string("NextUploadIdMarker")
            else { throw Self.endless(.listUploads, settings.bucket) }
            let next = (key: String(decoding: key, as: UTF8.self), id: id)
            if let marker, marker == next { throw Self.endless(.listUploads, settings.bucket) }
            marker = next
        }
    }
}
