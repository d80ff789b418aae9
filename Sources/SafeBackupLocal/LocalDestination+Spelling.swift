package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Names that differ only in case, where the file system takes them for one: a file that was renamed so at the source.
/// Directories are not: what lies below them would have to follow; their new spelling stays a collision.
extension LocalDestination {
    /// The one entry, no directory, that a location folds onto under another spelling; `nil` if there is none, or
    /// the location is there as it is spelled.
    package func otherSpelling(of location: RelativePath) async throws(SafeBackupError) -> RelativePath? {
        try await io.run { () throws(SafeBackupError) in try self.otherSpellingNow(of: location) }
    }

    package func otherSpellingNow(of location: RelativePath) throws(SafeBackupError) -> RelativePath? {
        let root = try attachedRoot()
        if !root.layout.foldsCase || location.isRoot { return nil }
        do {
            var planner = try Planner(root, policy: policy, share: share, tornLimit: tornLimit, now: clock.now)
            let others = try planner.spellings(of: location)
            guard others.count == 1, let other = others.first else { return nil }
            let former = location.parent.appending(other)
            return try root.base.status(of: former).kind == .directory ? nil : former
        } catch let error as SafeBackupError {
            throw error
        } catch let error as Errno {
            throw Failure.destination(error, "look at", location)
        } catch {
            return nil
        }
    }

    /// Plans a job whose copy, or another one, lies under `former`, which the source has no more.
    package func plan(_ job: DueJob, replacing former: RelativePath) async -> Result<LeasePlan, SafeBackupError> {
        await io.run { self.planNow(job, replacing: former) }
    }

    package func planNow(_ job: DueJob, replacing former: RelativePath) -> Result<LeasePlan, SafeBackupError> {
        do throws(SafeBackupError) {
            let root = try attachedRoot()
            try root.check()
            var planner: Planner
            do {
                planner = try Planner(root, policy: policy, share: share, tornLimit: tornLimit, now: clock.now)
            } catch {
                throw Failure.destination(error, "look at", at: path)
            }
            return planner.plan(job, replacing: former)
        } catch {
            return .failure(error)
        }
    }
}
