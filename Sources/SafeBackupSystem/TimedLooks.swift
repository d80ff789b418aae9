import CSafeBackupLinux
import Glibc
package import SystemPackage

/// Looks at paths whose file system may never answer, as that of a server that is gone. A call that was begun there cannot
/// be taken back: each look has a thread of its own, which may stay in it, and whoever asked waits for a limited time.
///
/// A path keeps no more than one thread. While a look at it is late, everybody who asks is told so at once; when it comes
/// back after all, the next look is a new one. What answers now may be gone at the next call: this keeps a start, and a
/// verb that explains, from waiting without end, and promises no more.
package final class TimedLooks: Sendable {
    /// Of this process.
    package static let shared = TimedLooks()

    private let limit: Duration
    /// Those that are under way.
    private let looks = Locked<[FilePath: Look]>([:])

    /// - Parameter limit: how long a look may take: a disk that has to spin up answers within it.
    package init(limit: Duration = .seconds(4)) { self.limit = limit }

    /// Whether the file system at the path answers, if only to say that nothing is there. Blocks.
    package func answers(_ path: FilePath) -> Bool { answer(at: path) { Self.ask(path) } != nil }

    /// As `answers`, of several at the same time. None of what is asked of them later waits for another limit.
    package func begin(_ paths: [FilePath]) {
        for path in Set(paths) { _ = look(at: path) { Self.ask(path) } }
    }

    /// What `body` returns; `nil` if it is late, or a look that was begun before is. Blocks.
    package func answer<R: Sendable>(at path: FilePath, _ body: @escaping @Sendable () -> R) -> R? {
        let answer = Answer<R>()
        while true {
            let (look, isMine) = look(at: path) { answer.value.withLock { $0 = body() } }
            if !look.wait(until: look.began + limit) { return nil }
            if isMine { return answer.value.withLock { $0 } }
        }
    }

    private func look(at path: FilePath, _ body: @escaping @Sendable () -> Void) -> (look: Look, isMine: Bool) {
        let mine = Look { look in
            body()
            self.looks.withLock { looks in if looks[path] === look { looks[path] = nil } }
        }
        let other = looks.withLock { looks in
            if let other = looks[path] { return other as Look? }
            looks[path] = mine
            return nil
        }
        if let other { return (other, false) }
        mine.start()
        return (mine, true)
    }

    /// Asks the server too: what the kernel remembers of a directory says nothing about it.
    private static func ask(_ path: FilePath) {
        path.withPlatformString { name in
            let descriptor = open(name, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC)
            if descriptor < 0 { return }
            var volume = statvfs()
            fstatvfs(descriptor, &volume)
            close(descriptor)
        }
    }

    private final class Answer<R: Sendable>: Sendable {
        let value = Locked<R?>(nil)
    }
}

/// One look, and those who wait for its end.
private final class Look: Sendable {
    let began = ContinuousClock.now
    private let body: @Sendable (Look) -> Void
    /// Constant pointers to the C library's own synchronised objects.
    private nonisolated(unsafe) let lock: UnsafeMutablePointer<pthread_mutex_t>
    private nonisolated(unsafe) let condition: UnsafeMutablePointer<pthread_cond_t>
    /// Protected by `lock`.
    private nonisolated(unsafe) var isOver = false

    init(_ body: @escaping @Sendable (Look) -> Void) {
        self.body = body
        lock = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        pthread_mutex_init(lock, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        // A clock that is set must not end the wait, nor keep it.
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(lock)
        lock.deallocate()
        condition.deallocate()
    }

    /// On a thread of its own; where the system gives none, on the caller's, as without a limit.
    func start() {
        let context = Unmanaged.passRetained(self).toOpaque()
        let failure = sb_start_thread(
            "sb.look",
            { context in
                guard let context else { return }
                Unmanaged<Look>.fromOpaque(context).takeRetainedValue().run()
            }, context)
        if failure != 0 { Unmanaged<Look>.fromOpaque(context).takeRetainedValue().run() }
    }

    private func run() {
        body(self)
        pthread_mutex_lock(lock)
        isOver = true
        pthread_cond_broadcast(condition)
        pthread_mutex_unlock(lock)
    }

    /// Whether it is over by then.
    func wait(until deadline: ContinuousClock.Instant) -> Bool {
        pthread_mutex_lock(lock)
        defer { pthread_mutex_unlock(lock) }
        while !isOver {
            let rest = deadline - .now
            if rest <= .zero { return false }
            var time = timespec()
            clock_gettime(CLOCK_MONOTONIC, &time)
            let nanoseconds = Int64(time.tv_nsec) + rest.components.attoseconds / 1_000_000_000
            time.tv_sec += Int(rest.components.seconds + nanoseconds / 1_000_000_000)
            time.tv_nsec = Int(nanoseconds % 1_000_000_000)
            pthread_cond_timedwait(condition, lock, &time)
        }
        return true
    }
}
