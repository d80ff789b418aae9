import FoundationEssentials
package import SafeBackupCore

/// What the reports of all verbs have in common.
package enum ReportText {
    /// Stable JSON: sorted keys, paths as `printable` gives them.
    package static func json(_ report: some Encodable, isPretty: Bool = true) throws(SafeBackupError) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if isPretty { encoder.outputFormatting.insert(.prettyPrinted) }
        do {
            return String(decoding: try encoder.encode(report), as: UTF8.self)
        } catch {
            throw SafeBackupError(
                .stateFailed, "The report cannot be written as JSON: \(error)", disposition: .permanent)
        }
    }

    /// The bytes of a path as hexadecimal digits where its text does not tell them: `nil` where it does.
    package static func hex(ifNeeded path: RelativePath) -> String? {
        let text = path.isRoot ? "" : path.description
        return text.utf8.elementsEqual(path.bytes) ? nil : hexadecimal(path.bytes)
    }

    /// See `counted`.
    static func count(_ number: Int, _ noun: String, _ plural: String? = nil) -> String {
        counted(number, noun, plural)
    }

    /// See `SafeBackupCore.grouped`.
    static func grouped(_ number: Int) -> String { SafeBackupCore.grouped(number) }

    /// What waits, as far as its sizes are known; `bytes` is `nil` if none is.
    static func size(_ bytes: Int64?, unknown: Int) -> String {
        guard let bytes else { return "size not known yet" }
        return ByteCount(bytes).description + (unknown > 0 ? " and \(grouped(unknown)) of unknown size" : "")
    }

    /// At least so many columns; for words of ours.
    static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }

    /// In the largest unit that leaves at least 1: `1.2 s`, `45 s`, `3 min`, `5 h`, `12 days`.
    static func span(_ duration: Duration) -> String {
        let seconds = max(Int64(0), duration.components.seconds)
        if seconds < 10 { return "\(secondsText(max(.zero, duration))) s" }
        if seconds < 120 { return "\(seconds) s" }
        if seconds < 7_200 { return "\(seconds / 60) min" }
        if seconds < 172_800 { return "\(seconds / 3_600) h" }
        return "\(seconds / 86_400) days"
    }

    /// `12 s ago (2026-11-23T03:45:12Z)`.
    static func ago(_ time: Timestamp, _ now: Timestamp) -> String {
        time > now ? "at \(time.iso8601)" : "\(span(now - time)) ago (\(time.iso8601))"
    }

    /// `in 3 min (2026-11-23T03:45:12Z)`, or `now`.
    static func ahead(_ time: Timestamp, _ now: Timestamp) -> String {
        time <= now ? "now" : "in \(span(time - now)) (\(time.iso8601))"
    }
}

extension SkipReason {
    /// What a person must know of an entry that is not saved for this reason; goes on after "it".
    var explanation: String {
        switch self {
        case .excluded: "is excluded by a rule"
        case .special: "is a FIFO, a socket or a device, which holds nothing that could be saved"
        case .reservedName: "has the name that safebackup itself uses; rename it"
        case .otherFileSystem: "is on another file system than the source; save that one by itself"
        case .unreadable: "may not be read; run the agent as a user who may"
        case .ownState: "is safebackup's own state"
        case .ownDestination: "is the backup itself"
        }
    }
}
