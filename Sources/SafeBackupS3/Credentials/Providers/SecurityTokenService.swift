import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Asks AWS STS (or a server that speaks like it) for the keys of a role.
struct SecurityTokenService {
    /// Pauses between attempts double from here.
    private static let pause = Duration.milliseconds(500)

    var access: ServiceAccess
    var origin: HTTPOrigin
    var path: String
    var region: String
    /// The address is AWS's own, so that another region's may do as well.
    var isStandard: Bool
    var attempts: Int

    init(
        _ environment: AWSEnvironment, _ profiles: AWSProfiles, region: String?, access: ServiceAccess
    ) throws(CredentialsFailure) {
        self.access = access
        attempts = min(10, max(1, environment.text("AWS_MAX_ATTEMPTS").flatMap(Int.init) ?? 3))
        let isIgnored = environment.isTrue("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
        let configured =
            isIgnored
            ? nil
            : environment.text("AWS_ENDPOINT_URL_STS") ?? environment.text("AWS_ENDPOINT_URL")
                ?? profiles.endpoint(of: "sts")
        self.region = region ?? "us-east-1"
        isStandard = configured == nil
        if let configured {
            guard let url = ServiceURL(configured), url.query == nil else {
                throw CredentialsFailure(
                    .invalidConfiguration,
                    "The address of STS (AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL or endpoint_url of profile "
                        + "\(profiles.name)) is no http:// or https:// address")
            }
            origin = url.origin
            path = url.path
        } else {
            guard region.map(Self.isLabel) ?? true else {
                throw CredentialsFailure(
                    .invalidConfiguration, "The region \(region ?? "") is no name of a region, as eu-west-1 is one")
            }
            origin = HTTPOrigin(scheme: .https, host: Self.host(region))
            path = "/"
        }
    }

    private static func isLabel(_ region: String) -> Bool {
        !region.isEmpty && region.utf8.count < 64
            && region.utf8.allSatisfy {
                ($0 >= 0x61 && $0 <= 0x7A) || ($0 >= 0x30 && $0 <= 0x39) || $0 == 0x2D
            }
    }

    private static func host(_ region: String?) -> String {
        guard let region else { return "sts.amazonaws.com" }
        let suffix =
            region.hasPrefix("cn-") ? "amazonaws.com.cn" : region.hasPrefix("eusc-") ? "amazonaws.eu" : "amazonaws.com"
        return "sts.\(region).\(suffix)"
    }

    /// `AssumeRole`, signed by `source`.
    func assumeRole(
        _ role: RoleRequest, source: S3Credentials
    ) async throws(CredentialsFailure) -> S3Credentials {
        var form = role.form("AssumeRole")
        if let external = role.externalID { form.append(("ExternalId", external)) }
        return try await ask(role, provider: "assume-role", signedBy: source) { () throws(CredentialsFailure) in form }
    }

    /// `AssumeRoleWithWebIdentity`: the token says who we are, nothing is signed.
    func assumeRole(
        _ role: RoleRequest, tokenFile: FilePath, place: String
    ) async throws(CredentialsFailure) -> S3Credentials {
        try await ask(role, provider: "assume-role-with-web-identity", signedBy: nil) {
            () async throws(CredentialsFailure) in
            role.form("AssumeRoleWithWebIdentity")
                + [("WebIdentityToken", try await access.tokenFile(tokenFile, "The file \(tokenFile) of \(place)"))]
        }
    }

    private func ask(
        _ role: RoleRequest, provider: String, signedBy source: S3Credentials?,
        _ form: () async throws(CredentialsFailure) -> [(String, String)]
    ) async throws(CredentialsFailure) -> S3Credentials {
        var here = self
        var failure = CredentialsFailure(.sts, "The role \(role.arn) of \(role.place) was not asked for", mayGoBy: true)
        var pause = Self.pause
        for attempt in 1...attempts {
            if attempt > 1 {
                await access.sleep(pause)
                pause *= 2
            }
            // Anew each time: a token may have been replaced meanwhile.
            let fields = try await form()
            let answer = try await here.send(fields, signedBy: source)
            switch answer {
            case .failure(let transport):
                failure = CredentialsFailure(
                    .sts,
                    "STS at \(here.origin.hostHeader) cannot be reached for the role \(role.arn) of \(role.place): "
                        + transport.message, mayGoBy: true)
            case .success(let response) where response.status == 200:
                return try Self.credentials(response.body, role, provider: provider)
            case .success(let response):
                let refusal = Refusal(response)
                failure = refusal.failure(role)
                if refusal.code == "RegionDisabledException" && here.isStandard && here.region != "us-east-1" {
                    here.origin.host = "sts.us-east-1.amazonaws.com"
                    here.region = "us-east-1"
                } else if !refusal.isTriedAgain(withToken: source == nil) {
                    throw failure
                }
            }
        }
        throw failure
    }

    private func send(
        _ form: [(String, String)], signedBy source: S3Credentials?
    ) async throws(CredentialsFailure) -> Result<HTTPResponse, TransportFailure> {
        let text = form.map { "\(PercentEncoding.encode($0.0))=\(PercentEncoding.encode($0.1))" }.joined(separator: "&")
        let body = Array(text.utf8)
        var request = HTTPRequest(
            .post, origin, path: path,
            headers: [
                (name: "content-type", value: "application/x-www-form-urlencoded; charset=utf-8"),
                (name: "accept", value: "text/xml"),
            ],
            body: .bytes(body))
        request.sink = .memory(limit: 1 << 20)
        request.limits.answer = .seconds(20)
        request.limits.stall = .seconds(20)
        if let source {
            do throws(SafeBackupError) {
                try access.signer.sign(
                    &request, credentials: source, region: region, service: "sts", date: access.clock.now,
                    payload: .sha256(SHA256.digest(of: body)))
            } catch {
                throw CredentialsFailure(.invalidConfiguration, error.message)
            }
        }
        do throws(TransportFailure) {
            return .success(try await access.transport.send(request))
        } catch {
            return .failure(error)
        }
    }

    private static func credentials(
        _ body: [UInt8], _ role: RoleRequest, provider: String
    ) throws(CredentialsFailure) -> S3Credentials {
        var found: XMLElement?
        do throws(XMLFailure) {
            let root = try XMLReader.read(body)
            found = root.children.lazy.compactMap { $0.first("Credentials") }.first ?? root.first("Credentials")
        } catch {
            // Told below: there are no keys in it.
        }
        guard let found, let access = found.string("AccessKeyId"), let secret = found.string("SecretAccessKey"),
            let expiration = found.string("Expiration").flatMap(CredentialsDocument.time)
        else {
            throw CredentialsFailure(
                .sts, "STS answered for the role \(role.arn) of \(role.place) without keys", mayGoBy: true)
        }
        return S3Credentials(
            accessKey: access, secretKey: secret, sessionToken: found.string("SessionToken"), expiration: expiration,
            provider: provider)
    }

    /// STS's no.
    private struct Refusal {
        var status: Int
        var code: String?
        var message: String?

        init(_ response: HTTPResponse) {
            status = response.status
            let error = S3ErrorAnswer.error(in: response.body)
            code = error?.string("Code")
            message = error?.string("Message")
        }

        func isTriedAgain(withToken: Bool) -> Bool {
            if status >= 500 || status == 429 { return true }
            switch code {
            case "IDPCommunicationError", "Throttling", "ThrottlingException", "RequestLimitExceeded": return true
            case "ExpiredTokenException", "InvalidIdentityToken": return withToken
            default: return false
            }
        }

        var advice: String {
            switch code {
            case "AccessDenied": "; look at the role's trust policy, and at external_id if it asks for one"
            case "ExpiredTokenException", "InvalidIdentityToken":
                "; the token's file is not being replaced, or the role does not trust who gave it"
            case "InvalidClientTokenId", "SignatureDoesNotMatch": "; the keys that ask for the role are wrong"
            case "ExpiredToken": "; the keys that ask for the role have expired"
            default: ""
            }
        }

        func failure(_ role: RoleRequest) -> CredentialsFailure {
            let what = [code ?? "status \(status)", message].compactMap(\.self).joined(separator: ": ")
            let goesBy = status >= 500 || status == 429 || (isTriedAgain(withToken: false))
            return CredentialsFailure(
                .sts, "STS does not give the role \(role.arn) of \(role.place): \(what)\(advice)", mayGoBy: goesBy)
        }
    }
}

/// Which role is asked for, and how.
struct RoleRequest {
    var arn: String
    var sessionName: String
    var duration: String?
    var externalID: String?
    /// What names the role, for messages.
    var place: String

    func form(_ action: String) -> [(String, String)] {
        var form = [("Action", action), ("Version", "2011-06-15"), ("RoleArn", arn), ("RoleSessionName", sessionName)]
        if let duration { form.append(("DurationSeconds", duration)) }
        return form
    }
}
