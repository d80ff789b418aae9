import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What becomes of jobs that end without a result.
extension GroupStore {
    /// Ends a job without a result: its stage goes, and what was under its final name is there again where possible.
    /// What cannot be undone here is told by `Recovery`.
    mutating func abandon(_ index: Int, _ lease: LeasedJob, _ outcome: JobOutcome) {
        // A link may be its copy's only name by now: recovery tells.
        if !isMove(index) { removeStage(lease) }
        progress[index] = .finished(outcome)
        guard let version = lease.plan.version else { return }
        let location = lease.job.location
        do throws(Errno) {
            switch older[index] {
            case .absent, .dropped, .moving, .taken: break
            case .linked: try removeVersion(version, ifSameAs: location)
            case .moved:
                root.noteVacated(version)
                try directories.directory(version.parent).moveToFreeName(
                    version.leaf, to: directories.directory(location.parent), location.leaf)
            }
        } catch {
            // Ignored because the job has failed already, and the lease tells recovery all of this.
        }
    }

    /// A version that is only a second link of what is under the final name holds nothing of its own.
    private mutating func removeVersion(_ version: RelativePath, ifSameAs location: RelativePath) throws(Errno) {
        let versions = try directories.directory(version.parent)
        let kept = try versions.status(of: version.leaf)
        let final = try directories.directory(location.parent).status(of: location.leaf)
        if kept.isSameFile(as: final) { try versions.remove(version.leaf) }
        root.noteVacated(version)
    }

    mutating func removeStage(_ lease: LeasedJob) {
        let stage = Array(lease.plan.stageName.utf8)
        do {
            try root.staging.remove(stage)
        } catch {
            // Tried once more when the group ends; recovery removes it too.
            if error != .noSuchFileOrDirectory { leftStages.append(stage) }
        }
    }

    func removeLeftStages() {
        for stage in leftStages {
            do {
                try root.staging.remove(stage)
            } catch {
                // Ignored because staging is emptied at each start.
            }
        }
    }

    /// A flush failed: of what needed it, nothing is promised.
    mutating func failAll(_ group: [LeasedJob], _ error: Errno) -> [JobOutcome] {
        var outcomes: [JobOutcome] = []
        for index in group.indices {
            if case .finished(let outcome) = progress[index] {
                outcomes.append(outcome)
                continue
            }
            if !isMove(index) { removeStage(group[index]) }
            outcomes.append(.failed(Failure.destination(error, "flush", group[index].job.location)))
        }
        return outcomes
    }
}
