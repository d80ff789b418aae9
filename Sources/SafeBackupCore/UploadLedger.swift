/// An upload in parts that was begun and, as far as anybody knows, not ended.
package struct UploadRecord: Sendable, Hashable {
    /// The ledger's number of it.
    package var id: Int64
    /// The object's key, prefix included.
    package var key: [UInt8]
    /// The server's name of the upload.
    package var upload: String
    /// Stands in the object's metadata: an object that has it was made by this upload.
    package var token: String
    /// The stage name of the lease that it was last used by.
    package var stage: String
    /// The source's file as it was when the upload was begun: of another one nothing is sent under it.
    package var fingerprint: Fingerprint
    package var partSize: Int64
    package var begunAt: Timestamp
    /// Of the whole content; set when all parts were sent, before the object is made of them.
    package var digest: Digest?
    /// Bytes of the whole content, with `digest`.
    package var size: Int64?

    package init(
        id: Int64, key: [UInt8], upload: String, token: String, stage: String, fingerprint: Fingerprint,
        partSize: Int64, begunAt: Timestamp, digest: Digest? = nil, size: Int64? = nil
    ) {
        self.id = id
        self.key = key
        self.upload = upload
        self.token = token
        self.stage = stage
        self.fingerprint = fingerprint
        self.partSize = partSize
        self.begunAt = begunAt
        self.digest = digest
        self.size = size
    }
}

/// A part that the server confirmed.
package struct UploadedPart: Sendable, Hashable {
    /// From 1 on.
    package var number: Int
    package var size: Int64
    /// As the server gave it.
    package var etag: String
    package var checksum: String?
    package var checksumAlgorithm: String?
    /// Of the part's bytes.
    package var digest: Digest

    package init(
        number: Int, size: Int64, etag: String, checksum: String? = nil, checksumAlgorithm: String? = nil,
        digest: Digest
    ) {
        self.number = number
        self.size = size
        self.etag = etag
        self.checksum = checksum
        self.checksumAlgorithm = checksumAlgorithm
        self.digest = digest
    }
}

/// What is remembered of uploads in parts over a crash, of one destination. Each call is durable when it returns.
///
/// What is not in it is sent again, never believed to be sent: a ledger that loses rows costs time, and no data.
package protocol UploadLedger: Sendable {
    /// All that have not ended, oldest first.
    func uploads() async throws(SafeBackupError) -> [UploadRecord]
    /// Parts of one of them, by number.
    func parts(of upload: Int64) async throws(SafeBackupError) -> [UploadedPart]
    /// Its number; that of `record` does not count.
    func begin(_ record: UploadRecord) async throws(SafeBackupError) -> Int64
    /// Another lease goes on with it.
    func resume(_ upload: Int64, stage: String) async throws(SafeBackupError)
    /// One that is told again replaces the former.
    func add(_ parts: [UploadedPart], to upload: Int64) async throws(SafeBackupError)
    /// The object is about to be made of the parts.
    func complete(_ upload: Int64, digest: Digest, size: Int64) async throws(SafeBackupError)
    /// Forgets it with its parts.
    func end(_ upload: Int64) async throws(SafeBackupError)
}
