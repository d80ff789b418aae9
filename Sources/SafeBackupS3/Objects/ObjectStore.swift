package import SafeBackupCore
package import SafeBackupSystem

/// The bytes of an object's key, prefix included: 1 to 1,024 bytes of UTF-8.
package struct ObjectKey: Sendable, Hashable {
    package let bytes: [UInt8]
    package init(unchecked bytes: [UInt8]) { self.bytes = bytes }
}

/// One bucket, with everything that the configuration says about requests (region, credentials, encryption, class, ACL,
/// checksums, retries). All methods may be called from any number of tasks; requests beyond the limit wait.
///
/// Errors are classified: disposition `auth` and codes of the whole bucket hold the destination, others are of the key.
/// Attempts within the retry budget have been made before anything is thrown. What is returned was confirmed by the server.
package protocol ObjectStore: Sendable {
    /// Stores an object with one PUT.
    func put(
        _ key: ObjectKey, _ body: ObjectBody, _ properties: ObjectProperties
    ) async throws(SafeBackupError) -> ObjectReceipt

    /// Begins a multipart upload.
    func beginUpload(_ key: ObjectKey, _ properties: ObjectProperties) async throws(SafeBackupError) -> UploadHandle
    /// Part numbers begin at 1; all parts but the last have one size.
    func uploadPart(
        _ number: Int, of upload: UploadHandle, _ body: ObjectBody
    ) async throws(SafeBackupError) -> PartReceipt
    /// Makes the object of the parts, in their order. A lost answer is cleared up by looking at the object.
    /// Throws `uploadLost` if the server does not know the upload: it must be begun again.
    func completeUpload(
        _ upload: UploadHandle, _ parts: [PartReceipt], size: Int64
    ) async throws(SafeBackupError) -> ObjectReceipt
    /// One that the server does not know any more is no error.
    func abortUpload(_ upload: UploadHandle) async throws(SafeBackupError)
    /// What the server has of an upload, by number; `nil` if it does not know the upload.
    func parts(of upload: UploadHandle) async throws(SafeBackupError) -> [PartReceipt]?
    /// Unfinished uploads below a prefix, with when they were begun.
    func uploads(below prefix: [UInt8]) async throws(SafeBackupError) -> [(upload: UploadHandle, begunAt: Timestamp)]

    /// `nil` if there is no such object (or the policy does not let us see that there is none).
    func head(_ key: ObjectKey, version: String?) async throws(SafeBackupError) -> ObjectHead?
    /// Writes the object into an empty file and compares length and checksum with the answer's. `nil`: no such object.
    func get(
        _ key: ObjectKey, version: String?, into file: Descriptor
    ) async throws(SafeBackupError) -> ObjectHead?
    /// A small object. `nil`: no such object.
    func bytes(of key: ObjectKey, limit: Int) async throws(SafeBackupError) -> (bytes: [UInt8], head: ObjectHead)?
    /// Copies within the bucket, without the bytes coming here; above 5 GiB in parts.
    /// - Parameter properties: the new object's; `nil`: the old one's.
    func copy(
        _ key: ObjectKey, version: String?, size: Int64, to target: ObjectKey, _ properties: ObjectProperties?
    ) async throws(SafeBackupError) -> ObjectReceipt
    /// Removes objects; one that is not there is no error. One result per key.
    func delete(_ keys: [ObjectKey]) async throws(SafeBackupError) -> [SafeBackupError?]
    /// Objects below a prefix in the order of their bytes. `after`: the `next` of the page before.
    func list(below prefix: [UInt8], after: String?) async throws(SafeBackupError) -> ObjectPage
    /// Versions and delete markers below a prefix, newest first per key; throws `notSupported` where the server has none.
    func listVersions(below prefix: [UInt8], after: String?) async throws(SafeBackupError) -> VersionPage
    /// Whether the bucket keeps older versions of its objects; `nil`: the server or the policy does not say.
    func versioning() async throws(SafeBackupError) -> Bool?

    /// Ends requests in flight, with their waits for another attempt: they throw `interrupted`. What begins later is sent.
    func endRequests()
}

/// What an object is made of.
package enum ObjectBody: Sendable {
    case bytes([UInt8])
    /// `sha256`: of the buffer's content, where the reader has it already.
    case buffer(PartBuffer, sha256: Digest?)

    package var count: Int {
        switch self {
        case .bytes(let bytes): bytes.count
        case .buffer(let buffer, _): buffer.count
        }
    }
}

/// What the writer says about an object.
package struct ObjectProperties: Sendable, Hashable {
    /// Without `x-amz-meta-`; names in lower case, values printable ASCII without two spaces in a row (percent-encode).
    package var metadata: [String: String] = [:]
    /// Nothing may be under the key.
    package var onlyIfAbsent = false

    package init(metadata: [String: String] = [:], onlyIfAbsent: Bool = false) {
        self.metadata = metadata
        self.onlyIfAbsent = onlyIfAbsent
    }
}

/// That the server has it.
package struct ObjectReceipt: Sendable, Hashable {
    /// Opaque, with its quotes; empty where the server gives none.
    package var etag: String
    /// Of this object in a bucket that keeps versions.
    package var version: String?

    package init(etag: String, version: String? = nil) {
        self.etag = etag
        self.version = version
    }
}

package struct UploadHandle: Sendable, Hashable {
    package var key: ObjectKey
    package var id: String

    package init(key: ObjectKey, id: String) {
        self.key = key
        self.id = id
    }
}

package struct PartReceipt: Sendable, Hashable {
    package var number: Int
    package var size: Int64
    package var etag: String
    /// Base64, as the server has it, with its algorithm's name (`crc64nvme`); `nil` where none was sent.
    package var checksum: String?
    package var checksumAlgorithm: String?

    package init(
        number: Int, size: Int64, etag: String, checksum: String? = nil, checksumAlgorithm: String? = nil
    ) {
        self.number = number
        self.size = size
        self.etag = etag
        self.checksum = checksum
        self.checksumAlgorithm = checksumAlgorithm
    }
}

package struct ObjectHead: Sendable, Hashable {
    package var size: Int64
    package var etag: String
    package var version: String?
    /// By the server's clock, in whole seconds.
    package var modifiedAt: Timestamp?
    package var metadata: [String: String]

    package init(
        size: Int64, etag: String, version: String? = nil, modifiedAt: Timestamp? = nil,
        metadata: [String: String] = [:]
    ) {
        self.size = size
        self.etag = etag
        self.version = version
        self.modifiedAt = modifiedAt
        self.metadata = metadata
    }
}

package struct ListedObject: Sendable, Hashable {
    package var key: ObjectKey
    package var size: Int64
    package var etag: String
    package var modifiedAt: Timestamp?

    package init(key: ObjectKey, size: Int64, etag: String, modifiedAt: Timestamp? = nil) {
        self.key = key
        self.size = size
        self.etag = etag
        self.modifiedAt = modifiedAt
    }
}

package struct ObjectPage: Sendable, Hashable {
    package var objects: [ListedObject]
    /// `nil`: this was the last page.
    package var next: String?

    package init(objects: [ListedObject], next: String?) {
        self.objects = objects
        self.next = next
    }
}

package struct ListedVersion: Sendable, Hashable {
    package var object: ListedObject
    package var version: String
    package var isLatest: Bool
    package var isDeleteMarker: Bool

    package init(object: ListedObject, version: String, isLatest: Bool, isDeleteMarker: Bool) {
        self.object = object
        self.version = version
        self.isLatest = isLatest
        self.isDeleteMarker = isDeleteMarker
    }
}

package struct VersionPage: Sendable, Hashable {
    package var versions: [ListedVersion]
    package var next: String?

    package init(versions: [ListedVersion], next: String?) {
        self.versions = versions
        self.next = next
    }
}
