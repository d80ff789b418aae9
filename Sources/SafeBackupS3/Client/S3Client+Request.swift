import SafeBackupCore
import SafeBackupSystem

// How a call becomes a request.
extension S3Client {
    /// From this on a body is sent only when the server agreed: a refusal costs nothing then.
    private static let expectFrom = 2 << 20

    func request(_ call: S3Call, _ address: BucketAddress) throws(SafeBackupError) -> Made {
        var path = Array(address.pathPrefix.utf8)
        path.append(UInt8(ascii: "/"))
        if let key = call.key { PercentEncoding.append(key.bytes, keepsSlash: true, to: &path) }
        var request = HTTPRequest(
            call.method, address.origin, path: String(decoding: path, as: UTF8.self), query: call.query,
            headers: call.headers)
        request.sink = call.sink
        if settings.requesterPays { request.headers.append((name: "x-amz-request-payer", value: "requester")) }
        if let owner = settings.expectedBucketOwner {
            request.headers.append((name: "x-amz-expected-bucket-owner", value: owner))
        }
        if call.isSlow { request.limits.answer = .seconds(900) }
        var made = Made(request: request, payload: .empty)
        switch call.content {
        case .none: break
        case .document(let bytes):
            made.request.body = .bytes(bytes)
            made.payload = .sha256(SHA256.digest(of: bytes))
            made.request.headers.append((name: "content-type", value: "application/xml"))
            if call.wantsMD5 {
                let value = try ChecksumAlgorithm.md5.value(of: .bytes(bytes))
                made.request.headers.append((name: "content-md5", value: Base64.encode(value)))
            }
        case .object(let body): try add(body, to: &made, address)
        }
        return made
    }

    private func add(_ body: ObjectBody, to made: inout Made, _ address: BucketAddress) throws(SafeBackupError) {
        var digest: Digest?
        switch body {
        case .bytes(let bytes): made.request.body = .bytes(bytes)
        case .buffer(let buffer, let sha256):
            made.request.body = .buffer(buffer)
            digest = sha256
        }
        let algorithm = objectChecksum(address)
        // Over TLS AWS compares the checksum; a digest that is there already costs nothing and is compared as well.
        let isUnsigned =
            digest == nil && address.isAWS && address.origin.scheme == .https && algorithm != nil
            && algorithm != .sha256
        if !isUnsigned, digest == nil { digest = body.withBytes { Self.sha256(of: $0) } }
        if let digest { made.payload = .sha256(digest) } else { made.payload = .unsigned }
        if let algorithm {
            let value: [UInt8]
            if algorithm == .sha256, let digest {
                value = digest.bytes
            } else {
                value = try algorithm.value(of: body)
            }
            let text = Base64.encode(value)
            made.request.headers.append((name: algorithm.header, value: text))
            made.checksum = (algorithm, text)
        }
        made.request.expectsContinue = address.isAWS && body.count >= Self.expectFrom
        if body.count >= Self.expectFrom { made.request.limits.answer = .seconds(300) }
    }

    /// The checksum that goes with a body now; `nil`: none besides the signed SHA-256.
    func objectChecksum(_ address: BucketAddress) -> ChecksumAlgorithm? {
        var algorithm = settings.checksum.algorithm
        if settings.checksum == .auto, address.isAWS, address.origin.scheme == .https { algorithm = .crc64nvme }
        if learnt.withLock({ $0.checksumsRefused }) { algorithm = nil }
        // Object lock wants one with each object, and every server knows this one.
        if algorithm == nil, settings.objectLock != nil { algorithm = .md5 }
        return algorithm
    }

    private static func sha256(of bytes: UnsafeRawBufferPointer) -> Digest {
        let hash = SHA256()
        hash.update(bytes)
        return hash.finish()
    }

    /// What an object begins with: its metadata, and what the configuration says about objects.
    func headers(of properties: ObjectProperties, key: ObjectKey) throws(SafeBackupError) -> [(
        name: String, value: String
    )] {
        var headers: [(name: String, value: String)] = [(name: "content-type", value: "binary/octet-stream")]
        for (name, value) in properties.metadata.sorted(by: { $0.key < $1.key }) {
            guard Self.isHeaderName(name), Self.isHeaderValue(value) else {
                throw SafeBackupError(
                    .objectRefused, "The metadata \(String(reflecting: name)) of \"\(key)\" cannot be sent in a header",
                    disposition: .permanent)
            }
            headers.append((name: "x-amz-meta-\(name)", value: value))
        }
        if properties.onlyIfAbsent { headers.append((name: "if-none-match", value: "*")) }
        if let acl = settings.acl { headers.append((name: "x-amz-acl", value: acl)) }
        if let storageClass = settings.storageClass {
            headers.append((name: "x-amz-storage-class", value: storageClass))
        }
        if !settings.tags.isEmpty {
            let pairs = settings.tags.sorted { $0.key < $1.key }
            let text = pairs.map { PercentEncoding.encode($0.key) + "=" + PercentEncoding.encode($0.value) }
            headers.append((name: "x-amz-tagging", value: text.joined(separator: "&")))
        }
        if let header = settings.encryption.header {
            headers.append((name: "x-amz-server-side-encryption", value: header))
        }
        if case .kms(let key, _, let bucketKey) = settings.encryption {
            if let key { headers.append((name: "x-amz-server-side-encryption-aws-kms-key-id", value: key)) }
            if bucketKey { headers.append((name: "x-amz-server-side-encryption-bucket-key-enabled", value: "true")) }
        }
        if let lock = settings.objectLock {
            if let mode = lock.mode {
                headers.append((name: "x-amz-object-lock-mode", value: mode.rawValue))
                headers.append((name: "x-amz-object-lock-retain-until-date", value: (now + lock.retention).iso8601))
            }
            if lock.legalHold { headers.append((name: "x-amz-object-lock-legal-hold", value: "ON")) }
        }
        return headers + (try customerKey())
    }

    /// The headers of SSE-C, which every request that touches content repeats.
    /// - Parameter ofSource: as a copy names its source's.
    func customerKey(ofSource: Bool = false) throws(SafeBackupError) -> [(name: String, value: String)] {
        guard case .customer(let key) = settings.encryption else { return [] }
        let stem = ofSource ? "x-amz-copy-source-server-side" : "x-amz-server-side"
        let digest = try ChecksumAlgorithm.md5.value(of: .bytes(key.bytes))
        return [
            (name: "\(stem)-encryption-customer-algorithm", value: "AES256"),
            (name: "\(stem)-encryption-customer-key", value: Base64.encode(key.bytes)),
            (name: "\(stem)-encryption-customer-key-md5", value: Base64.encode(digest)),
        ]
    }

    private static func isHeaderName(_ name: String) -> Bool {
        !name.isEmpty
            && name.utf8.allSatisfy {
                (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2D || $0 == 0x5F
            }
    }

    /// Printable ASCII without two spaces in a row or at an end: what servers make of others differs, and the signature
    /// would not be theirs.
    package static func isHeaderValue(_ value: String) -> Bool {
        var last: UInt8 = 0x20
        for byte in value.utf8 {
            if !(0x20...0x7E).contains(byte) || (byte == 0x20 && last == 0x20) { return false }
            last = byte
        }
        return value.isEmpty || last != 0x20
    }

    /// Whether the server did what the configuration asks for each object: an encryption that it ignores without a word
    /// is told before anything counts as stored.
    func confirmEncryption(_ answer: S3Answer, _ operation: S3Operation) throws(SafeBackupError) {
        let header: String
        let asked: String
        switch settings.encryption {
        case .bucketDefault: return
        case .customer: (header, asked) = ("x-amz-server-side-encryption-customer-algorithm", "AES256")
        case .server, .kms:
            (header, asked) = ("x-amz-server-side-encryption", settings.encryption.header ?? "")
        }
        let got = answer.response.header(header)
        if got == asked { return }
        throw SafeBackupError(
            .settingRefused,
            "\(operation.rawValue) in bucket \(settings.bucket): the server ignored the encryption that was asked for "
                + "(\(header) is \(got ?? "missing"), not \(asked)); what was sent is stored without it. Remove the "
                + "option encryption, or use a server that has it" + Self.requestID(answer.response),
            disposition: .destinationUnavailable)
    }

    static func requestID(_ response: HTTPResponse) -> String {
        guard let id = response.header("x-amz-request-id") else { return "" }
        return " (request \(id))"
    }
}

extension ObjectBody {
    func withBytes<Value>(_ body: (UnsafeRawBufferPointer) -> Value) -> Value {
        switch self {
        case .bytes(let bytes): bytes.withUnsafeBytes(body)
        case .buffer(let buffer, _): buffer.withBytes(body)
        }
    }
}

extension ChecksumAlgorithm {
    func value(of body: ObjectBody) throws(SafeBackupError) -> [UInt8] {
        let result: Result<[UInt8], SafeBackupError> = body.withBytes { bytes in
            do throws(SafeBackupError) { return .success(try value(of: bytes)) } catch { return .failure(error) }
        }
        return try result.get()
    }
}

extension S3ClientSettings {
    /// What can be told to be wrong before the first request.
    func check(address: BucketAddress) throws(SafeBackupError) {
        if case .customer = encryption, address.origin.scheme == .http {
            throw refusal("SSE-C sends the key with each request, so it needs an endpoint with https://")
        }
        for (option, value) in [
            ("acl", acl), ("storage-class", storageClass), ("expected-bucket-owner", expectedBucketOwner),
        ] {
            guard let value else { continue }
            if value.isEmpty || !S3Client.isHeaderValue(value) {
                throw refusal("The option \(option) has a value that cannot be sent in a header; correct it")
            }
        }
        if case .kms(let key?, _, _) = encryption, key.isEmpty || !S3Client.isHeaderValue(key) {
            throw refusal("The option kms-key has a value that cannot be sent in a header; correct it")
        }
        if tags.count > 10 { throw refusal("An object has at most 10 tags, not \(tags.count)") }
        if let lock = objectLock, lock.mode != nil, lock.retention <= .zero {
            throw refusal("Object lock with a mode needs the time for which each version is kept")
        }
    }

    private func refusal(_ message: String) -> SafeBackupError {
        SafeBackupError(.invalidConfiguration, message, disposition: .permanent)
    }
}
