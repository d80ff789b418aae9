import Logging
package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// A verb that changes the state: asks the running agent, or does it itself when there is none.
package enum RequestVerb {
    /// What came of it.
    package enum Outcome: Sendable, Hashable {
        case done(String)
        /// There was nothing that it could be done to.
        case nothing(String)
    }

    /// The agent's answer, or our own. Throws what was refused, and `stateFailed` when the agent does not answer.
    /// - Parameters:
    ///   - bucket: reaches a bucket that the state knows, where there is no agent.
    ///   - progress: while the number that it tells changes, the agent is at work, and is waited for.
    package static func ask(
        _ verb: String, _ arguments: [[UInt8]], in directory: StateDirectory, within limit: Duration = .seconds(15),
        bucket: (@Sendable ([UInt8]) throws(SafeBackupError) -> BucketBackup)? = nil,
        progress: (() throws(SafeBackupError) -> Int64)? = nil
    ) async throws(SafeBackupError) -> Outcome {
        // Nothing is made where nothing was: a typo in --state must not look like an empty state.
        try directory.requireState()
        let arguments = try spelledOut(arguments, of: verb, by: try StateReader(in: directory.path))
        do throws(SafeBackupError) {
            let lock = try directory.lock()
            defer { withExtendedLifetime(lock) {} }
            return try await work(verb, arguments, in: directory, bucket)
        } catch {
            if error.code != .stateLocked { throw error }
        }
        let number = try StateStore.submitRequest(in: directory.path, verb: verb, arguments: arguments)
        var deadline = ContinuousClock.now + limit
        var seen: Int64?
        while ContinuousClock.now < deadline {
            if let answer = try StateStore.readAnswer(number, in: directory.path) { return try outcome(answer) }
            if let progress {
                let now = try progress()
                if now != seen { (seen, deadline) = (now, ContinuousClock.now + limit) }
            }
            do { try await Task.sleep(for: .milliseconds(50)) } catch { break }  // cancelled: nobody waits any more
        }
        throw SafeBackupError(
            .stateFailed, "The agent did not answer; the request stays and is done as soon as it can",
            disposition: .transient)
    }

    /// Paths as the state knows them. The agent has another current directory than the person, and its threads do not
    /// wait for a link on a disk that does not answer.
    private static func spelledOut(
        _ arguments: [[UInt8]], of verb: String, by reader: StateReader
    ) throws(SafeBackupError) -> [[UInt8]] {
        if arguments.isEmpty { return [] }
        var spelled: [[UInt8]] = []
        switch verb {
        case "pause", "resume":
            let status = try reader.status()
            for name in arguments { spelled.append(try NamedSide.path(name, in: status)) }
        case "retry":
            let sources = try reader.sources().map { (id: $0.path, path: $0.path) }
            for argument in arguments {
                let found = try SourcePath.resolveArgument(argument, sources)
                let isAbsolute = argument.first == UInt8(ascii: "/")
                spelled += isAbsolute ? found.map { $0.source + Array("/".utf8) + $0.path.bytes } : [argument]
            }
        default: return arguments
        }
        return spelled
    }

    private static func outcome(_ answer: Answer) throws(SafeBackupError) -> Outcome {
        switch answer {
        case .done(let text): return .done(text)
        case .nothing(let text): return .nothing(text)
        case .failed(let text): throw SafeBackupError(.invalidConfiguration, text, disposition: .permanent)
        }
    }

    /// Without an agent, under its lock.
    private static func work(
        _ verb: String, _ arguments: [[UInt8]], in directory: StateDirectory,
        _ bucket: (@Sendable ([UInt8]) throws(SafeBackupError) -> BucketBackup)?
    ) async throws(SafeBackupError) -> Outcome {
        let (store, _) = try await StateStore.open(in: directory.path, options: StateOptions(release: Release.version))
        // Somebody waits: a state that cannot be written is an error at once.
        let stop = StopSignal()
        stop.request()
        let io: ThreadExecutor
        do throws(Errno) { io = try ThreadExecutor(name: "sb.io") } catch { throw .noThread(error) }
        defer { io.stop() }
        let state = StateAccess(store: store, stop: stop, logger: Logger(label: "safebackup"))
        // It takes what it works with along when it goes.
        let opened = Shared<BucketBackup?>(nil)
        defer { withExtendedLifetime(opened) {} }
        let work = RequestWork(state: state, directory: directory, io: io) { (record) throws(SafeBackupError) in
            guard let bucket else { return nil }
            if let backup = opened.value { return backup.destination }
            let backup = try bucket(record.location)
            opened.set(backup)
            return backup.destination
        }
        let (answer, effect) = try await work.answer(verb, arguments)
        if effect == .removals { try await work.finishPruning() }
        try await store.recordRequest(verb, RequestWork.told(verb, arguments), RequestWork.told(answer))
        try await store.close()
        return try outcome(answer)
    }
}
