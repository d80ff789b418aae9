import Logging
import SafeBackupCore
import SafeBackupState

/// Answers what verbs beside the agent ask of it, found within a second by the database's data version.
struct RequestDesk: Sendable {
    let state: StateAccess
    let stop: StopSignal
    let logger: Logger
    /// Called when jobs may have become due.
    let changed: @Sendable () -> Void

    func run() async throws(SafeBackupError) {
        let wake = Wakeup()
        stop.onRequest { wake.signal() }
        var seen: Int64?
        while !stop.isRequested {
            let version = try await state.durably { (store) throws(SafeBackupError) in try store.dataVersion() }
            if version != seen {
                try await answerAll()
                seen = version
            }
            await wake.wait(atMost: .milliseconds(500))
        }
    }

    private func answerAll() async throws(SafeBackupError) {
        let answered = try await state.durably { (store) throws(SafeBackupError) -> Int in
            let requests = try store.takeRequests()
            for request in requests {
                do throws(SafeBackupError) {
                    try store.answer(request.id, with: try Self.answer(request, in: store))
                } catch {
                    if error.code == .stateFailed || error.code == .stateDamaged { throw error }
                    try store.answer(request.id, failing: error)
                }
            }
            return requests.count
        }
        if answered > 0 {
            logger.info("Requests were answered", metadata: ["requests": "\(answered)"])
            changed()
        }
    }

    /// Does what a verb asks; also without an agent, by the verb itself.
    static func answer(_ request: StateRequest, in store: isolated StateStore) throws(SafeBackupError) -> String {
        switch request.verb {
        case "retry":
            let count = try store.retry(paths: request.paths)
            return count == 1 ? "1 job will be tried again now" : "\(count) jobs will be tried again now"
        default:
            throw SafeBackupError(
                .invalidConfiguration, "This agent does not know the verb \(request.verb); is it an older release?",
                disposition: .permanent)
        }
    }
}
