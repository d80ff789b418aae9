import Glibc
import SafeBackupSystem
import SystemPackage

/// A number that the system's administrator sets and that limits watching. See: man 7 inotify, man 7 namespaces.
package enum SystemSetting: String, Sendable, CaseIterable {
    case queuedEvents = "fs.inotify.max_queued_events"
    case watches = "fs.inotify.max_user_watches"
    case instances = "fs.inotify.max_user_instances"
    /// The same two again, of the user namespace (a container) that we run in; the smaller one counts.
    case namespaceWatches = "user.max_inotify_watches"
    case namespaceInstances = "user.max_inotify_instances"

    /// `nil` where it cannot be read.
    package var value: Int? {
        let path = "/proc/sys/" + rawValue.split(separator: ".").joined(separator: "/")
        do throws(Errno) {
            let text = try Descriptor.open(FilePath(path), O_RDONLY).readAll(limit: 64)
            return Int(String(decoding: text, as: UTF8.self).split(separator: "\n").first ?? "")
        } catch {
            return nil  // ignored because the number only serves a hint
        }
    }
}
