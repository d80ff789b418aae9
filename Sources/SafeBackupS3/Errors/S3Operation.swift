/// What a request does: its name in S3's documentation, and what a policy must allow for it.
package enum S3Operation: String, Sendable, Hashable, CaseIterable {
    case putObject = "PutObject"
    case createUpload = "CreateMultipartUpload"
    case uploadPart = "UploadPart"
    case uploadPartCopy = "UploadPartCopy"
    case completeUpload = "CompleteMultipartUpload"
    case abortUpload = "AbortMultipartUpload"
    case listParts = "ListParts"
    case listUploads = "ListMultipartUploads"
    case headObject = "HeadObject"
    case getObject = "GetObject"
    case copyObject = "CopyObject"
    case deleteObject = "DeleteObject"
    case deleteObjects = "DeleteObjects"
    case listObjects = "ListObjectsV2"
    case listVersions = "ListObjectVersions"
    case getVersioning = "GetBucketVersioning"
    case headBucket = "HeadBucket"
    case getConfiguration = "GetBucketConfiguration"

    /// The action in a policy.
    package var action: String {
        switch self {
        case .putObject, .createUpload, .uploadPart, .uploadPartCopy, .completeUpload: "s3:PutObject"
        case .copyObject: "s3:PutObject and s3:GetObject"
        case .abortUpload: "s3:AbortMultipartUpload"
        case .listParts: "s3:ListMultipartUploadParts"
        case .listUploads: "s3:ListBucketMultipartUploads"
        case .headObject, .getObject: "s3:GetObject"
        case .deleteObject, .deleteObjects: "s3:DeleteObject"
        case .listObjects, .headBucket: "s3:ListBucket"
        case .listVersions: "s3:ListBucketVersions"
        case .getVersioning: "s3:GetBucketVersioning"
        case .getConfiguration: "the s3:Get… action of that part of the bucket's configuration"
        }
    }

    /// Whether it makes an object or a part of one.
    package var isWrite: Bool {
        switch self {
        case .putObject, .createUpload, .uploadPart, .uploadPartCopy, .completeUpload, .copyObject: true
        default: false
        }
    }

    /// Whether repeating it does no harm, whatever became of the first. A second `Complete` does none either, but is
    /// answered `NoSuchUpload`; a second `Create` leaves an upload without parts behind, which the sweep removes.
    package var isIdempotent: Bool { self != .completeUpload }
}
