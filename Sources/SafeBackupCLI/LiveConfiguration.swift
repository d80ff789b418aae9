import Logging
import SafeBackupAgent
import SafeBackupCore
import SafeBackupSystem

/// The configuration of a running agent: the one it works with, and a newer one that is being tried.
///
/// What is told as changed is always against the one that the agent really works with: one that was read and could not be
/// used, or was replaced before it was, never held.
final class LiveConfiguration: Sendable {
    private struct State {
        var used: ConfiguredRun
        /// Tells the tries apart.
        var number = 0
        var isTrying = false
    }

    private let agent: Agent
    private let logger: Logger
    private let state: Locked<State>

    init(_ used: ConfiguredRun, of agent: Agent, logger: Logger) {
        self.agent = agent
        self.logger = logger
        state = Locked(State(used: used))
    }

    /// Reads the file again and has the agent go on with what it says now; with mistakes in it the agent goes on as before.
    /// - Parameter end: called when it is known what came of that; not if still newer ones come before, or a stop.
    func reload(whenOver end: @escaping @Sendable () -> Void) {
        let used = state.withLock { $0.used }
        let new: ConfiguredRun
        do throws(SafeBackupError) {
            new = try used.readAgain()
        } catch {
            logger.error(
                .configurationRefused,
                "The configuration has mistakes; the agent goes on with the one it had ('safebackup check-config' shows them)",
                metadata: ["error": "\(error.message)"])
            return end()
        }
        let changes = new.changes(since: used)
        let number: Int? = state.withLock { state in
            // Back to the one that is used, while another is being tried, is a change too.
            if changes.isEmpty && !state.isTrying { return nil }
            state.number += 1
            state.isTrying = true
            return state.number
        }
        guard let number else {
            logger.notice(.configurationChanged, "The configuration was read again; nothing has changed")
            return end()
        }
        let shown: Logger.Metadata = ["changes": "\(changes.isEmpty ? "none" : changes.joined(separator: "; "))"]
        // Told when it holds: until then nobody knows whether it can be used.
        logger.debug(.configurationChanged, "The configuration was read again and is tried", metadata: shown)
        agent.reload(new.settings) { outcome in
            self.state.withLock { state in
                if state.number == number { state.isTrying = false }
                if outcome == .used { state.used = new }
            }
            if outcome == .superseded { return }
            if outcome == .used {
                self.logger.notice(
                    .configurationChanged, "The configuration that was read again holds from now on", metadata: shown)
                if new.settings.state.path != used.settings.state.path {
                    self.logger.warning(
                        .configurationChanged, "The state's directory stays as it is until the agent is started anew",
                        metadata: ["state.path": "\(printable(new.settings.state.path.bytes))"])
                }
            }
            end()
        }
    }
}
