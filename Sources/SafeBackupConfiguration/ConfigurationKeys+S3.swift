package import SafeBackupCore

/// Keys of a destination in a bucket.
extension ConfigurationKeys {
    package static let type = ConfigurationKey<DestinationType>(
        .destination, "type", standard: .local,
        "Where the copies lie: local is a directory, which path names; s3 is a bucket, which url names")

    package static let url = ConfigurationKey<BucketURL>(
        optional: .destination, "url", example: "s3://backups/home", absence: "needed for s3, and for s3 alone",
        "The bucket that holds the copies, which must be there, and what their keys begin with")

    package static let endpoint = ConfigurationKey<ServerURL>(
        optional: .destination, "endpoint", example: "https://s3.example.com",
        absence: "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else AWS itself",
        "The server, where it is not that of AWS; http:// sends file contents in the clear")

    package static let region = ConfigurationKey<PlainText>(
        optional: .destination, "region", example: "eu-central-1",
        absence: "AWS_REGION, AWS_DEFAULT_REGION or the profile's, else us-east-1",
        "The region of the bucket, as requests are signed for it")

    package static let accessKeyID = ConfigurationKey<PlainText>(
        optional: .destination, "access-key-id", example: "AKIAIOSFODNN7EXAMPLE",
        absence: "the environment, the profile, or the machine's role says it, as with the tools of AWS",
        "Signs requests, together with its secret")

    package static let secretAccessKey = ConfigurationKey<SecretText>(
        optional: .destination, "secret-access-key", example: "wJalrXUtnFEMIEXAMPLEKEY",
        absence: "needed with access-key-id, unless secret-access-key-file is given",
        "The secret of access-key-id; then nobody but the agent's user may read this file (chmod 600)")

    package static let secretAccessKeyFile = ConfigurationKey<PlainText>(
        optional: .destination, "secret-access-key-file", example: "backup-key",
        absence: "needed with access-key-id, unless secret-access-key is given",
        "A file whose one line is the secret of access-key-id: an absolute path, or the name of a credential that systemd "
            + "gives (LoadCredential=)")

    package static let sessionToken = ConfigurationKey<SecretText>(
        optional: .destination, "session-token", example: "FwoGZXIvYXdzEXAMPLE", absence: "the keys are lasting ones",
        "Of keys that expire; when they do, saving waits for others")

    package static let acl = ConfigurationKey<PlainText>(
        optional: .destination, "acl", example: "private", absence: "no ACL is asked for, as most buckets want it",
        "The canned ACL of new objects")

    package static let storageClass = ConfigurationKey<PlainText>(
        optional: .destination, "storage-class", example: "STANDARD_IA", absence: "as the bucket has it",
        "The storage class of new objects; one whose objects must be thawed before they can be read is no good choice")

    package static let encryption = ConfigurationKey<BucketEncryption>(
        .destination, "encryption", standard: .bucket,
        "How the server encrypts new objects: bucket leaves it to the bucket's own setting")

    package static let kmsKey = ConfigurationKey<PlainText>(
        optional: .destination, "kms-key", example: "alias/backup", absence: "the account's own key for S3",
        "The key of encryption = aws:kms")

    package static let bucketKey = ConfigurationKey<Bool>(
        .destination, "bucket-key", standard: false,
        "Of encryption = aws:kms: ask for a key of the bucket, which saves requests to KMS")

    package static let customerKeyFile = ConfigurationKey<PlainText>(
        optional: .destination, "customer-key-file", example: "customer-key",
        absence: "needed with encryption = customer, and with it alone",
        "A file whose one line is the key of encryption = customer, 32 bytes in Base64: an absolute path, or the name of a "
            + "credential that systemd gives; who loses the key loses the backup")

    package static let tag = ConfigurationKey<ObjectTag>(
        optional: .destination, "tag", example: "project=backup", absence: "objects have no tags", isList: true,
        "A tag of each new object; may be repeated, up to ten times")

    package static let objectLockMode = ConfigurationKey<BucketLock>(
        optional: .destination, "object-lock-mode", example: "governance", absence: "objects are not locked",
        "Lock each new object, catalogue copies too, for object-lock-time, in a bucket that has object lock")

    package static let objectLockTime = ConfigurationKey<Duration>(
        optional: .destination, "object-lock-time", example: "30d", in: .seconds(86_400)...(.seconds(36_500 * 86_400)),
        absence: "needed with object-lock-mode, and with it alone",
        "How long nobody can remove a version that object-lock-mode has locked")

    package static let legalHold = ConfigurationKey<Bool>(
        .destination, "legal-hold", standard: false,
        "Keep each version of each object until a person ends its legal hold, in a bucket that has object lock")

    package static let partSize = ConfigurationKey<ByteCount>(
        .destination, "part-size", standard: .mebibytes(8), in: .mebibytes(5)...(.mebibytes(512)),
        "The parts in which a large file is sent, each of which is held in memory; files that need more than 10,000 of them "
            + "get larger ones")

    package static let checksum = ConfigurationKey<BucketChecksum>(
        .destination, "checksum", standard: .auto,
        "A checksum that the server compares and keeps, besides the SHA-256 that signs each request; auto knows what "
            + "servers understand")

    package static let addressingStyle = ConfigurationKey<BucketAddressing>(
        .destination, "addressing-style", standard: .auto,
        "Whether the bucket stands in the path or in the host name (virtual); auto: in the host name at AWS alone")

    package static let maxConnections = ConfigurationKey<ThreadCount>(
        .destination, "max-connections", standard: ThreadCount(16), in: ThreadCount(1)...ThreadCount(256),
        "How many requests are under way at the same time")

    package static let proxy = ConfigurationKey<PlainText>(
        optional: .destination, "proxy", example: "http://proxy.example.com:3128",
        absence: "https_proxy, http_proxy, all_proxy and no_proxy of the environment",
        "The proxy that the bucket is reached through")

    package static let caBundle = ConfigurationKey<ConfigurationPath>(
        optional: .destination, "ca-bundle", example: "/etc/safebackup/ca.pem", absence: "those that the system trusts",
        "The authorities that are trusted to know the server, as PEM")

    package static let clientCertificate = ConfigurationKey<ConfigurationPath>(
        optional: .destination, "client-certificate", example: "/etc/safebackup/client.pem", absence: "none is shown",
        "A certificate that the server wants to see, as PEM")

    package static let clientKey = ConfigurationKey<ConfigurationPath>(
        optional: .destination, "client-key", example: "/etc/safebackup/client.key",
        absence: "it is in the file of client-certificate", "The key of client-certificate, as PEM")

    package static let requestPayer = ConfigurationKey<Bool>(
        .destination, "request-payer", standard: false, "Agree to pay for requests to somebody else's bucket")

    package static let expectedBucketOwner = ConfigurationKey<PlainText>(
        optional: .destination, "expected-bucket-owner", example: "111122223333",
        absence: "whoever owns a bucket of this name", "The account that must own the bucket")

    package static let versions = ConfigurationKey<BucketVersions>(
        .destination, "versions", standard: .none,
        "What becomes of an object that a newer one replaces: none overwrites it, bucket leaves it to the bucket's "
            + "versioning, copy copies it below .safebackup/versions first")

    package static let awsProfile = ConfigurationKey<PlainText>(
        optional: .destination, "profile", example: "backup",
        absence: "keys and region come from the environment, from AWS_PROFILE or default, or from the machine's role",
        "The profile of ~/.aws/config and ~/.aws/credentials whose keys are used, also where the environment has others"
    )

    /// Those that mean nothing for a directory.
    static let ofBuckets: [ConfigurationEntry] = [
        url.entry, endpoint.entry, region.entry, accessKeyID.entry, secretAccessKey.entry,
        secretAccessKeyFile.entry, sessionToken.entry, acl.entry, storageClass.entry, encryption.entry, kmsKey.entry,
        bucketKey.entry, customerKeyFile.entry, tag.entry, objectLockMode.entry, objectLockTime.entry, legalHold.entry,
        partSize.entry,
        checksum.entry, addressingStyle.entry, maxConnections.entry, proxy.entry, caBundle.entry,
        clientCertificate.entry, clientKey.entry, requestPayer.entry, expectedBucketOwner.entry, versions.entry,
        awsProfile.entry,
    ]

    /// Those that mean nothing for a bucket, which has no size.
    static let ofDisks: [ConfigurationEntry] = [
        freeSpaceThreshold.entry, freeSpaceTarget.entry, freeSpaceFloor.entry, checkInterval.entry, maxSize.entry,
        maxUsage.entry, idleTime.entry,
    ]

    /// Those that mean nothing for what a section describes.
    static func foreign(to section: ConfigurationSection) -> [ConfigurationEntry] {
        guard section.kind == .destination else { return [] }
        return section[type] == .s3 ? [destinationPath.entry] + ofDisks : ofBuckets
    }

    /// Never shown, and never readable by others.
    package static let secrets: Set<String> = [secretAccessKey.entry.name, sessionToken.entry.name]

    /// The delay of a bucket, where each change is a request.
    package static let bucketCloseDelay = Duration.seconds(2)
}
