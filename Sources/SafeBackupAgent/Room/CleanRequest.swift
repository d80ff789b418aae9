import SafeBackupCapacity
import SafeBackupCore
import SafeBackupState

/// What `safebackup clean` asks of the agent: that these limits hold at a destination. The words of both sides.
struct CleanRequest: Sendable, Hashable {
    var destination: DestinationID
    var limits: CleaningLimits

    init(destination: DestinationID, limits: CleaningLimits) {
        self.destination = destination
        self.limits = limits
    }

    var arguments: [[UInt8]] {
        let numbers = [limits.minFree?.bytes, limits.maxSize?.bytes].map { $0.map { "\($0)" } ?? "-" }
        let percent = limits.maxUsagePercent.map { "\($0)" } ?? "-"
        return (["\(destination.rawValue)"] + numbers + [percent]).map { Array($0.utf8) }
    }

    /// Throws `invalidConfiguration` for what is no such request: another release's, perhaps.
    init(_ arguments: [[UInt8]]) throws(SafeBackupError) {
        let words = arguments.map { String(decoding: $0, as: UTF8.self) }
        let numbers = words.dropFirst().prefix(2).map { Int64($0) }
        guard words.count == 4, let destination = Int64(words[0]),
            zip(words.dropFirst(), numbers).allSatisfy({ $0 == "-" || $1 != nil }),
            words[3] == "-" || Double(words[3]) != nil
        else {
            throw SafeBackupError(
                .invalidConfiguration, "This agent does not understand what 'clean' asks; is it another release?",
                disposition: .permanent)
        }
        self.init(
            destination: DestinationID(rawValue: destination),
            limits: CleaningLimits(
                minFree: numbers[0].map { ByteCount($0) }, maxUsagePercent: Double(words[3]),
                maxSize: numbers[1].map { ByteCount($0) }))
        try limits.validate()
    }

    /// Stands with each removal.
    var reason: String { "clean: \(limits.text)" }
}

extension CleaningLimits {
    /// As on the command line: `min-free=20.0 GiB max-usage=80.0 %`.
    var text: String {
        var words: [String] = []
        if let minFree { words.append("min-free=\(minFree)") }
        if let maxUsagePercent { words.append("max-usage=\(maxUsagePercent) %") }
        if let maxSize { words.append("max-size=\(maxSize)") }
        return words.joined(separator: " ")
    }
}

/// A cleaning that a person asked for.
struct AskedCleaning: Sendable {
    /// The request's.
    let number: Int64
    let request: CleanRequest
    /// What went before it had to wait.
    var done = CleanedTotals()
    /// No version is left that may go; it goes on with what deleted paths have when the stored copies were looked for.
    var waitsForCopies = false

    init(number: Int64, _ request: CleanRequest) {
        self.number = number
        self.request = request
    }
}

/// What a cleaning has removed.
struct CleanedTotals: Sendable, Hashable {
    var copies = 0
    var bytes: Int64 = 0
    /// When the oldest and the newest of them were stored.
    var oldest: Timestamp?
    var newest: Timestamp?

    /// With what this cleaning has removed.
    func adding(_ cleaning: RoomCleaning?) -> CleanedTotals {
        guard let cleaning else { return self }
        var all = self
        all.copies += cleaning.removed
        all.bytes += cleaning.freed
        if let span = cleaning.span {
            all.oldest = min(oldest ?? span.oldest, span.oldest)
            all.newest = max(newest ?? span.newest, span.newest)
        }
        return all
    }
}

/// What came of it. The words of both sides.
struct CleanAnswer: Sendable, Hashable {
    enum Outcome: String, Sendable {
        case reached
        /// What may go was not enough.
        case short
        /// The destination is not there.
        case held
        case failed
    }

    var outcome: Outcome
    var totals = CleanedTotals()
    /// Why; none if it was reached.
    var message = ""

    init(_ outcome: Outcome, _ totals: CleanedTotals = CleanedTotals(), _ message: String = "") {
        self.outcome = outcome
        self.totals = totals
        self.message = message
    }

    /// A sentence, a line of numbers, and the reason.
    var text: String {
        let sentence =
            "\(counted(totals.copies, "older copy", "older copies")) of \(ByteCount(totals.bytes)) removed to make room"
            + (outcome == .reached ? "" : "; " + String(message.map { $0.isNewline ? " " : $0 }))
        let times = [totals.oldest, totals.newest].map { $0.map { "\($0.microseconds)" } ?? "-" }
        let words = [outcome.rawValue, "\(totals.copies)", "\(totals.bytes)"] + times
        return "\(sentence)\n\(words.joined(separator: " "))\n\(message)"
    }

    /// `nil`: that is no such answer.
    init?(_ text: String) {
        let lines = text.split(separator: "\n", maxSplits: 2, omittingEmptySubsequences: false)
        guard lines.count == 3 else { return nil }
        let words = lines[1].split(separator: " ")
        guard words.count == 5, let outcome = Outcome(rawValue: String(words[0])), let copies = Int(words[1]),
            let bytes = Int64(words[2])
        else { return nil }
        let times = words[3...].map { Int64($0).map { Timestamp(microseconds: $0) } }
        let totals = CleanedTotals(copies: copies, bytes: bytes, oldest: times[0], newest: times[1])
        self.init(outcome, totals, String(lines[2]))
    }
}
