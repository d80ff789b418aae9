import SafeBackupCore

extension Disposition {
    /// The destination itself is away, or does not let this agent in: it is held, not its files.
    var isOfDestination: Bool { self == .destinationUnavailable || self == .auth }
}

extension SafeBackupError {
    /// The destination is away, is not the one that is known, or does not let this agent in.
    var holdsDestination: Bool { isHolding || disposition.isOfDestination }

    /// The server of a bucket has trouble of its own, which goes by.
    var isTroubleOfServer: Bool {
        switch code {
        case .interrupted, .exhausted, .stateFailed, .stateDamaged: false
        default: disposition == .transient || disposition == .throttled
        }
    }
}
