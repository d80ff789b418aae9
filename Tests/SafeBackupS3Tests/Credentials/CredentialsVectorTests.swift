import Foundation
import SafeBackupCore
import SafeBackupS3
import Testing

/// One case of `Vectors/credentials`.
struct CredentialsCase: Sendable, CustomTestStringConvertible {
    struct Expectation: Sendable {
        var result: String
        var kind: String?
        var keys: S3Credentials?
    }

    struct Request: Sendable {
        var method: String
        var path: String
        var headers: [String: String]
        var form: [String: String]
        var signature: [String: String]?
    }

    var name: String
    var isContested: Bool
    var files: [String: String]
    var environment: [String: String]
    var profile: String?
    var rules: [PlayedTransport.Rule]
    var expected: Expectation
    var requests: [Request]

    var testDescription: String { name }

    /// As the specification proposes where implementations differ.
    static let decided: [String: Expectation] = [
        "env-legacy-security-token": found("AKENV", "AKENV-secret", nil, "env"),
        "inline-comment": found("AKFILE", "abc", nil, "shared-credentials-file"),
        "duplicate-section": found("AK2", "AK2-secret", nil, "shared-credentials-file"),
        "utf8-bom": found("AKFILE", "AKFILE-secret", nil, "shared-credentials-file"),
        "assume-duration-not-a-number": Expectation(result: "error", kind: "invalid_configuration"),
    ]

    private static func found(_ access: String, _ secret: String, _ token: String?, _ provider: String) -> Expectation {
        Expectation(
            result: "credentials",
            keys: S3Credentials(accessKey: access, secretKey: secret, sessionToken: token, provider: provider))
    }

    static let all: [CredentialsCase] = {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Vectors/credentials/cases.json")
        do {
            let file = try JSONSerialization.jsonObject(with: Data(contentsOf: path)) as? [String: Any]
            return (file?["cases"] as? [[String: Any]] ?? []).map(CredentialsCase.init)
        } catch {
            return []
        }
    }()

    init(_ json: [String: Any]) {
        name = json["name"] as? String ?? ""
        isContested = (json["contested"] as? String)?.isEmpty == false
        files = json["files"] as? [String: String] ?? [:]
        environment = json["env"] as? [String: String] ?? [:]
        profile = json["profile_argument"] as? String
        rules = (json["http"] as? [[String: Any]] ?? []).map { rule in
            var body: [UInt8] = []
            if let text = rule["body"] as? String { body = Array(text.utf8) }
            if let object = rule["body"] as? [String: Any] {
                do { body = Array(try JSONSerialization.data(withJSONObject: object)) } catch { body = [] }
            }
            return PlayedTransport.Rule(
                method: rule["method"] as? String ?? "", path: rule["path"] as? String ?? "",
                form: rule["form"] as? [String: String] ?? [:], times: rule["times"] as? Int,
                status: rule["status"] as? Int ?? 200, body: body)
        }
        let outcome = json["expected"] as? [String: Any] ?? [:]
        expected = Expectation(result: outcome["result"] as? String ?? "", kind: outcome["kind"] as? String)
        if let access = outcome["access_key"] as? String {
            expected.keys = S3Credentials(
                accessKey: access, secretKey: outcome["secret_key"] as? String ?? "",
                sessionToken: outcome["session_token"] as? String,
                expiration: (outcome["expiration"] as? String).flatMap(S3Date.iso),
                provider: outcome["provider"] as? String ?? "")
        }
        if let decided = Self.decided[name] { expected = decided }
        requests = (json["expected_requests"] as? [[String: Any]] ?? []).map { request in
            Request(
                method: request["method"] as? String ?? "", path: request["path"] as? String ?? "",
                headers: request["headers"] as? [String: String] ?? [:],
                form: request["form"] as? [String: String] ?? [:], signature: request["sigv4"] as? [String: String])
        }
        // The line end at a token's end is no part of it.
        if name == "web-identity-token-trailing-newline" {
            for index in requests.indices {
                requests[index].form["WebIdentityToken"] = requests[index].form["WebIdentityToken"].map {
                    $0.trimmingCharacters(in: .newlines)
                }
            }
        }
        if Self.decided[name]?.result == "error" { requests = [] }
    }
}

@Suite("The chain of credentials, by the cases of AWS's own programs")
struct CredentialsVectorTests {
    private static let url = "http://127.0.0.1:9"

    @Test("All 74 cases are read")
    func count() { #expect(CredentialsCase.all.count == 74) }

    @Test(
        "A case gives the expected keys or the expected failure, with the expected requests",
        arguments: CredentialsCase.all)
    func play(_ test: CredentialsCase) async throws {
        let scratch = try Scratch()
        let fill = { (text: String) in
            text.replacingOccurrences(of: "${DIR}", with: scratch.path).replacingOccurrences(
                of: "${URL}", with: Self.url)
        }
        for (name, content) in test.files { try scratch.write(fill(content), to: name) }
        let played = try PlayedChain(
            test.rules, environment: test.environment.mapValues(fill), settings: .init(profile: test.profile))
        let result = await played.resolve()

        switch result {
        case .success(let keys):
            #expect(test.expected.result == "credentials")
            #expect(keys == test.expected.keys, "secrets: \(keys.secretKey) \(keys.provider)")
        case .failure(let failure):
            let kind = failure.kind == .none ? nil : failure.kind.rawValue
            #expect(test.expected.result == (kind == nil ? "none" : "error"), "\(failure.message)")
            #expect(kind == test.expected.kind, "\(failure.message)")
            // No value of a secret is in what people read.
            for secret in ["-secret", "eyJh", "srctok"] { #expect(!failure.message.contains(secret)) }
        }
        compare(played.transport.requests, test.requests)
    }

    private func compare(_ sent: [HTTPRequest], _ expected: [CredentialsCase.Request]) {
        #expect(
            sent.map { "\($0.method.rawValue) \(PlayedTransport.path($0))" }
                == expected.map { "\($0.method) \($0.path)" })
        for (request, expected) in zip(sent, expected) {
            for (name, value) in expected.headers {
                #expect(request.headers.first { $0.name == name }?.value == value)
            }
            let form = PlayedTransport.form(request)
            #expect(Set(form.keys) == Set(expected.form.keys))
            for (name, value) in expected.form where value != "<any>" { #expect(form[name] == value) }
            let authorization = request.headers.first { $0.name == "authorization" }?.value
            if let signature = expected.signature {
                let scope = "/\(signature["region"] ?? "")/\(signature["service"] ?? "")/aws4_request,"
                #expect(authorization?.contains("Credential=\(signature["access_key"] ?? "")/") == true)
                #expect(authorization?.contains(scope) == true)
                let token = request.headers.first { $0.name == "x-amz-security-token" }?.value
                #expect(token == signature["session_token"])
            } else if expected.headers["authorization"] == nil {
                #expect(authorization == nil)
            }
        }
    }
}
