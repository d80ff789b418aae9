import SafeBackupCapacity
import SafeBackupCore
import SafeBackupState

/// What `safebackup clean` tells of one of the agent's destinations: what would go, or what went, and what stays and why.
package struct RoomCleanReport: Sendable, Encodable {
    package struct Kept: Sendable, Encodable {
        /// A `KeptCopies.Kind`: `live`, `versions`, `deleted` or `foreign`.
        package var rule: String
        package var copies: Int
        package var bytes: Int64
        package var why: String
    }

    package struct Limits: Sendable, Encodable {
        package var minFree: Int64?
        package var maxUsagePercent: Double?
        package var maxSize: Int64?

        init(_ limits: CleaningLimits) {
            (minFree, maxUsagePercent, maxSize) = (limits.minFree?.bytes, limits.maxUsagePercent, limits.maxSize?.bytes)
        }
    }

    package var destination: String
    /// Nothing was removed, and this is what would be.
    package var isPlan: Bool
    /// What is to hold at the end.
    package var limits: Limits?
    /// The limit that asks for the most; none if all hold.
    package var limit: String?
    /// Bytes that must go, or had to.
    package var need: Int64 = 0
    package var copies = 0
    /// Of a plan about so many.
    package var bytes: Int64 = 0
    /// When the oldest and the newest of them were stored.
    package var oldestAt: String?
    package var newestAt: String?
    package var before: CleanReport.Usage?
    package var after: CleanReport.Usage?
    /// Of a plan.
    package var kept: [Kept]?
    package var failure: CleanReport.Failure?
    /// 0: the limits hold, 3: they do not, 4: the destination is not there, else as of every verb.
    package var exitCode: Int32 = 0

    private enum CodingKeys: String, CodingKey {
        case destination, isPlan, limits, limit, need, copies, bytes, oldestAt, newestAt, before, after, kept, failure
    }

    init(_ destination: [UInt8], isPlan: Bool) {
        self.destination = printable(destination)
        self.isPlan = isPlan
    }

    mutating func fail(_ error: SafeBackupError) {
        failure = CleanReport.Failure(code: error.code.rawValue, message: error.message)
        switch error.code {
        case .cannotFreeEnough: exitCode = 3
        case .invalidConfiguration: exitCode = 2
        default: exitCode = error.holdsDestination ? 4 : 1
        }
    }

    mutating func note(_ totals: CleanedTotals) {
        (copies, bytes) = (totals.copies, totals.bytes)
        (oldestAt, newestAt) = (totals.oldest?.iso8601, totals.newest?.iso8601)
    }

    /// For people.
    package var lines: [String] {
        guard let before else { return [] }
        let room = "\(ByteCount(before.available)) of \(ByteCount(before.total)) are free"
        guard let limit else { return ["\(destination): nothing is to be removed (\(room); \(limitsText))"] }
        var lines = [
            "\(destination): \(ByteCount(need)) \(isPlan ? "must" : "had to") go (\(room); \(limitsText))"
        ]
        if copies == 0 {
            lines.append(isPlan ? "  Nothing may go" : "  Nothing was removed")
        } else {
            var text = "\(counted(copies, "older copy", "older copies")), \(ByteCount(bytes))"
            if let oldestAt, let newestAt { text += ", stored from \(oldestAt) to \(newestAt)" }
            lines.append("  \(isPlan ? "Would remove about" : "Removed") \(text)")
        }
        if let after, limit != CleaningLimit.maxSize.rawValue {
            lines.append("  Free now: \(ByteCount(after.available))")
        }
        for kept in kept ?? [] { lines.append("  Stay: \(kept.text)") }
        return lines
    }

    private var limitsText: String {
        guard let limits else { return "no limits" }
        return CleaningLimits(
            minFree: limits.minFree.map { ByteCount($0) }, maxUsagePercent: limits.maxUsagePercent,
            maxSize: limits.maxSize.map { ByteCount($0) }
        ).text
    }

    /// What went wrong, for standard error.
    package var complaint: String? { failure.map { "safebackup: \(destination): \($0.message)" } }
}

extension RoomCleanReport.Kept {
    init(_ kind: KeptCopies.Kind, _ kept: KeptCopies, why: String) {
        self.init(rule: kind.rawValue, copies: kept.copies, bytes: kept.bytes, why: why)
    }

    fileprivate var text: String {
        let noun: (String, String) =
            switch KeptCopies.Kind(rawValue: rule) {
            case .live: ("copy of what the source has", "copies of what the source has")
            case .versions: ("older version", "older versions")
            case .deleted: ("copy of a deleted file", "copies of deleted files")
            case .foreign, nil: ("other file", "other files")
            }
        return "\(counted(copies, noun.0, noun.1)), \(ByteCount(bytes)): \(why)"
    }
}
