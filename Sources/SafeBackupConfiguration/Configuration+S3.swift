package import SafeBackupCore

extension Configuration {
    /// A bucket, and how it is spoken to.
    package struct S3: Sendable, Hashable {
        package var url: BucketURL
        package var endpoint: String?
        package var region: String?
        package var accessKeyID: String?
        package var secretAccessKey: SecretText?
        /// A file with the secret: an absolute path, or the name of one that the service manager gives.
        package var secretAccessKeyFile: String?
        package var sessionToken: SecretText?
        package var acl: String?
        package var storageClass: String?
        package var encryption = BucketEncryption.bucket
        package var kmsKey: String?
        package var usesBucketKey = false
        /// A file with the key of `encryption == .customer`; named as `secretAccessKeyFile` is.
        package var customerKeyFile: String?
        package var tags: [ObjectTag] = []
        package var lockMode: BucketLock?
        package var lockTime: Duration?
        package var holdsLegally = false
        package var partSize = ByteCount.mebibytes(8)
        package var checksum = BucketChecksum.auto
        package var addressing = BucketAddressing.auto
        package var maxConnections = 16
        package var proxy: String?
        package var caBundle: [UInt8]?
        package var clientCertificate: [UInt8]?
        package var clientKey: [UInt8]?
        package var requesterPays = false
        package var expectedBucketOwner: String?
        package var versions = BucketVersions.none
        /// Of the files that AWS's own programs share.
        package var awsProfile: String?

        package init(_ url: BucketURL) { self.url = url }

        /// How the state and people know it.
        package var location: [UInt8] { url.written }
    }
}

extension Configuration.S3 {
    /// `nil`: the section is of a directory, or has no bucket.
    init?(_ section: ConfigurationSection) {
        guard section[ConfigurationKeys.type] == .s3, let url = section[ConfigurationKeys.url] else { return nil }
        self.init(url)
        endpoint = section[ConfigurationKeys.endpoint]?.text
        region = section[ConfigurationKeys.region]?.text
        accessKeyID = section[ConfigurationKeys.accessKeyID]?.text
        secretAccessKey = section[ConfigurationKeys.secretAccessKey]
        secretAccessKeyFile = section[ConfigurationKeys.secretAccessKeyFile]?.text
        sessionToken = section[ConfigurationKeys.sessionToken]
        acl = section[ConfigurationKeys.acl]?.text
        storageClass = section[ConfigurationKeys.storageClass]?.text
        encryption = section[ConfigurationKeys.encryption] ?? encryption
        kmsKey = section[ConfigurationKeys.kmsKey]?.text
        usesBucketKey = section[ConfigurationKeys.bucketKey] ?? false
        customerKeyFile = section[ConfigurationKeys.customerKeyFile]?.text
        tags = section.list(ConfigurationKeys.tag).map(\.value)
        lockMode = section[ConfigurationKeys.objectLockMode]
        lockTime = section[ConfigurationKeys.objectLockTime]
        holdsLegally = section[ConfigurationKeys.legalHold] ?? false
        partSize = section[ConfigurationKeys.partSize] ?? partSize
        checksum = section[ConfigurationKeys.checksum] ?? checksum
        addressing = section[ConfigurationKeys.addressingStyle] ?? addressing
        maxConnections = section[ConfigurationKeys.maxConnections]?.count ?? maxConnections
        proxy = section[ConfigurationKeys.proxy]?.text
        caBundle = section[ConfigurationKeys.caBundle]?.bytes
        clientCertificate = section[ConfigurationKeys.clientCertificate]?.bytes
        clientKey = section[ConfigurationKeys.clientKey]?.bytes
        requesterPays = section[ConfigurationKeys.requestPayer] ?? false
        expectedBucketOwner = section[ConfigurationKeys.expectedBucketOwner]?.text
        versions = section[ConfigurationKeys.versions] ?? versions
        awsProfile = section[ConfigurationKeys.awsProfile]?.text
    }
}
