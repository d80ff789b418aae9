import SafeBackupSystem

/// Where findings wait for the one consumer, coalesced.
final class WatchOutbox: Sendable {
    private struct State {
        var findings: WatchFindings
        var waiter: CheckedContinuation<WatchBatch?, Never>?
        var isNudged = false
        var isClosed = false
    }

    private let state: Locked<State>

    /// - Parameter limit: of paths that wait.
    init(limit: Int) {
        state = Locked(State(findings: WatchFindings(limit: limit)))
    }

    /// Adds what was found later; wakes the consumer.
    func publish(_ findings: WatchFindings) {
        if findings.isEmpty { return }
        let wake: (CheckedContinuation<WatchBatch?, Never>, WatchBatch)? = state.withLock { state in
            state.findings.merge(findings)
            guard let waiter = state.waiter else { return nil }
            state.waiter = nil
            return (waiter, state.findings.drain())
        }
        if let (waiter, batch) = wake { waiter.resume(returning: batch) }
    }

    /// The consumer gets a batch, also if there is nothing in it.
    func nudge() {
        let wake: (CheckedContinuation<WatchBatch?, Never>, WatchBatch)? = state.withLock { state in
            guard let waiter = state.waiter else {
                state.isNudged = true
                return nil
            }
            state.waiter = nil
            return (waiter, state.findings.drain())
        }
        if let (waiter, batch) = wake { waiter.resume(returning: batch) }
    }

    /// Waits until there is something; `nil` after `close`, or when the task is cancelled.
    func next() async -> WatchBatch? {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let answer: (CheckedContinuation<WatchBatch?, Never>, WatchBatch?)? = state.withLock { state in
                    if state.isClosed || Task.isCancelled { return (continuation, nil) }
                    if !state.findings.isEmpty || state.isNudged {
                        state.isNudged = false
                        return (continuation, state.findings.drain())
                    }
                    // There is one consumer; one that waits still when another comes was given up.
                    let former = state.waiter
                    state.waiter = continuation
                    return former.map { ($0, nil) }
                }
                if let (waiter, batch) = answer { waiter.resume(returning: batch) }
            }
        } onCancel: {
            release(closing: false)
        }
    }

    /// The consumer gets `nil` from now on.
    func close() { release(closing: true) }

    private func release(closing: Bool) {
        let waiter = state.withLock { state in
            if closing { state.isClosed = true }
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: nil)
    }
}
