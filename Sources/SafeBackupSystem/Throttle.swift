package import SafeBackupCore

import Glibc

/// Slows down the threads that read for one destination, all together, to a bandwidth.
package final class Throttle: Sendable {
    /// A stop is noticed within this time.
    private static let slice = Duration.milliseconds(100)

    private let pace: Locked<ReadingPace>

    package init(_ bandwidth: ByteCount) { pace = Locked(ReadingPace(bandwidth)) }

    /// Blocks the thread for as long as these bytes, which it has just read, take. `false`: it was interrupted.
    package func take(_ count: Int, isInterrupted: () -> Bool) -> Bool {
        let wait = pace.withLock { $0.take(count, at: .now) }
        let end = ContinuousClock.now + wait
        while true {
            if isInterrupted() { return false }
            let left = end - .now
            if left <= .zero { return true }
            // To wait for one's turn is to move: the watchdog is not meant for it.
            Pulse.current?.mark()
            let part = min(left, Self.slice)
            usleep(UInt32(part.components.attoseconds / 1_000_000_000_000) + 1)
        }
    }
}
