import ArgumentParser
import Glibc
import Logging
import SafeBackupAgent
import SafeBackupSystem

/// Log lines on standard error.
struct StderrLog: LogHandler {
    let sink: LogSink
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) { sink.log(event, handler: metadata) }

    static func logger(to sink: LogSink, level: Logger.Level) -> Logger {
        Logger(label: "safebackup") { _ in StderrLog(sink: sink, logLevel: level) }
    }

    /// - Parameter isVerbose: everything is shown, also what repeats.
    static func sink(format: LogFormat, isVerbose: Bool) -> LogSink {
        // A line on a terminal may stand behind the progress.
        let start = isatty(2) == 1 ? "\r\u{1B}[K" : ""
        return LogSink(format: format, isJournal: JournalStream.isStandardError, isLimited: !isVerbose) {
            Console.error(start + $0)
        }
    }
}

extension LogFormat: ExpressibleByArgument {}
