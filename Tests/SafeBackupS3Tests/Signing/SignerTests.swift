import Foundation
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import Testing

/// A case of the vectors; see their README.
struct SigningCase: Decodable, Sendable, CustomTestStringConvertible {
    struct Credentials: Decodable, Sendable {
        var accessKey: String
        var secretKey: String
        var sessionToken: String?
    }

    struct Request: Decodable, Sendable {
        var method: String
        var scheme: String
        var host: String
        var path: String
        var query: String
        var headers: [[String]]
        var payloadHash: String?
        var bodyBase64: String?
    }

    struct Mode: Decodable, Sendable { var normalizePath: Bool }

    struct Expected: Decodable, Sendable {
        var canonicalRequest: String
        var stringToSign: String
        var signature: String
        var authorization: String
    }

    var name: String
    var service: String
    var region: String
    var timestamp: String
    var mode: Mode?
    var credentials: Credentials
    var request: Request
    var expected: Expected

    var testDescription: String { name }

    static func all() throws -> [SigningCase] {
        try ["aws4-testsuite", "aws-c-auth-unnormalized", "s3-doc-examples", "s3-generated"].flatMap {
            try Vectors.read("sigv4/\($0).json", SigningCase.self)
        }
    }

    var keys: S3Credentials {
        S3Credentials(
            accessKey: credentials.accessKey, secretKey: credentials.secretKey, sessionToken: credentials.sessionToken,
            provider: "test")
    }

    var payload: String {
        if let hash = request.payloadHash { return hash }
        let body = Data(base64Encoded: request.bodyBase64 ?? "") ?? Data()
        return SHA256.digest(of: Array(body)).hex
    }

    var date: Timestamp {
        get throws {
            let digits = timestamp.filter(\.isNumber).compactMap(\.wholeNumberValue)
            try #require(digits.count == 14)
            func number(_ from: Int, _ count: Int) -> Int32 {
                Int32(digits[from..<(from + count)].reduce(0) { $0 * 10 + $1 })
            }
            var parts = tm()
            parts.tm_year = number(0, 4) - 1_900
            parts.tm_mon = number(4, 2) - 1
            (parts.tm_mday, parts.tm_hour) = (number(6, 2), number(8, 2))
            (parts.tm_min, parts.tm_sec) = (number(10, 2), number(12, 2))
            return Timestamp(microseconds: Int64(timegm(&parts)) * 1_000_000)
        }
    }

    /// Without what the signer adds.
    func unsigned() throws -> HTTPRequest {
        let method = try #require(HTTPRequest.Method(rawValue: request.method))
        var host = request.host
        var port: Int?
        if let colon = host.lastIndex(of: ":"), !host.hasSuffix("]") {
            port = Int(host[host.index(after: colon)...])
            host = String(host[..<colon])
        }
        let query: [(name: String, value: String?)] = try request.query.split(separator: "&").map { item in
            let parts = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = try #require(PercentEncoding.decode(parts[0].utf8))
            var value: String?
            if parts.count > 1 {
                let bytes = try #require(PercentEncoding.decode(parts[1].utf8))
                value = String(decoding: bytes, as: UTF8.self)
            }
            return (name: String(decoding: name, as: UTF8.self), value: value)
        }
        return HTTPRequest(
            method, HTTPOrigin(scheme: request.scheme == "http" ? .http : .https, host: host, port: port),
            path: request.path, query: query,
            headers: request.headers.map { (name: $0[0].lowercased(), value: $0[1]) }.filter { $0.name != "host" })
    }
}

@Suite("Signatures of version 4")
struct SignerTests {
    @Test(
        "Canonical request, string to sign and signature are those of the published cases",
        arguments: try SigningCase.all())
    func vector(_ vector: SigningCase) throws {
        var request = try vector.unsigned()
        request.headers.removeAll { ["x-amz-date", "x-amz-security-token"].contains($0.name) }
        request.headers.append((name: "x-amz-date", value: vector.timestamp))
        if vector.service == "s3" { request.headers.append((name: "x-amz-content-sha256", value: vector.payload)) }
        if let token = vector.credentials.sessionToken {
            request.headers.append((name: "x-amz-security-token", value: token))
        }
        let rule: CanonicalRequest.PathRule =
            vector.service == "s3" ? .asSent : vector.mode?.normalizePath == false ? .encodedAgain : .normalised
        let canonical = CanonicalRequest(request, path: rule, payload: vector.payload)
        #expect(String(decoding: canonical.bytes, as: UTF8.self) == vector.expected.canonicalRequest)
        let text = Signer.stringToSign(
            canonical, time: vector.timestamp, region: vector.region, service: vector.service)
        #expect(String(decoding: text, as: UTF8.self) == vector.expected.stringToSign)
        let authorization = Signer().authorization(
            of: canonical, time: vector.timestamp, credentials: vector.keys, region: vector.region,
            service: vector.service)
        #expect(authorization == vector.expected.authorization)
    }

    @Test("A request signed as a whole, and signed again with other keys, carries one signature, the expected one")
    func whole() throws {
        let signer = Signer()
        var signed = 0
        for vector in try SigningCase.all() {
            guard vector.request.scheme == "https" || vector.payload != "UNSIGNED-PAYLOAD",
                vector.service == "s3" || vector.mode?.normalizePath != false,
                !vector.payload.hasPrefix("STREAMING"),
                !vector.request.headers.contains(where: { $0[1].contains("\n") })
            else { continue }
            var request = try vector.unsigned()
            let payload: PayloadHash
            if vector.payload == "UNSIGNED-PAYLOAD" {
                payload = .unsigned
            } else {
                let bytes = stride(from: 0, to: 64, by: 2).compactMap { index in
                    UInt8(vector.payload.dropFirst(index).prefix(2), radix: 16)
                }
                payload = .sha256(try #require(Digest(bytes: bytes)))
            }
            let other = S3Credentials(accessKey: "A", secretKey: "B", sessionToken: "C", provider: "test")
            let date = try vector.date
            try signer.sign(
                &request, credentials: other, region: "x", service: vector.service, date: date, payload: .empty)
            try signer.sign(
                &request, credentials: vector.keys, region: vector.region, service: vector.service, date: date,
                payload: payload)
            let values = request.headers.filter { $0.name == "authorization" }.map(\.value)
            #expect(values == [vector.expected.authorization], "\(vector.name)")
            signed += 1
        }
        #expect(signed > 90)
    }

    @Test("A body that is not signed is refused over plain HTTP")
    func unsignedOverHTTP() {
        var request = HTTPRequest(.put, HTTPOrigin(scheme: .http, host: "h"), path: "/k")
        let keys = S3Credentials(accessKey: "A", secretKey: "B", provider: "test")
        let now = Timestamp(microseconds: 0)
        #expect(throws: SafeBackupError.self) {
            try Signer().sign(&request, credentials: keys, region: "r", date: now, payload: .unsigned)
        }
        #expect(request.headers.isEmpty)
    }

    @Test(
        "A header that would break the request apart is refused",
        arguments: [
            ("x-amz-meta-a", "b\r\nx-amz-acl: public-read"), ("x-amz-meta-a", "b\nc"), ("x-amz-meta-a", "b\0c"),
            ("x-amz-meta-a: b", "c"), ("x amz", "c"), ("", "c"), ("x-amz-meta-ü", "c"),
        ])
    func injection(_ name: String, _ value: String) {
        var request = HTTPRequest(.put, HTTPOrigin(scheme: .https, host: "h"), path: "/k")
        request.headers = [(name: name, value: value)]
        let keys = S3Credentials(accessKey: "A", secretKey: "B", provider: "test")
        let now = Timestamp(microseconds: 0)
        #expect(throws: SafeBackupError.self) {
            try Signer().sign(&request, credentials: keys, region: "r", date: now, payload: .empty)
        }
    }

    // RFC 4231, cases 1, 2, 3 and 6 (a key longer than a block).
    @Test(
        "HMAC-SHA256 is RFC 4231's",
        arguments: [
            (
                [UInt8](repeating: 0x0B, count: 20), Array("Hi There".utf8),
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
            ),
            (
                Array("Jefe".utf8), Array("what do ya want for nothing?".utf8),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
            ),
            (
                [UInt8](repeating: 0xAA, count: 20), [UInt8](repeating: 0xDD, count: 50),
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
            ),
            (
                [UInt8](repeating: 0xAA, count: 131),
                Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
            ),
        ])
    func code(_ key: [UInt8], _ message: [UInt8], _ expected: String) {
        #expect(hexadecimal(SHA256().code(of: message, key: key)) == expected)
    }

    @Test("The day of the key is the day of the request, also after many others")
    func days() throws {
        let signer = Signer()
        let keys = S3Credentials(accessKey: "A", secretKey: "B", provider: "test")
        var seen: Set<String> = []
        for round in 0..<2 {
            for day in 0..<40 {
                var request = HTTPRequest(.get, HTTPOrigin(scheme: .https, host: "h"), path: "/k")
                let date = Timestamp(microseconds: Int64(day) * 86_400_000_000)
                try signer.sign(&request, credentials: keys, region: "r", date: date, payload: .empty)
                let value = try #require(request.headers.last?.value)
                #expect(seen.insert(value).inserted == (round == 0))
            }
        }
    }

    @Test("What is sent is what is signed: names without a value stay alone, the rest is encoded once")
    func target() {
        let query: [(name: String, value: String?)] = [("uploads", nil), ("prefix", "a b+c/é"), ("empty", "")]
        let request = HTTPRequest(.get, HTTPOrigin(scheme: .https, host: "h"), path: "/a%20b/../c", query: query)
        #expect(request.target == "/a%20b/../c?uploads&prefix=a%20b%2Bc%2F%C3%A9&empty=")
    }

    @Test("Every byte comes back from its encoding", arguments: [true, false])
    func encoding(_ keepsSlash: Bool) {
        let bytes = Array(UInt8.min...UInt8.max)
        let text = PercentEncoding.encode(bytes, keepsSlash: keepsSlash)
        #expect(PercentEncoding.decode(text.utf8) == bytes)
        #expect(PercentEncoding.decode("a+b%2B%C3%A9".utf8, plusIsSpace: true) == Array("a b+é".utf8))
        for broken in ["%", "%4", "%zz", "a%2"] { #expect(PercentEncoding.decode(broken.utf8) == nil) }
    }
}
