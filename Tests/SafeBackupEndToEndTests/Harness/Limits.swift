import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// Limits of the kernel that a test sets for its own agent only: in a user namespace, or for the moment of its start.
enum Limits {
    /// To be put before a program: it runs in a user namespace of its own, with these limits. Its pid stays its own.
    static func inNamespace(_ limits: [String: Int]) -> [FilePath] {
        let settings = limits.map { "echo \($0.value) >/proc/sys/user/\($0.key); " }.sorted().joined()
        return ["unshare", "-Ur", "bash", "-c", FilePath("\(settings)exec \"$@\""), "bash"]
    }

    /// Changes a limit of a program that was started so.
    static func set(_ name: String, to value: Int, of program: Program) throws {
        try command([
            "nsenter", "-U", "-t", FilePath("\(program.process)"), "bash", "-c",
            FilePath("echo \(value) >/proc/sys/user/\(name)"),
        ])
    }

    /// Whether this machine lets us.
    static let haveNamespaces: Bool = {
        do {
            try command(inNamespace(["max_inotify_watches": 1, "max_inotify_instances": 1]) + ["true"])
            return true
        } catch {
            return false
        }
    }()

    /// The kernel reads `max_queued_events` when an inotify instance is made: it is set while `start` runs, then put
    /// back, because it is the whole system's.
    static func withQueue<R>(of events: Int, _ start: () async throws -> R) async throws -> R {
        let setting = try Descriptor.open("/proc/sys/fs/inotify/max_queued_events", O_RDWR)
        let usual = try setting.readAll(limit: 64)
        func put(_ value: [UInt8]) throws { try setting.write(value, at: 0) }
        try put(Array("\(events)\n".utf8))
        let result: Result<R, any Error>
        do {
            result = .success(try await start())
        } catch {
            result = .failure(error)
        }
        try put(usual)
        return try result.get()
    }

    static let haveSystemSettings = access("/proc/sys/fs/inotify/max_queued_events", W_OK) == 0
}

extension Trait where Self == ConditionTrait {
    static var needsUserNamespace: Self {
        .enabled(if: Limits.haveNamespaces, "needs 'unshare -Ur' to have limits of its own")
    }
    static var needsSystemSettings: Self {
        .enabled(if: Limits.haveSystemSettings, "needs the right to set fs.inotify.max_queued_events for a moment")
    }
}
