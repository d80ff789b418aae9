package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

// Single objects.
extension S3Client {
    package func put(
        _ key: ObjectKey, _ body: ObjectBody, _ properties: ObjectProperties
    ) async throws(SafeBackupError) -> ObjectReceipt {
        var call = S3Call(.putObject, .put, key, expected: .receipt)
        call.headers = try headers(of: properties, key: key)
        call.content = .object(body)
        call.onlyIfAbsent = properties.onlyIfAbsent
        let answer: S3Answer
        do { answer = try await perform(call) } catch {
            // What is there may be ours, of an attempt whose answer was lost.
            guard error.rule.action == .verify, error.mayHaveArrived,
                let head = try await head(key, version: nil), head.size == Int64(body.count),
                !properties.metadata.isEmpty, head.metadata == properties.metadata
            else { throw error.error }
            return ObjectReceipt(etag: head.etag, version: head.version)
        }
        try confirmEncryption(answer, .putObject)
        let receipt = Self.receipt(answer.response)
        try await confirmLock(key, receipt.version)
        return receipt
    }

    static func receipt(_ response: HTTPResponse) -> ObjectReceipt {
        ObjectReceipt(etag: response.header("etag") ?? "", version: response.header("x-amz-version-id"))
    }

    /// Looks, once, whether the server keeps what it was told about object lock: the answer to a PUT does not say so.
    func confirmLock(_ key: ObjectKey, _ version: String?) async throws(SafeBackupError) {
        guard let lock = settings.objectLock, !learnt.withLock({ $0.lockSeen }) else { return }
        guard let (response, _) = try await look(key, version: version) else {
            // Without s3:GetObject nobody can tell here; the server took the headers without a complaint.
            return
        }
        let mode = response.header("x-amz-object-lock-mode")
        let hold = response.header("x-amz-object-lock-legal-hold")
        if lock.mode.map({ $0.rawValue == mode }) ?? true, !lock.legalHold || hold == "ON" {
            learnt.withLock { $0.lockSeen = true }
            return
        }
        throw SafeBackupError(
            .settingRefused,
            "The server stored \"\(key)\" in bucket \(settings.bucket) without the object lock that was asked for, or "
                + "the keys may not see it (s3:GetObjectRetention, s3:GetObjectLegalHold); remove the retention settings, "
                + "or use a bucket that has object lock" + Self.requestID(response),
            disposition: .destinationUnavailable)
    }

    package func head(_ key: ObjectKey, version: String?) async throws(SafeBackupError) -> ObjectHead? {
        try await look(key, version: version)?.head
    }

    /// HEAD, with the answer's headers. `nil`: no such object, or the policy does not show it.
    func look(
        _ key: ObjectKey, version: String?, withChecksum: Bool = false
    ) async throws(SafeBackupError) -> (response: HTTPResponse, head: ObjectHead)? {
        var call = S3Call(.headObject, .head, key, expected: .object)
        if let version { call.query.append((name: "versionId", value: version)) }
        call.headers = try customerKey()
        if withChecksum { call.headers.append((name: "x-amz-checksum-mode", value: "ENABLED")) }
        let response: HTTPResponse
        do { response = try await perform(call).response } catch {
            if error.rule.outcome == .absent || error.rule.outcome == .denied { return nil }
            throw error.error
        }
        return (response, try Self.head(of: response, size: nil))
    }

    /// - Parameter size: of the body; `nil`: by the header.
    static func head(of response: HTTPResponse, size: Int64?) throws(SafeBackupError) -> ObjectHead {
        guard let size = size ?? response.header("content-length").flatMap({ Int64($0) }), size >= 0 else {
            throw SafeBackupError(
                .notObjectStore, "An answer about an object does not say how long it is" + requestID(response),
                disposition: .destinationUnavailable)
        }
        var head = ObjectHead(size: size, etag: response.header("etag") ?? "")
        // A bucket without versions gives "null" or nothing.
        head.version = response.header("x-amz-version-id")
        head.modifiedAt = response.header("last-modified").flatMap(S3Date.http)
        let prefix = "x-amz-meta-"
        for (name, value) in response.headers where name.hasPrefix(prefix) {
            head.metadata[String(name.dropFirst(prefix.count))] = value
        }
        return head
    }

    package func get(
        _ key: ObjectKey, version: String?, into file: Descriptor
    ) async throws(SafeBackupError) -> ObjectHead? {
        guard let response = try await fetch(key, version: version, sink: .file(file, offset: 0)) else { return nil }
        let head = try Self.head(of: response, size: response.bodyCount)
        // An earlier attempt may have left more.
        do { try file.setSize(head.size) } catch { throw Self.unkept(error) }
        let isRight = try Self.isRight(response, head) { (buffer, offset) throws(SafeBackupError) in
            do throws(Errno) { return try file.read(into: buffer, at: offset) } catch { throw Self.unkept(error) }
        }
        if !isRight { throw Self.damaged(key, settings.bucket, response) }
        return head
    }

    package func bytes(
        of key: ObjectKey, limit: Int
    ) async throws(SafeBackupError) -> (bytes: [UInt8], head: ObjectHead)? {
        guard let response = try await fetch(key, version: nil, sink: .memory(limit: limit)) else { return nil }
        let head = try Self.head(of: response, size: response.bodyCount)
        let body = response.body
        let isRight = try Self.isRight(response, head) { (buffer, offset) throws(SafeBackupError) in
            let rest = body[min(Int(offset), body.count)...].prefix(buffer.count)
            buffer.copyBytes(from: rest)
            return rest.count
        }
        if !isRight { throw Self.damaged(key, settings.bucket, response) }
        return (body, head)
    }

    private func fetch(
        _ key: ObjectKey, version: String?, sink: HTTPRequest.Sink
    ) async throws(SafeBackupError) -> HTTPResponse? {
        var call = S3Call(.getObject, .get, key, expected: .object)
        if let version { call.query.append((name: "versionId", value: version)) }
        call.headers = try customerKey()
        if objectChecksum(try address()).map({ $0 != .md5 }) ?? false {
            call.headers.append((name: "x-amz-checksum-mode", value: "ENABLED"))
        }
        call.sink = sink
        do { return try await perform(call).response } catch {
            if error.rule.outcome == .absent { return nil }
            throw error.error
        }
    }

    private static func damaged(_ key: ObjectKey, _ bucket: String, _ response: HTTPResponse) -> SafeBackupError {
        SafeBackupError(
            .damaged,
            "What came of \"\(key)\" in bucket \(bucket) does not have the length or the checksum that was recorded with it"
                + requestID(response), disposition: .permanent)
    }

    private static func unkept(_ error: Errno) -> SafeBackupError {
        SafeBackupError(
            .stateFailed, "A downloaded copy cannot be kept in a temporary file: error \(error.rawValue)",
            disposition: .transient, systemError: error.rawValue)
    }

    /// Whether length and checksum of what came are those that the answer says.
    private static func isRight(
        _ response: HTTPResponse, _ head: ObjectHead,
        read: (UnsafeMutableRawBufferPointer, Int64) throws(SafeBackupError) -> Int
    ) throws(SafeBackupError) -> Bool {
        if let length = response.header("content-length").flatMap({ Int64($0) }), length != head.size { return false }
        let expected: [UInt8]?
        var crc: CRC?
        let named: [ChecksumAlgorithm] = [.crc64nvme, .crc32c, .crc32]
        // One that ends in "-N" is of the parts' checksums, and is of no use here.
        let isOfParts = response.header("x-amz-checksum-type") == "COMPOSITE"
        if !isOfParts,
            let (algorithm, value) = named.lazy.compactMap({ name in
                response.header(name.header).flatMap { Base64.decode($0.utf8) }.map { (name, $0) }
            }).first, let kind = algorithm.crc
        {
            crc = CRC(kind)
            expected = value
        } else if !isOfParts,
            let value = response.header("x-amz-checksum-sha256").flatMap({ Base64.decode($0.utf8) }), value.count == 32
        {
            expected = value
        } else {
            // Ours, of the content that was sent.
            expected = head.metadata["sha256"].flatMap(hexadecimalBytes)
        }
        guard let expected else { return true }
        let hash = SHA256()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 4_096)
        defer { buffer.deallocate() }
        var offset: Int64 = 0
        while offset < head.size {
            let count = try read(buffer, offset)
            if count == 0 { return false }
            let part = UnsafeRawBufferPointer(rebasing: buffer[..<count])
            if crc == nil { hash.update(part) } else { crc?.update(part) }
            offset += Int64(count)
        }
        return (crc?.bytes ?? hash.finish().bytes) == expected
    }

    /// 64 hexadecimal digits as bytes.
    private static func hexadecimalBytes(_ text: String) -> [UInt8]? {
        let digits = Array(text.utf8)
        guard digits.count == 64 else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: 64, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index..<(index + 2)], as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(byte)
        }
        return bytes
    }
}
