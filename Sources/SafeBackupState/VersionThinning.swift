import SafeBackupCore

/// Which versions of a path go when there are too many of them. Pure.
///
/// Room alone is no reason to forget: what takes it is the cleaning's matter. But a file that changes all day long would
/// push the history of all others out, and each of its saves would look at more versions than the one before. So a path
/// has no more than `limit` versions, and the older they are the fewer: of two that lie close together in their age one
/// is enough. The newest and the oldest stay.
package enum VersionThinning {
    /// With one in ten minutes at first, these reach back for years.
    package static let limit = 64
    /// Where a policy of the configuration removes versions each day.
    package static let policyLimit = 2_000

    /// - Parameter times: when each became a version, newest first.
    /// - Returns: the indices of those that go.
    static func excess(_ times: [Timestamp], limit: Int, now: Timestamp) -> [Int] {
        var left = Array(times.indices)
        var gone: [Int] = []
        while left.count > max(limit, 1) {
            var worst = (position: left.count - 1, worth: Double.infinity)
            for position in 1..<max(left.count - 1, 1) where position < left.count - 1 {
                let (newer, own, older) = (times[left[position - 1]], times[left[position]], times[left[position + 1]])
                let gap = Double(max(newer.microseconds - older.microseconds, 0))
                let worth = gap / Double(max(now.microseconds - own.microseconds, 1))
                if worth < worst.worth { worst = (position, worth) }
            }
            gone.append(left.remove(at: worst.position))
        }
        return gone
    }
}
