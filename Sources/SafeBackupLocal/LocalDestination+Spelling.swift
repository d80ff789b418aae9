package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// Names that differ only in case, where the file system takes them for one: a file, or a directory, that was renamed so
/// at the source. A directory goes to its version name with all that lies below it, and what lies below the new spelling
/// is moved there path by path.
extension LocalDestination {
    /// For each location the one entry that it folds onto under another spelling, or that the first directory on the way to
    /// it does which is not there as it is spelled; `nil` if there is none, or several, or they cannot be looked at.
    package func otherSpellings(of locations: [RelativePath]) async -> [OtherSpelling?] {
        await io.run { self.otherSpellingsNow(of: locations) }
    }

    package func otherSpellingsNow(of locations: [RelativePath]) -> [OtherSpelling?] {
        do throws(SafeBackupError) {
            let root = try attachedRoot()
            if !root.layout.foldsCase { return locations.map { _ in nil } }
            var planner = try planner()
            var found: [OtherSpelling?] = []
            for location in locations { found.append(try Self.otherSpelling(of: location, &planner, root)) }
            return found
        } catch {
            return locations.map { _ in nil }  // ignored because the collision stands, and is told
        }
    }

    private static func otherSpelling(
        of location: RelativePath, _ planner: inout Planner, _ root: AttachedRoot
    ) throws(SafeBackupError) -> OtherSpelling? {
        guard let former = try planner.otherSpelling(of: location) else { return nil }
        do {
            return OtherSpelling(location: former, isDirectory: try root.base.status(of: former).kind == .directory)
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw Failure.destination(error, "look at", former)
        }
    }

    /// Plans a job that replaces what lies under `former`, another spelling of its location or of a directory on the way,
    /// which the source has no more.
    package func plan(_ job: DueJob, replacing former: RelativePath) async -> Result<LeasePlan, SafeBackupError> {
        await io.run { self.planNow(job, replacing: former) }
    }

    package func planNow(_ job: DueJob, replacing former: RelativePath) -> Result<LeasePlan, SafeBackupError> {
        do throws(SafeBackupError) {
            var planner = try planner()
            return planner.plan(job, replacing: former)
        } catch {
            return .failure(error)
        }
    }
}
