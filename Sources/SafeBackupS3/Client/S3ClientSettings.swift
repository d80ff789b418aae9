import SafeBackupCore

/// What the configuration says about the requests for one bucket.
package struct S3ClientSettings: Sendable, Hashable {
    /// How the server can tell that what arrived is what was sent.
    package enum Checksum: String, Sendable, Hashable, CaseIterable {
        /// CRC64NVME at AWS over HTTPS; elsewhere the signed SHA-256 of the body alone, which every server checks.
        case auto
        /// The signed SHA-256 of the body alone.
        case none
        case md5, crc32, crc32c, crc64nvme, sha256

        package var algorithm: ChecksumAlgorithm? {
            switch self {
            case .auto, .none: nil
            case .md5: .md5
            case .crc32: .crc32
            case .crc32c: .crc32c
            case .crc64nvme: .crc64nvme
            case .sha256: .sha256
            }
        }
    }

    package enum Encryption: Sendable, Hashable {
        /// As the bucket says.
        case bucketDefault
        /// SSE-S3.
        case server
        /// SSE-KMS; `key`: its id or ARN, `nil`: the account's own for S3. `twice`: `aws:kms:dsse`.
        case kms(key: String?, twice: Bool, bucketKey: Bool)
        /// SSE-C: the server forgets the key; who loses it loses the objects.
        case customer(S3CustomerKey)

        /// The value of `x-amz-server-side-encryption`.
        var header: String? {
            switch self {
            case .bucketDefault, .customer: nil
            case .server: "AES256"
            case .kms(_, let twice, _): twice ? "aws:kms:dsse" : "aws:kms"
            }
        }
    }

    /// Each version is kept for so long, whoever wants to remove it.
    package struct ObjectLock: Sendable, Hashable {
        package enum Mode: String, Sendable, Hashable {
            case governance = "GOVERNANCE"
            case compliance = "COMPLIANCE"
        }

        /// With a time; `nil`: a legal hold only.
        package var mode: Mode?
        package var retention: Duration
        package var legalHold: Bool

        package init(mode: Mode?, retention: Duration, legalHold: Bool = false) {
            self.mode = mode
            self.retention = retention
            self.legalHold = legalHold
        }
    }

    package var bucket: String
    package var checksum = Checksum.auto
    /// A canned ACL; `nil`: the header is not sent, as most buckets want it.
    package var acl: String?
    package var storageClass: String?
    package var encryption = Encryption.bucketDefault
    package var tags: [String: String] = [:]
    package var objectLock: ObjectLock?
    package var requesterPays = false
    /// The account that must own the bucket.
    package var expectedBucketOwner: String?
    /// Requests under way at once.
    package var maxConnections = 16
    package var backoff = RetryBackoff()

    package init(bucket: String) { self.bucket = bucket }
}

/// A key of SSE-C: 32 bytes. Never printed.
package struct S3CustomerKey: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible {
    package let bytes: [UInt8]

    /// `nil` unless there are 32 bytes.
    package init?(bytes: [UInt8]) {
        guard bytes.count == 32 else { return nil }
        self.bytes = bytes
    }

    package var description: String { "a key" }
    package var debugDescription: String { description }
}

/// Where the requests for a bucket go.
package struct BucketAddress: Sendable, Hashable {
    package var origin: HTTPOrigin
    /// Before the `/` of a key: empty, or `/bucket`, percent-encoded as it is sent.
    package var pathPrefix: String
    /// In the signature.
    package var region: String
    /// Of AWS: its regions have hosts of their own, and it knows all of S3.
    package var isAWS: Bool

    package init(origin: HTTPOrigin, pathPrefix: String, region: String, isAWS: Bool) {
        self.origin = origin
        self.pathPrefix = pathPrefix
        self.region = region
        self.isAWS = isAWS
    }
}

/// What a person may want to know of what the client did by itself. Each is told when it happens, not with every request.
package enum S3Notice: Sendable, Hashable {
    /// Signatures have the server's time from now on; ours is behind by so much (negative: ahead).
    case clockCorrected(by: Duration)
    case regionChanged(from: String, to: String)
    /// So many requests at once from now on.
    case slowedDown(to: Int)
    case checksumsDropped
    /// The server cannot delete many objects at once.
    case bulkDeleteMissing
    /// An upload in parts failed, and could not be ended; why is the second.
    case uploadLeft(key: ObjectKey, reason: String)
    /// The server refused the keys, and their source had no others, for this reason.
    case keysNotRenewed(String)
}

extension S3Notice: CustomStringConvertible {
    package var description: String {
        switch self {
        case .clockCorrected(let offset):
            "The clock of this machine is off by \(offset.components.seconds) s; signatures have the server's time until "
                + "the agent ends. Enable time synchronisation"
        case .regionChanged(let old, let new): "The bucket is in the region \(new), not \(old); set region = \(new)"
        case .slowedDown(let limit): "The server asks for fewer requests; now at most \(limit) at once"
        case .checksumsDropped:
            "The server does not know the checksums that were sent; the signed SHA-256 of each body protects it from now on"
        case .bulkDeleteMissing: "The server cannot delete many objects at once; they are deleted one by one"
        case .uploadLeft(let key, let reason):
            "The failed upload of \"\(key)\" could not be ended, and its parts take room until a lifecycle rule removes "
                + "them (AbortIncompleteMultipartUpload): \(reason)"
        case .keysNotRenewed(let reason): "The keys were refused, and there are no others: \(reason)"
        }
    }
}
