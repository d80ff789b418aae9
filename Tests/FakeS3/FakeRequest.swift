/// A request as it came over the wire.
package struct FakeRequest: Sendable {
    package var method: String
    /// Before the `?`, not decoded.
    package var path: String
    /// Behind the `?`, not decoded; empty where there is none.
    package var query: String
    /// Names in lower case, in the order of the request.
    package var headers: [(name: String, value: String)]
    package var body: [UInt8] = []

    package init(
        method: String, path: String, query: String = "", headers: [(name: String, value: String)],
        body: [UInt8] = []
    ) {
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
    }

    package func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }

    /// Decoded; what cannot be decoded is as it came, and is refused by `SignatureCheck`.
    package var parameters: [(name: String, value: String)] {
        query.split(separator: "&").map { pair in
            let equals = pair.firstIndex(of: "=") ?? pair.endIndex
            let value = pair[equals...].dropFirst()
            return (Self.text(pair[..<equals]), Self.text(value))
        }
    }

    private static func text(_ part: Substring) -> String {
        Percent.decode(part).map { String(decoding: $0, as: UTF8.self) } ?? String(part)
    }

    package func parameter(_ name: String) -> String? { parameters.first { $0.name == name }?.value }
    package func has(_ name: String) -> Bool { parameter(name) != nil }

    /// The bytes of a parameter, which may be no UTF-8.
    package func parameterBytes(_ name: String) -> [UInt8]? {
        for pair in query.split(separator: "&") {
            let equals = pair.firstIndex(of: "=") ?? pair.endIndex
            if Self.text(pair[..<equals]) == name { return Percent.decode(pair[equals...].dropFirst()) }
        }
        return nil
    }

    /// Of the header block up to and with its empty line; what is wrong with it otherwise.
    static func parse(_ block: [UInt8]) throws(S3Failure) -> FakeRequest {
        guard block.allSatisfy({ $0 < 0x80 }) else {
            throw S3Failure(400, "InvalidRequest", "a header is not ASCII")
        }
        let lines = String(decoding: block, as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: true)
        let words = (lines.first ?? "").split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[2] == "HTTP/1.1", words[1].hasPrefix("/") else {
            throw S3Failure(400, "InvalidURI", "not a request line of HTTP/1.1: \(lines.first ?? "")")
        }
        let mark = words[1].firstIndex(of: "?") ?? words[1].endIndex
        var request = FakeRequest(
            method: String(words[0]), path: String(words[1][..<mark]), query: String(words[1][mark...].dropFirst()),
            headers: [])
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":"), colon != line.startIndex else {
                throw S3Failure(400, "InvalidRequest", "not a header: \(line)")
            }
            let name = line[..<colon].lowercased()
            guard !name.contains(where: { $0 == " " || $0 == "\t" }) else {
                throw S3Failure(400, "InvalidRequest", "white space in the name of a header: \(line)")
            }
            guard request.header(name) == nil else {
                throw S3Failure(400, "InvalidRequest", "the header \(name) came twice")
            }
            var value = line[line.index(after: colon)...]
            while value.first == " " || value.first == "\t" { value.removeFirst() }
            while value.last == " " || value.last == "\t" { value.removeLast() }
            request.headers.append((name, String(value)))
        }
        return request
    }
}

/// A refusal, as S3 tells it.
package struct S3Failure: Error, Sendable {
    package var status: Int
    package var code: String
    package var message: String
    /// More elements of the `Error`.
    package var details: [(name: String, value: String)]
    package var headers: [(name: String, value: String)]

    package init(
        _ status: Int, _ code: String, _ message: String, details: [(name: String, value: String)] = [],
        headers: [(name: String, value: String)] = []
    ) {
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = headers
    }

    package var answer: FakeAnswer {
        let more = details.map { "<\($0.name)>\(XML.escape($0.value))</\($0.name)>" }.joined()
        return FakeAnswer(
            status, headers: headers,
            xml: "<Error><Code>\(code)</Code><Message>\(XML.escape(message))</Message>\(more)"
                + "<RequestId>FAKE</RequestId></Error>")
    }
}

/// An answer before it is written.
package struct FakeAnswer: Sendable {
    package var status: Int
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]

    package init(_ status: Int, headers: [(name: String, value: String)] = [], body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = body
    }

    package init(_ status: Int, headers: [(name: String, value: String)] = [], xml: String) {
        self.init(
            status, headers: headers + [("content-type", "application/xml")],
            body: Array("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\(xml)".utf8))
    }
}
