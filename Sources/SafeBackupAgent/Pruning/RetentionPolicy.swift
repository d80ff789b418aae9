package import SafeBackupCore

/// Which states of a path are kept, as restic and borg know it: each rule looks at the states from the newest on, and a
/// state is kept if one of the rules keeps it. Pure.
///
/// * `last` N: the newest N states, the current one among them.
/// * `within` D: every state that was the path's at some time in the last D, however long ago it was saved.
/// * `daily`, `weekly`, `monthly`, `yearly` N: of the last N days (weeks from Monday, months, years) on which a state was
///   saved, the newest state each. Days without one do not count. While there are fewer than N, also the oldest state.
/// * `deletedWithin` D: what was deleted at the source longer ago goes with all its versions; without it a deleted path
///   keeps its last state for ever.
package struct RetentionPolicy: Sendable, Hashable {
    package var last: Int?
    package var within: Duration?
    package var daily: Int?
    package var weekly: Int?
    package var monthly: Int?
    package var yearly: Int?
    package var deletedWithin: Duration?

    package init() {}

    /// A time at which a path was so.
    package struct State: Sendable, Hashable {
        package var stored: Timestamp
        /// `nil`: until now.
        package var ended: Timestamp?

        package init(stored: Timestamp, ended: Timestamp?) {
            self.stored = stored
            self.ended = ended
        }
    }

    /// Whether a rule says which states are kept; without one all are.
    package var hasRules: Bool {
        last != nil || within != nil || daily != nil || weekly != nil || monthly != nil || yearly != nil
    }

    /// As on the command line: `keep-last=3 keep-daily=7`.
    package var text: String {
        var words: [String] = []
        func add(_ name: String, _ value: String?) { if let value { words.append("\(name)=\(value)") } }
        add("keep-last", last.map(String.init))
        add("keep-within", within.map(ReportText.span))
        add("keep-daily", daily.map(String.init))
        add("keep-weekly", weekly.map(String.init))
        add("keep-monthly", monthly.map(String.init))
        add("keep-yearly", yearly.map(String.init))
        add("keep-deleted", deletedWithin.map(ReportText.span))
        return words.joined(separator: " ")
    }

    /// Whether a path that was deleted then has had its time.
    package func isExpired(deleted: Timestamp, now: Timestamp) -> Bool {
        guard let deletedWithin else { return false }
        return now - deleted > deletedWithin
    }

    /// For each state, newest first, whether it is kept.
    package func keeps(_ states: [State], now: Timestamp, zone: LocalZone) -> [Bool] {
        if !hasRules { return states.map { _ in true } }
        var keeps = states.map { _ in false }
        for index in states.indices {
            if let last, index < last { keeps[index] = true }
            if let within, states[index].ended.map({ now - $0 <= within }) ?? true { keeps[index] = true }
        }
        let rules: [(count: Int?, bucket: (CivilTime) -> Int64)] = [
            (daily, { $0.dayNumber }),
            // The first day of 1970 was a Thursday.
            (weekly, { ($0.dayNumber + 3 + 7_000_000) / 7 }),
            (monthly, { $0.year * 12 + $0.month }),
            (yearly, { $0.year }),
        ]
        for rule in rules {
            guard let count = rule.count else { continue }
            var seen = 0
            var newest: Int64?
            for index in states.indices {
                let bucket = rule.bucket(zone.civil(states[index].stored))
                if bucket == newest { continue }
                newest = bucket
                seen += 1
                if seen > count { break }
                keeps[index] = true
            }
            if seen < count, let oldest = states.indices.last { keeps[oldest] = true }
        }
        return keeps
    }
}
