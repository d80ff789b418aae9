import Glibc
import SafeBackupCapacity
public import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
public import SystemPackage

/// Saves files to a local directory as plain files, and keeps room there by removing the oldest copies.
///
/// ```swift
/// let session = try await LocalBackupSession(LocalBackupConfiguration(rootDirectory: "/mnt/backup"))
/// try await session.save("/var/lib/app/users.db", as: "2026-11-23/users.db")
/// try await session.waitForCompletion(timeout: .seconds(60))
/// await session.close()
/// ```
///
/// Saves that run at the same time are made durable together, so that many tasks that save are far faster than one. One
/// session at a time may have a directory; `.safebackup-session` in it holds what is not finished, and is emptied when
/// the directory is opened again. Nothing else is ever written, and no link in it is followed.
public final class LocalBackupSession: BackupSession {
    /// Stores a group of located files.
    package typealias Storing = @Sendable () -> [Result<StoredCopy, SafeBackupError>]

    typealias Entry = SaveQueue<SaveRequest>.Entry

    struct Waiter {
        /// Saves up to this one,
        var ticket: UInt64
        /// and, once these are done, the cleanings begun until then.
        var cleanings: Int?
        var wait: CompletionWait
    }

    struct State {
        var queue = SaveQueue<SaveRequest>()
        /// Threads that take groups.
        var workers = 0
        var guardian: CapacityGuard
        /// Bytes that were written, or at least tried.
        var written: Int64 = 0
        /// With those that are being written.
        var begun: Int64 = 0
        var isClosed = false
        var cleaningsBegun = 0
        var cleaningsEnded = 0
        var cleaningEnded: ContinuousClock.Instant?
        /// What a cleaning, or a look at the disk, could not do, until somebody is told.
        var failure: SafeBackupError?
        var failedSaves = FailedSaves()
        var waiters: [Waiter] = []
    }

    /// Groups that are stored at the same time.
    static let workerLimit = 2
    /// Saves in a group.
    private static let groupLimit = 64
    /// A larger file is a group of its own, so that the others need not wait for it.
    private static let largeSize = ByteCount.mebibytes(16)
    /// How often a file is tried that changes while it is read.
    private static let attemptLimit = 6
    /// Cleanings that a save waits for.
    static let waitLimit = 4
    /// A cleaning that freed too little is tried again after this time when a save finds no room.
    static let cleaningRest = Duration.seconds(60)

    /// The directory, absolute.
    public let rootDirectory: FilePath
    let configuration: LocalBackupConfiguration
    let savers: ThreadExecutor
    let cleaning: ThreadExecutor
    private let around: @Sendable (Int, Storing) -> [Result<StoredCopy, SafeBackupError>]
    /// `nil` once the session is closed.
    let store: Locked<KeyedStore?>
    let state: Locked<State>

    /// Opens the directory, looks at its disk, and begins a cleaning if there is too little room.
    ///
    /// - Throws: `invalidConfiguration`, with the value and the reason: for values that cannot be, a directory that is not
    ///   there and cannot be made, may not be written, belongs to an agent, or is open in another session.
    public convenience init(_ configuration: LocalBackupConfiguration) async throws(BackupSessionError) {
        try await self.init(configuration, around: { _, store in store() })
    }

    /// - Parameter around: called with the size of each group, and stores it; for tests, who count.
    package init(
        _ configuration: LocalBackupConfiguration,
        around: @escaping @Sendable (Int, Storing) -> [Result<StoredCopy, SafeBackupError>]
    ) async throws(BackupSessionError) {
        try configuration.validate()
        do throws(Errno) {
            savers = try ThreadExecutor(name: "sb.save", count: Self.workerLimit)
        } catch {
            throw .invalidConfiguration(value: "rootDirectory", reason: .noThread(error))
        }
        do throws(Errno) {
            cleaning = try ThreadExecutor(name: "sb.session")
        } catch {
            savers.stop()
            throw .invalidConfiguration(value: "rootDirectory", reason: .noThread(error))
        }
        let opened: (store: KeyedStore, limits: CapacityLimits)
        do throws(BackupSessionError) {
            opened = try await savers.run { () throws(BackupSessionError) in try Self.open(configuration) }
        } catch {
            savers.stop()
            cleaning.stop()
            throw error
        }
        rootDirectory = opened.store.path
        self.configuration = configuration
        self.around = around
        store = Locked(opened.store)
        state = Locked(State(guardian: CapacityGuard(opened.limits)))
        await savers.run { self.check(growth: ByteCount(0)) }
    }

    deinit {
        savers.stop()
        cleaning.stop()
    }

    // MARK: What callers ask for

    /// Copies a file; it is durable when this returns. See `BackupSession`.
    public func save(_ file: FilePath, as key: RelativePath) async throws(BackupSessionError) {
        try await SaveRequest.save(file, as: key) { request in
            let begins: Bool? = state.withLock { state in
                if state.isClosed { return nil }
                state.queue.add(key, request)
                return Self.takesWorker(&state)
            }
            if begins == true { savers.submit { self.work() } }
            return begins != nil
        }
    }

    /// Returns when all that was asked for before is done: saves, and the cleaning that they made necessary. See
    /// `BackupSession`.
    public func waitForCompletion(timeout: Duration?) async throws(BackupSessionError) {
        let isDone = await wait().result(timeout: timeout, endsWithTask: true)
        let failure = state.withLock { state -> BackupSessionError? in
            if !isDone {
                return .cleaningTimeout(
                    after: timeout ?? .zero, saves: state.queue.count, isCleaning: state.guardian.isCleaning)
            }
            if let failure = state.failedSaves.take() { return failure }
            defer { state.failure = nil }
            return state.failure.map { .cleaningFailed(reason: $0) }
        }
        if let failure { throw failure }
    }

    /// Takes no more saves, waits for those that were asked for and for a cleaning, and lets go of the directory. May be
    /// called again.
    public func close() async {
        state.withLock { $0.isClosed = true }
        // Also in a task that was cancelled: what was asked for before is still being saved.
        _ = await wait().result(endsWithTask: false)
        savers.stop()
        cleaning.stop()
        store.withLock { $0 = nil }
    }

    /// Ends as done when all is done that was asked for before.
    private func wait() -> CompletionWait {
        let wait = CompletionWait()
        state.withLock { $0.waiters.append(Waiter(ticket: $0.queue.lastTicket, wait: wait)) }
        resumeWaiters()
        return wait
    }

    func resumeWaiters() {
        let done = state.withLock { state -> [CompletionWait] in
            var done: [CompletionWait] = []
            state.waiters = state.waiters.compactMap { waiter in
                var waiter = waiter
                if waiter.wait.hasEnded { return nil }
                if waiter.cleanings == nil, state.queue.isDone(through: waiter.ticket) {
                    waiter.cleanings = state.cleaningsBegun
                }
                guard let cleanings = waiter.cleanings, state.cleaningsEnded >= cleanings else { return waiter }
                done.append(waiter.wait)
                return nil
            }
            return done
        }
        for wait in done { wait.end(isDone: true) }
    }

    /// `close` was called.
    package var isClosing: Bool { state.withLock { $0.isClosed } }

    /// Saves that were asked for and are not done.
    package var unfinishedSaves: Int { state.withLock { $0.queue.count } }

    // MARK: Saving

    /// Whether a thread more is to take groups.
    static func takesWorker(_ state: inout State) -> Bool {
        if state.workers == workerLimit { return false }
        state.workers += 1
        return true
    }

    /// Stores groups until none is left.
    func work() {
        while true {
            let group = state.withLock { state -> [Entry] in
                let group = state.queue.next(limit: Self.groupLimit)
                if group.isEmpty { state.workers -= 1 }
                return group
            }
            if group.isEmpty { return }
            guard let store = store.withLock({ $0 }) else {
                // `close` waits until the queue is empty. Should it ever not, these saves failed, and no process ends.
                let failure = SafeBackupError(
                    .interrupted, "The session was closed before this was saved; save it in another one",
                    disposition: .transient)
                for entry in group { finish(entry, .failure(failure)) }
                continue
            }
            save(group, in: store)
        }
    }

    typealias Found = (entry: Entry, file: KeyedStore.Located)

    private func save(_ group: [Entry], in store: KeyedStore) {
        var small: [Found] = []
        var large: [Found] = []
        for entry in group {
            do throws(SafeBackupError) {
                let file = try store.locate(KeyedFile(entry.request.file, as: entry.key))
                if file.size > Self.largeSize { large.append((entry, file)) } else { small.append((entry, file)) }
            } catch {
                finish(entry, .failure(error))
            }
        }
        for part in [small] + large.map({ [$0] }) { save(part, in: store, attempt: 1) }
    }

    private func save(_ files: [Found], in store: KeyedStore, attempt: Int) {
        var left = files[...]
        while !left.isEmpty {
            let admitted = admit(&left)
            if !admitted.isEmpty { saveAdmitted(admitted, in: store, attempt: attempt) }
        }
    }

    private func saveAdmitted(_ admitted: [Found], in store: KeyedStore, attempt: Int) {
        let size = admitted.reduce(Int64(0)) { $0 &+ $1.file.size.bytes.countedSize }
        state.withLock { $0.begun += size }
        let results = around(admitted.count) { store.storeNow(admitted.map(\.file)) }
        state.withLock { $0.written += size }
        var again: [Entry] = []
        var pause = false
        var done: [(Entry, Result<Void, SafeBackupError>)] = []
        for (found, result) in zip(admitted, results) {
            switch result {
            case .success:
                state.withLock { $0.guardian.stored(found.file.size) }
                done.append((found.entry, .success(())))
            case .failure(let error) where Self.goesBy(error) && attempt < Self.attemptLimit:
                again.append(found.entry)
                pause = true
            case .failure(let error) where error.disposition == .destinationFull:
                if let entry = makeRoom(for: found, error) { again.append(entry) }
            case .failure(let error): done.append((found.entry, .failure(error)))
            }
        }
        // Before they are told, so that who waits for completion then waits for the cleaning too.
        if state.withLock({ $0.guardian.isCheckDue }) { check(growth: ByteCount(0)) }
        for (entry, result) in done { finish(entry, result) }
        if again.isEmpty { return }
        // On a thread of ours, which nobody else needs.
        if pause { usleep(UInt32(10_000 << attempt)) }
        var found: [Found] = []
        for entry in again {
            do throws(SafeBackupError) {
                found.append((entry, try store.locate(KeyedFile(entry.request.file, as: entry.key))))
            } catch {
                finish(entry, .failure(error))
            }
        }
        save(found, in: store, attempt: attempt + 1)
    }

    /// The file changed while it was read, or a directory of the key was removed while it was being stored.
    private static func goesBy(_ error: SafeBackupError) -> Bool {
        switch error.code {
        case .torn, .changedKind: true
        case .destinationFailed: error.disposition == .transient && error.systemError == nil
        default: false
        }
    }

    func finish(_ entry: Entry, _ result: Result<Void, SafeBackupError>) {
        state.withLock { state in
            state.queue.finish(entry)
            if case .failure(let reason) = result {
                state.failedSaves.note(
                    .backupFailed(file: entry.request.file, key: entry.key.description, reason: reason))
            }
        }
        entry.request.answer.give(result)
        resumeWaiters()
    }

    // MARK: Opening

    private static func open(
        _ configuration: LocalBackupConfiguration
    ) throws(BackupSessionError) -> (store: KeyedStore, limits: CapacityLimits) {
        let store: KeyedStore
        let usage: DiskUsage
        do throws(SafeBackupError) {
            store = try openStore(configuration)
            if let told = try Self.usage(configuration, store) { usage = told } else { usage = try store.usage() }
        } catch {
            throw .invalidConfiguration(value: "rootDirectory", reason: error)
        }
        return (store, try configuration.limits(disk: usage.total))
    }

    private static func openStore(_ configuration: LocalBackupConfiguration) throws(SafeBackupError) -> KeyedStore {
        let isNew = try KeyedStore.makeDirectory(configuration.rootDirectory)
        do throws(SafeBackupError) {
            let path = try KeyedStore.absolute(configuration.rootDirectory)
            // Refuses what an agent has.
            var cleaning = configuration.cleaning
            cleaning.limits = CleaningLimits(minFree: ByteCount(0))
            _ = try BackupCleaner(path, cleaning)
            return try KeyedStore(opening: path)
        } catch {
            if isNew { KeyedStore.removeIfEmpty(configuration.rootDirectory) }
            throw error
        }
    }
}

extension KeyedStore {
    /// The space on its disk, asked now.
    func usage() throws(SafeBackupError) -> DiskUsage { DiskUsage(try statistics()) }
}
