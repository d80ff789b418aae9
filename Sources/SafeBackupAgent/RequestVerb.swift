package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem

/// A verb that changes the state: asks the running agent, or does it itself when there is none.
package enum RequestVerb {
    /// The agent's answer, or our own. Throws what the agent refused, and `stateFailed` when it does not answer.
    package static func ask(
        _ verb: String, _ arguments: [[UInt8]], in directory: StateDirectory
    ) async throws(SafeBackupError) -> String {
        // Nothing is made where nothing was: a typo in --state must not look like an empty state.
        try directory.requireState()
        _ = try StateReader(in: directory.path)
        do throws(SafeBackupError) {
            let lock = try directory.lock()
            defer { withExtendedLifetime(lock) {} }
            let (store, _) = try await StateStore.open(
                in: directory.path, options: StateOptions(release: Release.version))
            let text = try await answer(verb, arguments, store)
            try await store.close()
            return text
        } catch {
            if error.code != .stateLocked { throw error }
        }
        let number = try StateStore.submitRequest(in: directory.path, verb: verb, arguments: arguments)
        let deadline = ContinuousClock.now + .seconds(15)
        while ContinuousClock.now < deadline {
            switch try StateStore.readAnswer(number, in: directory.path) {
            case .done(let text): return text
            case .failed(let text):
                throw SafeBackupError(.invalidConfiguration, text, disposition: .permanent)
            case nil: break
            }
            do { try await Task.sleep(for: .milliseconds(50)) } catch { break }  // cancelled: nobody waits any more
        }
        throw SafeBackupError(
            .stateFailed, "The agent did not answer; the request stays and is done as soon as it can",
            disposition: .transient)
    }

    private static func answer(
        _ verb: String, _ arguments: [[UInt8]], _ store: isolated StateStore
    ) throws(SafeBackupError) -> String {
        let text = try RequestDesk.answer(verb, arguments, in: store)
        try store.recordRequest(verb, arguments, answer: text, isRefused: false)
        return text
    }
}
