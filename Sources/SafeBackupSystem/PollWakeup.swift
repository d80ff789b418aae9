import CSafeBackupLinux
import Glibc
package import SystemPackage

/// Wakes a thread that waits for a descriptor. The corresponding C function is `eventfd`.
package final class PollWakeup: Sendable {
    private let descriptor: Descriptor

    package init() throws(Errno) {
        descriptor = Descriptor(owning: try systemCall("eventfd") { sb_eventfd() })
    }

    /// From now on no `wait` blocks.
    package func signal() {
        var one: UInt64 = 1
        // Ignored because the only possible failure, a full counter, means that the signal is already there.
        _ = write(descriptor.raw, &one, 8)
    }

    /// Blocks until `other` can be read, or this was signalled: then the answer is `false`.
    package func wait(for other: Descriptor) throws(Errno) -> Bool {
        let ready = try systemCall("poll") { sb_wait_readable(other.raw, descriptor.raw, -1) }
        return ready & 2 == 0
    }
}

extension Descriptor {
    /// Blocks until something can be read, or the time is over: then the answer is `false`. The corresponding C function
    /// is `poll`.
    package func isReadable(within limit: Duration) throws(Errno) -> Bool {
        let milliseconds = Int32(clamping: limit.components.seconds * 1_000)
        return try systemCall("poll") { sb_wait_readable(raw, -1, milliseconds) } > 0
    }
}
