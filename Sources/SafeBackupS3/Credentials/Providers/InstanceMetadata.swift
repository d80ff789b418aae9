import SafeBackupCore

/// Asks the metadata service of an EC2 instance, with a session's token (version 2).
///
/// A service that gives no token is asked without one (version 1), unless that is disabled; it never goes through a proxy.
struct InstanceMetadata {
    private static let roles = "/latest/meta-data/iam/security-credentials/"

    var access: ServiceAccess
    var origin: HTTPOrigin
    var prefix: String
    var timeout: Duration
    var attempts: Int
    var allowsVersion1: Bool

    init(_ environment: AWSEnvironment, _ profiles: AWSProfiles, access: ServiceAccess) throws(CredentialsFailure) {
        self.access = access
        let mode =
            environment.text("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
            ?? profiles.option("ec2_metadata_service_endpoint_mode") ?? "ipv4"
        let standard = mode.lowercased() == "ipv6" ? "http://[fd00:ec2::254]" : "http://169.254.169.254"
        let text =
            environment.text("AWS_EC2_METADATA_SERVICE_ENDPOINT") ?? profiles.option("ec2_metadata_service_endpoint")
            ?? standard
        guard let url = ServiceURL(text) else {
            throw CredentialsFailure(
                .invalidConfiguration,
                "The address of the metadata service (AWS_EC2_METADATA_SERVICE_ENDPOINT, or ec2_metadata_service_endpoint "
                    + "of profile \(profiles.name)) is no http:// address")
        }
        origin = url.origin
        prefix = url.path.hasSuffix("/") ? String(url.path.dropLast()) : url.path
        timeout = .seconds(min(60, max(1, environment.text("AWS_METADATA_SERVICE_TIMEOUT").flatMap(Int.init) ?? 1)))
        attempts = min(10, max(1, environment.text("AWS_METADATA_SERVICE_NUM_ATTEMPTS").flatMap(Int.init) ?? 1))
        allowsVersion1 =
            !(environment.isTrue("AWS_EC2_METADATA_V1_DISABLED")
            || profiles.option("ec2_metadata_v1_disabled")?.lowercased() == "true")
    }

    static func isDisabled(_ environment: AWSEnvironment) -> Bool {
        environment.isTrue("AWS_EC2_METADATA_DISABLED")
    }

    /// The keys of the instance's role.
    ///
    /// - Throws: kind `none` where there is no service, no role, or no usable answer; `retrieval` where only version 1
    ///   would do and is disabled.
    func load() async throws(CredentialsFailure) -> S3Credentials {
        let token = try await token()
        let list = try await get(Self.roles, token)
        let text = String(decoding: list, as: UTF8.self)
        guard let role = text.split(whereSeparator: \.isNewline).first.map(String.init) else {
            throw Self.none("the metadata service names no role; attach an instance profile with a role")
        }
        let body = try await get(Self.roles + PercentEncoding.encode(role), token)
        guard let document = CredentialsDocument.read(body) else {
            throw Self.none("the metadata service gave no JSON object with keys for the role \(role)")
        }
        if let code = document.code, code != "Success" {
            throw Self.none(
                "the metadata service gives no keys for the role \(role): \(code)\(document.message.map { ", \($0)" } ?? "")"
            )
        }
        do throws(CredentialsFailure) {
            return try document.credentials(
                provider: "iam-role", token: document.token, from: "the metadata service")
        } catch {
            throw Self.none(error.message)
        }
    }

    /// The region in which the instance runs; `nil` if the service does not say.
    func region() async -> String? {
        do throws(CredentialsFailure) {
            let token = try await token()
            let body = try await get("/latest/meta-data/placement/region", token)
            let region = String(decoding: body, as: UTF8.self)
            // It becomes part of a host's name.
            let isLabel = region.utf8.allSatisfy {
                ($0 >= 0x61 && $0 <= 0x7A) || ($0 >= 0x30 && $0 <= 0x39) || $0 == 0x2D
            }
            return isLabel && !region.isEmpty && region.utf8.count < 64 ? region : nil
        } catch {
            return nil
        }
    }

    private static func none(_ message: String) -> CredentialsFailure { CredentialsFailure(.none, message) }

    /// `nil`: go on without one.
    private func token() async throws(CredentialsFailure) -> String? {
        let request = request(
            .put, "/latest/api/token", [(name: "x-aws-ec2-metadata-token-ttl-seconds", value: "21600")])
        for _ in 1...attempts {
            let answer = await send(request)
            switch answer {
            case .success(let response) where response.status == 200:
                let token = String(decoding: response.body, as: UTF8.self)
                if token.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) && !token.isEmpty { return token }
            case .success(let response) where response.status == 400:
                throw Self.none("the metadata service refused the request for a token (400)")
            case .success(let response) where [403, 404, 405].contains(response.status):
                return try withoutToken("answers \(response.status) to the request for a token")
            case .failure(let failure) where failure.kind != .stalled:
                // Nobody listens there, so that version 1 would not be heard either.
                throw Self.none("the metadata service is not reachable: \(failure.message)")
            default: continue
            }
        }
        return try withoutToken("does not answer the request for a token (in a container: a hop limit of 1?)")
    }

    private func withoutToken(_ reason: String) throws(CredentialsFailure) -> String? {
        if allowsVersion1 { return nil }
        throw CredentialsFailure(
            .retrieval,
            "The metadata service \(reason), and version 1 is disabled (ec2_metadata_v1_disabled or "
                + "AWS_EC2_METADATA_V1_DISABLED); set the instance's hop limit to 2, or give the container a role of its own"
        )
    }

    private func get(_ path: String, _ token: String?) async throws(CredentialsFailure) -> [UInt8] {
        let request = request(.get, path, token.map { [(name: "x-aws-ec2-metadata-token", value: $0)] } ?? [])
        var reason = ""
        for _ in 1...attempts {
            switch await send(request) {
            case .success(let response) where response.status == 200 && !response.body.isEmpty: return response.body
            case .success(let response) where response.status == 404:
                throw Self.none(
                    "the metadata service has nothing at \(path) (404): is a role attached to the instance?")
            case .success(let response): reason = "answers \(response.status) for \(path)"
            case .failure(let failure):
                reason = "does not answer: \(failure.message) (in a container: a hop limit of 1?)"
            }
        }
        throw Self.none("the metadata service \(reason)")
    }

    private func request(
        _ method: HTTPRequest.Method, _ path: String, _ headers: [(name: String, value: String)]
    ) -> HTTPRequest {
        var request = HTTPRequest(method, origin, path: prefix + path, headers: headers)
        request.mayUseProxy = false
        request.sink = .memory(limit: 1 << 20)
        request.limits.connect = timeout
        request.limits.stall = timeout
        request.limits.answer = timeout
        return request
    }

    private func send(_ request: HTTPRequest) async -> Result<HTTPResponse, TransportFailure> {
        do throws(TransportFailure) {
            return .success(try await access.transport.send(request))
        } catch {
            return .failure(error)
        }
    }
}
