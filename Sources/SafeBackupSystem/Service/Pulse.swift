import Synchronization

/// The proof that one loop of the agent moves: a number that grows with each step of its work, and with each turn that it
/// makes without any. A loop that waits can be asked for a turn.
///
/// It is found by the task that works for the loop (`current`), so that what only passes through (a call of the state, a
/// batch on an I/O thread) marks it without knowing whose it is. Without a service manager there is none, and a mark
/// costs nothing.
package final class Pulse: Sendable {
    /// Of the loop that the current task works for.
    @TaskLocal package static var current: Pulse?

    package let name: String
    private let steps = Atomic<UInt64>(0)
    private let waker: @Sendable () -> Void
    /// Ends the wait that the loop is in.
    private let wait = Locked<(id: UInt64, end: @Sendable () -> Void)?>(nil)
    private let waits = Atomic<UInt64>(0)

    /// - Parameter waker: makes the loop turn where it waits for something that is not told by `waiting`.
    init(name: String, waker: @escaping @Sendable () -> Void = {}) {
        self.name = name
        self.waker = waker
    }

    /// A step was made. From any thread.
    package func mark() { steps.add(1, ordering: .relaxed) }

    /// How many steps were made.
    var count: UInt64 { steps.load(ordering: .relaxed) }

    /// The loop makes a turn soon, if it can.
    func ask() {
        waker()
        wait.withLock { $0 }?.end()
    }

    /// The same `body`, working for the current task's loop also where it is run by another thread.
    static func carried<R>(_ body: @escaping @Sendable () -> R) -> @Sendable () -> R {
        guard let pulse = current else { return body }
        return { $current.withValue(pulse) { body() } }
    }

    /// Marks a step before and after a wait that `end` can end early.
    package static func waiting(
        endingWith end: @escaping @Sendable () -> Void, _ body: () async -> Void
    ) async {
        guard let pulse = current else { return await body() }
        pulse.mark()
        let id = pulse.waits.add(1, ordering: .relaxed).newValue
        pulse.wait.withLock { $0 = (id, end) }
        await body()
        pulse.wait.withLock { if $0?.id == id { $0 = nil } }
        pulse.mark()
    }
}
