import Glibc
import Logging
import SafeBackupAgent
import SafeBackupCore
import SafeBackupSystem
import UnixSignals

/// What signals ask of a running agent: SIGTERM and SIGINT that it stops, twice that it goes at once, and SIGHUP that it
/// reads its configuration again, if it has one; one that shows its progress on a terminal stops when that is gone.
///
/// A stop is passed on by what only listens, so that nothing that blocks, such as a configuration on a server that is
/// away, stands between the signal and the agent. What may block is a loop that the service manager's watchdog sees.
final class SignalDesk: Sendable {
    /// As a shell tells of SIGINT.
    static let leavingCode: Int32 = 130

    private let agent: Agent
    private let service: ServiceReport?
    /// `nil`: there is none to read again.
    private let configuration: LiveConfiguration?
    private let endsWithTerminal: Bool
    private let logger: Logger
    /// Not worked on yet.
    private let asked = Locked<[UnixSignal]>([])
    private let wake = TaskSignal()
    private let leaving = Locked(false)

    /// - Parameter endsWithTerminal: SIGHUP tells that the terminal is gone, and with it whoever started the agent there.
    init(
        agent: Agent, service: ServiceReport?, configured: ConfiguredRun?, endsWithTerminal: Bool, logger: Logger
    ) {
        self.endsWithTerminal = endsWithTerminal
        self.agent = agent
        self.service = service
        self.logger = logger
        configuration = configured.map { LiveConfiguration($0, of: agent, logger: logger) }
    }

    /// Until the task is cancelled.
    func run() async {
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask { await self.listen() }
            tasks.addTask {
                guard let service = self.service else { return await self.work() }
                await service.watch { await Vitals.unfailing("signals", isAlive: false) { await self.work() } }
            }
        }
    }

    /// Somebody asked twice. The orderly end may still come first, and then has the same exit code.
    var isLeaving: Bool { leaving.withLock { $0 } }

    private func listen() async {
        var stops = 0
        for await signal in await UnixSignalsSequence(trapping: [.sigterm, .sigint, .sighup]) {
            if signal != .sighup || endsWithTerminal {
                stops += 1
                if stops > 1 {
                    // The queue is durable: nothing is lost by leaving at once.
                    leaving.withLock { $0 = true }
                    await Console.flush(within: .milliseconds(100))
                    Glibc.exit(Self.leavingCode)
                }
                agent.requestStop()
            }
            asked.withLock { asked in
                // Several that nobody has worked on are one.
                if !asked.contains(signal) { asked.append(signal) }
            }
            wake.signal()
        }
    }

    private func work() async {
        while !Task.isCancelled {
            let signals = asked.withLock { asked in
                defer { asked = [] }
                return asked
            }
            for signal in signals {
                if signal == .sighup && !endsWithTerminal { reload() } else { service?.stopping() }
            }
            if signals.isEmpty { await wake.wait() }
        }
    }

    private func reload() {
        guard let configuration else {
            return logger.notice(
                .hangUpIgnored, "SIGHUP is ignored: there is no configuration to read again; SIGTERM stops the agent")
        }
        service?.reloading()
        configuration.reload { [service] in service?.reloaded() }
    }
}
