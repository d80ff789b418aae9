package import SafeBackupCore

/// An answer that is not what was asked for.
package struct S3ErrorAnswer: Sendable, Hashable {
    package var status: Int
    /// `SlowDown`, `NoSuchBucket`…; `nil` where the body has no XML of S3.
    package var code: String?
    /// The server's words, cut to a line.
    package var message: String?
    /// Of the bucket, by the header `x-amz-bucket-region` or the body.
    package var region: String?
    package var requestID: String?
    package var hostID: String?
    /// The server's clock, by the body or the header `Date`.
    package var serverTime: Timestamp?
    /// A header that the server names.
    package var header: String?
    /// The host that a redirection names.
    package var endpoint: String?
    /// How long the server asks to wait, in milliseconds, by AWS's own header.
    package var retryAfter: Duration?
    /// How long the server asks to wait, by HTTP's header.
    package var httpRetryAfter: Duration?
    package var isHTML = false

    package init(status: Int, code: String? = nil, message: String? = nil) {
        self.status = status
        self.code = code
        self.message = message
    }

    /// Takes the answer apart. `now` is for a `Retry-After` that is a date.
    package init(_ response: HTTPResponse, now: Timestamp) {
        status = response.status
        requestID =
            response.header("x-amz-request-id") ?? response.header("x-goog-request-id") ?? response.header("cf-ray")
            ?? response.header("x-oss-request-id")
        hostID = response.header("x-amz-id-2")
        region = response.header("x-amz-bucket-region")
        serverTime = response.header("date").flatMap(S3Date.http)
        if let value = response.header("x-amz-retry-after").flatMap({ Int64($0) }), (0...86_400_000).contains(value) {
            retryAfter = .milliseconds(value)
        }
        if let value = response.header("retry-after") {
            if let seconds = Int64(value), (0...86_400).contains(seconds) {
                httpRetryAfter = .seconds(seconds)
            } else if let date = S3Date.http(value) {
                httpRetryAfter = max(.zero, date - now)
            }
        }
        // That nothing is there is said to HEAD without a page, whatever type it tells.
        isHTML = !(response.status == 404 && response.body.isEmpty) && Self.isHTML(response)
        guard !isHTML, !response.body.isEmpty, let root = Self.error(in: response.body) else { return }
        code = root.string("Code")
        message = root.string("Message").map(Self.line)
        // A header is what the server says of the bucket; the body is of the endpoint.
        region = region ?? root.string("Region") ?? root.string("BucketRegion")
        requestID = requestID ?? root.string("RequestId")
        hostID = hostID ?? root.string("HostId")
        header = root.string("Header") ?? root.string("ArgumentName")
        endpoint = root.string("Endpoint")
        if let time = root.string("ServerTime").flatMap({ S3Date.iso($0) ?? S3Date.compact($0) }) { serverTime = time }
    }

    /// The `<Error>` of a body; Rackspace-like servers put it into `<ErrorResponse>`.
    package static func error(in body: [UInt8]) -> XMLElement? {
        // Not XML is no failure here: the status says enough then.
        guard let root = try? XMLReader.read(body) else { return nil }
        if root.name == "Error" { return root }
        return root.first("Error")
    }

    /// Whether the answer is a page for people.
    package static func isHTML(_ response: HTTPResponse) -> Bool {
        if let type = response.header("content-type"), type.lowercased().hasPrefix("text/html") {
            // Some servers call their XML so; a page says what it is.
            return error(in: response.body) == nil
        }
        let start = String(decoding: response.body.drop { isXMLSpace($0) }.prefix(15), as: UTF8.self).lowercased()
        return start.hasPrefix("<!doctype html") || start.hasPrefix("<html")
    }

    /// One line of at most 300 characters, without control characters.
    private static func line(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars.prefix(300) {
            if scalar.value < 0x20 || scalar.value == 0x7F {
                result += " "
            } else {
                result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
