import SafeBackupSystem

/// Wakes one waiting task. A signal that nobody waits for is kept for the next wait.
package final class TaskSignal: Sendable {
    private struct State {
        var isSignalled = false
        var waiter: (id: UInt64, continuation: UnsafeContinuation<Void, Never>)?
        var next: UInt64 = 0
    }

    private let state = Locked(State())

    package init() {}

    package func signal() {
        let waiter = state.withLock { state in
            let waiter = state.waiter
            state.waiter = nil
            if waiter == nil { state.isSignalled = true }
            return waiter
        }
        waiter?.continuation.resume()
    }

    /// Returns at the next signal, after `timeout`, or when the task is cancelled.
    package func wait(atMost timeout: Duration? = nil) async {
        await Pulse.waiting(endingWith: { [weak self] in self?.signal() }) { await waitUnasked(atMost: timeout) }
    }

    private func waitUnasked(atMost timeout: Duration?) async {
        guard let timeout else {
            await waitForSignal()
            return
        }
        if timeout <= .zero { return }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.waitForSignal() }
            group.addTask {
                do { try await Task.sleep(for: timeout) } catch { return }  // cancelled: the signal came first
            }
            await group.next()
            group.cancelAll()
        }
    }

    private func waitForSignal() async {
        let id = state.withLock { state in
            state.next += 1
            return state.next
        }
        await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                let isReady = state.withLock { state in
                    if state.isSignalled || Task.isCancelled {
                        state.isSignalled = false
                        return true
                    }
                    precondition(state.waiter == nil, "two tasks wait for one TaskSignal")
                    state.waiter = (id, continuation)
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            let waiter = state.withLock { state in
                guard let waiter = state.waiter, waiter.id == id else { return nil as UnsafeContinuation<Void, Never>? }
                state.waiter = nil
                return waiter.continuation
            }
            waiter?.resume()
        }
    }
}

/// Says to everybody, once, that the agent stops.
package final class StopSignal: Sendable {
    private let state = Locked<(requestedAt: ContinuousClock.Instant?, actions: [@Sendable () -> Void])>((nil, []))

    package init() {}

    package var isRequested: Bool { requestedAt != nil }

    /// When it was requested first.
    package var requestedAt: ContinuousClock.Instant? { state.withLock { $0.requestedAt } }

    package func request() {
        let actions = state.withLock { state in
            state.requestedAt = state.requestedAt ?? .now
            let actions = state.actions
            state.actions = []
            return actions
        }
        for action in actions { action() }
    }

    /// Calls `action` when the stop is requested, or at once if it was.
    package func onRequest(_ action: @escaping @Sendable () -> Void) {
        let isRequested = state.withLock { state in
            if state.requestedAt == nil { state.actions.append(action) }
            return state.requestedAt != nil
        }
        if isRequested { action() }
    }
}

/// A value that several tasks set and read.
final class Shared<Value: Sendable>: Sendable {
    private let state: Locked<Value>

    init(_ value: Value) { state = Locked(value) }

    var value: Value { state.withLock { $0 } }

    func set(_ value: Value) { state.withLock { $0 = value } }
}
