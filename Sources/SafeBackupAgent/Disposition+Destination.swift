import SafeBackupCore

extension Disposition {
    /// The destination itself is away, or does not let this agent in: it is held, not its files.
    var isOfDestination: Bool { self == .destinationUnavailable || self == .auth }
}
