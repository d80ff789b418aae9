/// How a server behaves. As it is, it is as strict as the strictest service that is in use.
package struct FakeS3Options: Sendable {
    package enum Checksums: Sendable {
        /// `x-amz-checksum-*` are compared with the content.
        case verified
        /// `400 InvalidArgument`, like Backblaze B2.
        case refused
        /// `501 NotImplemented`, like Cloudflare R2 before 2025.
        case notImplemented
        case ignored
    }

    package var region = "us-east-1"
    /// Made at the start.
    package var buckets = ["bucket"]
    package var credentials = [FakeCredential()]
    /// `BUCKET.` before one of them in `Host` names the bucket.
    package var domains = ["localhost", "s3.test"]
    package var checksums = Checksums.verified
    package var minimumPartSize = 5 << 20
    /// All parts of an upload but the last have one size.
    package var requiresEqualParts = true
    package var allowsUnsignedPayload = false
    /// Only the ACL `bucket-owner-full-control`, or none, is accepted.
    package var hasNoACLs = true
    /// Entries of a page, at most.
    package var pageLimit = 1_000
    /// `encoding-type=url` is not known.
    package var ignoresEncodingType = false
    /// `If-None-Match` on a PUT or Complete is not known.
    package var ignoresConditionalWrites = false
    /// `?versions`, `?versioning` and the second form of listings are known.
    package var hasVersions = true
    package var hasListV2 = true
    /// The server's clock minus this machine's, in seconds.
    package var clockOffset = 0
    /// A complete upload answers a second Complete with 200, like AWS and Ceph do for a while.
    package var remembersCompleted = false

    package init() {}
}

/// A request that was answered, or not.
package struct RequestRecord: Sendable {
    package var operation: FakeOperation
    package var bucket: String?
    package var key: [UInt8]
    package var request: FakeRequest
    /// Of the body that came.
    package var bodyCount: Int
    /// `nil`: the connection was closed without an answer.
    package var status: Int?
    /// The code of the `<Error>`.
    package var code: String?
    /// Counts the connections of a server from 1.
    package var connection: Int
}
