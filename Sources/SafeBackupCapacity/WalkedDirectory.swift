import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Glibc

/// A directory that a walk is in: which parts of it and of what lies below are still under way, and whether all that it
/// held was removed.
final class WalkedDirectory: Sendable {
    private struct State {
        /// The walk itself, parts of the listing that are looked at, and directories below.
        var underWay = 1
        var descriptor: Descriptor?
        var removed = 0
        var kept = 0
    }

    /// `nil` for the root.
    let parent: WalkedDirectory?
    let path: RelativePath
    let status: FileStatus
    private let root: ConfinedDirectory
    private let state: Locked<State>

    init(
        _ descriptor: Descriptor, status: FileStatus, path: RelativePath, parent: WalkedDirectory?,
        root: ConfinedDirectory
    ) {
        self.parent = parent
        self.path = path
        self.status = status
        self.root = root
        state = Locked(State(descriptor: descriptor))
    }

    /// Open; it is opened again by its path after `close`. `ENOENT` if another directory is there now.
    func descriptor() throws(Errno) -> Descriptor {
        if let open = state.withLock({ $0.descriptor }) { return open }
        let open = try root.openDirectory(path)
        let now = try open.status()
        guard now.device == status.device, now.fingerprint.inode == status.fingerprint.inode else {
            throw .noSuchFileOrDirectory
        }
        state.withLock { $0.descriptor = open }
        return open
    }

    /// Gives the descriptor back, because many directories above each other are open.
    func close() { state.withLock { $0.descriptor = nil } }

    /// One more thing is under way in it.
    func enter() { state.withLock { $0.underWay += 1 } }

    /// Notes what became of entries.
    func note(removed: Int, kept: Int) {
        state.withLock {
            $0.removed += removed
            $0.kept += kept
        }
    }

    /// One thing less is under way in it. `nil` while there are others; else whether the walk emptied it.
    func leave() -> Bool? {
        state.withLock { state in
            state.underWay -= 1
            return state.underWay > 0 ? nil : state.removed > 0 && state.kept == 0
        }
    }
}
