import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A save that a task waits for.
struct SaveRequest: Sendable {
    var file: FilePath
    var answer: SaveAnswer

    /// Asks for a save, and waits for its end, also in a task that was cancelled.
    /// - Parameter ask: takes the request; `false`: the session is closed.
    static func save(
        _ file: FilePath, as key: RelativePath, ask: (SaveRequest) -> Bool
    ) async throws(BackupSessionError) {
        let answer = Locked<SaveAnswer?>(nil)
        await withUnsafeContinuation { continuation in
            let own = SaveAnswer(continuation)
            answer.withLock { $0 = own }
            if !ask(SaveRequest(file: file, answer: own)) { continuation.resume() }
        }
        switch answer.withLock({ $0?.result }) {
        case .success: return
        case .failure(let reason): throw .backupFailed(file: file, key: key.description, reason: reason)
        case nil: throw .closed
        }
    }
}

/// The result comes back under a lock and not with the continuation; see `ThreadExecutor.run`.
final class SaveAnswer: Sendable {
    private let content: Locked<Result<Void, SafeBackupError>?> = Locked(nil)
    private let continuation: UnsafeContinuation<Void, Never>

    init(_ continuation: UnsafeContinuation<Void, Never>) { self.continuation = continuation }

    func give(_ result: Result<Void, SafeBackupError>) {
        content.withLock { $0 = result }
        continuation.resume()
    }

    var result: Result<Void, SafeBackupError>? { content.withLock { $0 } }
}
