import Glibc
import SafeBackupCore
import SafeBackupSystem

/// Waits for what a bucket answers. Not to be called on a thread of Swift's own pool.
func blocking<R: Sendable>(
    _ body: @escaping @Sendable () async throws(SafeBackupError) -> R
) throws(SafeBackupError) -> R {
    let answer = Locked<Result<R, SafeBackupError>?>(nil)
    let isThere = Gate()
    Task.detached {
        do throws(SafeBackupError) {
            let result = try await body()
            answer.withLock { $0 = .success(result) }
        } catch {
            answer.withLock { $0 = .failure(error) }
        }
        isThere.open()
    }
    isThere.wait()
    guard let result = answer.withLock({ $0 }) else {
        throw SafeBackupError(.interrupted, "The bucket's answer was lost", disposition: .transient)
    }
    return try result.get()
}

/// Opened once; whoever waits goes on then.
private final class Gate: @unchecked Sendable {
    private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init() { sem_init(semaphore, 0, 0) }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func open() { sem_post(semaphore) }
    // A signal may end the call early.
    func wait() { while sem_wait(semaphore) != 0 {} }
}
