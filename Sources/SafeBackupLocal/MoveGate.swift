import Synchronization
import Glibc

/// Groups publish side by side; a group that moves a directory away publishes alone, because others may hold
/// directories below it open. A waiting mover goes first.
final class MoveGate: Sendable {
    /// A constant pointer to the C library's own synchronised object.
    private nonisolated(unsafe) let lock: UnsafeMutablePointer<pthread_rwlock_t>
    private let moved = Atomic<Int>(0)

    init() {
        lock = .allocate(capacity: 1)
        var attributes = pthread_rwlockattr_t()
        pthread_rwlockattr_init(&attributes)
        pthread_rwlockattr_setkind_np(&attributes, Int32(PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP))
        pthread_rwlock_init(lock, &attributes)
        pthread_rwlockattr_destroy(&attributes)
    }

    deinit {
        pthread_rwlock_destroy(lock)
        lock.deallocate()
    }

    /// How many groups moved directories: descriptors opened at an earlier count may lead elsewhere by now.
    var moves: Int { moved.load(ordering: .acquiring) }

    /// Blocks the thread until `body` may run.
    func enter<R>(alone: Bool, _ body: () -> R) -> R {
        if alone {
            pthread_rwlock_wrlock(lock)
            moved.add(1, ordering: .acquiringAndReleasing)
        } else {
            pthread_rwlock_rdlock(lock)
        }
        defer { pthread_rwlock_unlock(lock) }
        return body()
    }
}
