import ArgumentParser
import Glibc
import Logging
import SafeBackupAgent
import SafeBackupCore
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

    /// From now on standard output and error are written by threads of their own; see `Console.detach`.
    /// - Parameter isVerbose: everything is shown, also what repeats.
    /// - Throws: `exhausted` when the system gives no threads.
    static func sink(format: LogFormat, isVerbose: Bool) throws(SafeBackupError) -> LogSink {
        // A line on a terminal may stand behind the progress.
        let start = isatty(2) == 1 ? "\r\u{1B}[K" : ""
        let isJournal = JournalStream.isStandardError
        try Console.detach { LogSink.droppedLine($0, format: format, isJournal: isJournal) }
        return LogSink(format: format, isJournal: isJournal, isLimited: !isVerbose) { Console.error(start + $0) }
    }
}

extension LogFormat: ExpressibleByArgument {}
