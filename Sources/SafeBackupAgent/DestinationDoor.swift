import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Whether a destination is open, for those who use it beside its drain: it is not closed under their hands, and when
/// they find it closed, it is opened for them.
final class DestinationDoor: Sendable {
    private struct State {
        var isOpen = false
        var users = 0
        var isWanted = false
    }

    private let state = Locked(State())

    /// Somebody found it closed.
    var isWanted: Bool { state.withLock { $0.isWanted } }

    func open() {
        state.withLock { state in
            state.isOpen = true
            state.isWanted = false
        }
    }

    /// Nobody can enter any more; `false` if somebody is inside.
    func close() -> Bool {
        state.withLock { state in
            if state.users > 0 { return false }
            state.isOpen = false
            return true
        }
    }

    /// The destination is away, whoever is inside.
    func shut() { state.withLock { $0.isOpen = false } }

    /// Whether it is open; then it stays so until `leave`. Otherwise it will be opened: ask again in a while.
    func enter() -> Bool {
        state.withLock { state in
            if state.isOpen { state.users += 1 } else { state.isWanted = true }
            return state.isOpen
        }
    }

    func leave() { state.withLock { $0.users -= 1 } }

    /// Keeps a second agent of this machine away from the destination with this id, also while nothing of it is open;
    /// `nil` where the system does not let us. Throws `destinationTaken`.
    static func claim(_ sentinel: String, at location: [UInt8]) throws(SafeBackupError) -> NameClaim? {
        do throws(Errno) {
            if let claim = try NameClaim("safebackup/destination/" + sentinel) { return claim }
        } catch {
            return nil  // ignored because the lock in the destination still keeps others away while it is open
        }
        throw SafeBackupError(
            .destinationTaken,
            "Another agent of this machine saves to \(printable(location)); stop it, or add the pair to its "
                + "configuration; an agent that waits for it goes on by itself then",
            disposition: .destinationUnavailable)
    }
}
