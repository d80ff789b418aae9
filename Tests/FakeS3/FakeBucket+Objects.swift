extension FakeBucket {
    /// What the headers say about an object, after they were found to be right.
    private static func properties(
        of request: FakeRequest, _ options: FakeS3Options
    ) throws(S3Failure) -> [String: String] {
        var kept: [String: String] = [:]
        var metadata = 0
        for (name, value) in request.headers {
            if name.hasPrefix("x-amz-meta-") {
                metadata += name.utf8.count - 11 + value.utf8.count
            } else if !Self.kept.contains(name) && !name.hasPrefix("x-amz-server-side-encryption")
                && !name.hasPrefix("x-amz-object-lock-")
            {
                continue
            }
            kept[name] = value
        }
        guard metadata <= 2_048 else { throw S3Failure(400, "MetadataTooLarge", "\(metadata) bytes of metadata") }
        if let acl = kept["x-amz-acl"] {
            let canned: Set = [
                "private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read",
                "bucket-owner-read", "bucket-owner-full-control",
            ]
            guard canned.contains(acl) else { throw S3Failure(400, "InvalidArgument", "x-amz-acl: \(acl)") }
            guard !options.hasNoACLs || acl == "bucket-owner-full-control" else {
                throw S3Failure(400, "AccessControlListNotSupported", "The bucket does not allow ACLs")
            }
        }
        if let kind = kept["x-amz-storage-class"] {
            let classes: Set = [
                "STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "GLACIER",
                "DEEP_ARCHIVE", "REDUCED_REDUNDANCY",
            ]
            guard classes.contains(kind) else { throw S3Failure(400, "InvalidStorageClass", kind) }
        }
        if let kind = kept["x-amz-server-side-encryption"], !["AES256", "aws:kms", "aws:kms:dsse"].contains(kind) {
            throw S3Failure(400, "InvalidEncryptionAlgorithmError", kind)
        }
        return kept
    }

    private static let kept: Set = [
        "cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires",
        "x-amz-acl", "x-amz-storage-class", "x-amz-tagging", "x-amz-website-redirect-location",
    ]
    private static let customerKey = "x-amz-server-side-encryption-customer-key-md5"

    static func checkKey(_ key: [UInt8]) throws(S3Failure) {
        guard key.count <= 1_024 else { throw S3Failure(400, "KeyTooLongError", "Your key is too long") }
        guard String(validating: key, as: UTF8.self) != nil else {
            throw S3Failure(400, "InvalidURI", "the key is not UTF-8")
        }
    }

    func checkConditions(_ key: [UInt8], _ request: FakeRequest, _ options: FakeS3Options) throws(S3Failure) {
        if options.ignoresConditionalWrites { return }
        let held = current(key)
        if let none = request.header("if-none-match") {
            guard none == "*" else { throw S3Failure(501, "NotImplemented", "If-None-Match: \(none)") }
            if held != nil {
                throw S3Failure(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
            }
        }
        if let match = request.header("if-match"), match != held?.etag {
            throw held == nil
                ? S3Failure(404, "NoSuchKey", "If-Match") : S3Failure(412, "PreconditionFailed", "If-Match")
        }
    }

    /// Object lock is for content that is known to be right.
    private static func checkLock(_ request: FakeRequest) throws(S3Failure) {
        let isLocked = request.headers.contains { $0.name.hasPrefix("x-amz-object-lock-") }
        let isChecked =
            request.header("content-md5") != nil
            || Digests.checksumNames.contains { request.header("x-amz-checksum-\($0)") != nil }
        if isLocked, !isChecked {
            throw S3Failure(400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required")
        }
    }

    static func checksums(of request: FakeRequest) -> [String: String] {
        var found: [String: String] = [:]
        for name in Digests.checksumNames {
            if let value = request.header("x-amz-checksum-\(name)") { found[name] = value }
        }
        return found
    }

    private func versionHeader(_ version: String) -> [(name: String, value: String)] {
        versioning == .never ? [] : [("x-amz-version-id", version)]
    }

    mutating func put(
        _ key: [UInt8], _ request: FakeRequest, _ options: FakeS3Options, now: Int
    ) throws(S3Failure) -> FakeAnswer {
        try Self.checkKey(key)
        let headers = try Self.properties(of: request, options)
        try Self.checkLock(request)
        try checkConditions(key, request, options)
        var object = FakeObject(
            bytes: request.body, etag: "\"\(Digests.hex(Digests.md5(request.body)))\"", version: "", modified: now,
            headers: headers)
        object.checksums = options.checksums == .verified ? Self.checksums(of: request) : [:]
        let version = store(key, object)
        var answer = FakeAnswer(200, headers: [("etag", object.etag)] + versionHeader(version))
        for (name, value) in object.checksums { answer.headers.append(("x-amz-checksum-\(name)", value)) }
        answer.headers += Self.encryption(in: headers)
        return answer
    }

    func get(_ key: [UInt8], _ request: FakeRequest) throws(S3Failure) -> FakeAnswer {
        let wanted = request.parameter("versionId")
        let last = versions[key]?.last
        guard let object = object(key, version: wanted) else {
            let marker = last?.isDeleteMarker == true ? [("x-amz-delete-marker", "true")] : []
            throw S3Failure(
                404, wanted == nil ? "NoSuchKey" : "NoSuchVersion", "The specified key does not exist.",
                details: [("Key", String(decoding: key, as: UTF8.self))],
                headers: marker.map { (name: $0.0, value: $0.1) })
        }
        if object.isDeleteMarker { throw S3Failure(405, "MethodNotAllowed", "a delete marker has no content") }
        guard object.headers[Self.customerKey] == request.header(Self.customerKey) else {
            throw S3Failure(400, "InvalidRequest", "the object was stored with another form of encryption")
        }
        var answer = FakeAnswer(200, headers: [("etag", object.etag), ("accept-ranges", "bytes")])
        answer.headers.append(("last-modified", WireTime.http(object.modified)))
        answer.headers += versionHeader(object.version)
        for (name, value) in object.headers.sorted(by: { $0.key < $1.key })
        where !["x-amz-acl", "x-amz-tagging"].contains(name) && !name.hasSuffix("customer-key") {
            answer.headers.append((name, value))
        }
        if request.header("x-amz-checksum-mode") == "ENABLED", request.header("range") == nil {
            for (name, value) in object.checksums {
                answer.headers.append(("x-amz-checksum-\(name)", value))
                answer.headers.append(("x-amz-checksum-type", value.contains("-") ? "COMPOSITE" : "FULL_OBJECT"))
            }
        }
        if let match = request.header("if-match"), match != object.etag {
            throw S3Failure(412, "PreconditionFailed", "If-Match")
        }
        if request.header("if-none-match") == object.etag { return FakeAnswer(304, headers: answer.headers) }
        answer.body = object.bytes
        if let range = request.header("range") {
            guard let (first, end) = Self.range(range, count: object.bytes.count) else {
                throw S3Failure(416, "InvalidRange", range)
            }
            answer.status = 206
            answer.headers.append(("content-range", "bytes \(first)-\(end - 1)/\(object.bytes.count)"))
            answer.body = Array(object.bytes[first..<end])
        }
        return answer
    }

    private static func range(_ text: String, count: Int) -> (Int, Int)? {
        guard text.hasPrefix("bytes=") else { return nil }
        let parts = text.dropFirst(6).split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, let first = Int(parts[0]), first < count else { return nil }
        guard let last = parts[1].isEmpty ? count - 1 : Int(parts[1]), last >= first else { return nil }
        return (first, min(last + 1, count))
    }

    mutating func removeMany(_ request: FakeRequest, now: Int) throws(S3Failure) -> FakeAnswer {
        guard request.header("content-md5") != nil || !Self.checksums(of: request).isEmpty else {
            throw S3Failure(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
        }
        let text = String(decoding: request.body, as: UTF8.self)
        let objects = XML.elements("Object", in: text)
        guard !objects.isEmpty, objects.count <= 1_000 else {
            throw S3Failure(400, "MalformedXML", "1 to 1,000 objects, not \(objects.count)")
        }
        let isQuiet = XML.elements("Quiet", in: text).first == "true"
        var inner = ""
        for object in objects {
            guard let spelled = XML.elements("Key", in: object).first, let key = XML.unescape(spelled), !key.isEmpty
            else { throw S3Failure(400, "MalformedXML", "no key: \(object)") }
            let version = XML.elements("VersionId", in: object).first.flatMap { XML.unescape($0) }
            let removal = remove(key, version: version.map { String(decoding: $0, as: UTF8.self) }, now: now)
            if isQuiet { continue }
            inner += "<Deleted><Key>\(XML.escape(key))</Key>"
            if let version = removal.version { inner += "<VersionId>\(XML.escape(version))</VersionId>" }
            inner += "</Deleted>"
        }
        return FakeAnswer(200, xml: "<DeleteResult>\(inner)</DeleteResult>")
    }

    mutating func copy(
        _ source: FakeObject, to key: [UInt8], _ request: FakeRequest, _ options: FakeS3Options, now: Int
    ) throws(S3Failure) -> FakeAnswer {
        try Self.checkKey(key)
        guard request.body.isEmpty else { throw S3Failure(400, "InvalidRequest", "a copy has no body") }
        if let match = request.header("x-amz-copy-source-if-match"), match != source.etag {
            throw S3Failure(412, "PreconditionFailed", "x-amz-copy-source-if-match")
        }
        let named = try Self.properties(of: request, options)
        var object = source
        let directive = request.header("x-amz-metadata-directive") ?? "COPY"
        if directive == "REPLACE" {
            object.headers = named
        } else {
            guard directive == "COPY" else { throw S3Failure(400, "InvalidArgument", "x-amz-metadata-directive") }
            guard !named.keys.contains(where: { $0.hasPrefix("x-amz-meta-") }) else {
                throw S3Failure(400, "InvalidRequest", "metadata of a copy that keeps the source's")
            }
            // Class and encryption are the request's, not the source's.
            object.headers = object.headers.filter {
                $0.key.hasPrefix("x-amz-meta-") || $0.key.hasPrefix("content-") || $0.key == "x-amz-tagging"
            }.merging(named) { $1 }
        }
        try checkConditions(key, request, options)
        object.modified = now
        // A copy is one part: its ETag is the content's MD5.
        object.etag = "\"\(Digests.hex(Digests.md5(object.bytes)))\""
        object.checksums = object.checksums.filter { !$0.value.contains("-") }
        let version = store(key, object)
        return FakeAnswer(
            200, headers: versionHeader(version),
            xml: "<CopyObjectResult><LastModified>\(WireTime.iso(now))</LastModified>"
                + "<ETag>\(XML.escape(object.etag))</ETag></CopyObjectResult>")
    }

    mutating func versioning(_ request: FakeRequest, sets: Bool) throws(S3Failure) -> FakeAnswer {
        if sets {
            let text = XML.elements("Status", in: String(decoding: request.body, as: UTF8.self)).first.map(String.init)
            guard let text, let value = Versioning(rawValue: text), value != .never else {
                throw S3Failure(400, "MalformedXML", "no status")
            }
            versioning = value
            return FakeAnswer(200)
        }
        let status = versioning == .never ? "" : "<Status>\(versioning.rawValue)</Status>"
        return FakeAnswer(200, xml: "<VersioningConfiguration>\(status)</VersioningConfiguration>")
    }

    // MARK: What an upload needs of it

    static func uploadProperties(
        of request: FakeRequest, _ options: FakeS3Options
    ) throws(S3Failure) -> [String: String] {
        var headers = try properties(of: request, options)
        for name in ["x-amz-checksum-algorithm", "x-amz-checksum-type"] {
            if let value = request.header(name) { headers[name] = value }
        }
        return headers
    }

    /// What an answer repeats of the encryption; never the key.
    static func encryption(in headers: [String: String]) -> [(name: String, value: String)] {
        headers.filter { $0.key.hasPrefix("x-amz-server-side-encryption") && !$0.key.hasSuffix("customer-key") }
            .map { (name: $0.key, value: $0.value) }
    }

    func versionHeaders(_ version: String) -> [(name: String, value: String)] { versionHeader(version) }
}
