package import Logging

/// Tells, if something is not over soon that usually takes no time, what it waits for: a disk or server that hangs returns
/// from no call, so that nobody else could tell.
package final class WaitNotice: Sendable {
    private let task: Task<Void, Never>

    /// - Parameter what: what may not answer, for people.
    package init(for what: String, after time: Duration = .seconds(5), logger: Logger) {
        task = Task {
            do { try await Task.sleep(for: time) } catch { return }  // cancelled: it is over
            logger.warning(
                .startWaits,
                """
                The start waits for a disk or a server that does not answer; nothing is saved until it does, or is taken out \
                of the configuration, and the agent started anew
                """, metadata: ["waiting.for": "\(what)"])
        }
    }

    /// Nothing waits any more.
    package func over() { task.cancel() }
}
