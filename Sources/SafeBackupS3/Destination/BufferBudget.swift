import SafeBackupSystem

/// What all uploads together may hold in memory. Whoever finds too little waits for his turn, in the order of asking, so
/// that a large part is not passed by small files for ever.
package final class BufferBudget: Sendable {
    private struct State {
        var available: Int
        var waiting: [(bytes: Int, go: UnsafeContinuation<Void, Never>)] = []
    }

    package let total: Int
    private let state: Locked<State>

    package init(_ total: Int) {
        self.total = max(total, 1)
        state = Locked(State(available: max(total, 1)))
    }

    /// Bytes that are free now.
    package var available: Int { state.withLock { $0.available } }

    /// What is larger than the whole budget takes all of it.
    private func share(_ bytes: Int) -> Int { min(max(bytes, 1), total) }

    /// Takes it if that needs no waiting.
    package func takeAtOnce(_ bytes: Int) -> Bool {
        let bytes = share(bytes)
        return state.withLock { state in
            guard state.waiting.isEmpty, state.available >= bytes else { return false }
            state.available -= bytes
            return true
        }
    }

    /// Waits until so much is free. To be given back with the same number.
    package func take(_ bytes: Int) async {
        if takeAtOnce(bytes) { return }
        let wanted = share(bytes)
        await withUnsafeContinuation { continuation in
            let mayGo = state.withLock { state in
                if state.waiting.isEmpty, state.available >= wanted {
                    state.available -= wanted
                    return true
                }
                state.waiting.append((wanted, continuation))
                return false
            }
            if mayGo { continuation.resume() }
        }
    }

    package func give(_ bytes: Int) {
        let bytes = share(bytes)
        let woken = state.withLock { state in
            state.available += bytes
            var woken: [UnsafeContinuation<Void, Never>] = []
            while let first = state.waiting.first, first.bytes <= state.available {
                state.available -= first.bytes
                woken.append(first.go)
                state.waiting.removeFirst()
            }
            return woken
        }
        for continuation in woken { continuation.resume() }
    }
}
