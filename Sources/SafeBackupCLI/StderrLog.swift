import Glibc
import Logging
import SafeBackupCore
import SafeBackupSystem

/// Log lines on standard error: time, level, a fixed sentence, then `key=value`.
struct StderrLog: LogHandler {
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var line = "\(WallClock.system.now.iso8601) \(event.level) \(event.message)"
        var all = metadata
        if let own = event.metadata { all.merge(own) { _, new in new } }
        for (key, value) in all.sorted(by: { $0.key < $1.key }) {
            line += " \(key)=\(Self.quoted("\(value)"))"
        }
        // A line on a terminal may stand behind the progress.
        if isatty(2) == 1 { line = "\r\u{1B}[K" + line }
        Console.error(line)
    }

    private static func quoted(_ text: String) -> String {
        guard text.isEmpty || text.contains(where: { $0 == " " || $0 == "\"" || $0 == "=" }) else { return text }
        return "\"" + text.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\\\"") + "\""
    }
}

extension Console {
    static func logger(level: Logger.Level) -> Logger {
        Logger(label: "safebackup") { _ in StderrLog(logLevel: level) }
    }
}
