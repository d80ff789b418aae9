import Glibc

/// A value that only one thread at a time reaches.
///
/// `Synchronization.Mutex` would do and is some 8 ns faster, but on Linux it is a futex in a library that is not
/// instrumented: ThreadSanitizer does not see it, and calls the use of what it protects a race. This is the C
/// library's mutex, which ThreadSanitizer knows; a lock is taken once a file or batch, so the difference is nothing.
package struct Locked<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
    // Constant pointers, because a mutex must not move; `value` is touched only while `mutex` is held.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let value: UnsafeMutablePointer<Value>

    package init(_ initial: consuming sending Value) {
        mutex = .allocate(capacity: 1)
        let failure = pthread_mutex_init(mutex, nil)
        precondition(failure == 0, "an ordinary mutex was refused: error \(failure)")
        value = .allocate(capacity: 1)
        value.initialize(to: initial)
    }

    deinit {
        value.deinitialize(count: 1)
        value.deallocate()
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// Runs `body` alone with the value, which it must not use after it has returned. Not recursive.
    package borrowing func withLock<Result: ~Copyable, Failure: Error>(
        _ body: (inout sending Value) throws(Failure) -> sending Result
    ) throws(Failure) -> sending Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body(&value.pointee)
    }
}
