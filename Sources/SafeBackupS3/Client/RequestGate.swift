package import SafeBackupCore
import SafeBackupSystem

/// How many requests may be under way: halved when the server asks for fewer, one more every ten seconds after. Pure.
package struct RequestLimit: Sendable, Hashable {
    package static let step = Duration.seconds(10)
    package let maximum: Int
    package private(set) var current: Int
    private var changedAt: ContinuousClock.Instant?

    package init(maximum: Int) {
        self.maximum = max(1, maximum)
        current = self.maximum
    }

    /// The server asked for fewer. One burst of such answers counts once: only a request that began after the last
    /// halving says anything about the new limit. True if it changed.
    package mutating func halve(requestBegan: ContinuousClock.Instant, now: ContinuousClock.Instant) -> Bool {
        if let changedAt, current < maximum, requestBegan < changedAt { return false }
        changedAt = now
        if current == 1 { return false }
        current /= 2
        return true
    }

    /// One more for every ten seconds that went by.
    package mutating func recover(now: ContinuousClock.Instant) {
        guard current < maximum, let since = changedAt else { return }
        let steps = (now - since) / Self.step
        guard steps >= 1 else { return }
        let count = min(Int(min(steps, 100_000)), maximum - current)
        current += count
        changedAt = since + Self.step * count
    }
}

/// Lets so many requests run at once; the others wait in the order in which they came.
package final class RequestGate: Sendable {
    private struct State {
        var limit: RequestLimit
        var active = 0
        var nextTicket: UInt64 = 0
        /// Tickets in order; one that was cancelled is no longer in `waiters`.
        var queue: [UInt64] = []
        var head = 0
        var waiters: [UInt64: CheckedContinuation<Bool, Never>] = [:]
        /// Cancelled before they could wait.
        var cancelled: Set<UInt64> = []

        /// Those that may run now.
        mutating func admit() -> [CheckedContinuation<Bool, Never>] {
            var admitted: [CheckedContinuation<Bool, Never>] = []
            while active < limit.current, head < queue.count {
                let ticket = queue[head]
                head += 1
                if let waiter = waiters.removeValue(forKey: ticket) {
                    active += 1
                    admitted.append(waiter)
                }
            }
            if head > 64, head * 2 > queue.count {
                queue.removeFirst(head)
                head = 0
            }
            return admitted
        }
    }

    private let state: Locked<State>

    package init(maximum: Int) { state = Locked(State(limit: RequestLimit(maximum: maximum))) }

    package var currentLimit: Int { state.withLock { $0.limit.current } }

    /// Waits for a place. Throws `interrupted` when the task is cancelled.
    package func enter() async throws(SafeBackupError) {
        let ticket: UInt64 = state.withLock { state in
            state.limit.recover(now: .now)
            if state.active < state.limit.current, state.waiters.isEmpty {
                state.active += 1
                return 0
            }
            state.nextTicket += 1
            return state.nextTicket
        }
        if ticket == 0 { return }
        let isAdmitted = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let refused: Bool? = state.withLock { state in
                    if state.cancelled.remove(ticket) != nil { return true }
                    // A place may have become free since.
                    if state.active < state.limit.current, state.waiters.isEmpty {
                        state.active += 1
                        return false
                    }
                    state.waiters[ticket] = continuation
                    state.queue.append(ticket)
                    return nil
                }
                if let refused { continuation.resume(returning: !refused) }
            }
        } onCancel: {
            let waiter: CheckedContinuation<Bool, Never>? = state.withLock { state in
                if let waiter = state.waiters.removeValue(forKey: ticket) { return waiter }
                state.cancelled.insert(ticket)
                return nil
            }
            waiter?.resume(returning: false)
        }
        state.withLock { _ = $0.cancelled.remove(ticket) }
        if !isAdmitted { throw S3Failure.interrupted }
    }

    /// Gives the place back.
    package func leave() {
        let admitted = state.withLock { state in
            state.active -= 1
            state.limit.recover(now: .now)
            return state.admit()
        }
        for waiter in admitted { waiter.resume(returning: true) }
    }

    /// The server asks for fewer requests: the new limit, or `nil` if it stays.
    package func slowDown(requestBegan: ContinuousClock.Instant) -> Int? {
        state.withLock { state in
            state.limit.halve(requestBegan: requestBegan, now: .now) ? state.limit.current : nil
        }
    }
}
