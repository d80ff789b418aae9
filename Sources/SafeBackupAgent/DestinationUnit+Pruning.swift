import SafeBackupCore
import SafeBackupState

/// What a person's policy removes while the agent runs.
extension DestinationUnit {
    /// Copies are marked for removal.
    func removalsWereAsked() {
        removalsAreDue.set(true)
        wake.signal()
    }

    /// Removes what is marked. To be called while no group is in flight: a deleted path's last state lies where the path
    /// itself may be stored again.
    func finishPruning() async throws(SafeBackupError) {
        if !removalsAreDue.value { return }
        removalsAreDue.set(false)
        do throws(SafeBackupError) {
            let work = RemovalWork(id: id, target: target, state: state)
            try await work.removeVersions()
            try await work.removeTombstones()
        } catch {
            removalsAreDue.set(true)
            throw error
        }
    }
}
