package import Logging
package import SafeBackupCore

/// How a line is written.
package enum LogFormat: String, CaseIterable, Sendable {
    /// `TIME LEVEL SENTENCE KEY=VALUE…`, for people.
    case text
    /// One JSON object a line, for programs.
    case json
}

/// One line of the log, before it is written. Whatever its values hold, it stays one line.
package struct LogLine: Sendable, Hashable {
    package var time: Timestamp
    package var level: Logger.Level
    /// The stable name of what it is about.
    package var event: String?
    package var message: String
    /// Without the event.
    package var metadata: [String: String]

    package init(
        time: Timestamp, level: Logger.Level, event: String?, message: String, metadata: [String: String]
    ) {
        (self.time, self.level, self.event) = (time, level, event)
        (self.message, self.metadata) = (message, metadata)
    }

    package init(_ event: LogEvent, handler: Logger.Metadata, time: Timestamp) {
        var all = handler
        if let own = event.metadata { all.merge(own) { _, new in new } }
        self.time = time
        level = event.level
        self.event = all.removeValue(forKey: Logger.eventKey).map { "\($0)" }
        message = "\(event.message)"
        metadata = all.mapValues { "\($0)" }
    }

    /// - Parameter isJournal: the journal knows the time, and takes the level from a number in front. See: man 3 sd-daemon.
    package func text(_ format: LogFormat, isJournal: Bool) -> String {
        let prefix = isJournal ? "<\(priority)>" : ""
        switch format {
        case .json: return prefix + json
        case .text: return prefix + (isJournal ? "" : "\(time.iso8601) \(level) ") + plain
        }
    }

    private var plain: String {
        metadata.sorted { $0.key < $1.key }.reduce(into: printable(message.utf8)) { line, entry in
            line += " \(entry.key)=\(Self.quoted(printable(entry.value.utf8)))"
        }
    }

    private static func quoted(_ text: String) -> String {
        guard text.isEmpty || text.contains(where: { $0 == " " || $0 == "\"" || $0 == "=" }) else { return text }
        return "\"" + text.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\\\"") + "\""
    }

    /// The four that every line has come first, then the rest in the order of their names.
    private var json: String {
        var members = [("time", time.iso8601), ("level", "\(level)")]
        if let event { members.append((Logger.eventKey, event)) }
        members.append(("message", message))
        members += metadata.filter { !["time", "level", "message"].contains($0.key) }.sorted { $0.key < $1.key }
            .map { ($0.key, $0.value) }
        return "{" + members.map { "\(Self.literal($0)):\(Self.literal($1))" }.joined(separator: ",") + "}"
    }

    /// A JSON string. See: RFC 8259, section 7.
    private static func literal(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            // The last two are no line ends in JSON, and to some who read lines they are.
            case _ where scalar.value < 0x20 || scalar == "\u{7F}" || scalar == "\u{2028}" || scalar == "\u{2029}":
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }

    /// See: man 3 syslog.
    private var priority: Int {
        switch level {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }
}
