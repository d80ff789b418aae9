package import SafeBackupCore
package import SafeBackupSystem
package import SystemPackage

/// The agent's state: registry, jobs, catalogue. The only writer of `queue.db` besides `submitRequest`.
///
/// Each call is one transaction: when it returns, what it did survives a power cut; when it throws, nothing of it is
/// promised (after `stateFailed` at the very end it may nevertheless be there after `reopen`). After `stateFailed` by a
/// failed write, and after `stateDamaged`, every call throws until `reopen` has succeeded.
///
/// The process lock is the agent's: it takes it before it opens the state.
package actor StateStore {
    private let executor: ThreadExecutor
    private let file: StateFile
    let clock: WallClock
    private var connection: Connection?
    private var isDamaged = false
    private var isClosed = false

    /// The last number given, in the running transaction.
    private var counter: Int64 = 0
    /// What the running transaction changes in the tally.
    private var tallies: [PairKey: Tally] = [:]
    /// Whether a pair had names when it was first asked about, or one was told to have vanished since: only then can a
    /// copy have to move. Not so during a first save, which is spared the search.
    private var movable: [PairKey: Bool] = [:]
    /// Which sources lose their files.
    var emptying = EmptyingSources()
    /// The counter at the end of the walk since which no event of a source was lost; none while one may have been.
    var allToldSince: [SourceID: Int64] = [:]
    /// Destinations whose deleted paths' copies become versions; see `setMirroring`.
    var mirroring: Set<DestinationID> = []
    /// What may still be told of single paths.
    var journalBudget = JournalBudget()
    /// The registry's pairs; read again after every change and every failure.
    private var knownPairs: [PairKey: PairRecord]?

    package nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    private init(_ file: StateFile, on executor: ThreadExecutor) {
        self.file = file
        clock = file.clock
        self.executor = executor
    }

    deinit { executor.stop() }

    // MARK: - Opening and closing

    /// Opens the state in `directory`, which is made with mode 0700 if it is missing; begins a new one where there is
    /// none, or where it is damaged.
    ///
    /// Throws `stateNewer` (the file is as it was), `stateFailed`, and `exhausted` when the system gives no thread.
    package static func open(
        in directory: FilePath, clock: WallClock = .system, options: StateOptions = StateOptions()
    ) async throws(SafeBackupError) -> (StateStore, OpenReport) {
        try await open(StateFile(directory: directory, clock: clock, options: options))
    }

    static func open(_ file: StateFile) async throws(SafeBackupError) -> (StateStore, OpenReport) {
        let executor: ThreadExecutor
        do throws(Errno) {
            executor = try ThreadExecutor(name: "sb.state")
        } catch {
            throw .noThread(error)
        }
        let store = StateStore(file, on: executor)
        return (store, try await store.reopen())
    }

    /// Closes and opens the file again, as after a start without a clean shutdown. To be called after `stateFailed`
    /// (with back-off, until it succeeds) and after `stateDamaged` (the file is moved aside and a new one begun, which
    /// the report tells).
    @discardableResult
    package func reopen() throws(SafeBackupError) -> OpenReport {
        if isClosed { throw closed() }
        if connection?.health == .damaged { isDamaged = true }
        connection = nil
        knownPairs = nil
        movable.removeAll()
        emptying.noted = nil
        allToldSince.removeAll()
        let (opened, report) = try file.open(isKnownDamaged: isDamaged)
        connection = opened
        isDamaged = false
        return report
    }

    /// Marks the state as cleanly closed, moves the write-ahead log into the file, and closes it. Every later call
    /// throws; a second close does nothing.
    package func close() throws(SafeBackupError) {
        if isClosed { return }
        isClosed = true
        guard let connection else { return }
        defer { self.connection = nil }
        // A state that failed is not clean: the next start looks at it closely.
        guard connection.health == .good else { return }
        try connection.statement("INSERT OR REPLACE INTO meta (key, value) VALUES ('clean', '1')").run()
        _ = try connection.checkpoint()
    }

    private func closed() -> SafeBackupError {
        SafeBackupError(.stateFailed, "The state database is closed", disposition: .transient)
    }

    private func usable() throws(SafeBackupError) -> Connection {
        guard let connection else {
            if isClosed { throw closed() }
            throw SafeBackupError(
                .stateFailed, "The state database could not be opened again yet", disposition: .transient)
        }
        switch connection.health {
        case .good: return connection
        case .failed:
            throw SafeBackupError(
                .stateFailed, "The state database failed before and is not open again yet", disposition: .transient)
        case .damaged:
            throw SafeBackupError(
                .stateDamaged, "The state database is damaged and not begun anew yet", disposition: .permanent)
        }
    }

    // MARK: - Transactions

    /// Runs `body` in one transaction that is durable when this returns, and undone when it throws.
    func write<R>(_ body: (Connection) throws(SafeBackupError) -> R) throws(SafeBackupError) -> R {
        let connection = try usable()
        let emptyingBefore = emptying
        tallies.removeAll(keepingCapacity: true)
        do throws(SafeBackupError) {
            try connection.begin()
            let before = try connection.number("SELECT value FROM counter") ?? 0
            counter = before
            let result = try body(connection)
            if counter != before {
                try connection.statement("UPDATE counter SET value = ?").bind(counter).run()
            }
            try Tally.add(tallies, to: connection)
            try connection.commit()
            return result
        } catch {
            connection.rollBack()
            knownPairs = nil
            emptying = emptyingBefore
            throw error
        }
    }

    /// Runs `body` on one view of the database.
    func read<R>(_ body: (Connection) throws(SafeBackupError) -> R) throws(SafeBackupError) -> R {
        let connection = try usable()
        do throws(SafeBackupError) {
            try connection.statement("BEGIN").run()
            let result = try body(connection)
            try connection.commit()
            return result
        } catch {
            connection.rollBack()
            throw error
        }
    }

    /// The next number of the one counter.
    func nextNumber() -> Int64 {
        counter += 1
        return counter
    }

    /// The last number given, in a `write`.
    var lastNumber: Int64 { counter }

    /// Numbers up to `number` are given.
    func raiseCounter(to number: Int64) { counter = max(counter, number) }

    /// By how many live files the running transaction changes each pair.
    var fileChanges: [PairKey: Int64] { tallies.mapValues(\.files).filter { $0.value != 0 } }

    func note(_ pair: PairKey, _ change: (inout Tally) -> Void) { change(&tallies[pair, default: Tally()]) }

    /// Whether a path of the source may have been another one when it was saved.
    func mayHaveMoved(_ pair: PairKey, _ connection: Connection) throws(SafeBackupError) -> Bool {
        if let known = movable[pair] { return known }
        // Also ended ones: a rename that a crash cut in two may have ended them all.
        let statement = try connection.statement(
            """
            SELECT EXISTS (SELECT 1 FROM name WHERE source_id = ?1 AND destination_id = ?2 AND ended_at IS NULL)
                OR EXISTS (SELECT 1 FROM name WHERE source_id = ?1 AND destination_id = ?2 AND ended_at IS NOT NULL)
            """)
        defer { statement.reset() }
        statement.bind(pair.source.rawValue).bind(pair.destination.rawValue)
        let hasNames = try statement.step() && statement.bool()
        movable[pair] = hasNames
        return hasNames
    }

    /// A path of the source was told to be absent.
    func noteVanished(_ pair: PairKey) { movable[pair] = true }

    // MARK: - Pairs

    /// All pairs, by source and destination.
    func pairTable(_ connection: Connection) throws(SafeBackupError) -> [PairKey: PairRecord] {
        if let knownPairs { return knownPairs }
        var table: [PairKey: PairRecord] = [:]
        for pair in try PairRecord.all(connection) {
            table[PairKey(source: pair.source, destination: pair.destination)] = pair
        }
        knownPairs = table
        return table
    }

    func forgetPairs() { knownPairs = nil }

    /// The prefix of the source's copies in the destination; throws when the two were never paired.
    func prefix(_ pair: PairKey, _ connection: Connection) throws(SafeBackupError) -> RelativePath {
        guard let record = try pairTable(connection)[pair] else {
            throw SafeBackupError(
                .stateFailed,
                "The state knows no pair of source \(pair.source.rawValue) and destination \(pair.destination.rawValue)",
                disposition: .permanent)
        }
        return record.prefix
    }
}
