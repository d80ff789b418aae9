import Glibc
import Logging
package import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// Answers what verbs beside the agent ask of it, found within a second by the database's data version.
struct RequestDesk: Sendable {
    let state: StateAccess
    let directory: StateDirectory
    let io: ThreadExecutor
    let stop: StopSignal
    let logger: Logger
    /// Called when jobs may have become due.
    let changed: @Sendable () -> Void

    func run() async throws(SafeBackupError) {
        let wake = TaskSignal()
        stop.onRequest { wake.signal() }
        var seen: Int64?
        let opened = await databaseIdentity()
        while !stop.isRequested {
            if await databaseIdentity() != opened {
                throw SafeBackupError(
                    .stateDamaged, "The state database was removed or replaced while the agent used it",
                    disposition: .permanent)
            }
            let version = try await state.durably { (store) throws(SafeBackupError) in try store.dataVersion() }
            if version != seen {
                try await answerAll()
                seen = version
            }
            await wake.wait(atMost: .milliseconds(500))
        }
    }

    /// SQLite goes on with a file that was deleted, and all of it would be gone at the end.
    private func databaseIdentity() async -> FileIdentity? {
        let directory = directory
        return await io.run {
            do throws(Errno) {
                let open = try Descriptor.open(directory.path, O_RDONLY | O_DIRECTORY)
                return FileIdentity(try open.status(of: Array("queue.db".utf8)))
            } catch {
                return nil
            }
        }
    }

    private func answerAll() async throws(SafeBackupError) {
        let answered = try await state.durably { (store) throws(SafeBackupError) -> Int in
            // What an earlier agent took and did not answer is asked again: every verb here may be repeated.
            let requests = try store.interruptedRequests() + store.takeRequests()
            for request in requests {
                let answer: Answer
                do throws(SafeBackupError) {
                    answer = .done(try Self.answer(request.verb, request.arguments, in: store))
                } catch {
                    if error.code == .stateFailed || error.code == .stateDamaged { throw error }
                    answer = .failed(error.message)
                }
                try store.answer(request.id, answer)
                switch answer {
                case .done(let text):
                    try store.recordRequest(request.verb, request.arguments, answer: text, isRefused: false)
                case .failed(let text):
                    try store.recordRequest(request.verb, request.arguments, answer: text, isRefused: true)
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
    static func answer(
        _ verb: String, _ arguments: [[UInt8]], in store: isolated StateStore
    ) throws(SafeBackupError) -> String {
        switch verb {
        case "retry":
            let count = try retry(arguments, in: store)
            return count == 1 ? "1 job is tried again now" : "\(count) jobs are tried again now"
        default:
            throw SafeBackupError(
                .invalidConfiguration, "This agent does not know the verb \(verb); is it an older release?",
                disposition: .permanent)
        }
    }

    /// Paths are absolute, below a source, or relative to one; none means all.
    private static func retry(
        _ arguments: [[UInt8]], in store: isolated StateStore
    ) throws(SafeBackupError) -> Int {
        if arguments.isEmpty { return try store.retry() }
        let sources = try store.sources()
        var count = 0
        for argument in arguments {
            for (source, path) in try SourcePath.resolve(argument, sources.map { ($0.id, $0.path) }) {
                count += try store.retry(source: source, paths: [path])
            }
        }
        return count
    }
}

/// Finds out which source a person's path belongs to.
package enum SourcePath {
    /// An absolute path belongs to the source that it lies in; a relative one may belong to each.
    /// - Throws: `invalidPath` for one that no source holds.
    package static func resolve<ID>(
        _ argument: [UInt8], _ sources: [(id: ID, path: [UInt8])]
    ) throws(SafeBackupError) -> [(source: ID, path: RelativePath)] {
        var bytes = argument[...]
        while bytes.count > 1, bytes.last == UInt8(ascii: "/") { bytes = bytes.dropLast() }
        if bytes.first != UInt8(ascii: "/") {
            while bytes.starts(with: Array("./".utf8)) { bytes = bytes.dropFirst(2) }
            let path = bytes.elementsEqual(Array(".".utf8)) ? RelativePath.root : try RelativePath(bytes)
            return sources.map { ($0.id, path) }
        }
        let absolute = try RelativePath(bytes.dropFirst())
        for source in sources {
            let root = try RelativePath(source.path.dropFirst())
            guard absolute.isWithin(root) else { continue }
            return [(source.id, try RelativePath(absolute.bytes.dropFirst(root.isRoot ? 0 : root.bytes.count + 1)))]
        }
        throw SafeBackupError(
            .invalidPath, "The path \(printable(argument)) lies in no source of this state; see 'safebackup status'",
            disposition: .permanent)
    }
}
