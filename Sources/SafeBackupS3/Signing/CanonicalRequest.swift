import SafeBackupCore

/// The text that a signature of version 4 covers: the request in the one form that both sides can make of it.
///
/// See: "Create a signed AWS API request", IAM User Guide. S3 takes the path as it is on the wire; the other services
/// remove dot segments and empty ones, and encode once more.
package struct CanonicalRequest: Sendable {
    /// How a service wants its path.
    package enum PathRule: Sendable, Hashable {
        /// As it is sent (S3).
        case asSent
        /// Encoded once more, dot segments and empty segments removed (every other service).
        case normalised
        /// Encoded once more only.
        case encodedAgain
    }

    /// Headers that proxies and the transport add or change: never signed.
    private static let unsigned: Set<String> = [
        "authorization", "connection", "expect", "user-agent", "transfer-encoding", "te", "trailer", "upgrade",
        "keep-alive", "accept-encoding", "x-amzn-trace-id", "traceparent", "tracestate",
    ]

    package let bytes: [UInt8]
    /// `host;x-amz-date`: the names of what is signed.
    package let signedHeaders: String

    /// - Parameter payload: the hash of the body as it stands in `x-amz-content-sha256`.
    package init(_ request: HTTPRequest, path rule: PathRule, payload: String) {
        var text: [UInt8] = []
        text.reserveCapacity(512)
        text += request.method.rawValue.utf8
        text.append(Self.newline)
        switch rule {
        case .asSent: text += request.path.utf8
        case .normalised: PercentEncoding.append(Self.normalised(request.path), keepsSlash: true, to: &text)
        case .encodedAgain: PercentEncoding.append(request.path.utf8, keepsSlash: true, to: &text)
        }
        text.append(Self.newline)
        Self.append(query: request.query, to: &text)
        text.append(Self.newline)

        var headers = request.headers.filter { !Self.unsigned.contains($0.name) && !$0.name.hasPrefix("proxy-") }
        headers.append((name: "host", value: request.origin.hostHeader))
        // Stable, so that several values of one name stay in their order.
        let sorted = headers.enumerated().sorted {
            $0.element.name == $1.element.name
                ? $0.offset < $1.offset : $0.element.name.utf8.lexicographicallyPrecedes($1.element.name.utf8)
        }
        var names: [UInt8] = []
        var last: String?
        for (_, header) in sorted {
            if header.name == last {
                text[text.count - 1] = UInt8(ascii: ",")
            } else {
                if last != nil { names.append(UInt8(ascii: ";")) }
                names += header.name.utf8
                text += header.name.utf8
                text.append(UInt8(ascii: ":"))
                last = header.name
            }
            Self.append(value: header.value, to: &text)
            text.append(Self.newline)
        }
        text.append(Self.newline)
        text += names
        text.append(Self.newline)
        text += payload.utf8
        bytes = text
        signedHeaders = String(decoding: names, as: UTF8.self)
    }

    private static let newline = UInt8(ascii: "\n")

    /// Names and values encoded, then sorted by their bytes.
    private static func append(query: [(name: String, value: String?)], to text: inout [UInt8]) {
        if query.isEmpty { return }
        var items: [(name: [UInt8], value: [UInt8])] = []
        for item in query {
            var (name, value): ([UInt8], [UInt8]) = ([], [])
            PercentEncoding.append(item.name.utf8, to: &name)
            PercentEncoding.append((item.value ?? "").utf8, to: &value)
            items.append((name, value))
        }
        items.sort {
            $0.name == $1.name
                ? $0.value.lexicographicallyPrecedes($1.value) : $0.name.lexicographicallyPrecedes($1.name)
        }
        for (index, item) in items.enumerated() {
            if index > 0 { text.append(UInt8(ascii: "&")) }
            text += item.name
            text.append(UInt8(ascii: "="))
            text += item.value
        }
    }

    /// Without white space at its ends, and with one space where there is some within.
    private static func append(value: String, to text: inout [UInt8]) {
        var isFirst = true
        var isAfterSpace = false
        for byte in value.utf8 {
            if byte == 0x20 || (byte >= 0x09 && byte <= 0x0D) {
                isAfterSpace = true
                continue
            }
            if isAfterSpace && !isFirst { text.append(0x20) }
            (isFirst, isAfterSpace) = (false, false)
            text.append(byte)
        }
    }

    /// Without `.`, `..` and empty segments. See: RFC 3986, 5.2.4.
    private static func normalised(_ path: String) -> [UInt8] {
        var segments: [ArraySlice<UInt8>] = []
        let parts = Array(path.utf8).split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: true)
        for part in parts {
            if part.elementsEqual(".".utf8) { continue }
            if part.elementsEqual("..".utf8) {
                _ = segments.popLast()
            } else {
                segments.append(part)
            }
        }
        var result: [UInt8] = [UInt8(ascii: "/")]
        for (index, segment) in segments.enumerated() {
            if index > 0 { result.append(UInt8(ascii: "/")) }
            result += segment
        }
        if path.utf8.last == UInt8(ascii: "/") && result.count > 1 { result.append(UInt8(ascii: "/")) }
        return result
    }
}
