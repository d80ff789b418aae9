import SafeBackupCore

/// One request before it is signed: the client makes an `HTTPRequest` of it anew for each attempt, because time, keys,
/// region and checksums may have changed meanwhile.
struct S3Call: Sendable {
    enum Content: Sendable {
        case none
        /// XML, always signed with its digest.
        case document([UInt8])
        /// Of an object or a part, with the checksum of the settings.
        case object(ObjectBody)
    }

    /// What an answer must be to count as success.
    enum Expected: Sendable, Hashable {
        /// A body with this root element.
        case document(String)
        /// No body, and the header `ETag` or one by which S3 servers are known.
        case receipt
        /// The headers of an object.
        case object
        /// Nothing but the status.
        case nothing
    }

    var operation: S3Operation
    var method: HTTPRequest.Method
    var key: ObjectKey?
    var query: [(name: String, value: String?)] = []
    var headers: [(name: String, value: String)] = []
    var content = Content.none
    var sink = HTTPRequest.Sink.memory(limit: XMLReader.sizeLimit)
    var expected = Expected.nothing
    var onlyIfAbsent = false
    /// A body that was not made for an object and wants Content-MD5 (DeleteObjects).
    var wantsMD5 = false
    /// For what takes the server long: Complete and copies.
    var isSlow = false

    init(_ operation: S3Operation, _ method: HTTPRequest.Method, _ key: ObjectKey? = nil, expected: Expected) {
        self.operation = operation
        self.method = method
        self.key = key
        self.expected = expected
    }
}

/// A successful answer.
struct S3Answer: Sendable {
    var response: HTTPResponse
    /// The body's root where a document was expected.
    var document: XMLElement
    /// The checksum that went with the body, which the server has therefore compared.
    var checksum: (algorithm: ChecksumAlgorithm, value: String)?
    var isAWS: Bool
}
