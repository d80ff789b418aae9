package import SafeBackupCore

/// The answer to a question that the keys need not be allowed to ask.
package enum ProbeAnswer<Value: Sendable>: Sendable {
    case known(Value)
    /// The keys may not ask.
    case denied
    /// The server does not have it.
    case notSupported
    case failed(SafeBackupError)

    package var value: Value? {
        if case .known(let value) = self { return value }
        return nil
    }

    package var isDenied: Bool {
        if case .denied = self { return true }
        return false
    }

    init(_ error: SafeBackupError) {
        switch error.code {
        case S3Code.accessDenied: self = .denied
        case S3Code.notSupported: self = .notSupported
        default: self = .failed(error)
        }
    }
}

/// What `BucketProbe` found.
package struct BucketFindings: Sendable {
    package enum Versioning: Sendable, Hashable {
        case never, enabled, suspended
    }

    /// Who compares what arrives with what was sent.
    package enum Checksum: Sendable, Hashable {
        /// The server repeated this checksum in its answer.
        case confirmed(String)
        /// It was sent, and the server said nothing of it.
        case unconfirmed(String)
        /// The server refused checksums, and objects go without.
        case refused
        /// The SHA-256 that is part of each signature alone.
        case signature
    }

    /// Of a bucket with object lock: how long each version is kept if nothing else is said.
    package struct Lock: Sendable, Hashable {
        package var mode: String
        /// As `30 days` or `1 years`.
        package var time: String

        package init(mode: String, time: String) { (self.mode, self.time) = (mode, time) }
    }

    package struct Uploads: Sendable, Hashable {
        /// At most a page: a thousand.
        package var count: Int
        package var oldest: Timestamp?
    }

    /// Where it was asked, after all detours.
    package var address: BucketAddress
    /// Of all keys: empty, or with a slash at its end.
    package let prefix: [UInt8]
    /// The key of the object that was stored for a moment.
    package var key: ObjectKey
    /// Why no object can be stored; `nil`: one was.
    package var storing: SafeBackupError?
    /// How long it took to store it.
    package var time = Duration.zero
    /// The server's clock minus ours, to about a second; `nil`: its answer did not say.
    package var clockOffset: Duration?
    package var checksum = Checksum.signature
    /// Whether an object is not replaced when only a new one is allowed (`If-None-Match`).
    package var keepsExisting: ProbeAnswer<Bool>?
    /// Whether the object came back as it was sent.
    package var readBack: ProbeAnswer<Bool>?
    /// Whether the prefix is a destination already.
    package var sentinel: ProbeAnswer<Bool>?
    /// Something below the prefix that safebackup did not write, of the first thousand objects; `""`: nothing.
    package var stranger: ProbeAnswer<String>?
    package var versioning: ProbeAnswer<Versioning>?
    /// `nil` inside: there is no lock, or none that holds by itself.
    package var lock: ProbeAnswer<Lock?>?
    package var lifecycle: ProbeAnswer<[LifecycleRule]>?
    package var uploads: ProbeAnswer<Uploads>?
    /// Whether the object was removed again.
    package var removal: ProbeAnswer<Bool>?
    /// The bucket gave the object a version.
    package var hasVersion = false

    init(address: BucketAddress, prefix: [UInt8], key: ObjectKey) {
        self.address = address
        self.prefix = prefix
        self.key = key
    }
}
