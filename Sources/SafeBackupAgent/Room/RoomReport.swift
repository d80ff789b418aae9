import SafeBackupCore
import SafeBackupState

/// What `status` tells of a destination's room.
package struct RoomReport: Sendable, Encodable {
    package struct Cleaning: Sendable, Encodable {
        package var at: String
        package var copies: Int
        package var bytes: Int64
    }

    /// When its disk was last looked at, and what was free there then.
    package var checkedAt: String
    package var total: Int64
    package var available: Int64
    /// Below the threshold older copies are removed until the target is free; saving leaves the floor.
    package var threshold: Int64
    package var target: Int64
    package var floor: Int64
    /// Why the last cleaning did not free enough.
    package var missing: String?
    /// The last one that removed something.
    package var lastCleaning: Cleaning?

    init(_ record: CapacityRecord) {
        checkedAt = record.checkedAt.iso8601
        (total, available) = (record.total.bytes, record.available.bytes)
        (threshold, target, floor) = (record.threshold.bytes, record.target.bytes, record.floor.bytes)
        missing = record.missing
        lastCleaning = record.cleanedAt.map {
            Cleaning(at: $0.iso8601, copies: record.cleanedCopies, bytes: record.cleanedBytes)
        }
    }

    var lines: [String] {
        var lines = [
            "  room          \(ByteCount(available)) of \(ByteCount(total)) free (\(checkedAt)); older versions go below "
                + "\(ByteCount(threshold))"
        ]
        if let missing { lines.append("  SCARCE        \(missing)") }
        if let last = lastCleaning {
            lines.append(
                "  cleaned       \(counted(last.copies, "older copy", "older copies")), \(ByteCount(last.bytes)), at "
                    + last.at)
        }
        return lines
    }
}
