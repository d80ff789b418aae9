package import SystemPackage

import Glibc

/// Lines to a descriptor, written by a thread of their own: whoever reads them slowly, or not at all, delays nobody here.
///
/// What waits is bounded. A line that finds no room is dropped and counted, and the number is told where the lines would
/// have stood, as soon as there is room again. What waits when the process is killed is lost.
package final class LineWriter: Sendable {
    private struct State {
        var waiting: [UInt8] = []
        /// Dropped after the last of `waiting`.
        var dropped = 0
        /// The thread is writing, or is about to.
        var isBusy = false
    }

    private let descriptor: Int32
    private let limit: Int
    private let dropped: (@Sendable (Int) -> String)?
    private let thread: ThreadExecutor
    private let state = Locked(State())

    /// - Parameters:
    ///   - name: of the thread.
    ///   - limit: so many bytes may wait; about as many more may be in the thread's hands.
    ///   - dropped: the line that tells how many were dropped, without its end; `nil`: nobody needs to know.
    /// - Throws: the system's refusal of a thread.
    package init(
        to descriptor: Int32, name: String, limit: Int = 256 << 10, dropped: (@Sendable (Int) -> String)? = nil
    ) throws(Errno) {
        self.descriptor = descriptor
        self.limit = limit
        self.dropped = dropped
        thread = try ThreadExecutor(name: name)
    }

    deinit { thread.stop() }

    /// Takes a text, whole or not at all. Never blocks.
    package func write(_ text: String) {
        let bytes = Array(text.utf8)
        let begins = state.withLock { state in
            // The first one may be as long as it likes: it waits for nobody.
            guard state.dropped == 0, state.waiting.isEmpty || state.waiting.count + bytes.count <= limit else {
                state.dropped += 1
                return false
            }
            state.waiting += bytes
            defer { state.isBusy = true }
            return !state.isBusy
        }
        if begins { thread.submit { self.drain() } }
    }

    /// Waits until everything is written, but no longer than `time`: nobody may read it. `true`: it is.
    @discardableResult
    package func flush(within time: Duration) async -> Bool {
        let end = ContinuousClock.now + time
        while state.withLock({ $0.isBusy }) {
            if ContinuousClock.now >= end { return false }
            do { try await Task.sleep(for: .milliseconds(2)) } catch { return false }  // cancelled: nobody waits
        }
        return true
    }

    private func drain() {
        while let bytes = next() { put(bytes) }
    }

    private func next() -> [UInt8]? {
        let (bytes, count) = state.withLock { state in
            defer { (state.waiting, state.dropped) = ([], 0) }
            if state.waiting.isEmpty && state.dropped == 0 { state.isBusy = false }
            return (state.waiting, state.dropped)
        }
        guard count > 0, let dropped else { return bytes.isEmpty && count == 0 ? nil : bytes }
        return bytes + Array((dropped(count) + "\n").utf8)
    }

    /// Blocks as long as nobody reads.
    private func put(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            do throws(Errno) {
                let count = try undisturbedSystemCall {
                    rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
                }
                rest = rest.dropFirst(count)
            } catch {
                // Ignored because a closed pipe is no reason to stop saving, and there is nobody to tell.
                guard error == .wouldBlock else { return }
                // Somebody who shares it has made it non-blocking.
                var waited = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = poll(&waited, 1, 1_000)
            }
        }
    }
}
