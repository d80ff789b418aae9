/// How a file is cut into parts. Pure.
///
/// S3: at most 10,000 parts, of at most 5 GiB each, 48.8 TiB in all; all but the last of one size, which some servers ask.
package struct PartPlan: Sendable, Hashable {
    package static let partLimit: Int64 = 10_000
    package static let partSizeLimit: Int64 = 5 << 30
    /// The smallest that servers take for a part that is not the last.
    package static let partSizeFloor: Int64 = 5 << 20
    private static let step: Int64 = 1 << 20

    package let size: Int64
    package let partSize: Int64

    /// `nil`: no store takes an object of this size.
    /// - Parameter preferred: bytes of a part where the file is not too large for it; servers ask for `partSizeFloor`.
    package init?(size: Int64, preferred: Int64 = 8 << 20) {
        let needed = size / Self.partLimit + (size % Self.partLimit == 0 ? 0 : 1)
        let rounded = (needed + Self.step - 1) / Self.step * Self.step
        partSize = needed <= preferred ? max(preferred, 1) : rounded
        self.size = size
        if partSize > Self.partSizeLimit { return nil }
    }

    /// At least 1.
    package var count: Int { max(1, Int(size / partSize) + (size % partSize == 0 ? 0 : 1)) }

    /// Numbers begin at 1.
    package func range(of number: Int) -> (offset: Int64, count: Int64) {
        let offset = Int64(number - 1) * partSize
        return (offset, max(0, min(partSize, size - offset)))
    }
}
