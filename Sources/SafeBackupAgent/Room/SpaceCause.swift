import SafeBackupCore
import SafeBackupState

/// Who took what is missing on a destination's disk since there was enough. Pure.
struct SpaceCause: Sendable, Hashable {
    /// What is missing.
    let lost: Int64
    /// What the backup has taken of that.
    let ours: Int64
    /// Something else than the backup took most of what is missing, and that is more than a trifle: then the last copies of
    /// deleted paths do not pay for it.
    let isTaken: Bool

    /// - Parameters:
    ///   - available: what is free now.
    ///   - grown: by how much the backup grew since the last check, less what was removed.
    init(_ record: CapacityRecord, available: ByteCount, grown: Int64) {
        // Where there never was enough, somebody else had taken that before us.
        lost = max(record.baseline.bytes, record.threshold.bytes) - available.bytes
        ours = record.stored + grown
        isTaken = lost > record.threshold.bytes / 20 && ours < lost / 2
    }
}
