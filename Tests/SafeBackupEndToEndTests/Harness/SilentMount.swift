import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// A FUSE file system that shows another directory and can be made to stop answering, as one of a server that is gone:
/// every call to it hangs until it is let go on.
final class SilentMount {
    let mountPoint: FilePath
    private let server: Program

    /// Whether one can be had here.
    static let isAvailable: Bool = {
        guard access("/dev/fuse", R_OK | W_OK) == 0 else { return false }
        do {
            try command(["sh", "-c", "command -v bindfs && command -v fusermount"])
            let bench = try Bench()
            let mount = try SilentMount(of: bench.source, at: bench.root.appending("mount"))
            mount.end()
            return true
        } catch {
            return false
        }
    }()

    /// Shows `directory`, which must be there, at `mountPoint`, which is made.
    init(of directory: FilePath, at mountPoint: FilePath) throws {
        self.mountPoint = mountPoint
        try command(["mkdir", "-p", mountPoint])
        let log = FilePath("\(mountPoint).log")
        server = try Program(
            ["bindfs", "-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0", directory, mountPoint],
            output: log, errors: log)
        let deadline = ContinuousClock.now + .seconds(20)
        while ContinuousClock.now < deadline, server.poll() == nil {
            do {
                try command(["mountpoint", "-q", mountPoint])
                return
            } catch {
                usleep(10_000)
            }
        }
        throw CommandFailure(arguments: ["bindfs", mountPoint], text: server.outputText)
    }

    /// From now on nobody answers.
    func silence() { server.send(SIGSTOP) }

    func goOn() { server.send(SIGCONT) }

    /// Calls that hang there fail.
    func end() {
        server.crash()
        do {
            try command(["umount", "-l", mountPoint])
        } catch {
            do {
                try command(["fusermount", "-u", "-z", mountPoint])
            } catch {
                // Ignored because it may have gone with its server.
            }
        }
    }
}

extension Trait where Self == ConditionTrait {
    static var needsSilentMount: Self {
        .enabled(if: SilentMount.isAvailable, "needs /dev/fuse, bindfs and fusermount")
    }
}
