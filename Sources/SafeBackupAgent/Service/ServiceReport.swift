package import Logging
package import SafeBackupSystem
import SystemPackage

/// Tells the service manager how the agent is: that it has started, in a line what it does, that it stops, and for its
/// watchdog that every part of it moves. The watchdog hears nothing while one of them stands still: then the manager
/// ends the agent and starts it anew, which loses nothing.
package final class ServiceReport: Sendable {
    private let manager: ServiceManager
    private let vitals: Vitals
    private let logger: Logger

    /// - Parameter manager: `nil`: nobody asks.
    package init?(to manager: ServiceManager?, logger: Logger) {
        guard let manager else { return nil }
        self.manager = manager
        self.logger = logger
        // A loop that waits turns well before the manager runs out of patience.
        let patience = manager.watchdogTime.map { $0 / 6 } ?? .seconds(3_600)
        vitals = Vitals(patience: patience) { Self.send(.ready, to: manager, logger) }
    }

    /// How often it is looked: a person waits seconds for the line, and the watchdog hears six times what it must.
    private var interval: Duration { min(manager.watchdogTime.map { $0 / 6 } ?? .seconds(10), .seconds(10)) }

    /// Runs the agent's `body` and tells how it goes. `summary` is the line, asked of the agent, whose state must answer.
    package func report<R: Sendable>(
        _ summary: @escaping @Sendable () async -> String?, during body: () async throws -> R
    ) async throws -> R {
        let teller = Task { await tell(summary) }
        defer {
            teller.cancel()
            // Also where the end was not asked for.
            stopping()
        }
        return try await Vitals.$current.withValue(vitals) { try await body() }
    }

    /// Runs what goes on beside the agent's own work; its loops must move too.
    package func watch(_ body: () async -> Void) async {
        await Vitals.$current.withValue(vitals) { await body() }
    }

    /// The configuration is read again; `reloaded` ends it.
    package func reloading() { Self.send(.reloading, to: manager, logger) }

    /// The configuration was read, with whatever result.
    package func reloaded() { Self.send(.ready, to: manager, logger) }

    /// The stop has begun.
    package func stopping() { Self.send(.stopping, to: manager, logger) }

    private func tell(_ summary: @Sendable () async -> String?) async {
        var last: String?
        var (blamed, heard) = (Set<String>(), ContinuousClock.now)
        while true {
            do { try await Task.sleep(for: interval) } catch { return }  // cancelled: the agent has ended
            // A state that does not answer keeps us here, and the watchdog from hearing anything.
            if let text = await summary(), text != last {
                Self.send(.status(text), to: manager, logger)
                last = text
            }
            guard let limit = manager.watchdogTime else { continue }
            let now = ContinuousClock.now
            let verdict = vitals.look(at: now)
            if verdict.isMoving {
                Self.send(.watchdog, to: manager, logger)
                (heard, blamed) = (now, [])
            } else if now - heard >= limit / 2 {
                for (name, time) in verdict.still where blamed.insert(name).inserted {
                    logger.error(
                        .stalled,
                        "A part of the agent stands still; if it stays so, the service manager starts it anew",
                        metadata: ["part": "\(name)", "seconds": "\(time.components.seconds)"])
                }
            }
        }
    }

    private static func send(_ message: ServiceManager.Message, to manager: ServiceManager, _ logger: Logger) {
        do throws(Errno) {
            try manager.send(message)
        } catch {
            logger.warning(
                .managerUnreachable, "The service manager cannot be told how the agent is",
                metadata: ["error": "\(error.explanation)"])
        }
    }
}
