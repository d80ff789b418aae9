import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem

/// A rename that changes only the case of a name, at a destination whose file system takes both names for one.
extension DestinationUnit {
    /// Plans once more what collides with a copy of ours whose path the source has no more: that copy moves to the new
    /// spelling, or makes room for it as a version. Two names that the source has stay a collision.
    func replanSpellings(of jobs: [DueJob], _ plans: inout [Result<LeasePlan, SafeBackupError>]) async {
        for (index, job) in jobs.enumerated() {
            guard case .failure(let failure) = plans[index], failure.code == .nameCollision,
                let root = sources[job.source]?.knownRoot
            else { continue }
            do throws(SafeBackupError) {
                guard let former = try await local.otherSpelling(of: job.location) else { continue }
                let (id, path) = (id, job.path.parent.appending(former.leaf))
                let isOurs = try await state.durably { (store) throws(SafeBackupError) in
                    try store.holdsCopy(id, at: former)
                }
                let verdicts = await io.run { AbsenceCheck.verdicts(for: [path], below: root) }
                guard isOurs, verdicts == [.absent] else { continue }
                plans[index] = await local.plan(job, replacing: former)
            } catch {
                continue  // ignored because the collision stands, and is told
            }
        }
    }
}
