/// What is known of a place before it is attached as a destination.
package struct DestinationInspection: Sendable, Hashable {
    package var exists: Bool
    /// Nothing is in it but what a new file system has, and what is ours.
    package var isEmpty: Bool
    package var sentinel: Sentinel?
    /// Of a directory.
    package var device: UInt64?
    /// Of a directory.
    package var identity: RootIdentity?
    /// Of what has a volume.
    package var statistics: VolumeStatistics?

    package init(
        exists: Bool, isEmpty: Bool, sentinel: Sentinel? = nil, device: UInt64? = nil, identity: RootIdentity? = nil,
        statistics: VolumeStatistics? = nil
    ) {
        (self.exists, self.isEmpty, self.sentinel) = (exists, isEmpty, sentinel)
        (self.device, self.identity, self.statistics) = (device, identity, statistics)
    }
}

/// What a kind of destination can do, for those who use it without knowing which it is.
package struct DestinationTraits: Sendable, Hashable {
    /// As in the state's `destination.kind`.
    package enum Kind: String, Sendable, Hashable {
        case local
        case s3
    }

    package var kind: Kind
    /// It has a size, and room can be asked for and made; without one capacity is nobody's matter here.
    package var hasVolume: Bool
    /// Whether copies are still there is looked up without cost, so it is done now and then.
    package var looksAreFree: Bool
    /// Nothing is gained by closing it while it is idle: it cannot be unmounted.
    package var staysOpen: Bool

    package init(kind: Kind, hasVolume: Bool, looksAreFree: Bool, staysOpen: Bool) {
        (self.kind, self.hasVolume) = (kind, hasVolume)
        (self.looksAreFree, self.staysOpen) = (looksAreFree, staysOpen)
    }

    package static let disk = DestinationTraits(kind: .local, hasVolume: true, looksAreFree: true, staysOpen: false)
    package static let bucket = DestinationTraits(kind: .s3, hasVolume: false, looksAreFree: false, staysOpen: true)
}
