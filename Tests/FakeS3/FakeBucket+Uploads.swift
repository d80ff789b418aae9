extension FakeBucket {
    func upload(_ key: [UInt8], _ request: FakeRequest) throws(S3Failure) -> FakeUpload {
        guard let upload = uploads[request.parameter("uploadId") ?? ""], upload.key == key else {
            throw S3Failure(404, "NoSuchUpload", "The specified upload does not exist.")
        }
        return upload
    }

    mutating func createUpload(
        _ key: [UInt8], _ bucket: String, _ request: FakeRequest, _ options: FakeS3Options, now: Int
    ) throws(S3Failure) -> FakeAnswer {
        try Self.checkKey(key)
        var headers = try Self.uploadProperties(of: request, options)
        if options.checksums != .verified { headers["x-amz-checksum-algorithm"] = nil }
        if let algorithm = headers["x-amz-checksum-algorithm"],
            !Digests.checksumNames.contains(algorithm.lowercased())
        {
            throw S3Failure(400, "InvalidRequest", "x-amz-checksum-algorithm: \(algorithm)")
        }
        let upload = FakeUpload(id: makeIdentifier("u"), key: key, begun: now, headers: headers)
        uploads[upload.id] = upload
        return FakeAnswer(
            200, headers: Self.encryption(in: headers),
            xml: "<InitiateMultipartUploadResult><Bucket>\(bucket)</Bucket><Key>\(XML.escape(key))</Key>"
                + "<UploadId>\(XML.escape(upload.id))</UploadId></InitiateMultipartUploadResult>")
    }

    private func partNumber(_ request: FakeRequest) throws(S3Failure) -> Int {
        guard let number = request.parameter("partNumber").flatMap({ Int($0) }), (1...10_000).contains(number) else {
            throw S3Failure(400, "InvalidArgument", "Part number must be an integer between 1 and 10000")
        }
        return number
    }

    mutating func uploadPart(_ key: [UInt8], _ request: FakeRequest, now: Int) throws(S3Failure) -> FakeAnswer {
        let upload = try upload(key, request)
        let number = try partNumber(request)
        if let named = request.headers.first(where: { $0.name.hasPrefix("x-amz-meta-") || $0.name == "x-amz-acl" }) {
            throw S3Failure(400, "InvalidArgument", "\(named.name) belongs to the upload, not to its part")
        }
        let customerKey = "x-amz-server-side-encryption-customer-key-md5"
        guard upload.headers[customerKey] == request.header(customerKey) else {
            throw S3Failure(400, "InvalidRequest", "the upload was begun with another form of encryption")
        }
        let checksums = Self.checksums(of: request)
        if let algorithm = upload.headers["x-amz-checksum-algorithm"], checksums[algorithm.lowercased()] == nil {
            throw S3Failure(400, "InvalidRequest", "the upload's checksum is \(algorithm); the part has none")
        }
        return try add(number, of: upload, request.body, checksums, now: now)
    }

    private mutating func add(
        _ number: Int, of upload: FakeUpload, _ bytes: [UInt8], _ checksums: [String: String], now: Int
    ) throws(S3Failure) -> FakeAnswer {
        let md5 = Digests.md5(bytes)
        let etag = "\"\(Digests.hex(md5))\""
        uploads[upload.id]?.parts[number] = FakeUpload.Part(
            bytes: bytes, etag: etag, md5: md5, modified: now, checksums: checksums)
        return FakeAnswer(
            200, headers: [("etag", etag)] + checksums.map { (name: "x-amz-checksum-\($0.key)", value: $0.value) })
    }

    mutating func copyPart(
        _ source: FakeObject, to key: [UInt8], _ request: FakeRequest, now: Int
    ) throws(S3Failure) -> FakeAnswer {
        let upload = try upload(key, request)
        let number = try partNumber(request)
        var bytes = source.bytes
        if let range = request.header("x-amz-copy-source-range") {
            let parts = range.dropFirst(6).split(separator: "-").compactMap { Int($0) }
            guard range.hasPrefix("bytes="), parts.count == 2, parts[0] <= parts[1], parts[1] < bytes.count else {
                throw S3Failure(400, "InvalidArgument", "x-amz-copy-source-range: \(range)")
            }
            bytes = Array(bytes[parts[0]...parts[1]])
        }
        let answer = try add(number, of: upload, bytes, [:], now: now)
        let etag = answer.headers.first?.value ?? ""
        return FakeAnswer(
            200,
            xml: "<CopyPartResult><LastModified>\(WireTime.iso(now))</LastModified>"
                + "<ETag>\(XML.escape(etag))</ETag></CopyPartResult>")
    }

    func listParts(
        _ key: [UInt8], _ bucket: String, _ request: FakeRequest, _ options: FakeS3Options
    ) throws(S3Failure) -> FakeAnswer {
        let upload = try upload(key, request)
        let after = request.parameter("part-number-marker").flatMap { Int($0) } ?? 0
        let limit = min(request.parameter("max-parts").flatMap { Int($0) } ?? options.pageLimit, options.pageLimit)
        let rest = upload.parts.sorted { $0.key < $1.key }.filter { $0.key > after }
        let page = rest.prefix(limit)
        let isTruncated = page.count < rest.count
        var inner = ""
        for (number, part) in page {
            inner +=
                "<Part><PartNumber>\(number)</PartNumber><LastModified>\(WireTime.iso(part.modified))</LastModified>"
            inner += "<ETag>\(XML.escape(part.etag))</ETag><Size>\(part.bytes.count)</Size>"
            for (name, value) in part.checksums {
                inner += "<Checksum\(name.uppercased())>\(value)</Checksum\(name.uppercased())>"
            }
            inner += "</Part>"
        }
        if isTruncated, let last = page.last {
            inner += "<NextPartNumberMarker>\(last.key)</NextPartNumberMarker>"
        }
        return FakeAnswer(
            200,
            xml: "<ListPartsResult><Bucket>\(bucket)</Bucket><Key>\(XML.escape(key))</Key>"
                + "<UploadId>\(XML.escape(upload.id))</UploadId><IsTruncated>\(isTruncated)</IsTruncated>"
                + "\(inner)</ListPartsResult>")
    }

    mutating func completeUpload(
        _ key: [UInt8], _ bucket: String, _ request: FakeRequest, _ options: FakeS3Options, now: Int
    ) throws(S3Failure) -> FakeAnswer {
        let upload = try upload(key, request)
        if request.header("content-type")?.contains("form-urlencoded") == true {
            throw S3Failure(400, "MalformedPOSTRequest", "a form, where XML belongs")
        }
        let parts = try parts(of: upload, String(decoding: request.body, as: UTF8.self), options)
        try checkConditions(key, request, options)
        let bytes = parts.flatMap(\.bytes)
        if let size = request.header("x-amz-mp-object-size"), Int(size) != bytes.count {
            throw S3Failure(400, "InvalidRequest", "x-amz-mp-object-size is \(size), the parts have \(bytes.count)")
        }
        var checksums: [String: String] = [:]
        if options.checksums == .verified {
            for (name, value) in Self.checksums(of: request) {
                guard Digests.checksum(name, bytes).map(Digests.base64) == value else {
                    throw S3Failure(400, "BadDigest", "The \(name) you specified did not match what we received.")
                }
                checksums[name] = value
            }
        }
        let etag = "\"\(Digests.hex(Digests.md5(parts.flatMap(\.md5))))-\(parts.count)\""
        var object = FakeObject(bytes: bytes, etag: etag, version: "", modified: now, headers: upload.headers)
        if let algorithm = upload.headers["x-amz-checksum-algorithm"]?.lowercased(), checksums.isEmpty {
            let isFull = upload.headers["x-amz-checksum-type"] == "FULL_OBJECT" || algorithm == "crc64nvme"
            let all = parts.flatMap { Digests.bytes(base64: $0.checksums[algorithm] ?? "") ?? [] }
            let value = Digests.checksum(algorithm, isFull ? bytes : all).map(Digests.base64) ?? ""
            checksums[algorithm] = isFull ? value : "\(value)-\(parts.count)"
        }
        object.checksums = checksums
        object.headers["x-amz-checksum-algorithm"] = nil
        object.headers["x-amz-checksum-type"] = nil
        uploads[upload.id] = nil
        let version = store(key, object)
        return FakeAnswer(
            200, headers: versionHeaders(version),
            xml: "<CompleteMultipartUploadResult><Location>http://fake/</Location><Bucket>\(bucket)</Bucket>"
                + "<Key>\(XML.escape(key))</Key><ETag>\(XML.escape(etag))</ETag></CompleteMultipartUploadResult>")
    }

    /// The parts that a Complete names, in its order.
    private func parts(
        of upload: FakeUpload, _ body: String, _ options: FakeS3Options
    ) throws(S3Failure) -> [FakeUpload.Part] {
        var parts: [FakeUpload.Part] = []
        var before = 0
        for part in XML.elements("Part", in: body) {
            guard let number = XML.elements("PartNumber", in: part).first.flatMap({ Int($0) }),
                let etag = XML.elements("ETag", in: part).first.flatMap({ XML.unescape($0) })
            else { throw S3Failure(400, "MalformedXML", "a part without its number or its ETag") }
            guard number > before else { throw S3Failure(400, "InvalidPartOrder", "\(number) after \(before)") }
            guard let held = upload.parts[number], held.etag == String(decoding: etag, as: UTF8.self) else {
                throw S3Failure(400, "InvalidPart", "part \(number) was not found, or has another ETag")
            }
            if let last = parts.last {
                guard last.bytes.count >= options.minimumPartSize else {
                    throw S3Failure(400, "EntityTooSmall", "part \(before) has \(last.bytes.count) bytes")
                }
                guard !options.requiresEqualParts || last.bytes.count == parts[0].bytes.count else {
                    throw S3Failure(400, "InvalidPart", "All non-trailing parts must have the same length.")
                }
            }
            parts.append(held)
            before = number
        }
        guard let first = parts.first, let last = parts.last else {
            throw S3Failure(400, "MalformedXML", "no parts")
        }
        if options.requiresEqualParts, last.bytes.count > first.bytes.count {
            throw S3Failure(400, "InvalidPart", "All non-trailing parts must have the same length.")
        }
        return parts
    }
}
