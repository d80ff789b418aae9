import CSafeBackupLinux
import Glibc
package import SystemPackage

/// Wakes a thread that waits for a descriptor. The corresponding C function is `eventfd`.
package final class PollWakeup: Sendable {
    /// What ended a wait.
    package enum Cause: Sendable, Hashable {
        /// The other descriptor can be read.
        case readable
        /// Somebody wants to know whether the thread is there.
        case nudged
        /// The thread is to end.
        case signalled
    }

    private let descriptor: Descriptor
    private let isSignalled = Locked(false)

    package init() throws(Errno) {
        descriptor = Descriptor(owning: try systemCall("eventfd") { sb_eventfd() })
    }

    /// From now on no `wait` blocks.
    package func signal() {
        isSignalled.withLock { $0 = true }
        nudge()
    }

    /// One `wait` ends.
    package func nudge() {
        var one: UInt64 = 1
        // Ignored because the only possible failure, a full counter, means that the signal is already there.
        _ = write(descriptor.raw, &one, 8)
    }

    /// Blocks until `other` can be read, or this was signalled or nudged.
    package func wait(for other: Descriptor) throws(Errno) -> Cause {
        if isSignalled.withLock({ $0 }) { return .signalled }
        let ready = try systemCall("poll") { sb_wait_readable(other.raw, descriptor.raw, -1) }
        if ready & 2 == 0 { return .readable }
        // Emptied first: a signal that comes after this look makes it readable again.
        var count: UInt64 = 0
        _ = Glibc.read(descriptor.raw, &count, 8)
        return isSignalled.withLock({ $0 }) ? .signalled : .nudged
    }
}

extension Descriptor {
    /// Blocks until something can be read, or the time is over: then the answer is `false`. The corresponding C function
    /// is `poll`.
    package func isReadable(within limit: Duration) throws(Errno) -> Bool {
        let (seconds, attoseconds) = limit.components
        let milliseconds = Int32(clamping: seconds * 1_000 + attoseconds / 1_000_000_000_000_000)
        return try systemCall("poll") { sb_wait_readable(raw, -1, milliseconds) } > 0
    }
}
