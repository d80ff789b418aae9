import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// An inotify instance, and the thread `sb.watch` that does nothing but empty its queue.
final class WatchKernel: Sendable {
    let inotify: Inotify
    private let reader: EventReader
    private let wakeup: PollWakeup
    private let reading: ThreadExecutor

    /// Throws `EMFILE` or `ENFILE` if the system has no instance left, `EAGAIN` if it has no thread.
    /// - Parameter limit: bytes of events that wait.
    init(limit: Int) throws(Errno) {
        inotify = try Inotify()
        wakeup = try PollWakeup()
        reader = EventReader(inotify, wakeup: wakeup, limit: limit)
        reading = try ThreadExecutor(name: "sb.watch")
    }

    deinit { reading.stop() }

    /// Begins to read. `deliver` is called when there is something to `take` and nobody is at it, `nudged` by the thread
    /// after a `nudge`, `lost` when reading has failed for good: nothing is told any more.
    func start(
        deliver: @escaping @Sendable () -> Void, nudged: @escaping @Sendable () -> Void,
        lost: @escaping @Sendable () -> Void
    ) {
        reading.submit { [reader] in
            if !reader.read(deliver: deliver, nudged: nudged) { lost() }
        }
    }

    /// See `EventReader.take`.
    func take() -> [UInt8]? { reader.take() }

    /// Asks whether the thread reads.
    func nudge() { wakeup.nudge() }

    /// Reading ends soon.
    func signalStop() { wakeup.signal() }

    /// Returns when nothing is read any more.
    func stop() async {
        signalStop()
        // Runs when the thread has done everything before it.
        await reading.run {}
        reading.stop()
    }
}

/// Whether the kernel tells anything at all of a file system. Nothing may be written into a source, but opening its
/// root is an access that must be told. That it is told proves only that accesses made through this kernel are; whether
/// there are others, the file system's type says (`VolumeType.reportsEveryChange`).
enum EventProbe {
    /// `true` also where it cannot be tried: then the type decides alone. Waits at most a second, and only for a kernel
    /// that tells nothing.
    static func isAlive(_ root: ConfinedDirectory) -> Bool {
        do throws(Errno) {
            let inotify = try Inotify()
            _ = try inotify.addWatch(root.root, [.open, .onlyDirectory])
            _ = try root.openDirectory(.root)
            return try inotify.descriptor.isReadable(within: .seconds(1))
        } catch {
            return true  // ignored because a system without room for the probe says nothing about the file system
        }
    }
}
