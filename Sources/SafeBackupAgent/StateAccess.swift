import Logging
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

/// The state, for callers that must not give up because its disk is full or failing: a call is repeated with back-off
/// until it succeeds or the agent stops. Nothing that it was to record is called saved before.
struct StateAccess: Sendable {
    let store: StateStore
    let stop: StopSignal
    let logger: Logger

    /// - Throws: `stateDamaged` at once; `stateFailed` only after a stop was requested, or where trying again is in
    ///   vain (`permanent`).
    func durably<R: Sendable>(
        _ body: @Sendable (isolated StateStore) throws(SafeBackupError) -> R
    ) async throws(SafeBackupError) -> R {
        var wait = Duration.milliseconds(250)
        var isFirst = true
        while true {
            // Also a state that cannot be written for hours is no standstill of who waits for it.
            defer { Pulse.current?.mark() }
            let failure: SafeBackupError
            do throws(SafeBackupError) {
                if !isFirst {
                    let report = try await store.reopen()
                    // What runs now knows rows of the lost file; it must begin anew.
                    if report.isCreated || report.damagedMovedTo != nil {
                        throw SafeBackupError(
                            .stateDamaged, "The state was lost while it was in use", disposition: .permanent)
                    }
                }
                return try await body(store)
            } catch {
                failure = error
            }
            if failure.code != .stateFailed || failure.disposition == .permanent || stop.isRequested { throw failure }
            if isFirst || wait >= .seconds(30) {
                logger.error(
                    .stateFailed, "The state cannot be written; saving goes on when it can",
                    metadata: ["error.code": "\(failure.code)", "error": "\(failure.message)"])
            }
            isFirst = false
            do {
                try await Task.sleep(for: wait)
            } catch {
                throw failure  // cancelled: the agent stops
            }
            wait = min(wait * 2, .seconds(30))
        }
    }
}
