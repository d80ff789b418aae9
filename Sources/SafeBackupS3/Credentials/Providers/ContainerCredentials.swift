import SafeBackupSystem
import SystemPackage

/// Keys of a container's role: Amazon ECS (relative address) and EKS Pod Identity (full address, token file).
struct ContainerCredentials {
    private static let attempts = 3
    /// Where plain HTTP is allowed beside loopback: the task's and the pod's own endpoints.
    private static let hosts: Set<String> = ["localhost", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"]

    var environment: AWSEnvironment
    var access: ServiceAccess

    static func isConfigured(_ environment: AWSEnvironment) -> Bool {
        environment.text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != nil
            || environment.text("AWS_CONTAINER_CREDENTIALS_FULL_URI") != nil
    }

    func load() async throws(CredentialsFailure) -> S3Credentials {
        let url = try address()
        var request = HTTPRequest(
            .get, url.origin, path: url.path, query: url.queryItems,
            headers: [(name: "accept", value: "application/json")])
        request.mayUseProxy = false
        request.sink = .memory(limit: 1 << 20)
        request.limits.connect = .seconds(2)
        request.limits.stall = .seconds(2)
        request.limits.answer = .seconds(2)
        if let token = try await token() { request.headers.append((name: "authorization", value: token)) }
        let from = "The container's endpoint \(url.origin.scheme.rawValue)://\(url.origin.hostHeader)\(url.path)"
        var failure = CredentialsFailure(.retrieval, "\(from) did not answer", mayGoBy: true)
        for attempt in 1...Self.attempts {
            if attempt > 1 { await access.sleep(.seconds(1)) }
            let response: HTTPResponse
            do throws(TransportFailure) {
                response = try await access.transport.send(request)
            } catch {
                failure = CredentialsFailure(.retrieval, "\(from) did not answer: \(error.message)", mayGoBy: true)
                continue
            }
            guard response.status == 200 else {
                failure = CredentialsFailure(
                    .retrieval, "\(from) answered with status \(response.status)", mayGoBy: response.status >= 500)
                continue
            }
            guard let document = CredentialsDocument.read(response.body) else {
                failure = CredentialsFailure(.retrieval, "\(from) answered no JSON object with keys", mayGoBy: true)
                continue
            }
            return try document.credentials(provider: "container-role", token: document.token, from: from)
        }
        throw failure
    }

    private func address() throws(CredentialsFailure) -> ServiceURL {
        let relative = environment.text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        let name = relative == nil ? "AWS_CONTAINER_CREDENTIALS_FULL_URI" : "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
        let text =
            relative.map { "http://169.254.170.2\($0.hasPrefix("/") ? "" : "/")\($0)" }
            ?? environment.text("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        guard let text, let url = ServiceURL(text) else {
            throw CredentialsFailure(.invalidConfiguration, "The variable \(name) is no http:// or https:// address")
        }
        if url.origin.scheme == .http && !Self.hosts.contains(url.origin.host) && !Self.isLoopback(url.origin.host) {
            throw CredentialsFailure(
                .invalidConfiguration,
                "The variable \(name) names \(url.origin.host) over plain HTTP, where keys could be read on the way; use "
                    + "https://, or an address of this machine or of the container's service")
        }
        return url
    }

    /// A literal address only: a name that begins with `127.` may resolve to anything.
    private static func isLoopback(_ host: String) -> Bool {
        if host == "[::1]" { return true }
        let parts = host.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { part in UInt8(part) != nil }
    }

    /// What is sent as `Authorization`. The file is read again each time, because the service replaces it.
    private func token() async throws(CredentialsFailure) -> String? {
        let text: String
        let place: String
        if let path = environment.path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            place = "The file \(path) (AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)"
            text = try await access.tokenFile(path, place)
        } else if let value = environment.text("AWS_CONTAINER_AUTHORIZATION_TOKEN") {
            place = "The variable AWS_CONTAINER_AUTHORIZATION_TOKEN"
            text = value
        } else {
            return nil
        }
        if text.utf8.contains(where: { $0 == 0x0D || $0 == 0x0A || $0 == 0 }) {
            throw CredentialsFailure(.retrieval, "\(place) holds a line end within the token, which no header may have")
        }
        return text
    }
}
