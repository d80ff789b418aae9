package import Logging
import SafeBackupCore
package import SafeBackupSystem

/// Where the lines of all loggers meet: failures that repeat are counted, the rest is written in the wanted form.
package final class LogSink: Sendable {
    /// What makes failures equal: not the path, of which a full disk has thousands.
    private struct Kind: Hashable {
        var level: Logger.Level
        var event: String?
        var message: String
        /// The code of the failure, and the source or destination that it concerns.
        var subject: [String: String]

        init(_ line: LogLine) {
            (level, event, message) = (line.level, line.event, line.message)
            subject = line.metadata.filter { key, _ in
                key == "error.code" || key.hasPrefix("source.") || key.hasPrefix("destination.")
            }
        }
    }

    private struct State {
        var limit: RepeatLimit<Kind>
        /// Tells the counts when their windows are over.
        var teller: Task<Void, Never>?
    }

    private let format: LogFormat
    private let isJournal: Bool
    private let isLimited: Bool
    private let clock: WallClock
    private let write: @Sendable (String) -> Void
    private let state: Locked<State>

    /// - Parameters:
    ///   - isLimited: failures that repeat are counted instead of shown.
    ///   - write: gets whole lines, without their end, one at a time.
    package init(
        format: LogFormat, isJournal: Bool, isLimited: Bool, burst: Int = 5, period: Duration = .seconds(600),
        clock: WallClock = .system, write: @escaping @Sendable (String) -> Void
    ) {
        self.format = format
        self.isJournal = isJournal
        self.isLimited = isLimited
        self.clock = clock
        self.write = write
        state = Locked(State(limit: RepeatLimit(burst: burst, period: period)))
    }

    package func log(_ event: LogEvent, handler: Logger.Metadata) {
        let line = LogLine(event, handler: handler, time: clock.now)
        guard isLimited && line.level >= .warning else { return write(line.text(format, isJournal: isJournal)) }
        state.withLock { state in
            let (isShown, ended) = state.limit.note(Kind(line), at: .now)
            for count in ended { tell(count) }
            if isShown { return write(line.text(format, isJournal: isJournal)) }
            if state.teller == nil { state.teller = teller(at: state.limit.nextEnd) }
        }
    }

    /// The line that stands for lines that could not be written; see `LineWriter`.
    package static func droppedLine(
        _ count: Int, format: LogFormat, isJournal: Bool, clock: WallClock = .system
    ) -> String {
        LogLine(
            time: clock.now, level: .warning, event: EventID.logDropped.rawValue,
            message: "Lines of the log were dropped here, as nobody read them in time",
            metadata: ["lines": "\(count)"]
        ).text(format, isJournal: isJournal)
    }

    /// Tells what is counted: nothing follows.
    package func finish() {
        state.withLock { state in
            state.teller?.cancel()
            state.teller = nil
            for count in state.limit.takeAll(at: .now) { tell(count) }
        }
    }

    private func tellEnded() {
        state.withLock { state in
            for count in state.limit.takeEnded(at: .now) { tell(count) }
            state.teller = teller(at: state.limit.nextEnd)
        }
    }

    /// Nothing wakes while everything was shown.
    private func teller(at end: ContinuousClock.Instant?) -> Task<Void, Never>? {
        end.map { end in
            Task { [weak self] in
                do { try await Task.sleep(until: end) } catch { return }  // cancelled: everything is told already
                self?.tellEnded()
            }
        }
    }

    /// Under the lock, so that lines come in order.
    private func tell(_ unshown: RepeatLimit<Kind>.Unshown) {
        var metadata = unshown.kind.subject
        metadata["repeated"] = "\(unshown.count)"
        metadata["seconds"] = "\(unshown.span.components.seconds)"
        let line = LogLine(
            time: clock.now, level: unshown.kind.level, event: unshown.kind.event,
            message: "\(unshown.kind.message) (again; not shown one by one)", metadata: metadata)
        write(line.text(format, isJournal: isJournal))
    }
}
