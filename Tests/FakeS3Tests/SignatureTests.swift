import Foundation
import SafeBackupFakeS3
import Testing

@Suite("Signatures that the fake S3 server verifies")
struct SignatureTests {
    struct File: Decodable { let cases: [Case] }

    struct Case: Decodable, CustomTestStringConvertible, Sendable {
        struct Request: Decodable {
            let method: String
            let host: String
            let path: String
            let query: String
            let headers: [[String]]
            let payload_hash: String?
        }
        struct Expected: Decodable {
            let canonical_request: String
            let authorization: String?
        }
        struct Keys: Decodable {
            let access_key: String
            let secret_key: String
            let session_token: String?
        }
        let name: String
        let service: String
        let region: String
        let timestamp: String
        let credentials: Keys
        let request: Request
        let expected: Expected

        var testDescription: String { name }

        /// As it is sent.
        func wire() -> FakeRequest {
            var headers = request.headers.map { (name: $0[0].lowercased(), value: $0[1]) }
            headers.append(("host", request.host))
            headers.append(("x-amz-date", timestamp))
            headers.append(("x-amz-content-sha256", request.payload_hash ?? ""))
            if let token = credentials.session_token { headers.append(("x-amz-security-token", token)) }
            headers.append(("authorization", expected.authorization ?? ""))
            return FakeRequest(method: request.method, path: request.path, query: request.query, headers: headers)
        }

        var check: SignatureCheck {
            var check = SignatureCheck(
                region: region,
                credentials: [
                    FakeCredential(
                        accessKey: credentials.access_key, secretKey: credentials.secret_key,
                        sessionToken: credentials.session_token)
                ], now: WireTime.parse(timestamp) ?? 0)
            check.allowsUnsignedPayload = true
            return check
        }
    }

    /// All requests to S3 that are signed as a whole, from botocore and from Amazon's documentation.
    static let cases: [Case] = {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "SafeBackupS3Tests/Vectors/sigv4")
        return ["s3-generated.json", "s3-doc-examples.json"].flatMap { name -> [Case] in
            do {
                let data = try Data(contentsOf: folder.appending(path: name))
                return try JSONDecoder().decode(File.self, from: data).cases
            } catch {
                Issue.record("\(name): \(error)")
                return []
            }
        }.filter { $0.service == "s3" && $0.request.payload_hash?.hasPrefix("STREAMING") != true }
    }()

    @Test("Requests that others signed are accepted", arguments: cases)
    func published(_ item: Case) throws {
        try item.check.verify(item.wire())
    }

    @Test("The vectors are there")
    func count() {
        #expect(Self.cases.count > 60)
    }

    @Test("A request that was changed after it was signed is refused", arguments: cases.prefix(20))
    func changed(_ item: Case) {
        let good = item.wire()
        var path = good
        path.path += "x"
        var query = good
        query.query += query.query.isEmpty ? "a=1" : "&a=1"
        var method = good
        method.method = "PATCH"
        for request in [path, query, method] {
            #expect(throws: S3Failure.self) { try item.check.verify(request) }
        }
        // A header that no signature covers.
        var more = good
        more.headers.append(("x-amz-acl", "public-read"))
        #expect { try item.check.verify(more) } throws: { ($0 as? S3Failure)?.code == "AccessDenied" }
    }

    @Test("Clock, region, key, token and expiry are told by S3's codes")
    func refusals() throws {
        let item = try #require(Self.cases.first { $0.name == "hdr-session-token" })
        func code(_ change: (inout SignatureCheck) -> Void) -> String? {
            var check = item.check
            change(&check)
            do { try check.verify(item.wire()) } catch { return (error as S3Failure).code }
            return nil
        }
        #expect(code { $0.now += 901 } == "RequestTimeTooSkewed")
        #expect(code { $0.now -= 901 } == "RequestTimeTooSkewed")
        #expect(code { $0.now += 899 } == nil)
        #expect(code { $0.region = "mars-1" } == "AuthorizationHeaderMalformed")
        #expect(code { $0.credentials = [FakeCredential()] } == "InvalidAccessKeyId")
        #expect(code { $0.credentials[0].sessionToken = "another" } == "InvalidToken")
        #expect(code { $0.credentials[0].secretKey += "x" } == "SignatureDoesNotMatch")
        #expect(code { $0.credentials[0].expires = $0.now } == "ExpiredToken")
        #expect(code { $0.credentials[0].expires = $0.now + 1 } == nil)
    }
}
