import SafeBackupSystem

/// A wait that ends once: because what it waits for is done, or because its time or its task ended first.
final class CompletionWait: Sendable {
    private enum Phase {
        case begun
        case waiting(UnsafeContinuation<Void, Never>)
        case ended(isDone: Bool)
    }

    private let phase = Locked(Phase.begun)

    /// Ends it, unless it has ended.
    func end(isDone: Bool) {
        let waiter = phase.withLock { phase -> UnsafeContinuation<Void, Never>? in
            defer { if case .ended = phase {} else { phase = .ended(isDone: isDone) } }
            if case .waiting(let continuation) = phase { return continuation }
            return nil
        }
        waiter?.resume()
    }

    var hasEnded: Bool { isDone != nil }

    /// `nil` before its end.
    private var isDone: Bool? {
        phase.withLock { phase in
            if case .ended(let isDone) = phase { return isDone }
            return nil
        }
    }

    /// Waits for the end; whether what is waited for is done.
    /// - Parameters:
    ///   - timeout: at most so long, if one is given.
    ///   - endsWithTask: a cancelled task waits no longer.
    func result(timeout: Duration? = nil, endsWithTask: Bool) async -> Bool {
        let timer = timeout.map { timeout in
            Task {
                // A sleep that is cancelled ends early, when nobody waits any more.
                do { try await Task.sleep(for: timeout) } catch { return }
                self.end(isDone: false)
            }
        }
        defer { timer?.cancel() }
        await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                let hasEnded = phase.withLock { phase in
                    if case .ended = phase { return true }
                    phase = .waiting(continuation)
                    return false
                }
                if hasEnded { continuation.resume() }
            }
        } onCancel: {
            if endsWithTask { end(isDone: false) }
        }
        return isDone ?? false
    }
}
