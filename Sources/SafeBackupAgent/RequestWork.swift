import SafeBackupCore
import SafeBackupLocal
import SafeBackupS3
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Does what the verbs ask that change the state: for the running agent, or for the verb itself when there is none.
/// Each may be done once more: after a crash an agent does not know whether it had.
struct RequestWork: Sendable {
    let state: StateAccess
    let directory: StateDirectory
    let io: ThreadExecutor
    /// A destination in a bucket; `nil`: nobody here knows how to reach it.
    var bucket: @Sendable (DestinationRecord) throws(SafeBackupError) -> S3Destination? = { _ in nil }

    /// What the units of a running agent must know of.
    enum Effect: Sendable, Hashable {
        /// Jobs may have become due.
        case jobs
        /// A person agreed to another source or destination.
        case accepted
        /// Copies are to be removed.
        case removals
    }

    func answer(_ verb: String, _ arguments: [[UInt8]]) async throws(SafeBackupError) -> (Answer, Effect) {
        switch verb {
        case "retry": (try await retry(arguments), .jobs)
        case "pause": (try await pause(arguments, true), .jobs)
        case "resume": (try await pause(arguments, false), .jobs)
        case "accept": (try await accept(arguments), .accepted)
        case "verify": (try await verify(arguments), .jobs)
        case "prune": (try await prune(arguments), .removals)
        case "clean": (try await clean(arguments), .jobs)
        default:
            throw SafeBackupError(
                .invalidConfiguration, "This agent does not know the verb \(verb); is it an older release?",
                disposition: .permanent)
        }
    }

    /// The arguments that mean something to a person.
    static func told(_ verb: String, _ arguments: [[UInt8]]) -> [[UInt8]] {
        switch verb {
        case "accept": Array(arguments.prefix(1))
        case "verify": []
        case "prune": Array(arguments.dropFirst().prefix(1))
        case "clean": []
        default: arguments
        }
    }

    /// The part of an answer that means something to a person.
    static func told(_ answer: Answer) -> Answer {
        guard case .done(let text) = answer else { return answer }
        return .done(String(text.prefix { $0 != "\n" }))
    }

    // MARK: Retry

    /// Paths are absolute, below a source, or relative to one; none means all.
    private func retry(_ arguments: [[UInt8]]) async throws(SafeBackupError) -> Answer {
        let count = try await state.durably { (store) throws(SafeBackupError) -> Int in
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
        switch count {
        case 0 where arguments.isEmpty: return .done("Nothing is stuck or failing")
        case 0:
            let names = arguments.map { printable($0) }.joined(separator: ", ")
            return .nothing("Nothing at or below \(names) is stuck or failing; 'safebackup status' lists what is")
        default: return .done("\(counted(count, "job is", "jobs are")) tried again now")
        }
    }

    // MARK: Pause

    /// Names are paths of sources and destinations; none means all of both.
    private func pause(_ arguments: [[UInt8]], _ isPaused: Bool) async throws(SafeBackupError) -> Answer {
        let directory = directory
        let status = try await io.run { () throws(SafeBackupError) in try StateReader(in: directory.path).status() }
        var sides: [PairSide] = []
        for argument in arguments { sides.append(try NamedSide.find(argument, in: status)) }
        if arguments.isEmpty {
            sides =
                status.sources.map { .source($0.record.id) } + status.destinations.map { .destination($0.record.id) }
        }
        let all = sides
        let changed = try await state.durably { (store) throws(SafeBackupError) -> Int in
            var changed = 0
            for side in all where try store.setPaused(side, isPaused) { changed += 1 }
            return changed
        }
        let names = arguments.isEmpty ? "Everything" : arguments.map { printable($0) }.joined(separator: ", ")
        if changed == 0 { return .done(isPaused ? "\(names): paused already" : "\(names): not paused") }
        return .done(
            isPaused
                ? "\(names): paused; changes are still noticed, and saved after 'safebackup resume'"
                : "\(names): goes on")
    }

    // MARK: Accept

    /// The path, and the token of what the person was shown.
    private func accept(_ arguments: [[UInt8]]) async throws(SafeBackupError) -> Answer {
        guard let name = arguments.first else { throw NamedSide.unknown([]) }
        let directory = directory
        var found: BucketFinding?
        if let record = try await io.run({ () throws(SafeBackupError) in try Acceptance.bucket(name, in: directory) }) {
            found = await BucketFinding(at: try reach(record))
        }
        let look = found
        let acceptance = try await io.run { () throws(SafeBackupError) in try Acceptance(of: name, in: directory, look)
        }
        guard let step = acceptance.step else { return .nothing(acceptance.lines.joined(separator: "\n")) }
        if arguments.count > 1, arguments[1] != Array(acceptance.token.utf8) {
            return .nothing("What is found there has changed since it was shown; look at it again. Nothing was changed")
        }
        switch step {
        case .root(let source, let reason, let identity):
            try await state.durably { (store) throws(SafeBackupError) in
                try store.accept(source, reason, identity: identity)
            }
        case .replacement(let destination): try await replace(destination)
        case .repair(let destination): try await repair(destination)
        case .finish(let destination):
            try await state.durably { (store) throws(SafeBackupError) in
                try store.finishReplacement(of: destination)
            }
        }
        return .done("Accepted")
    }

    private func reach(_ record: DestinationRecord) throws(SafeBackupError) -> S3Destination {
        if let found = try bucket(record) { return found }
        throw SafeBackupError(
            .invalidConfiguration,
            "The agent that runs does not save to \(printable(record.location)) now; put it into its configuration, or stop "
                + "the agent, and accept it then", disposition: .permanent)
    }

    /// Intent, new sentinel, catalogue, in this order: after a crash the sentinel tells how far it came.
    private func replace(_ destination: DestinationID) async throws(SafeBackupError) {
        let new = randomIdentifier()
        try await state.durably { (store) throws(SafeBackupError) in
            try store.beginReplacement(of: destination, sentinel: new)
        }
        let (record, entries) = try await known(destination)
        Faults.reach("accepting")
        let target: any Destination =
            record.kind == "local"
            ? LocalDestination(path: FilePath(bytes: record.location), io: io) : try reach(record)
        try await target.create(id: new, sources: entries)
        Faults.reach("accepted")
        try await state.durably { (store) throws(SafeBackupError) in try store.finishReplacement(of: destination) }
    }

    /// Writes a damaged sentinel anew. The state stays as it is.
    private func repair(_ destination: DestinationID) async throws(SafeBackupError) {
        let (record, entries) = try await known(destination)
        guard let sentinel = record.sentinel else { throw NamedSide.unknown(record.location) }
        if record.kind != "local" { return try await reach(record).repair(id: sentinel, sources: entries) }
        try await LocalDestination(path: FilePath(bytes: record.location), io: io).repair(
            id: sentinel, sources: entries)
    }

    /// A destination, and what its sentinel is to tell of its sources.
    private func known(
        _ destination: DestinationID
    ) async throws(SafeBackupError) -> (record: DestinationRecord, entries: [SentinelSource]) {
        let machine = try await io.run { () throws(SafeBackupError) in try StateDirectory.machineIdentifier() }
        let (record, entries) = try await state.durably { (store) throws(SafeBackupError) in
            let pairs = try store.pairs().filter { $0.destination == destination }
            let entries = try store.sources().compactMap { source -> SentinelSource? in
                guard let pair = pairs.first(where: { $0.source == source.id }) else { return nil }
                return SentinelSource(
                    id: source.uuid, machine: machine, path: source.path, identity: source.identity, prefix: pair.prefix
                )
            }
            return (try store.destinations().first { $0.id == destination }, entries)
        }
        guard let record else { throw NamedSide.unknown([]) }
        return (record, entries)
    }
}
