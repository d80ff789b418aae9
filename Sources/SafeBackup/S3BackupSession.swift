public import SafeBackupCore
package import SafeBackupS3
import SafeBackupSystem
public import SystemPackage

/// Saves files to a bucket of S3, or of a server that speaks it, as plain objects.
///
/// ```swift
/// var configuration = S3BackupConfiguration(bucket: "backups", prefix: "app")
/// configuration.region = "eu-central-1"
/// let session = try await S3BackupSession(configuration)
/// try await session.save("/var/lib/app/users.db", as: "2026-11-23/users.db")
/// try await session.waitForCompletion(timeout: .seconds(60))
/// await session.close()
/// ```
///
/// The object's bytes are the file's; times, mode, owner and attributes are in its metadata. Large files are sent in
/// parts; what all saves hold in memory is bounded. Nothing is listed or removed, and only looked for whether an agent has
/// the prefix, so that keys which may only put objects are enough; those that may abort uploads too leave no parts behind.
public final class S3BackupSession: BackupSession {
    private typealias Entry = SaveQueue<SaveRequest>.Entry

    private struct Waiter {
        /// Saves up to this one.
        var ticket: UInt64
        var wait: CompletionWait
    }

    private struct State {
        var queue = SaveQueue<SaveRequest>()
        /// Saves under way.
        var running = 0
        var isClosed = false
        var failedSaves = FailedSaves()
        var waiters: [Waiter] = []
        /// The one end of the session, which all calls of `close` wait for.
        var closing: Task<Void, Never>?
    }

    /// Threads that read files.
    private static let readers = 4

    /// `s3://BUCKET/PREFIX`.
    public let location: String
    private let concurrency: Int
    private let bucket: KeyedBucket
    private let transport: CurlTransport
    private let io: ThreadExecutor
    private let state = Locked(State())

    /// Checks the configuration. No server is asked: that it is down, or refuses the keys, is told by the saves.
    ///
    /// - Throws: `invalidConfiguration`, with the value and the reason.
    public convenience init(_ configuration: S3BackupConfiguration) async throws(BackupSessionError) {
        try await self.init(configuration, environment: .current())
    }

    /// - Parameters:
    ///   - environment: of the process.
    ///   - backoff: of requests that failed.
    ///   - limits: of what is held in memory, and of parts.
    ///   - found: called before a file is read; see `KeyedBucket`.
    package init(
        _ configuration: S3BackupConfiguration, environment: AWSEnvironment, backoff: RetryBackoff = RetryBackoff(),
        limits: Uploader.Limits = Uploader.Limits(), found: @escaping @Sendable (FilePath) -> Void = { _ in }
    ) async throws(BackupSessionError) {
        let io: ThreadExecutor
        do throws(Errno) {
            io = try ThreadExecutor(name: "sb.read", count: Self.readers)
        } catch {
            throw .invalidConfiguration(value: "concurrency", reason: .noThread(error))
        }
        let opened: (client: S3Client, transport: CurlTransport)
        do throws(BackupSessionError) {
            opened = try await io.run { () throws(BackupSessionError) in
                try configuration.open(environment: environment, backoff: backoff, io: io)
            }
        } catch {
            io.stop()
            throw error
        }
        self.io = io
        transport = opened.transport
        concurrency = configuration.concurrency
        location = configuration.description
        bucket = KeyedBucket(
            store: opened.client, prefix: Array(configuration.trimmedPrefix.utf8), name: location, limits: limits,
            io: io, found: found)
    }

    deinit { io.stop() }

    /// Copies a file; the server has confirmed the object when this returns. See `BackupSession`.
    public func save(_ file: FilePath, as key: RelativePath) async throws(BackupSessionError) {
        try await SaveRequest.save(file, as: key) { request in
            let isTaken = state.withLock { state in
                if !state.isClosed { state.queue.add(key, request) }
                return !state.isClosed
            }
            if isTaken { beginSaves() }
            return isTaken
        }
    }

    /// Returns when all saves that were asked for before are done. See `BackupSession`.
    public func waitForCompletion(timeout: Duration?) async throws(BackupSessionError) {
        let isDone = await wait().result(timeout: timeout, endsWithTask: true)
        let failure = state.withLock { state -> BackupSessionError? in
            if isDone { return state.failedSaves.take() }
            return .cleaningTimeout(after: timeout ?? .zero, saves: state.queue.count, isCleaning: false)
        }
        if let failure { throw failure }
    }

    /// Takes no more saves, waits for those that were asked for, and ends the connections. May be called again.
    public func close() async {
        let closing = state.withLock { state in
            state.isClosed = true
            // Not in the caller's task, which may be cancelled: what was asked for before is still being saved.
            let closing = state.closing ?? Task { await self.end() }
            state.closing = closing
            return closing
        }
        await closing.value
    }

    private func end() async {
        _ = await wait().result(endsWithTask: false)
        await bucket.close()
        await transport.close()
        io.stop()
    }

    /// Ends as done when all saves are done that were asked for before.
    private func wait() -> CompletionWait {
        let wait = CompletionWait()
        state.withLock { $0.waiters.append(Waiter(ticket: $0.queue.lastTicket, wait: wait)) }
        resumeWaiters()
        return wait
    }

    private func resumeWaiters() {
        let done = state.withLock { state in
            state.waiters.removeAll { $0.wait.hasEnded }
            let done = state.waiters.filter { state.queue.isDone(through: $0.ticket) }
            state.waiters.removeAll { state.queue.isDone(through: $0.ticket) }
            return done
        }
        for waiter in done { waiter.wait.end(isDone: true) }
    }

    /// `close` was called.
    package var isClosing: Bool { state.withLock { $0.isClosed } }

    /// Saves that were asked for and are not done.
    package var unfinishedSaves: Int { state.withLock { $0.queue.count } }

    // MARK: Saving

    /// Begins as many saves as may be under way.
    private func beginSaves() {
        while let entry = nextEntry() { Task { await self.carry(entry) } }
    }

    private func nextEntry() -> Entry? {
        state.withLock { state in
            guard state.running < concurrency, let entry = state.queue.next(limit: 1).first else { return nil }
            state.running += 1
            return entry
        }
    }

    private func carry(_ entry: Entry) async {
        let result: Result<Void, SafeBackupError>
        do throws(SafeBackupError) {
            result = .success(try await bucket.save(entry.request.file, as: entry.key))
        } catch {
            result = .failure(error)
        }
        state.withLock { state in
            state.running -= 1
            state.queue.finish(entry)
            if case .failure(let reason) = result {
                state.failedSaves.note(
                    .backupFailed(file: entry.request.file, key: entry.key.description, reason: reason))
            }
        }
        entry.request.answer.give(result)
        resumeWaiters()
        beginSaves()
    }
}
