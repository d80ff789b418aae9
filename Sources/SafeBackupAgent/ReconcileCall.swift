import SafeBackupSystem

/// Says that a source is to be compared with the catalogue as soon as may be. A call stands until it is taken, so that a
/// walk that is under way is no longer slowed down.
final class ReconcileCall: Sendable {
    private let isMade = Locked(false)
    private let waiting = TaskSignal()
    private let pacing = TaskSignal()

    /// Something was lost, or doubted, or everything is to end.
    func signal() {
        isMade.withLock { $0 = true }
        waiting.signal()
        pacing.signal()
    }

    /// Whether there was a call since this was asked last.
    func take() -> Bool {
        isMade.withLock { isMade in
            defer { isMade = false }
            return isMade
        }
    }

    /// Between two walks: returns at the next call, or after `timeout`. May return early for a call that was taken.
    func wait(atMost timeout: Duration) async { await waiting.wait(atMost: timeout) }

    /// Within a walk that nothing waits for: returns after `time`, or at once while a call stands. May return early for
    /// a call that was taken.
    func pause(_ time: Duration) async {
        if isMade.withLock({ $0 }) { return }
        await pacing.wait(atMost: time)
    }
}
