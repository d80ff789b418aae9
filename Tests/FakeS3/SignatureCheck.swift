/// A key that the server knows.
package struct FakeCredential: Sendable {
    package var accessKey: String
    package var secretKey: String
    package var sessionToken: String?
    /// In seconds since 1970; from then on it is refused with `ExpiredToken`.
    package var expires: Int?

    package init(
        accessKey: String = "AKIDFAKES3EXAMPLE", secretKey: String = "fake/secret+key/EXAMPLE",
        sessionToken: String? = nil, expires: Int? = nil
    ) {
        self.accessKey = accessKey
        self.secretKey = secretKey
        self.sessionToken = sessionToken
        self.expires = expires
    }
}

/// Verifies AWS Signature Version 4 as S3 does, from the bytes of the request and the published rules.
/// See: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
package struct SignatureCheck: Sendable {
    package var region: String
    package var credentials: [FakeCredential]
    /// The server's clock, in seconds since 1970.
    package var now: Int
    package var allowsUnsignedPayload = false

    package init(region: String, credentials: [FakeCredential], now: Int) {
        self.region = region
        self.credentials = credentials
        self.now = now
    }

    /// Proxies change or drop them, so a signature over them fails in the field.
    private static let neverSigned: Set = [
        "accept-encoding", "authorization", "connection", "expect", "keep-alive", "te", "trailer", "transfer-encoding",
        "upgrade", "user-agent", "x-amzn-trace-id",
    ]

    private struct Authorization {
        var accessKey = ""
        var scope: [String] = []
        var signedHeaders: [String] = []
        var signature = ""

        init?(_ text: String) {
            let prefix = "AWS4-HMAC-SHA256 "
            guard text.hasPrefix(prefix) else { return nil }
            for part in text.dropFirst(prefix.count).split(separator: ",") {
                let trimmed = part.drop { $0 == " " }
                guard let equals = trimmed.firstIndex(of: "=") else { return nil }
                let value = String(trimmed[equals...].dropFirst())
                switch trimmed[..<equals] {
                case "Credential":
                    let parts = value.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
                    guard parts.count >= 5 else { return nil }
                    accessKey = parts.dropLast(4).joined(separator: "/")
                    scope = Array(parts.suffix(4))
                case "SignedHeaders": signedHeaders = value.split(separator: ";").map(String.init)
                case "Signature": signature = value
                default: return nil
                }
            }
            if accessKey.isEmpty || signedHeaders.isEmpty || signature.isEmpty { return nil }
        }
    }

    /// All that the headers tell, before the body has come. Throws what S3 would answer.
    package func verify(_ request: FakeRequest) throws(S3Failure) {
        guard let text = request.header("authorization") else {
            throw S3Failure(403, "AccessDenied", "the request is not signed")
        }
        guard let authorization = Authorization(text) else {
            throw S3Failure(400, "AuthorizationHeaderMalformed", "not an authorization of version 4: \(text)")
        }
        let payload = try payloadHash(of: request)
        let date = try date(of: request, authorization)
        guard let credential = credentials.first(where: { $0.accessKey == authorization.accessKey }) else {
            throw S3Failure(
                403, "InvalidAccessKeyId", "the access key is not known here",
                details: [("AWSAccessKeyId", authorization.accessKey)])
        }
        try verifyToken(request, credential)
        try verifyHeaders(request, authorization.signedHeaders)
        let canonical = try Self.canonical(request, signing: authorization.signedHeaders, payload: payload)
        let toSign = [
            "AWS4-HMAC-SHA256", date, authorization.scope.joined(separator: "/"),
            Digests.hex(Digests.sha256(Array(canonical.utf8))),
        ].joined(separator: "\n")
        var key = Array("AWS4\(credential.secretKey)".utf8)
        for part in authorization.scope { key = Digests.hmac(key, Array(part.utf8)) }
        guard Digests.hex(Digests.hmac(key, Array(toSign.utf8))) == authorization.signature else {
            throw S3Failure(
                403, "SignatureDoesNotMatch", "the signature is not the one of this request and key",
                details: [("StringToSign", toSign), ("CanonicalRequest", canonical)])
        }
        if let expires = credential.expires, now >= expires {
            throw S3Failure(400, "ExpiredToken", "The provided token has expired.")
        }
    }

    private func payloadHash(of request: FakeRequest) throws(S3Failure) -> String {
        guard let payload = request.header("x-amz-content-sha256") else {
            throw S3Failure(400, "MissingSecurityHeader", "x-amz-content-sha256 is missing")
        }
        if payload == "UNSIGNED-PAYLOAD" {
            if allowsUnsignedPayload { return payload }
            throw S3Failure(400, "InvalidRequest", "an unsigned payload over plain http")
        }
        if payload.hasPrefix("STREAMING-") { throw S3Failure(501, "NotImplemented", "aws-chunked is not known here") }
        let isHex = payload.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
        guard payload.utf8.count == 64, isHex else {
            throw S3Failure(400, "InvalidArgument", "x-amz-content-sha256 is no digest: \(payload)")
        }
        return payload
    }

    /// The header's spelling of the date, which is near enough and agrees with the scope.
    private func date(of request: FakeRequest, _ authorization: Authorization) throws(S3Failure) -> String {
        guard let date = request.header("x-amz-date"), let time = WireTime.parse(date) else {
            throw S3Failure(403, "AccessDenied", "x-amz-date is missing or malformed")
        }
        let scope = authorization.scope
        guard scope[3] == "aws4_request", scope[2] == "s3", scope[0] == date.prefix(8) else {
            throw S3Failure(400, "AuthorizationHeaderMalformed", "the scope is \(scope), the date \(date)")
        }
        guard scope[1] == region else {
            throw S3Failure(
                400, "AuthorizationHeaderMalformed",
                "The authorization header is malformed; the region '\(scope[1])' is wrong; expecting '\(region)'",
                details: [("Region", region)])
        }
        guard abs(time - now) <= 900 else {
            throw S3Failure(
                403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large.",
                details: [
                    ("RequestTime", date), ("ServerTime", WireTime.iso(now)),
                    ("MaxAllowedSkewMilliseconds", "900000"),
                ])
        }
        return date
    }

    private func verifyToken(_ request: FakeRequest, _ credential: FakeCredential) throws(S3Failure) {
        guard request.header("x-amz-security-token") == credential.sessionToken else {
            throw S3Failure(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
        }
    }

    private func verifyHeaders(_ request: FakeRequest, _ signed: [String]) throws(S3Failure) {
        guard signed == signed.sorted(), Set(signed).count == signed.count else {
            throw S3Failure(400, "AuthorizationHeaderMalformed", "the signed headers are not sorted or not unique")
        }
        if let wrong = signed.first(where: Self.neverSigned.contains) {
            throw S3Failure(400, "AuthorizationHeaderMalformed", "the header \(wrong) must not be signed")
        }
        let present = request.headers.map(\.name)
        let unsigned = present.filter { ($0 == "host" || $0.hasPrefix("x-amz-")) && !signed.contains($0) }
        guard unsigned.isEmpty, present.contains("host") else {
            throw S3Failure(
                403, "AccessDenied", "There were headers present in the request which were not signed",
                details: [("HeadersNotSigned", unsigned.joined(separator: ", "))])
        }
    }

    /// The canonical request. Path and query must have been sent in their one canonical spelling, but for the order of
    /// the query: proxies and other servers spell them anew.
    package static func canonical(
        _ request: FakeRequest, signing signed: [String], payload: String
    ) throws(S3Failure) -> String {
        guard let path = Percent.decode(request.path), Percent.encode(path, keepingSlash: true) == request.path else {
            throw S3Failure(400, "InvalidURI", "the path is not in its canonical spelling: \(request.path)")
        }
        var pairs: [(String, String)] = []
        for pair in request.query.split(separator: "&", omittingEmptySubsequences: true) {
            let equals = pair.firstIndex(of: "=") ?? pair.endIndex
            let parts = [pair[..<equals], pair[equals...].dropFirst()]
            for part in parts {
                guard let bytes = Percent.decode(part), Percent.encode(bytes, keepingSlash: false) == part else {
                    throw S3Failure(400, "InvalidURI", "the query is not in its canonical spelling: \(pair)")
                }
            }
            pairs.append((String(parts[0]), String(parts[1])))
        }
        pairs.sort { Array($0.0.utf8) == Array($1.0.utf8) ? less($0.1, $1.1) : less($0.0, $1.0) }
        var lines = [
            request.method, request.path, pairs.map { "\($0.0)=\($0.1)" }.joined(separator: "&"),
        ]
        for name in signed {
            guard let value = request.header(name) else {
                throw S3Failure(403, "SignatureDoesNotMatch", "the header \(name) is signed but was not sent")
            }
            let words = value.split { $0 == " " || $0 == "\t" }.joined(separator: " ")
            lines.append("\(name):\(words)")
        }
        return (lines + ["", signed.joined(separator: ";"), payload]).joined(separator: "\n")
    }

    private static func less(_ one: String, _ other: String) -> Bool {
        one.utf8.lexicographicallyPrecedes(other.utf8)
    }
}
