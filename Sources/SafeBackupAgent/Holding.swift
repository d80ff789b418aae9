import Logging
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

/// Holds one source or destination, or lets it go: in the state, where a restart and `status` find it, and with one
/// line in the log when a hold begins and one when it is over.
struct Holding: Sendable {
    private let side: PairSide
    /// How the log names it.
    private let noun: String
    private let state: StateAccess
    private let logger: Logger
    /// What the log said last.
    private let told = Shared<SafeBackupError.Code?>(nil)

    init(_ side: PairSide, state: StateAccess, logger: Logger) {
        self.side = side
        self.state = state
        self.logger = logger
        switch side {
        case .source: noun = "source"
        case .destination: noun = "destination"
        }
    }

    /// Stops it for this reason.
    func begin(_ reason: SafeBackupError) async throws(SafeBackupError) {
        let side = side
        try await state.durably { (store) throws(SafeBackupError) in _ = try store.hold(side, reason) }
        if told.value == reason.code { return }
        told.set(reason.code)
        logger.error(
            .held, "The \(noun) is held; its jobs wait",
            metadata: ["error.code": "\(reason.code)", "error": "\(reason.message)"])
    }

    /// The reason is gone.
    func end() async throws(SafeBackupError) {
        let side = side
        let stood = try await state.durably { (store) throws(SafeBackupError) in try store.clearHold(side) }
        told.set(nil)
        guard let stood else { return }
        logger.notice(
            .released, "The \(noun) is not held any more; saving goes on",
            metadata: ["error.code": "\(stood.reason)", "held.since": "\(stood.at.iso8601)"])
    }
}
