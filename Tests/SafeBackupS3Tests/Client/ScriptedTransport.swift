import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem

/// Answers requests as a test says, and keeps them.
final class ScriptedTransport: HTTPTransport {
    typealias Step = @Sendable (HTTPRequest, Int) -> Result<HTTPResponse, TransportFailure>

    private let state = Locked<[HTTPRequest]>([])
    private let step: Step

    /// - Parameter step: gets each request, and which it is, from 0.
    init(_ step: @escaping Step) { self.step = step }

    /// These answers, one after the other; the last again and again.
    convenience init(_ answers: [Result<HTTPResponse, TransportFailure>]) {
        self.init { _, index in answers[min(index, answers.count - 1)] }
    }

    func send(_ request: HTTPRequest) async throws(TransportFailure) -> HTTPResponse {
        let index = state.withLock { requests in
            requests.append(request)
            return requests.count - 1
        }
        return try step(request, index).get()
    }

    var requests: [HTTPRequest] { state.withLock { $0 } }
}

extension HTTPRequest {
    func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }
    /// As `PUT /bucket/key?uploadId=…`.
    var line: String { "\(method.rawValue) \(target)" }
}

extension Result where Success == HTTPResponse, Failure == TransportFailure {
    static let stored = Self.answer(200, headers: [("etag", "\"e\""), ("x-amz-request-id", "R1")])

    static func answer(
        _ status: Int, _ body: String = "", headers: [(name: String, value: String)] = [("x-amz-request-id", "R1")]
    ) -> Self { .success(HTTPResponse(status: status, headers: headers, body: Array(body.utf8))) }

    static func error(
        _ status: Int, _ code: String, _ message: String = "words of the server", more: String = "",
        headers: [(name: String, value: String)] = [("x-amz-request-id", "REQ7"), ("x-amz-id-2", "HOST8")]
    ) -> Self {
        .answer(status, "<Error><Code>\(code)</Code><Message>\(message)</Message>\(more)</Error>", headers: headers)
    }

    static func lost(_ kind: TransportFailure.Kind = .connectionLost, mayHaveArrived: Bool = true) -> Self {
        .failure(TransportFailure(kind, "the connection to h was lost", mayHaveArrived: mayHaveArrived))
    }
}

/// Keys that never change, or as a test says.
final class ScriptedCredentials: CredentialsSource {
    private let keys: [S3Credentials]
    private let state = Locked(0)

    init(_ keys: [S3Credentials] = [ScriptedCredentials.key("A")]) { self.keys = keys }

    static func key(_ name: String, expires: Bool = false) -> S3Credentials {
        S3Credentials(
            accessKey: "AKID\(name)", secretKey: "secret-\(name)-value", sessionToken: "token-\(name)-value",
            expiration: expires ? Timestamp(microseconds: 4_000_000_000_000_000) : nil, provider: "env")
    }

    func credentials(after refused: S3Credentials?) async throws(SafeBackupError) -> S3Credentials {
        state.withLock { index in
            if refused == keys[index], index + 1 < keys.count { index += 1 }
            return keys[index]
        }
    }
}

/// What a client did besides its answers.
final class Record: Sendable {
    private let state = Locked<(waits: [Duration], notices: [S3Notice])>(([], []))
    var waits: [Duration] { state.withLock { $0.waits } }
    var notices: [S3Notice] { state.withLock { $0.notices } }
    func wait(_ time: Duration) { state.withLock { $0.waits.append(time) } }
    func note(_ notice: S3Notice) { state.withLock { $0.notices.append(notice) } }
}

extension S3Client {
    static let elsewhere = BucketAddress(
        origin: HTTPOrigin(scheme: .http, host: "s3.test", port: 9_000), pathPrefix: "/b", region: "us-east-1",
        isAWS: false)

    static func aws(_ region: String?) -> BucketAddress {
        let region = region ?? "eu-west-1"
        return BucketAddress(
            origin: HTTPOrigin(scheme: .https, host: "b.s3.\(region).amazonaws.com"), pathPrefix: "", region: region,
            isAWS: true)
    }

    /// A client whose waits take no time.
    static func scripted(
        _ transport: some HTTPTransport, _ record: Record = Record(), isAWS: Bool = false,
        credentials: ScriptedCredentials = ScriptedCredentials(), clock: WallClock = .system,
        _ change: (inout S3ClientSettings) -> Void = { _ in }
    ) throws -> S3Client {
        var settings = S3ClientSettings(bucket: "b")
        change(&settings)
        return try S3Client(
            settings, transport: transport, credentials: credentials,
            locate: { isAWS ? S3Client.aws($0) : S3Client.elsewhere }, clock: clock, random: { 1 },
            pause: { record.wait($0) }, notice: { record.note($0) })
    }
}

func key(_ text: String) -> ObjectKey { ObjectKey(unchecked: Array(text.utf8)) }

/// The error that a request ends with.
func failure<Value>(_ body: () async throws -> Value) async -> SafeBackupError? {
    do {
        _ = try await body()
        return nil
    } catch { return error as? SafeBackupError }
}
