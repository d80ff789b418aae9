package import SafeBackupCore

/// What is done about a failure before it is told.
package enum S3Action: Sendable, Hashable {
    /// Again soon, on a new connection.
    case retry
    /// Again later, and fewer requests at once.
    case slowDown
    /// Once, with other keys.
    case renewCredentials
    /// Once, signed with the server's time.
    case correctClock
    /// Once, in the region that the server names.
    case changeRegion
    /// Once, without the headers of checksums, and so from now on.
    case dropChecksums
    /// Once: what was sent came damaged.
    case sendAgain
    /// Only if a look at the object shows that it was stored by an attempt whose answer was lost.
    case verify
    /// The upload begins again, by whoever has the file.
    case beginUploadAgain
    /// Nothing helps now.
    case tell
}

/// What a failure is once nothing more is tried.
package enum S3Outcome: Sendable, Hashable {
    case unreachable, untrusted, busy, failed, notS3
    case credentials, clock, denied
    case bucketMissing, setting, full
    case object, exists, uploadLost, damaged, notSupported, absent
    case ours, noMemory, interrupted

    package var code: SafeBackupError.Code {
        switch self {
        case .unreachable: .serverUnreachable
        case .untrusted: .serverUntrusted
        case .busy: .serverBusy
        case .failed: .serverFailed
        case .notS3: .notObjectStore
        case .credentials: .credentialsRefused
        case .clock: .clockSkewed
        case .denied: .accessDenied
        case .bucketMissing: .destinationMissing
        case .setting: .settingRefused
        case .full: .destinationFull
        case .object, .absent: .objectRefused
        case .exists: .objectExists
        case .uploadLost: .uploadLost
        case .damaged: .transferDamaged
        case .notSupported: .notSupported
        case .ours: .requestRefused
        case .noMemory: .exhausted
        case .interrupted: .interrupted
        }
    }

    package var disposition: Disposition {
        switch self {
        case .unreachable, .untrusted, .notS3, .bucketMissing, .setting: .destinationUnavailable
        // A server that fails goes by, however long it takes: such a job never becomes stuck.
        case .busy, .failed: .throttled
        case .credentials, .clock: .auth
        // Until several keys were denied, it may be this key only: `DenialCount`.
        case .denied: .transient
        case .full: .destinationFull
        case .object, .exists, .notSupported, .absent, .ours: .permanent
        case .uploadLost, .damaged, .noMemory, .interrupted: .transient
        }
    }

    /// Whether it concerns every object of the bucket.
    package var isOfBucket: Bool {
        switch self {
        case .unreachable, .untrusted, .notS3, .credentials, .clock, .bucketMissing, .setting, .full: true
        default: false
        }
    }
}

/// A row of the error matrix.
package struct S3Rule: Sendable, Hashable {
    package var action: S3Action
    package var outcome: S3Outcome
    /// What it means and what to do, as the second half of a sentence; empty: the server's words say it.
    package var advice: String

    package init(_ action: S3Action, _ outcome: S3Outcome, _ advice: String = "") {
        self.action = action
        self.outcome = outcome
        self.advice = advice
    }
}
