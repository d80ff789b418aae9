import ArgumentParser
import SafeBackupAgent
import SafeBackupCore
import SafeBackupSystem

/// The option of the verbs that look back.
struct TimeOption: ParsableArguments {
    @Option(
        name: .long, parsing: .unconditional,
        help: ArgumentHelp(
            "As it was then: 2026-11-23, '2026-11-23 14:05', 2026-11-23T14:05:00+01:00, 14:05, yesterday, '2h ago', -30min.",
            valueName: "time"))
    var at: String?

    /// The time that was asked for, if one was.
    func expression() throws(SafeBackupError) -> AskedTime? {
        guard let at else { return nil }
        let now = WallClock.system.now
        let expression = try TimeExpression(at, now: now, zone: .system)
        // Nobody knows yet what will be there.
        if expression.time > now {
            throw SafeBackupError(
                .invalidConfiguration,
                "\(LocalZone.system.text(expression.time)) has not come yet; it is \(LocalZone.system.text(now)) now",
                disposition: .permanent)
        }
        return AskedTime(time: expression.time, isLocal: expression.isLocal)
    }
}

/// A time as it was understood, to be told.
struct AskedTime: Sendable, CustomStringConvertible {
    var time: Timestamp
    var isLocal: Bool

    var description: String { LocalZone.system.text(time) + (isLocal ? " (local time)" : "") }
}
