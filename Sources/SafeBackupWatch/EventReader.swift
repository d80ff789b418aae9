import Glibc
import SafeBackupSystem
import SystemPackage

/// Takes events out of the kernel's queue and keeps them, in order, until somebody digests them: a slow disk must not
/// make the kernel drop events. Bounded: past the limit an overflow of our own takes their place.
final class EventReader: Sendable {
    private struct Inbox {
        var chunks: [[UInt8]] = []
        var byteCount = 0
        var isOverfull = false
        /// Somebody was told, and has not yet found the inbox empty.
        var isAwaited = false
    }

    private let inotify: Inotify
    private let wakeup: PollWakeup
    private let limit: Int
    /// The kernel's queue holds so much that a pause cannot fill it.
    private let mayPause: Bool
    private let inbox = Locked(Inbox())

    /// - Parameter limit: bytes of events that wait; an event takes 16 bytes and its name.
    init(_ inotify: Inotify, wakeup: PollWakeup, limit: Int) {
        self.inotify = inotify
        self.wakeup = wakeup
        self.limit = limit
        mayPause = (SystemSetting.queuedEvents.value ?? 0) >= 4_096
    }

    /// Reads until `wakeup` is signalled, and calls `deliver` when there is something to `take` and nobody is at it, and
    /// `nudged` when it was nudged. Returns `false` if reading failed for good.
    ///
    /// An event that comes alone is read at once. Where one follows another within a millisecond, more will: then the
    /// kernel's queue is left to collect them for two, because waking three threads costs a hundred times what an
    /// event does.
    func read(deliver: () -> Void, nudged: () -> Void) -> Bool {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bufferSize, alignment: 16)
        defer { buffer.deallocate() }
        var failures = 0
        var lastRead = ContinuousClock.now - .seconds(1)
        while failures < 10 {
            do throws(Errno) {
                let cause = try wakeup.wait(for: inotify.descriptor)
                if cause == .signalled { return true }
                if cause == .nudged {
                    nudged()
                    continue
                }
                if mayPause && ContinuousClock.now - lastRead < .milliseconds(1) { usleep(2_000) }
                lastRead = .now
                let length = try inotify.read(into: buffer)
                failures = 0
                if length == 0 { continue }
                if keep(buffer[..<length]) { deliver() }
            } catch {
                failures += 1
                if keepOverflow() { deliver() }
            }
        }
        return false
    }

    /// The oldest bytes, whole events, of one read; `nil` when there are none. After `nil`, `deliver` is called again.
    func take() -> [UInt8]? {
        inbox.withLock { inbox in
            guard !inbox.chunks.isEmpty else {
                inbox.isAwaited = false
                return nil
            }
            let chunk = inbox.chunks.removeFirst()
            inbox.byteCount -= chunk.count
            if inbox.chunks.isEmpty { inbox.isOverfull = false }
            return chunk
        }
    }

    /// Whether `deliver` is due.
    private func keep(_ bytes: Slice<UnsafeMutableRawBufferPointer>) -> Bool {
        inbox.withLock { inbox in
            if inbox.isOverfull { return false }
            if inbox.byteCount + bytes.count > limit { return Self.overfill(&inbox) }
            // Small reads are joined: then there are few chunks, and each is digested at once.
            if let last = inbox.chunks.indices.last, inbox.chunks[last].count < bufferSize {
                inbox.chunks[last] += bytes
            } else {
                inbox.chunks.append(Array(bytes))
            }
            inbox.byteCount += bytes.count
            return Self.awaken(&inbox)
        }
    }

    private func keepOverflow() -> Bool {
        inbox.withLock { Self.overfill(&$0) }
    }

    /// From here on everything is lost until the inbox is empty: the marker stands where the loss begins, and what it
    /// causes happens after the loss has ended.
    private static func overfill(_ inbox: inout Inbox) -> Bool {
        inbox.isOverfull = true
        let marker = InotifyEvent.header(mask: .overflow, cookie: WatchDigest.ownOverflow)
        inbox.chunks.append(marker)
        inbox.byteCount += marker.count
        return awaken(&inbox)
    }

    private static func awaken(_ inbox: inout Inbox) -> Bool {
        if inbox.isAwaited { return false }
        inbox.isAwaited = true
        return true
    }
}

/// Holds some two thousand events with short names.
private let bufferSize = 64 << 10
