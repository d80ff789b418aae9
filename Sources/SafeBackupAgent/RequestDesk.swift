import Glibc
import Logging
package import SafeBackupCore
import SafeBackupS3
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
    /// Hands a cleaning to the unit of its destination, which answers it; `false`: there is none.
    let cleaningWasAsked: @Sendable (AskedCleaning) -> Bool
    /// How a bucket is reached that is saved to.
    let bucket: @Sendable (DestinationRecord) -> S3Destination?
    /// The requests that are handed over and perhaps not answered yet.
    let handed = Shared<Set<Int64>>([])
    /// Called when something was done that the units must know of.
    let changed: @Sendable (RequestWork.Effect) -> Void

    /// How often it is looked whether the database is still the one that was opened.
    private static let identityInterval = Duration.seconds(2)

    func run() async throws(SafeBackupError) {
        try await Vitals.loop("requests") { () throws(SafeBackupError) in try await answerUntilStopped() }
    }

    private func answerUntilStopped() async throws(SafeBackupError) {
        let wake = TaskSignal()
        stop.onRequest { wake.signal() }
        var seen: Int64?
        let opened = await databaseIdentity()
        var looked = ContinuousClock.now
        while !stop.isRequested {
            let now = ContinuousClock.now
            if now - looked >= Self.identityInterval, await databaseIdentity() != opened {
                throw SafeBackupError(
                    .stateDamaged, "The state database was removed or replaced while the agent used it",
                    disposition: .permanent)
            }
            if now - looked >= Self.identityInterval { looked = now }
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
        let requests = try await state.durably { (store) throws(SafeBackupError) -> [Request] in
            // What an earlier agent took and did not answer is asked again: every verb here may be repeated.
            try store.interruptedRequests() + store.takeRequests()
        }
        let work = RequestWork(state: state, directory: directory, io: io, bucket: bucket)
        for request in requests where !handed.value.contains(request.id) {
            let answer: Answer
            do throws(SafeBackupError) {
                if request.verb == "clean" {
                    guard let given = try await hand(request) else { continue }
                    answer = given
                } else {
                    let effect: RequestWork.Effect
                    (answer, effect) = try await work.answer(request.verb, request.arguments)
                    changed(effect)
                }
            } catch {
                if error.code == .stateFailed || error.code == .stateDamaged { throw error }
                answer = .failed(error.message)
            }
            let given = answer
            try await state.durably { (store) throws(SafeBackupError) in
                try store.answer(request.id, given)
                try store.recordRequest(
                    request.verb, RequestWork.told(request.verb, request.arguments), RequestWork.told(given))
            }
            logger.info(.requestAnswered, "A request was answered", metadata: ["verb": "\(request.verb)"])
        }
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
