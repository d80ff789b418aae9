/// The listings of a bucket.
struct Listing {
    let request: FakeRequest
    let name: String
    let bucket: FakeBucket
    let options: FakeS3Options

    private var isEncoded: Bool { request.parameter("encoding-type") == "url" && !options.ignoresEncodingType }

    private func spell(_ bytes: [UInt8]) -> String {
        isEncoded ? Percent.encodeListed(bytes) : XML.escape(bytes)
    }

    private var limit: Int {
        min(request.parameter("max-keys").flatMap { Int($0) } ?? options.pageLimit, options.pageLimit)
    }

    private var prefix: [UInt8] { request.parameterBytes("prefix") ?? [] }

    private func common(_ root: String, _ isTruncated: Bool, _ inner: String) -> FakeAnswer {
        let encoding = isEncoded ? "<EncodingType>url</EncodingType>" : ""
        return FakeAnswer(
            200,
            xml: "<\(root) xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>\(name)</Name>"
                + "<Prefix>\(spell(prefix))</Prefix><MaxKeys>\(limit)</MaxKeys>\(encoding)"
                + "<IsTruncated>\(isTruncated)</IsTruncated>\(inner)</\(root)>")
    }

    /// A key, or a common prefix of keys, of a page.
    private enum Entry {
        case key([UInt8])
        case prefix([UInt8])

        var last: [UInt8] {
            switch self {
            case .key(let key), .prefix(let key): key
            }
        }
    }

    /// The entries behind `after`, and whether there are more.
    private func page(after: [UInt8]?) -> (entries: [Entry], isTruncated: Bool) {
        let delimiter = request.parameterBytes("delimiter") ?? []
        var entries: [Entry] = []
        for key in bucket.keys where key.starts(with: prefix) {
            if let after, !after.lexicographicallyPrecedes(key) { continue }
            var entry = Entry.key(key)
            if let end = end(of: delimiter, in: key) {
                let group = Array(key[..<end])
                // Below a common prefix that was on a page already.
                if let after, after.starts(with: group) { continue }
                if let last = entries.last, case .prefix(let known) = last, known == group { continue }
                entry = .prefix(group)
            }
            if entries.count == limit { return (entries, limit > 0) }
            entries.append(entry)
        }
        return (entries, false)
    }

    private func end(of delimiter: [UInt8], in key: [UInt8]) -> Int? {
        guard !delimiter.isEmpty else { return nil }
        return (prefix.count..<max(prefix.count, key.count - delimiter.count + 1))
            .first { key[$0...].starts(with: delimiter) }.map { $0 + delimiter.count }
    }

    private func contents(_ entries: [Entry]) -> String {
        entries.map { entry in
            switch entry {
            case .prefix(let prefix): return "<CommonPrefixes><Prefix>\(spell(prefix))</Prefix></CommonPrefixes>"
            case .key(let key):
                guard let object = bucket.current(key) else { return "" }
                return "<Contents><Key>\(spell(key))</Key>\(facts(of: object))</Contents>"
            }
        }.joined()
    }

    private func facts(of object: FakeObject) -> String {
        "<LastModified>\(WireTime.iso(object.modified))</LastModified><ETag>\(XML.escape(object.etag))</ETag>"
            + "<Size>\(object.bytes.count)</Size><StorageClass>STANDARD</StorageClass>"
    }

    /// The token is opaque: it is not a key that a client could make.
    func second() throws(S3Failure) -> FakeAnswer {
        var after = request.parameterBytes("start-after")
        if let token = request.parameter("continuation-token") {
            guard token.hasPrefix("1+"), let key = Digests.bytes(base64: String(token.dropFirst(2))) else {
                throw S3Failure(400, "InvalidArgument", "The continuation token provided is incorrect")
            }
            after = key
        }
        let page = page(after: after)
        var inner = "<KeyCount>\(page.entries.count)</KeyCount>" + contents(page.entries)
        if page.isTruncated, let last = page.entries.last {
            inner += "<NextContinuationToken>1+\(Digests.base64(last.last))</NextContinuationToken>"
        }
        return common("ListBucketResult", page.isTruncated, inner)
    }

    /// Without a delimiter there is no NextMarker: the last key is the marker.
    func first() -> FakeAnswer {
        let marker = request.parameterBytes("marker") ?? []
        let page = page(after: marker.isEmpty ? nil : marker)
        var inner = "<Marker>\(spell(marker))</Marker>" + contents(page.entries)
        if page.isTruncated, request.has("delimiter"), let last = page.entries.last {
            inner += "<NextMarker>\(spell(last.last))</NextMarker>"
        }
        return common("ListBucketResult", page.isTruncated, inner)
    }

    func versions() -> FakeAnswer {
        let keyMarker = request.parameterBytes("key-marker") ?? []
        let versionMarker = request.parameter("version-id-marker") ?? ""
        var inner = ""
        var count = 0
        var isTruncated = false
        var last: (key: [UInt8], version: String)?
        let keys = bucket.versions.keys.sorted { $0.lexicographicallyPrecedes($1) }
        pages: for key in keys where key.starts(with: prefix) && !key.lexicographicallyPrecedes(keyMarker) {
            let all = Array((bucket.versions[key] ?? []).reversed())
            var rest = all[...]
            if key == keyMarker, !keyMarker.isEmpty {
                guard let at = all.firstIndex(where: { $0.version == versionMarker }) else { continue }
                rest = all[(at + 1)...]
            }
            for object in rest {
                if count == limit {
                    isTruncated = true
                    break pages
                }
                let root = object.isDeleteMarker ? "DeleteMarker" : "Version"
                let facts =
                    object.isDeleteMarker
                    ? "<LastModified>\(WireTime.iso(object.modified))</LastModified>" : facts(of: object)
                inner += "<\(root)><Key>\(spell(key))</Key><VersionId>\(XML.escape(object.version))</VersionId>"
                inner += "<IsLatest>\(object.version == all[0].version)</IsLatest>\(facts)</\(root)>"
                count += 1
                last = (key, object.version)
            }
        }
        if isTruncated, let last {
            inner += "<NextKeyMarker>\(spell(last.key))</NextKeyMarker>"
            inner += "<NextVersionIdMarker>\(XML.escape(last.version))</NextVersionIdMarker>"
        }
        return common("ListVersionsResult", isTruncated, inner)
    }

    func uploads() -> FakeAnswer {
        let limit = min(request.parameter("max-uploads").flatMap { Int($0) } ?? options.pageLimit, options.pageLimit)
        let marker = (request.parameterBytes("key-marker") ?? [], request.parameter("upload-id-marker") ?? "")
        let all = bucket.uploads.values.filter { upload in
            upload.key.starts(with: prefix)
                && (marker.0.lexicographicallyPrecedes(upload.key)
                    || upload.key == marker.0 && marker.1 < upload.id && !marker.1.isEmpty)
        }.sorted { $0.key == $1.key ? $0.id < $1.id : $0.key.lexicographicallyPrecedes($1.key) }
        let page = all.prefix(limit)
        var inner = page.map {
            "<Upload><Key>\(spell($0.key))</Key><UploadId>\(XML.escape($0.id))</UploadId>"
                + "<Initiated>\(WireTime.iso($0.begun))</Initiated></Upload>"
        }.joined()
        if page.count < all.count, let last = page.last {
            inner += "<NextKeyMarker>\(spell(last.key))</NextKeyMarker>"
            inner += "<NextUploadIdMarker>\(XML.escape(last.id))</NextUploadIdMarker>"
        }
        return common("ListMultipartUploadsResult", page.count < all.count, inner)
    }
}
