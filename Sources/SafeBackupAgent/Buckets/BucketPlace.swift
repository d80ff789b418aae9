import FoundationEssentials
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem

/// Where a bucket is, and with which keys it is asked.
struct BucketPlace: Sendable {
    private let bucket: Configuration.S3
    private let environment: [String: String]
    private let origin: HTTPOrigin
    private let isAWS: Bool
    private let region: String

    /// - Throws: `invalidConfiguration` for a server that cannot be.
    init(
        _ bucket: Configuration.S3, environment: [String: String] = ProcessInfo.processInfo.environment
    ) throws(SafeBackupError) {
        self.bucket = bucket
        self.environment = environment
        let region =
            bucket.region ?? environment["AWS_REGION"] ?? environment["AWS_DEFAULT_REGION"]
            ?? Self.regionOfProfile(bucket, environment) ?? "us-east-1"
        self.region = region
        let named = bucket.endpoint ?? environment["AWS_ENDPOINT_URL_S3"] ?? environment["AWS_ENDPOINT_URL"]
        isAWS = named == nil
        origin = try named.map(Self.origin) ?? HTTPOrigin(scheme: .https, host: "s3.\(region).amazonaws.com")
    }

    private static func origin(_ text: String) throws(SafeBackupError) -> HTTPOrigin {
        let refusal = SafeBackupError(
            .invalidConfiguration, "The endpoint \(text) is no server, as in https://s3.example.com:9000",
            disposition: .permanent)
        let scheme: HTTPOrigin.Scheme = text.hasPrefix("https://") ? .https : .http
        guard scheme == .https || text.hasPrefix("http://") else { throw refusal }
        var host = Substring(text.dropFirst(scheme == .https ? 8 : 7))
        if host.hasSuffix("/") { host = host.dropLast() }
        var port: Int?
        if let colon = host.lastIndex(of: ":"), !host.hasSuffix("]") {
            guard let number = Int(host[host.index(after: colon)...]), (1...65_535).contains(number) else {
                throw refusal
            }
            (port, host) = (number, host[..<colon])
        }
        let isHost = host.utf8.allSatisfy { byte in
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                || ".-[]:".utf8.contains(byte)
        }
        guard isHost, !host.isEmpty else { throw refusal }
        return HTTPOrigin(scheme: scheme, host: host.lowercased(), port: port)
    }

    /// For `S3Client`.
    func locate(_ learnt: String?) throws(SafeBackupError) -> BucketAddress {
        let name = bucket.url.bucket
        let isInHost =
            switch bucket.addressing {
            case .auto: isAWS && !name.utf8.contains(UInt8(ascii: "."))
            case .path: false
            case .virtual: true
            }
        var origin = origin
        let region = learnt ?? region
        if isAWS { origin.host = "s3.\(region).amazonaws.com" }
        if isInHost { origin.host = "\(name).\(origin.host)" }
        return BucketAddress(origin: origin, pathPrefix: isInHost ? "" : "/\(name)", region: region, isAWS: isAWS)
    }

    /// The keys of the configuration, else those that AWS's own programs would find.
    ///
    /// - Parameters:
    ///   - transport: for roles, containers and instances, which are asked for keys.
    ///   - io: its threads may block.
    ///   - notice: told of keys that could not be replaced ahead of their end.
    /// - Throws: `invalidConfiguration` for a secret that cannot be read.
    func credentials(
        transport: any HTTPTransport, io: ThreadExecutor, clock: WallClock,
        notice: @escaping @Sendable (SafeBackupError) -> Void
    ) throws(SafeBackupError) -> any CredentialsSource {
        if let id = bucket.accessKeyID {
            var secret = bucket.secretAccessKey?.text
            if let file = bucket.secretAccessKeyFile {
                secret = try BucketSecret.read(file, environment: environment)
            }
            return FixedCredentials(
                S3Credentials(
                    accessKey: id, secretKey: secret ?? "", sessionToken: bucket.sessionToken?.text,
                    provider: "configuration"))
        }
        let chain = CredentialsChain(
            CredentialsChain.Settings(profile: bucket.awsProfile, region: bucket.region),
            environment: Self.variables(environment), transport: transport, io: io, clock: clock)
        return CachedCredentials(chain, clock: clock, notice: notice)
    }

    private static func variables(_ environment: [String: String]) -> AWSEnvironment {
        AWSEnvironment(environment.mapValues { Array($0.utf8) })
    }

    private static func regionOfProfile(_ bucket: Configuration.S3, _ environment: [String: String]) -> String? {
        do throws(CredentialsFailure) {
            return try AWSProfiles(variables(environment), profile: bucket.awsProfile).option("region")
        } catch {
            return nil  // ignored because it is told when keys are looked for
        }
    }
}

/// Keys that do not change while the agent runs.
private struct FixedCredentials: CredentialsSource {
    let keys: S3Credentials

    init(_ keys: S3Credentials) { self.keys = keys }

    func credentials(after refused: S3Credentials?) async throws(SafeBackupError) -> S3Credentials { keys }
}
