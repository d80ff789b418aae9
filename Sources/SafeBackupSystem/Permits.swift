import Glibc

/// A number that a thread waits for: so many things are free.
package final class Permits: Sendable {
    // A constant pointer to the C library's own synchronised object.
    private nonisolated(unsafe) let semaphore: UnsafeMutablePointer<sem_t>

    package init(_ count: Int) {
        semaphore = .allocate(capacity: 1)
        let failure = sem_init(semaphore, 0, UInt32(count))
        precondition(failure == 0, "an ordinary semaphore was refused")
    }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    /// Takes one, and waits until there is one. Blocks: only for threads of ours. The corresponding C function is
    /// `sem_wait`, which fails only when a signal interrupts it.
    package func take() { while sem_wait(semaphore) != 0 {} }

    /// The corresponding C function is `sem_post`.
    package func give() { sem_post(semaphore) }
}
