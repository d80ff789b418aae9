import SafeBackupCore
import SafeBackupS3
import Testing

@Suite("The error matrix")
struct S3ErrorMatrixTests {
    /// status, code, operation, requests sent, code of ours, disposition.
    struct Row: Sendable, CustomTestStringConvertible {
        var status: Int
        var code: String
        var sent: Int
        var error: SafeBackupError.Code
        var disposition: Disposition
        var message = "words of the server"
        var testDescription: String { "\(status) \(code) \(message)" }
    }

    static let rows: [Row] = [
        Row(status: 500, code: "InternalError", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 503, code: "ServiceUnavailable", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 503, code: "XMinioServerNotInitialized", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 503, code: "SlowDown", sent: 5, error: .serverBusy, disposition: .throttled),
        Row(status: 503, code: "SlowDownWrite", sent: 5, error: .serverBusy, disposition: .throttled),
        Row(status: 429, code: "Whatever", sent: 5, error: .serverBusy, disposition: .throttled),
        Row(status: 400, code: "RequestTimeout", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 400, code: "IncompleteBody", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 409, code: "OperationAborted", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 409, code: "ConditionalRequestConflict", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 400, code: "ExpiredToken", sent: 1, error: .credentialsRefused, disposition: .auth),
        Row(status: 400, code: "InvalidToken", sent: 1, error: .credentialsRefused, disposition: .auth),
        Row(status: 403, code: "InvalidAccessKeyId", sent: 1, error: .credentialsRefused, disposition: .auth),
        Row(status: 403, code: "SignatureDoesNotMatch", sent: 1, error: .credentialsRefused, disposition: .auth),
        Row(status: 403, code: "RequestTimeTooSkewed", sent: 1, error: .clockSkewed, disposition: .auth),
        Row(status: 403, code: "AccountProblem", sent: 1, error: .credentialsRefused, disposition: .auth),
        Row(status: 403, code: "AccessDenied", sent: 1, error: .accessDenied, disposition: .transient),
        Row(
            status: 403, code: "AccessDenied", sent: 1, error: .destinationFull, disposition: .destinationFull,
            message: "Cannot upload files, storage cap exceeded. See the Caps page"),
        Row(
            status: 403, code: "AccessDenied", sent: 1, error: .objectRefused, disposition: .permanent,
            message: "Access Denied because object protected by object lock."),
        Row(
            status: 400, code: "AuthorizationHeaderMalformed", sent: 1, error: .settingRefused,
            disposition: .destinationUnavailable),
        Row(
            status: 301, code: "PermanentRedirect", sent: 1, error: .settingRefused,
            disposition: .destinationUnavailable),
        Row(
            status: 404, code: "NoSuchBucket", sent: 1, error: .destinationMissing, disposition: .destinationUnavailable
        ),
        Row(
            status: 400, code: "AccessControlListNotSupported", sent: 1, error: .settingRefused,
            disposition: .destinationUnavailable),
        Row(
            status: 400, code: "InvalidStorageClass", sent: 1, error: .settingRefused,
            disposition: .destinationUnavailable),
        Row(
            status: 400, code: "KMS.DisabledException", sent: 1, error: .settingRefused,
            disposition: .destinationUnavailable),
        Row(status: 400, code: "KMS.ThrottlingException", sent: 5, error: .serverBusy, disposition: .throttled),
        Row(
            status: 400, code: "InvalidRequest", sent: 1, error: .settingRefused, disposition: .destinationUnavailable,
            message: "Bucket is missing Object Lock Configuration"),
        Row(
            status: 501, code: "NotImplemented", sent: 1, error: .settingRefused, disposition: .destinationUnavailable,
            message: "Header 'x-amz-tagging' with value 'a=b' not implemented"),
        Row(status: 507, code: "XMinioStorageFull", sent: 1, error: .destinationFull, disposition: .destinationFull),
        Row(status: 403, code: "QuotaExceeded", sent: 1, error: .destinationFull, disposition: .destinationFull),
        Row(status: 400, code: "BadDigest", sent: 2, error: .transferDamaged, disposition: .transient),
        Row(status: 400, code: "XAmzContentSHA256Mismatch", sent: 2, error: .transferDamaged, disposition: .transient),
        Row(status: 400, code: "InvalidDigest", sent: 1, error: .requestRefused, disposition: .permanent),
        Row(status: 400, code: "EntityTooLarge", sent: 1, error: .objectRefused, disposition: .permanent),
        Row(status: 400, code: "KeyTooLongError", sent: 1, error: .objectRefused, disposition: .permanent),
        Row(status: 400, code: "MetadataTooLarge", sent: 1, error: .objectRefused, disposition: .permanent),
        Row(status: 400, code: "MalformedXML", sent: 1, error: .requestRefused, disposition: .permanent),
        Row(status: 412, code: "PreconditionFailed", sent: 1, error: .objectRefused, disposition: .permanent),
        Row(status: 418, code: "SomethingNew", sent: 1, error: .objectRefused, disposition: .permanent),
        Row(status: 502, code: "SomethingNew", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 200, code: "InternalError", sent: 5, error: .serverFailed, disposition: .throttled),
        Row(status: 200, code: "SlowDown", sent: 5, error: .serverBusy, disposition: .throttled),
    ]

    @Test(
        "Each code is tried again as often as it pays, and told with its words, the request's id and what to do",
        arguments: rows)
    func code(_ row: Row) async throws {
        let transport = ScriptedTransport([.error(row.status, row.code, row.message)])
        let client = try S3Client.scripted(transport)
        let error = try #require(await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) })
        #expect(error.code == row.error)
        #expect(error.disposition == row.disposition)
        #expect(transport.requests.count == row.sent)
        for part in [row.code, row.message, "REQ7", "HOST8", "PutObject", "\"k\"", "bucket b", "s3.test:9000"] {
            #expect(error.message.contains(part), "\(error.message)")
        }
        for secret in ["secret-A-value", "token-A-value", "AKIDA "] { #expect(!error.message.contains(secret)) }
    }

    @Test(
        "An answer without a code goes by its status",
        arguments: [
            (401, 1, SafeBackupError.Code.credentialsRefused), (403, 1, .accessDenied), (404, 1, .destinationMissing),
            (405, 1, .notObjectStore), (407, 1, .settingRefused), (408, 5, .serverFailed), (409, 5, .serverFailed),
            (413, 1, .settingRefused), (411, 1, .requestRefused), (429, 5, .serverBusy), (499, 5, .serverFailed),
            (500, 5, .serverFailed), (501, 1, .settingRefused), (502, 5, .serverFailed), (503, 5, .serverFailed),
            (504, 5, .serverFailed), (507, 1, .destinationFull), (509, 5, .serverBusy), (522, 5, .serverFailed),
            (301, 1, .settingRefused), (302, 1, .settingRefused), (418, 1, .objectRefused),
        ])
    func status(_ status: Int, _ sent: Int, _ code: SafeBackupError.Code) async throws {
        let transport = ScriptedTransport([.answer(status)])
        let client = try S3Client.scripted(transport)
        let error = await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(error?.code == code)
        #expect(transport.requests.count == sent)
    }

    @Test(
        "A request without an answer",
        arguments: [
            (TransportFailure.Kind.nameNotFound, 5, SafeBackupError.Code.serverUnreachable),
            (.proxyNotFound, 5, .serverUnreachable),
            (.cannotConnect, 5, .serverUnreachable), (.connectTimedOut, 5, .serverUnreachable),
            (.stalled, 5, .serverUnreachable), (.connectionLost, 5, .serverUnreachable),
            (.tlsFailed, 2, .serverUntrusted),
            (.certificateNotTrusted, 1, .serverUntrusted), (.certificateFileFailed, 1, .settingRefused),
            (.notHTTP, 1, .notObjectStore), (.tooLarge, 1, .notObjectStore), (.badRequest, 1, .settingRefused),
            (.noMemory, 5, .exhausted), (.cancelled, 1, .interrupted),
        ])
    func transport(_ kind: TransportFailure.Kind, _ sent: Int, _ code: SafeBackupError.Code) async throws {
        let transport = ScriptedTransport([.lost(kind)])
        let client = try S3Client.scripted(transport)
        let error = await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(error?.code == code)
        #expect(transport.requests.count == sent)
    }

    @Test("A web page is never a server of objects, whatever its status", arguments: [200, 204, 302, 403, 404, 405])
    func page(_ status: Int) async throws {
        for type in ["text/html; charset=utf-8", "application/xml"] {
            let transport = ScriptedTransport([
                .answer(
                    status, "<!DOCTYPE html><html>log in</html>", headers: [("content-type", type), ("etag", "\"x\"")])
            ])
            let client = try S3Client.scripted(transport)
            let error = await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
            #expect(error?.code == .notObjectStore)
            #expect(error?.disposition == .destinationUnavailable)
        }
    }

    @Test("An empty 200 of something that gives no sign of S3 stores nothing")
    func nothing() async throws {
        let transport = ScriptedTransport([.answer(200, headers: [("server", "router")])])
        let client = try S3Client.scripted(transport)
        let error = await failure { try await client.put(key("k"), .bytes([1]), ObjectProperties()) }
        #expect(error?.code == .notObjectStore)
    }
}
