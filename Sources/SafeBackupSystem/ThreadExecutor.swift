import CSafeBackupLinux
package import SafeBackupCore
package import SystemPackage

import Glibc

/// Threads of ours that take work from one queue: blocking calls belong here, never on the cooperative pool.
///
/// As a `SerialExecutor` (one thread) it runs an actor; `run` sends one closure to any of its threads.
package final class ThreadExecutor: SerialExecutor, TaskExecutor {
    private enum Work {
        case job(UnownedJob)
        case closure(@Sendable () -> Void)
    }

    private struct Queue {
        var work: [Work] = []
        var head = 0
        var isStopped = false

        mutating func next() -> Work? {
            guard head < work.count else { return nil }
            let first = work[head]
            head += 1
            if head == work.count {
                work.removeAll(keepingCapacity: true)
                head = 0
            }
            return first
        }
    }

    /// Constant pointers to the C library's own synchronised objects.
    private nonisolated(unsafe) let lock: UnsafeMutablePointer<pthread_mutex_t>
    private nonisolated(unsafe) let condition: UnsafeMutablePointer<pthread_cond_t>
    /// Protected by `lock`; a `Locked` cannot serve, because the condition waits on the raw mutex.
    private nonisolated(unsafe) var queue = Queue()

    /// How many threads take work.
    package let count: Int

    private init(count: Int) {
        lock = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        pthread_mutex_init(lock, nil)
        pthread_cond_init(condition, nil)
        self.count = count
    }

    /// Starts the threads; `name` has at most 13 bytes when `count` is over 1, because a number follows it.
    /// Throws the system's refusal, `EAGAIN` where a limit of threads is reached; then none is left running.
    /// - Parameter isBackground: they run, and read from disks, only when nobody else wants to.
    package convenience init(name: String, count: Int = 1, isBackground: Bool = false) throws(Errno) {
        self.init(count: count)
        for index in 0..<count {
            if let fault = Faults.next("pthread_create") {
                stop()
                throw fault
            }
            let context = Unmanaged.passRetained(self).toOpaque()
            let title = count == 1 ? name : "\(name).\(index)"
            let failure = sb_start_thread(
                title,
                { context in
                    guard let context else { return }
                    Unmanaged<ThreadExecutor>.fromOpaque(context).takeRetainedValue().serve()
                }, context)
            if failure != 0 {
                Unmanaged<ThreadExecutor>.fromOpaque(context).release()
                stop()
                throw Errno(rawValue: failure)
            }
        }
        if isBackground { for _ in 0..<count { submit { sb_lower_thread_priority() } } }
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(lock)
        lock.deallocate()
        condition.deallocate()
    }

    private func serve() {
        while true {
            pthread_mutex_lock(lock)
            while queue.head == queue.work.count && !queue.isStopped { pthread_cond_wait(condition, lock) }
            let work = queue.next()
            pthread_mutex_unlock(lock)
            switch work {
            case .job(let job):
                if count == 1 {
                    job.runSynchronously(isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
                } else {
                    job.runSynchronously(on: asUnownedTaskExecutor())
                }
            case .closure(let body): body()
            case nil: return
            }
        }
    }

    private func add(_ work: Work) {
        pthread_mutex_lock(lock)
        queue.work.append(work)
        pthread_cond_signal(condition)
        pthread_mutex_unlock(lock)
    }

    package func enqueue(_ job: consuming ExecutorJob) { add(.job(UnownedJob(job))) }

    package func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }

    package func asUnownedTaskExecutor() -> UnownedTaskExecutor { UnownedTaskExecutor(ordinary: self) }

    /// Runs `body`, which may block, on one of the threads, and does not wait for it.
    package func submit(_ body: @escaping @Sendable () -> Void) { add(.closure(body)) }

    /// Runs `body`, which may block, on one of the threads.
    package func run<R: Sendable, E: Error>(
        _ body: @escaping @Sendable () throws(E) -> R
    ) async throws(E) -> R {
        // The result comes back under a lock and not with the continuation: where that is resumed before the task has
        // come to wait, ThreadSanitizer sees no order between the two threads. See: swiftlang/swift#57803.
        let answer = Locked<Result<R, E>?>(nil)
        let work = Pulse.carried { Result(catching: body) }
        await withUnsafeContinuation { continuation in
            add(
                .closure {
                    let result = work()
                    answer.withLock { $0 = result }
                    continuation.resume()
                })
        }
        Pulse.current?.mark()
        guard let result = answer.withLock({ $0 }) else {
            // Broken only if the runtime resumes a task by itself: the closure sets the answer before it resumes.
            preconditionFailure("a task went on before its continuation was resumed")
        }
        return try result.get()
    }

    /// The threads end when the queue is empty. Work added later never runs.
    package func stop() {
        pthread_mutex_lock(lock)
        queue.isStopped = true
        pthread_cond_broadcast(condition)
        pthread_mutex_unlock(lock)
    }
}

extension SafeBackupError {
    /// The system refused a thread.
    package static func noThread(_ error: Errno) -> SafeBackupError {
        SafeBackupError(
            .exhausted,
            "The system gives no more threads: \(error.explanation); raise the limit of processes (ulimit -u), or of the "
                + "service's or container's tasks (TasksMax, pids.max)",
            disposition: .transient, systemError: error.rawValue)
    }
}
