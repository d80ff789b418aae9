import Glibc
import SafeBackupAgent
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Whole lines to standard output and error. A closed pipe is no reason to stop saving.
enum Console {
    private struct Writers {
        var output: LineWriter
        var errors: LineWriter
    }

    private static let writers = Locked<Writers?>(nil)

    static func print(_ text: String) { write(text + "\n", to: 1) }

    static func error(_ text: String) { write(text + "\n", to: 2) }

    static func write(_ text: String, to descriptor: Int32) {
        if let writers = writers.withLock({ $0 }) {
            return (descriptor == 1 ? writers.output : writers.errors).write(text)
        }
        write(bytes: Array(text.utf8), to: descriptor)
    }

    static func write(bytes: [UInt8], to descriptor: Int32) {
        bytes.withUnsafeBytes { bytes in
            var done = 0
            while done < bytes.count {
                let count = Glibc.write(descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done)
                if count > 0 {
                    done += count
                } else if count < 0 && errno == EAGAIN {
                    // Somebody who shares it has made it non-blocking: half an answer would be a wrong one.
                    var waited = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    _ = poll(&waited, 1, 1_000)
                } else if count == 0 || errno != EINTR {
                    return
                }
            }
        }
    }

    // MARK: Without waiting for a reader

    /// From now on what is written waits in memory for threads of its own, and a pipe or terminal that nobody reads stops
    /// nothing here. What finds no room is dropped; on standard error it is counted, and told by the line `dropped`.
    /// - Throws: `exhausted` when the system gives no threads.
    static func detach(_ dropped: @escaping @Sendable (Int) -> String) throws(SafeBackupError) {
        do throws(Errno) {
            let new = Writers(
                output: try LineWriter(to: 1, name: "sb.out", limit: 64 << 10),
                errors: try LineWriter(to: 2, name: "sb.log", dropped: dropped))
            writers.withLock { $0 = new }
        } catch {
            throw .noThread(error)
        }
    }

    /// Waits for the threads, but not for long: nobody may read what they write. To be called before the process ends.
    static func flush(within time: Duration = .seconds(1)) async {
        guard let writers = writers.withLock({ $0 }) else { return }
        await writers.output.flush(within: time)
        await writers.errors.flush(within: time)
    }
}
