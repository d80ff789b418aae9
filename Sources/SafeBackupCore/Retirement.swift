/// A deleted path's copy that is to become a version: of a destination that mirrors deletions.
package struct Retirement: Sendable, Hashable {
    package var source: SourceID
    /// As it lies at its path's own place.
    package var copy: CopyRecord
    /// Where it goes; nothing is there.
    package var version: RelativePath

    package init(source: SourceID, copy: CopyRecord, version: RelativePath) {
        self.source = source
        self.copy = copy
        self.version = version
    }
}

/// What became of a retirement.
package enum RetirementOutcome: Sendable, Hashable {
    /// The copy lies at its version name, or at one that a lost state gave it, durably.
    case moved(Displacement)
    /// At its place is nothing, or another file, which stays; nothing was moved.
    case notThere
    /// There is no room for it now.
    case postponed
    /// It cannot be moved, because somebody made it immutable or mounted something over it; it stays.
    case refused(SafeBackupError)
}
