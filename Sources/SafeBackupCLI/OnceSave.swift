import ArgumentParser
import Glibc
import Logging
import SafeBackupAgent
import SafeBackupCore
import UnixSignals

/// A save as of `run --once`, inside of another verb.
struct OnceSave {
    let settings: AgentSettings

    /// Whether everything was saved; what was not is listed on standard error.
    /// - Throws: the exit code, if nothing more can follow.
    func run() async throws -> Bool {
        let isTerminal = isatty(1) == 1
        let log = try StderrLog.sink(format: .text, isVerbose: false)
        defer { log.finish() }
        let logger = StderrLog.logger(to: log, level: .warning)
        // All paths are absolute by now.
        _ = chdir("/")
        let agent = try Agent(settings: settings, logger: logger, ioThreads: 6)
        let signals = Task {
            var count = 0
            for await _ in await UnixSignalsSequence(trapping: [.sigterm, .sigint]) {
                count += 1
                if count > 1 { Glibc.exit(130) }
                agent.requestStop()
            }
        }
        defer { signals.cancel() }
        let display = isTerminal ? TerminalProgress(agent: agent) : nil
        display?.start()
        let result: AgentResult
        do {
            result = try await agent.run(ready: {})
        } catch {
            await display?.stop()
            throw error
        }
        await display?.stop()
        switch result {
        case .complete:
            Console.print("Everything is saved.")
            return true
        case .incomplete(let unsaved):
            for line in unsaved.lines { Console.error(line) }
            return false
        case .paused:
            Console.error("safebackup: paused; 'safebackup resume', then run this again")
            throw ExitCode(3)
        case .stopped(let jobs):
            Console.error(
                "safebackup: stopped before everything was saved: \(jobs) changes that are known of wait; run this again, "
                    + "it goes on from there")
            throw ExitCode(3)
        case .held(let reason):
            Console.error("safebackup: held: \(reason.message)")
            throw ExitCode(4)
        }
    }
}
