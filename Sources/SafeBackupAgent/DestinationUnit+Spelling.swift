import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// The plans of a batch of jobs, and what stands out among them.
struct PlannedJobs: Sendable {
    /// One for each job.
    var plans: [Result<LeasePlan, SafeBackupError>]
    /// The index of a job that moves another spelling of a directory away, with all that lies below it: the other jobs wait
    /// until that stands in the catalogue.
    var alone: Int?
    /// The indices of jobs that cannot be planned, of paths that the source does not have.
    var gone: [Int] = []
}

/// A rename that changes only the case of a name, at a destination whose file system takes both names for one.
extension DestinationUnit {
    /// Plans once more what collides with an entry of ours whose path the source has no more: a file's copy moves to the new
    /// spelling, or makes room for it as a version; a directory makes room with all that lies below it, and the copies
    /// follow their files from there as from any older path. Two names that the source has stay a collision.
    func replanSpellings(of jobs: [DueJob], _ planned: inout PlannedJobs) async {
        // A directory before what lies below it: it needs no copy, and no other job is then its group.
        let collisions = jobs.indices.filter { index in
            guard case .failure(let failure) = planned.plans[index] else { return false }
            return failure.code == .nameCollision && sources[jobs[index].source]?.knownRoot != nil
        }.sorted { jobs[$0].location < jobs[$1].location }
        if collisions.isEmpty { return }
        let spellings = await target.otherSpellings(of: collisions.map { jobs[$0].location })
        var answers: [MovingPath: Bool] = [:]
        for (index, spelling) in zip(collisions, spellings) {
            guard let spelling, let path = Self.path(of: spelling.location, like: jobs[index]) else { continue }
            let former = MovingPath(source: jobs[index].source, path: path)
            if answers[former] == nil { answers[former] = await isOursAndGone(spelling, former) }
            if answers[former] != true { continue }
            planned.plans[index] = await target.plan(jobs[index], replacing: spelling.location)
            guard spelling.isDirectory, case .success = planned.plans[index] else { continue }
            planned.alone = index
            return
        }
        await findGone(among: collisions, jobs, &planned)
    }

    /// The path at the source that a location of the same source stands for; `nil` if it is a part of the prefix.
    private static func path(of location: RelativePath, like job: DueJob) -> RelativePath? {
        let prefix = job.location.bytes.count - job.path.bytes.count
        return location.bytes.count > prefix ? RelativePath(unchecked: Array(location.bytes[prefix...])) : nil
    }

    /// Whether the backup knows the entry, and the source does not have it any more.
    private func isOursAndGone(_ spelling: OtherSpelling, _ former: MovingPath) async -> Bool {
        guard let root = sources[former.source]?.knownRoot else { return false }
        let id = id
        do throws(SafeBackupError) {
            let isOurs = try await state.durably { (store) throws(SafeBackupError) in
                if !spelling.isDirectory { return try store.holdsCopy(id, at: spelling.location) }
                return try store.knowsDirectory(id, former.source, former.path, at: spelling.location)
            }
            if !isOurs { return false }
        } catch {
            return false  // ignored because the collision stands, and is told
        }
        return await io.run { AbsenceCheck.verdicts(for: [former.path], below: root) } == [.absent]
    }

    /// What is gone at the source collides with nothing: the other spelling has taken its place.
    private func findGone(among collisions: [Int], _ jobs: [DueJob], _ planned: inout PlannedJobs) async {
        for (source, members) in Dictionary(grouping: collisions, by: { jobs[$0].source }) {
            let left = members.filter { if case .failure = planned.plans[$0] { true } else { false } }
            guard !left.isEmpty, let root = sources[source]?.knownRoot else { continue }
            let paths = left.map { jobs[$0].path }
            let verdicts = await io.run { AbsenceCheck.verdicts(for: paths, below: root) }
            planned.gone += zip(left, verdicts).filter { $1 == .absent }.map(\.0)
        }
    }
}
