import Glibc
import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
public import SystemPackage

/// What an `S3BackupSession` saves to, with which keys, and how the objects are stored.
///
/// What is `nil` comes from where AWS's own programs look: the environment, the shared files' profile, the role of the
/// container or the instance. When it is printed it shows no secret.
public struct S3BackupConfiguration: Sendable {
    /// How the server encrypts new objects.
    public enum Encryption: Sendable, Hashable {
        /// As the bucket says.
        case bucket
        /// With keys of S3's own (SSE-S3).
        case server
        /// With a key of KMS: its id, its ARN or an alias; `nil`: the account's own for S3.
        case kms(key: String?)
    }

    /// Where in a request the bucket's name stands.
    public enum Addressing: String, Sendable, Hashable, CaseIterable {
        /// In the host at AWS, where the name allows that; in the path at every other server.
        case auto
        /// In the path.
        case path
        /// In the host.
        case virtual
    }

    /// The bucket's name. It must be there.
    public var bucket: String
    /// Before all keys, with a slash between; empty for the whole bucket. Slashes at both ends do not count.
    public var prefix: String
    /// The bucket's region; one that is not its own is corrected by the server's first answer. `nil`: `AWS_REGION`,
    /// `AWS_DEFAULT_REGION`, the profile's, else us-east-1.
    public var region: String?
    /// `https://HOST[:PORT][/PATH]` of a server that is not AWS. `nil`: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the
    /// profile's, else AWS.
    public var endpoint: String?
    /// The access key's id, together with `secretKey`. `nil`: keys are looked for as AWS's own programs do, and replaced
    /// ahead of their end.
    public var accessKey: String?
    /// The secret of `accessKey`.
    public var secretKey: String?
    /// Of keys that expire, together with both.
    public var sessionToken: String?
    /// The profile of AWS's shared files that keys and region are taken from. `nil`: `AWS_PROFILE`, else `default`.
    public var profile: String?
    /// The canned ACL of new objects, such as `bucket-owner-full-control`. `nil`: none is asked for, as most buckets
    /// want it: those whose ACLs are disabled refuse any other.
    public var acl: String?
    /// The class of new objects, such as `STANDARD_IA`. `nil`: as the bucket has it.
    public var storageClass: String?
    /// How new objects are encrypted.
    public var encryption = Encryption.bucket
    /// Where in a request the bucket's name stands.
    public var addressing = Addressing.auto
    /// Files that are saved, and requests that are under way, at the same time: 1 to 256.
    public var concurrency = 16
    /// Certificates (PEM) that are trusted instead of the system's.
    public var caBundle: FilePath?
    /// The proxy, as in `http://proxy.example.com:3128`; empty: none. `nil`: the environment's.
    public var proxy: String?

    /// Everything but the place as it is by default.
    public init(bucket: String, prefix: String = "") {
        self.bucket = bucket
        self.prefix = prefix
    }
}

extension S3BackupConfiguration: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// `s3://BUCKET/PREFIX`.
    public var description: String {
        let prefix = trimmedPrefix
        return printable("s3://\(bucket)\(prefix.isEmpty ? "" : "/")\(prefix)".utf8)
    }
    /// As `description`.
    public var debugDescription: String { description }
    /// Without the secrets.
    public var customMirror: Mirror { Mirror(self, children: ["location": description]) }
}

extension S3BackupConfiguration {
    /// As the keys have it.
    var trimmedPrefix: String {
        var prefix = prefix[...]
        while prefix.utf8.first == 0x2F { prefix = prefix.dropFirst() }
        while prefix.utf8.last == 0x2F { prefix = prefix.dropLast() }
        return String(prefix)
    }

    /// Throws `invalidConfiguration` for what can never be. Nobody is asked. Blocks: it reads files.
    func open(
        environment: AWSEnvironment, backoff: RetryBackoff, io: ThreadExecutor
    ) throws(BackupSessionError) -> (client: S3Client, transport: CurlTransport) {
        try validate()
        try checkBundle()
        do throws(SafeBackupError) {
            let opened = try access(backoff).open(environment: environment, io: io)
            return (opened.client, opened.transport)
        } catch {
            // What else could be wrong was looked at by itself.
            throw .invalidConfiguration(value: "endpoint", reason: error)
        }
    }

    private func access(_ backoff: RetryBackoff) -> BucketAccess {
        var access = BucketAccess(bucket: bucket)
        access.endpoint.region = region
        access.endpoint.endpoint = endpoint
        switch addressing {
        case .auto: access.endpoint.addressing = .auto
        case .path: access.endpoint.addressing = .path
        case .virtual: access.endpoint.addressing = .virtual
        }
        access.transport.caBundle = caBundle
        access.transport.proxy = proxy
        access.client.acl = acl
        access.client.storageClass = storageClass
        switch encryption {
        case .bucket: access.client.encryption = .bucketDefault
        case .server: access.client.encryption = .server
        case .kms(let key): access.client.encryption = .kms(key: key, twice: false, bucketKey: false)
        }
        access.client.maxConnections = concurrency
        access.client.backoff = backoff
        access.profile = profile
        if let accessKey, let secretKey {
            access.keys = S3Credentials(
                accessKey: accessKey, secretKey: secretKey, sessionToken: sessionToken, provider: "configuration")
        }
        return access
    }

    // MARK: Values that cannot be

    private func validate() throws(BackupSessionError) {
        do throws(SafeBackupError) { _ = try BucketName(bucket) } catch {
            throw .invalidConfiguration(value: "bucket", reason: error)
        }
        try checkPrefix()
        if let region {
            var settings = EndpointSettings(bucket: bucket)
            settings.region = region
            do throws(SafeBackupError) {
                _ = try Endpoint(settings, environment: AWSEnvironment([:]), profiles: nil)
            } catch {
                throw .invalidConfiguration(value: "region", reason: error)
            }
        }
        try checkKeys()
        for (name, value) in [("acl", acl), ("storageClass", storageClass), ("encryption", kmsKey)] {
            guard let value, value.isEmpty || !S3Client.isHeaderValue(value) else { continue }
            throw Self.invalid(name, "\(printable(value.utf8)) cannot be sent in a header; give a word, or nil")
        }
        if !(1...256).contains(concurrency) {
            throw Self.invalid("concurrency", "\(concurrency) is out of bounds; give 1 to 256")
        }
    }

    private var kmsKey: String? {
        if case .kms(let key) = encryption { return key }
        return nil
    }

    private func checkPrefix() throws(BackupSessionError) {
        let path: RelativePath
        do throws(SafeBackupError) { path = try RelativePath(trimmedPrefix) } catch {
            throw .invalidConfiguration(value: "prefix", reason: error)
        }
        if path.components.contains(KeySpace.area.bytes) {
            throw Self.invalid("prefix", "\(path) holds .safebackup, a name of safebackup's own; give another one")
        }
        if path.bytes.count > KeySpace.keyLimit - 2 {
            throw Self.invalid(
                "prefix", "It has \(path.bytes.count) bytes, and a key in S3 at most \(KeySpace.keyLimit); shorten it")
        }
    }

    /// Their values are never told.
    private func checkKeys() throws(BackupSessionError) {
        if accessKey != nil && secretKey == nil {
            throw Self.invalid("secretKey", "It is not given, and accessKey is; give both, or none of them")
        }
        if accessKey == nil && secretKey != nil {
            throw Self.invalid("accessKey", "It is not given, and secretKey is; give both, or none of them")
        }
        if accessKey == nil && sessionToken != nil {
            throw Self.invalid(
                "sessionToken", "It belongs to keys that are not given; give accessKey and secretKey too")
        }
        for (name, value) in [("accessKey", accessKey), ("secretKey", secretKey), ("sessionToken", sessionToken)] {
            guard let value, value.isEmpty || !value.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else { continue }
            throw Self.invalid(name, "It is empty, or has characters that no key has; give it as the server gave it")
        }
    }

    private func checkBundle() throws(BackupSessionError) {
        guard let caBundle else { return }
        do throws(Errno) {
            let status = try Descriptor.open(caBundle, O_RDONLY | O_NONBLOCK).status()
            guard status.kind == .file else { throw .isDirectory }
        } catch {
            throw .invalidConfiguration(value: "caBundle", reason: GivenFile.failure(caBundle, error))
        }
    }

    private static func invalid(_ value: String, _ reason: String) -> BackupSessionError {
        .invalidConfiguration(
            value: value, reason: SafeBackupError(.invalidConfiguration, reason, disposition: .permanent))
    }
}
