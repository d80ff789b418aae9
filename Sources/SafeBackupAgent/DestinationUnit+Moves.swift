import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// A path of one source whose copy is being moved away.
struct MovingPath: Hashable, Sendable {
    var source: SourceID
    var path: RelativePath
}

/// Finds out, when a job is planned, that its content is stored already under another path: so single renames, renamed
/// directories, swaps, chains, and what was renamed while the agent was down are all found in one way, and no order of
/// events matters.
extension DestinationUnit {
    /// After so many failures a path is stored as any other.
    private static let attemptLimit = 2

    /// Adds to each job what can be moved to its path. Jobs that must wait for another group are put off, and left out.
    func findOrigins(of jobs: [DueJob], in batch: DueBatch) async throws(SafeBackupError) -> [DueJob] {
        let endings = busyJobs.withLock { $0.endings }
        let inUse = origins.withLock { $0 }
        if inUse.isEmpty && batch.movedSources.isEmpty { return jobs }
        var jobs = jobs
        // With what each waits for, if that is a path in another group.
        var busy: [Int: MovingPath?] = [:]
        for (index, job) in jobs.enumerated() {
            let path = MovingPath(source: job.source, path: job.path)
            if inUse.contains(path) { busy[index] = path }
        }
        for (source, members) in Dictionary(grouping: jobs.indices, by: { jobs[$0].source }) {
            guard batch.movedSources.contains(source) else { continue }
            guard let root = sources[source]?.knownRoot else {
                // Just being opened, or about to be held.
                for index in members where busy[index] == nil { busy.updateValue(nil, forKey: index) }
                continue
            }
            if !root.identity.type.hasStableInodes { continue }
            let members = members.filter { busy[$0] == nil }
            try await findOrigins(of: &jobs, members, below: root, &busy)
        }
        if busy.isEmpty { return jobs }
        let wait = busyJobs.withLock { $0.nextWait(now: .now) }
        try await postpone(busy.map { (jobs[$0.key], $0.value) }, for: wait, since: endings)
        return jobs.indices.filter { busy[$0] == nil }.map { jobs[$0] }
    }

    /// Puts jobs off until the group that has what they wait for has ended, or, if nobody tells, for some time.
    /// - Parameter endings: how many groups had ended before it was looked what is in work.
    private func postpone(
        _ waiting: [(job: DueJob, path: MovingPath?)], for time: Duration, since endings: Int
    ) async throws(SafeBackupError) {
        let (id, jobs, until) = (id, waiting.map(\.job), clock.now + time)
        try await state.durably { (store) throws(SafeBackupError) in
            try store.postpone(id, jobs, until: until)
        }
        let known = waiting.compactMap { entry in
            entry.path.map { (job: PostponedJob(sequence: entry.job.sequence, until: until), path: $0) }
        }
        // What they wait for may have ended since it was looked at.
        try await resume(busyJobs.withLock { $0.add(known, since: endings) })
    }

    /// What was put off is due, if nothing else has put it off since.
    private func resume(_ jobs: [PostponedJob]) async throws(SafeBackupError) {
        if jobs.isEmpty { return }
        let (id, now) = (id, clock.now)
        try await state.durably { (store) throws(SafeBackupError) in try store.resume(id, jobs, at: now) }
    }

    /// A group stands in the catalogue: what waits for one of its paths is due.
    func end(_ group: [LeasedJob]) async throws(SafeBackupError) {
        forgetOrigins(of: group)
        try await resume(busyJobs.withLock { $0.end(group) })
    }

    private func findOrigins(
        of jobs: inout [DueJob], _ members: [Int], below root: SourceRoot,
        _ busy: inout [Int: MovingPath?]
    ) async throws(SafeBackupError) {
        let (id, asked) = (id, members.map { jobs[$0] })
        let found = await io.run { MoveSearch.questions(for: asked, attemptLimit: Self.attemptLimit, below: root) }
        if found.isEmpty { return }
        let answers = try await state.durably { (store) throws(SafeBackupError) in
            try store.origins(id, found.map(\.question))
        }
        let taken = origins.withLock { $0 }
        var candidates: [(index: Int, question: MoveQuestion, candidate: MoveCandidate)] = []
        for ((index, question), answer) in zip(found, answers) {
            candidates += answer.map { (members[index], question, $0) }
        }
        if candidates.isEmpty { return }
        let looks = candidates.map { ($0.question, $0.candidate.origin.path) }
        let hasLeft = await io.run { MoveSearch.haveLeft(looks, below: root) }
        // Each copy moves once; two paths of one file are stored twice.
        var used = taken
        for (entry, hasLeft) in zip(candidates, hasLeft) where hasLeft && jobs[entry.index].origin == nil {
            let path = MovingPath(source: jobs[entry.index].source, path: entry.candidate.origin.path)
            if entry.candidate.isBusy {
                busy[entry.index] = path
            } else if used.insert(path).inserted {
                jobs[entry.index].origin = entry.candidate.origin
                jobs[entry.index].action = .move
            }
        }
    }

    /// Turns leased stores of what is not there any more into absences, which come after the new paths that are due now.
    func noteAbsent(_ jobs: [DueJob]) async throws(SafeBackupError) {
        if jobs.isEmpty { return }
        let (id, later) = (id, clock.now + .milliseconds(500))
        for (source, jobs) in Dictionary(grouping: jobs, by: \.source) {
            let changes = jobs.map { QueuedChange(path: $0.path, action: .delete, notBefore: later) }
            let leased = jobs.map { (job: $0, notBefore: later) }
            try await state.durably { (store) throws(SafeBackupError) in
                // A crash in between leaves a lease, and recovery the absence.
                try store.enqueue([(id, changes)], source: source)
                try store.release(id, leased)
            }
        }
    }

    /// Puts off the absences of what is just being moved away: its names end with the move.
    func withoutMoving(_ deletes: [DueJob]) async throws(SafeBackupError) -> [DueJob] {
        let endings = busyJobs.withLock { $0.endings }
        let moving = origins.withLock { $0 }
        if deletes.isEmpty || moving.isEmpty { return deletes }
        var (free, waiting): ([DueJob], [(DueJob, MovingPath?)]) = ([], [])
        for job in deletes {
            if let path = moving.first(where: { $0.source == job.source && $0.path.isWithin(job.path) }) {
                waiting.append((job, path))
            } else {
                free.append(job)
            }
        }
        if waiting.isEmpty { return free }
        try await postpone(waiting, for: BusyWait.longest, since: endings)
        return free
    }

    /// A directory that goes to its version name takes along what could have moved out of it.
    static func dropOrigins(of jobs: inout [DueJob], below plans: [Result<LeasePlan, SafeBackupError>]) {
        var leaving: [RelativePath] = []
        for (job, plan) in zip(jobs, plans) {
            guard case .success(let plan) = plan else { continue }
            if case .present(.directory, _, _, _) = plan.final, plan.version != nil { leaving.append(job.location) }
            // Perhaps a directory under another spelling.
            if let obstruction = plan.obstruction { leaving.append(obstruction) }
        }
        for index in jobs.indices {
            guard let location = jobs[index].origin?.copy.location else { continue }
            if leaving.contains(where: { location != $0 && location.isWithin($0) }) {
                jobs[index].origin = nil
                jobs[index].action = .store
            }
        }
    }

    func noteOrigins(of group: [LeasedJob]) {
        let paths = Self.originPaths(of: group)
        if !paths.isEmpty { origins.withLock { $0.formUnion(paths) } }
    }

    func forgetOrigins(of group: [LeasedJob]) {
        let paths = Self.originPaths(of: group)
        if !paths.isEmpty { origins.withLock { $0.subtract(paths) } }
    }

    private static func originPaths(of group: [LeasedJob]) -> [MovingPath] {
        group.compactMap { lease in lease.job.origin.map { MovingPath(source: lease.job.source, path: $0.path) } }
    }

    /// Removes the directories that are gone at the source and hold nothing any more, and those of versions. To be called while no group is in
    /// flight. A crash in between repeats it.
    func removeVacated() async throws(SafeBackupError) {
        let id = id
        while true {
            let found = try await state.durably { (store) throws(SafeBackupError) in
                try store.vacated(id, limit: 1_000)
            }
            if found.isEmpty {
                if target.hasVacatedVersions { try await target.removeEmpty([]) }
                return
            }
            let locations = found.compactMap(\.location)
            if !locations.isEmpty { try await target.removeEmpty(locations) }
            try await state.durably { (store) throws(SafeBackupError) in try store.forgetVacated(id, found) }
        }
    }
}

/// Looks at the source for moves. Blocks: runs on an I/O thread.
enum MoveSearch {
    /// The files and links among the jobs' paths that may have been moved there: not those that hold the inode that was
    /// saved there.
    static func questions(
        for jobs: [DueJob], attemptLimit: Int, below root: SourceRoot
    ) -> [(index: Int, question: MoveQuestion)] {
        let tree: ConfinedDirectory
        do throws(SafeBackupError) {
            tree = try root.opened(staysOnMount: true)
        } catch {
            return []  // ignored because the store opens the root too, and lets the jobs wait
        }
        var directories = DirectoryCache(tree)
        var found: [(Int, MoveQuestion)] = []
        for (index, job) in jobs.enumerated() where job.attempts < attemptLimit {
            do throws(Errno) {
                let status = try directories.directory(job.path.parent).status(of: job.path.leaf)
                guard status.kind == .file || status.kind == .symlink else { continue }
                if let live = job.live, live.kind == status.kind, live.fingerprint.inode == status.fingerprint.inode {
                    continue
                }
                found.append((index, MoveQuestion(source: job.source, path: job.path, status: status)))
            } catch {
                continue  // ignored because the store looks again and says what is wrong
            }
        }
        return found
    }

    /// Whether a path does not have the question's file any more. What has only one name, and was just seen under that,
    /// is nowhere else; of a file with several, an absence must be confirmed as one that ends a name is.
    static func haveLeft(_ looks: [(question: MoveQuestion, path: RelativePath)], below root: SourceRoot) -> [Bool] {
        do throws(SafeBackupError) {
            let tree = try root.opened(staysOnMount: true)
            var directories = DirectoryCache(tree)
            var left: [Bool?] = []
            var unsure: [Int] = []
            for (index, look) in looks.enumerated() {
                if look.path == look.question.path {
                    // It came back to where another file had been meanwhile, and its copy is at a version name.
                    left.append(true)
                    continue
                }
                let there = Self.inode(at: look.path, &directories)
                switch there {
                case .another: left.append(true)
                case .some(let inode): left.append(inode != look.question.status.fingerprint.inode)
                case .absent:
                    left.append(look.question.status.linkCount == 1 ? true : nil)
                    if look.question.status.linkCount != 1 { unsure.append(index) }
                case .unknown: left.append(false)
                }
            }
            let verdicts = AbsenceCheck.verdicts(for: unsure.map { looks[$0].path }, below: root)
            for (index, verdict) in zip(unsure, verdicts) { left[index] = verdict == .absent }
            return left.map { $0 ?? false }
        } catch {
            // The root is not the one we know: nothing has moved that we could tell.
            return looks.map { _ in false }
        }
    }

    private enum There {
        case some(inode: UInt64)
        /// A directory.
        case another
        case absent
        case unknown
    }

    private static func inode(at path: RelativePath, _ directories: inout DirectoryCache) -> There {
        do {
            let status = try directories.directory(path.parent).status(of: path.leaf)
            return status.kind == .directory ? .another : .some(inode: status.fingerprint.inode)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return .absent
            default: return .unknown
            }
        }
    }
}
