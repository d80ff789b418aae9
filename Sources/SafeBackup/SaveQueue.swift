import SafeBackupCore

/// The saves that were asked for and are not done: which go next, and together. Pure.
///
/// Those of one key go one after the other, in the order they were asked for, so that the last one wins. What must wait
/// for a cleaning is parked and keeps its place.
struct SaveQueue<Request: Sendable>: Sendable {
    struct Entry: Sendable {
        let ticket: UInt64
        let key: RelativePath
        let request: Request
        /// Cleanings that it waited for.
        var waits = 0
    }

    private var waiting: [Entry] = []
    private var parked: [Entry] = []
    /// Of what is being stored.
    private var busy: Set<RelativePath> = []
    private var unfinished: Set<UInt64> = []
    /// Of the newest save that was asked for.
    private(set) var lastTicket: UInt64 = 0

    /// How many are not done.
    var count: Int { unfinished.count }

    mutating func add(_ key: RelativePath, _ request: Request) {
        lastTicket += 1
        unfinished.insert(lastTicket)
        waiting.append(Entry(ticket: lastTicket, key: key, request: request))
    }

    /// Takes up to so many that may be stored now; empty if there are none.
    mutating func next(limit: Int) -> [Entry] {
        var group: [Entry] = []
        var left: [Entry] = []
        var index = 0
        // A key that is passed over is busy too, or a later save of it would overtake.
        var passed = busy
        while index < waiting.count && group.count < limit {
            let entry = waiting[index]
            index += 1
            if passed.insert(entry.key).inserted {
                busy.insert(entry.key)
                group.append(entry)
            } else {
                left.append(entry)
            }
        }
        if index > 0 { waiting.replaceSubrange(..<index, with: left) }
        return group
    }

    /// An entry of `next` is done, in whatever way.
    mutating func finish(_ entry: Entry) {
        busy.remove(entry.key)
        unfinished.remove(entry.ticket)
    }

    /// An entry of `next` waits until `unpark`.
    mutating func park(_ entry: Entry) {
        var entry = entry
        entry.waits += 1
        parked.append(entry)
    }

    /// What was parked may be tried again, before everything else.
    mutating func unpark() {
        if parked.isEmpty { return }
        for entry in parked { busy.remove(entry.key) }
        waiting = (parked + waiting).sorted { $0.ticket < $1.ticket }
        parked = []
    }

    /// Whether all that had a ticket up to this one are done.
    func isDone(through ticket: UInt64) -> Bool { !unfinished.contains { $0 <= ticket } }
}
