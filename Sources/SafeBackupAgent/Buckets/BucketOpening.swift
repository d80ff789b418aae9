import FoundationEssentials
import Logging
package import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupS3
import SafeBackupState
package import SafeBackupSystem
import SafeBackupWatch
package import SystemPackage

/// Makes a destination of what a configuration says about a bucket.
package struct BucketOpening: Sendable {
    private let bucket: Configuration.S3
    /// A directory of ours on this machine, for what is on its way; made if its parent is there.
    private let scratch: FilePath
    private let io: ThreadExecutor
    private let clock: WallClock

    package init(_ bucket: Configuration.S3, scratch: FilePath, io: ThreadExecutor, clock: WallClock = .system) {
        (self.bucket, self.scratch, self.io, self.clock) = (bucket, scratch, io, clock)
    }

    /// To save to. Asks no server.
    /// - Throws: `invalidConfiguration` for what cannot work.
    func destination(
        state: StateStore, settle: SettlePolicy, bandwidth: ByteCount?, logger: Logger
    ) throws(SafeBackupError) -> any Destination {
        let store = try client(logger)
        return S3Destination(
            store: store, ledger: BucketLedger(state, bucket.location), settings: settings(bandwidth: bandwidth),
            io: io,
            clock: clock, writerProbe: WriterProbe(quiet: settle.quiet, limit: settle.limit))
    }

    /// To read from: it may be another machine's, and remembers nothing.
    func reader(logger: Logger) throws(SafeBackupError) -> S3Destination {
        S3Destination(store: try client(logger), ledger: NoLedger(), settings: settings(bandwidth: nil), io: io)
    }

    private func settings(bandwidth: ByteCount?) -> S3DestinationSettings {
        var settings = S3DestinationSettings(name: printable(bucket.location), scratch: scratch)
        settings.prefix = bucket.url.prefix
        settings.bandwidth = bandwidth
        settings.limits.part = bucket.partSize.bytes
        switch bucket.versions {
        case .none: settings.versions = .none
        case .bucket: settings.versions = .bucket
        case .copy: settings.versions = .copy
        }
        return settings
    }

    private func client(_ logger: Logger) throws(SafeBackupError) -> S3Client {
        try connection(
            staleKeys: { failure in
                logger.notice(
                    .bucketNotice,
                    "The keys of the bucket could not be replaced ahead of their end; the old ones still do",
                    metadata: ["notice": "\(failure)"])
            },
            notice: { notice in
                logger.notice(
                    .bucketNotice, "The client of the bucket goes on in another way", metadata: ["notice": "\(notice)"])
            }
        ).client
    }

    /// The client, and the source of its keys. Asks no server.
    /// - Parameters:
    ///   - staleKeys: told of keys that could not be replaced ahead of their end.
    ///   - notice: as of `S3Client`.
    func connection(
        staleKeys: @escaping @Sendable (SafeBackupError) -> Void = { _ in },
        notice: @escaping @Sendable (S3Notice) -> Void
    ) throws(SafeBackupError) -> (client: S3Client, keys: any CredentialsSource) {
        let opened = try access().open(io: io, clock: clock, keysNotice: staleKeys, notice: notice)
        return (opened.client, opened.keys)
    }

    private func access() throws(SafeBackupError) -> BucketAccess {
        var access = BucketAccess(bucket: bucket.url.bucket)
        access.client = try clientSettings()
        access.endpoint.region = bucket.region
        access.endpoint.endpoint = bucket.endpoint
        switch bucket.addressing {
        case .auto: access.endpoint.addressing = .auto
        case .path: access.endpoint.addressing = .path
        case .virtual: access.endpoint.addressing = .virtual
        }
        access.transport.proxy = bucket.proxy
        access.transport.caBundle = bucket.caBundle.map { FilePath(bytes: $0) }
        access.transport.clientCertificate = bucket.clientCertificate.map { FilePath(bytes: $0) }
        access.transport.clientKey = bucket.clientKey.map { FilePath(bytes: $0) }
        access.profile = bucket.awsProfile
        access.keys = try keys()
        return access
    }

    /// The keys of the configuration. Throws `invalidConfiguration` for a secret that cannot be read.
    private func keys() throws(SafeBackupError) -> S3Credentials? {
        guard let id = bucket.accessKeyID else { return nil }
        var secret = bucket.secretAccessKey?.text
        if let file = bucket.secretAccessKeyFile {
            secret = try BucketSecret.read(file, environment: ProcessInfo.processInfo.environment)
        }
        return S3Credentials(
            accessKey: id, secretKey: secret ?? "", sessionToken: bucket.sessionToken?.text, provider: "configuration")
    }

    private func encryption() throws(SafeBackupError) -> S3ClientSettings.Encryption {
        switch bucket.encryption {
        case .bucket: return .bucketDefault
        case .server: return .server
        case .kms: return .kms(key: bucket.kmsKey, twice: false, bucketKey: bucket.usesBucketKey)
        case .kmsTwice: return .kms(key: bucket.kmsKey, twice: true, bucketKey: false)
        case .customer: break
        }
        let name = bucket.customerKeyFile ?? ""
        let text = try BucketSecret.read(
            name, of: "customer-key-file", kind: "a key of 32 bytes in Base64",
            environment: ProcessInfo.processInfo.environment)
        guard let key = Base64.decode(text.utf8).flatMap({ S3CustomerKey(bytes: $0) }) else {
            throw SafeBackupError(
                .invalidConfiguration,
                "customer-key-file = \(name) holds no key of 32 bytes in Base64, as 'openssl rand -base64 32' makes it",
                disposition: .permanent)
        }
        return .customer(key)
    }

    private func clientSettings() throws(SafeBackupError) -> S3ClientSettings {
        var settings = S3ClientSettings(bucket: bucket.url.bucket)
        settings.checksum = S3ClientSettings.Checksum(rawValue: bucket.checksum.rawValue) ?? .auto
        settings.acl = bucket.acl
        settings.storageClass = bucket.storageClass
        settings.encryption = try encryption()
        for tag in bucket.tags { settings.tags[tag.name] = tag.value }
        let mode: S3ClientSettings.ObjectLock.Mode? =
            switch bucket.lockMode {
            case nil: nil
            case .governance: .governance
            case .compliance: .compliance
            }
        if mode != nil || bucket.holdsLegally {
            settings.objectLock = S3ClientSettings.ObjectLock(
                mode: mode, retention: bucket.lockTime ?? .zero, legalHold: bucket.holdsLegally)
        }
        settings.requesterPays = bucket.requesterPays
        settings.expectedBucketOwner = bucket.expectedBucketOwner
        settings.maxConnections = bucket.maxConnections
        return settings
    }
}

/// The ledger of a destination that may not have its row yet: it has one before anything is uploaded.
private struct BucketLedger: UploadLedger {
    private let state: StateStore
    private let location: [UInt8]
    private let known = Shared<DestinationID?>(nil)

    init(_ state: StateStore, _ location: [UInt8]) { (self.state, self.location) = (state, location) }

    private func ledger() async throws(SafeBackupError) -> StateUploadLedger {
        if let id = known.value { return StateUploadLedger(state, id) }
        guard let record = try await state.destinations().first(where: { $0.location == location }) else {
            throw SafeBackupError(.stateDamaged, "The state has lost the destination", disposition: .permanent)
        }
        known.set(record.id)
        return StateUploadLedger(state, record.id)
    }

    func uploads() async throws(SafeBackupError) -> [UploadRecord] { try await ledger().uploads() }
    func parts(of upload: Int64) async throws(SafeBackupError) -> [UploadedPart] {
        try await ledger().parts(of: upload)
    }
    func begin(_ record: UploadRecord) async throws(SafeBackupError) -> Int64 { try await ledger().begin(record) }
    func resume(_ upload: Int64, stage: String) async throws(SafeBackupError) {
        try await ledger().resume(upload, stage: stage)
    }
    func add(_ parts: [UploadedPart], to upload: Int64) async throws(SafeBackupError) {
        try await ledger().add(parts, to: upload)
    }
    func complete(_ upload: Int64, digest: Digest, size: Int64) async throws(SafeBackupError) {
        try await ledger().complete(upload, digest: digest, size: size)
    }
    func end(_ upload: Int64) async throws(SafeBackupError) { try await ledger().end(upload) }
}

/// Of a reader, who uploads nothing.
private struct NoLedger: UploadLedger {
    private var refusal: SafeBackupError {
        SafeBackupError(.destinationFailed, "A reader uploads nothing", disposition: .permanent)
    }

    func uploads() async throws(SafeBackupError) -> [UploadRecord] { [] }
    func parts(of upload: Int64) async throws(SafeBackupError) -> [UploadedPart] { [] }
    func begin(_ record: UploadRecord) async throws(SafeBackupError) -> Int64 { throw refusal }
    func resume(_ upload: Int64, stage: String) async throws(SafeBackupError) { throw refusal }
    func add(_ parts: [UploadedPart], to upload: Int64) async throws(SafeBackupError) { throw refusal }
    func complete(_ upload: Int64, digest: Digest, size: Int64) async throws(SafeBackupError) { throw refusal }
    func end(_ upload: Int64) async throws(SafeBackupError) {}
}
