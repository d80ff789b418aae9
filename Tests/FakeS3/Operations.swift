/// Which operation a request is, and on what.
struct Route {
    var operation: FakeOperation
    var bucket: String?
    var key: [UInt8]

    init(_ request: FakeRequest, domains: [String]) {
        var path = Percent.decode(request.path) ?? Array(request.path.utf8)
        path.removeFirst()
        let host = (request.header("host") ?? "").split(separator: ":").first.map(String.init) ?? ""
        if let domain = domains.first(where: { host.hasSuffix(".\($0)") }) {
            bucket = String(host.dropLast(domain.count + 1))
            key = path
        } else {
            let slash = path.firstIndex(of: UInt8(ascii: "/")) ?? path.endIndex
            bucket = slash == 0 ? nil : String(decoding: path[..<slash], as: UTF8.self)
            key = Array(path[slash...].dropFirst())
        }
        operation = Self.operation(request, hasBucket: bucket != nil, hasKey: !key.isEmpty)
    }

    private static func operation(_ request: FakeRequest, hasBucket: Bool, hasKey: Bool) -> FakeOperation {
        guard hasBucket else { return request.method == "GET" ? .listBuckets : .unknown }
        let known: Set = [
            "acl", "cors", "delete", "lifecycle", "location", "object-lock", "ownershipControls", "policy", "retention",
            "tagging", "torrent", "uploadId", "uploads", "versioning", "versions", "list-type", "attributes", "restore",
        ]
        let sub = request.parameters.map(\.name).first(where: known.contains)
        let copies = request.header("x-amz-copy-source") != nil
        switch (request.method, hasKey, sub) {
        case ("PUT", true, nil): return copies ? .copyObject : .putObject
        case ("PUT", true, "uploadId"): return copies ? .uploadPartCopy : .uploadPart
        case ("GET", true, nil): return .getObject
        case ("HEAD", true, nil): return .headObject
        case ("DELETE", true, nil): return .deleteObject
        case ("POST", true, "uploads"): return .createUpload
        case ("POST", true, "uploadId"): return .completeUpload
        case ("DELETE", true, "uploadId"): return .abortUpload
        case ("GET", true, "uploadId"): return .listParts
        case ("GET", false, "uploads"): return .listUploads
        case ("POST", false, "delete"): return .deleteObjects
        case ("GET", false, nil): return .listObjects
        case ("GET", false, "list-type"): return .listObjectsV2
        case ("GET", false, "versions"): return .listVersions
        case ("GET", false, "location"): return .getLocation
        case ("GET", false, "versioning"): return .getVersioning
        case ("PUT", false, "versioning"): return .putVersioning
        case ("GET", false, "object-lock"): return .getObjectLock
        case ("GET", false, "ownershipControls"): return .getOwnership
        case ("GET", false, "lifecycle"): return .getLifecycle
        case ("HEAD", false, nil): return .headBucket
        case ("PUT", false, nil): return .createBucket
        case ("DELETE", false, nil): return .deleteBucket
        default: return .unknown
        }
    }
}

/// The effects of requests on the buckets; every check of the request itself has been made.
struct Operations {
    var buckets: [String: FakeBucket]
    var completed: [String: FakeAnswer] = [:]

    mutating func perform(
        _ route: Route, _ request: FakeRequest, _ options: FakeS3Options, now: Int
    ) throws(S3Failure) -> FakeAnswer {
        switch route.operation {
        case .unknown: throw S3Failure(501, "NotImplemented", "\(request.method) \(request.path)?\(request.query)")
        case .listBuckets:
            let inner = buckets.keys.sorted().map { "<Bucket><Name>\($0)</Name></Bucket>" }.joined()
            return FakeAnswer(200, xml: "<ListAllMyBucketsResult><Buckets>\(inner)</Buckets></ListAllMyBucketsResult>")
        case .createBucket:
            let name = route.bucket ?? ""
            guard buckets[name] == nil else { throw S3Failure(409, "BucketAlreadyOwnedByYou", "it is there already") }
            buckets[name] = FakeBucket()
            return FakeAnswer(200, headers: [("location", "/\(name)")])
        default: break
        }
        guard let name = route.bucket, var bucket = buckets[name] else {
            throw S3Failure(404, "NoSuchBucket", "The specified bucket does not exist")
        }
        let listing = Listing(request: request, name: name, bucket: bucket, options: options)
        let answer: FakeAnswer
        switch route.operation {
        case .headBucket: answer = FakeAnswer(200, headers: [("x-amz-bucket-region", options.region)])
        case .deleteBucket:
            guard bucket.versions.isEmpty else { throw S3Failure(409, "BucketNotEmpty", "it is not empty") }
            buckets[name] = nil
            return FakeAnswer(204)
        case .getLocation:
            let region = options.region == "us-east-1" ? "" : options.region
            answer = FakeAnswer(200, xml: "<LocationConstraint>\(region)</LocationConstraint>")
        case .getObjectLock:
            throw S3Failure(404, "ObjectLockConfigurationNotFoundError", "there is no object lock")
        case .getLifecycle: throw S3Failure(404, "NoSuchLifecycleConfiguration", "there is no lifecycle rule")
        case .getOwnership:
            let rule = options.hasNoACLs ? "BucketOwnerEnforced" : "ObjectWriter"
            answer = FakeAnswer(
                200,
                xml: "<OwnershipControls><Rule><ObjectOwnership>\(rule)</ObjectOwnership></Rule></OwnershipControls>")
        case .listObjects: answer = listing.first()
        case .listObjectsV2:
            guard request.parameter("list-type") == "2", options.hasListV2 else {
                throw S3Failure(501, "NotImplemented", "list-type")
            }
            answer = try listing.second()
        case .listVersions, .getVersioning, .putVersioning:
            guard options.hasVersions else { throw S3Failure(501, "NotImplemented", "versions") }
            if route.operation == .listVersions {
                answer = listing.versions()
            } else {
                answer = try bucket.versioning(request, sets: route.operation == .putVersioning)
            }
        case .listUploads: answer = listing.uploads()
        case .putObject: answer = try bucket.put(route.key, request, options, now: now)
        case .getObject, .headObject: answer = try bucket.get(route.key, request)
        case .deleteObject:
            let removal = bucket.remove(route.key, version: request.parameter("versionId"), now: now)
            answer = FakeAnswer(204, headers: removal.headers)
        case .deleteObjects: answer = try bucket.removeMany(request, now: now)
        case .copyObject, .uploadPartCopy:
            let source = try self.source(of: request)
            answer =
                route.operation == .copyObject
                ? try bucket.copy(source, to: route.key, request, options, now: now)
                : try bucket.copyPart(source, to: route.key, request, now: now)
        case .createUpload: answer = try bucket.createUpload(route.key, name, request, options, now: now)
        case .uploadPart: answer = try bucket.uploadPart(route.key, request, now: now)
        case .listParts: answer = try bucket.listParts(route.key, name, request, options)
        case .abortUpload:
            let id = try bucket.upload(route.key, request).id
            bucket.uploads[id] = nil
            answer = FakeAnswer(204)
        case .completeUpload:
            let id = request.parameter("uploadId") ?? ""
            if options.remembersCompleted, let before = completed[id] { return before }
            answer = try bucket.completeUpload(route.key, name, request, options, now: now)
            completed[id] = answer
        case .unknown, .listBuckets, .createBucket: throw S3Failure(501, "NotImplemented", "")
        }
        buckets[name] = bucket
        return answer
    }

    /// The object that a copy names: `/BUCKET/KEY[?versionId=V]`, encoded.
    private func source(of request: FakeRequest) throws(S3Failure) -> FakeObject {
        let text = request.header("x-amz-copy-source") ?? ""
        let parts = text.split(separator: "?", maxSplits: 1)
        var path = Substring(parts.first ?? "")
        if path.hasPrefix("/") { path.removeFirst() }
        let version = parts.dropFirst().first?.split(separator: "=", maxSplits: 1).last.flatMap { Percent.decode($0) }
        guard let bytes = Percent.decode(path), let slash = bytes.firstIndex(of: UInt8(ascii: "/")),
            let bucket = buckets[String(decoding: bytes[..<slash], as: UTF8.self)]
        else { throw S3Failure(400, "InvalidArgument", "not a copy source: \(text)") }
        let key = Array(bytes[(slash + 1)...])
        let spelled = version.map { String(decoding: $0, as: UTF8.self) }
        guard let object = bucket.object(key, version: spelled), !object.isDeleteMarker else {
            throw S3Failure(404, "NoSuchKey", "The specified key does not exist.")
        }
        return object
    }
}

extension FakeBucket.Removal {
    var headers: [(name: String, value: String)] {
        var headers: [(name: String, value: String)] = []
        if let version { headers.append(("x-amz-version-id", version)) }
        if isMarker { headers.append(("x-amz-delete-marker", "true")) }
        return headers
    }
}
