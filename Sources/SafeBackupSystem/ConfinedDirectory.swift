import CSafeBackupLinux
package import SafeBackupCore
package import SystemPackage

package import Glibc

/// A directory that paths are resolved below, never through a symbolic link and never outside.
///
/// Uses `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`; where that is missing, refused (seccomp) or the path
/// is too long for one call, each component is opened by itself with `O_NOFOLLOW`.
package final class ConfinedDirectory: Sendable {
    package let root: Descriptor
    private let staysOnMount: Bool

    /// - Parameter staysOnMount: what is mounted below the root, also a bind mount, is never entered: `EXDEV`.
    package init(root: Descriptor, staysOnMount: Bool = false) {
        self.root = root
        self.staysOnMount = staysOnMount
    }

    /// Opens the machine's path `path`, which may contain links, as the root.
    package convenience init(opening path: FilePath, staysOnMount: Bool = false) throws(Errno) {
        self.init(root: try Descriptor.open(path, O_RDONLY | O_DIRECTORY), staysOnMount: staysOnMount)
    }

    /// Opens a directory below the root, or the root itself, for listing, `…at` calls and `fsync`.
    package func openDirectory(_ path: RelativePath) throws(Errno) -> Descriptor {
        if path.isRoot { return try root.open([0x2E], O_RDONLY | O_DIRECTORY) }
        return try open(path, O_RDONLY | O_DIRECTORY)
    }

    /// Opens an entry below the root. A link in the way is `ELOOP` or `ENOTDIR`.
    package func open(_ path: RelativePath, _ flags: Int32, mode: mode_t = 0o600) throws(Errno) -> Descriptor {
        let all = flags | O_CLOEXEC | O_NOFOLLOW
        // PATH_MAX counts the final NUL.
        if path.bytes.count < Int(PATH_MAX) {
            do {
                return Descriptor(
                    owning: try systemCall("open") {
                        withCString(path.bytes) { sb_open_beneath(root.raw, $0, all, mode, staysOnMount ? 1 : 0) }
                    })
            } catch {
                // Moved out from under the root during the look-up.
                if error == .improperLink && !staysOnMount { throw Errno.noSuchFileOrDirectory }
                // EAGAIN: a rename raced with the look-up. See: man 2 openat2.
                guard [.noFunction, .notPermitted, .resourceTemporarilyUnavailable].contains(error) else { throw error }
            }
        }
        return try openByComponents(path, flags, mode: mode)
    }

    private func openByComponents(
        _ path: RelativePath, _ flags: Int32, mode: mode_t
    ) throws(Errno) -> Descriptor {
        guard path.staysBelow else { throw .invalidArgument }
        var directory = root
        let components = path.components
        for component in components.dropLast() {
            directory = try directory.open(component, sb_o_path | O_DIRECTORY)
            try checkMount(directory)
        }
        let last = try directory.open(components.last ?? [0x2E], flags, mode: mode)
        if !components.isEmpty { try checkMount(last) }
        return last
    }

    /// What `RESOLVE_NO_XDEV` refuses, where there is none.
    private func checkMount(_ entry: Descriptor) throws(Errno) {
        if !staysOnMount { return }
        let (status, own) = (try entry.status(), try root.status())
        if status.isMountRoot || status.device != own.device { throw .improperLink }
    }

    /// Looks at an entry below the root, never through a link.
    package func status(of path: RelativePath) throws(Errno) -> FileStatus {
        if path.isRoot { return try root.status() }
        return try openDirectory(path.parent).status(of: path.leaf)
    }

    /// Opens a directory below the root and makes what is missing of it. `created` is called for each directory made,
    /// with the descriptor of its parent, which must be flushed before the new directory is durable.
    package func makeDirectories(
        _ path: RelativePath, mode: mode_t = 0o700, created: (RelativePath, Descriptor) -> Void = { _, _ in }
    ) throws(Errno) -> Descriptor {
        do {
            return try openDirectory(path)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
        }
        // Below, one component is opened at a time: none may be a way up, whoever vouched for the path.
        guard path.staysBelow else { throw .invalidArgument }
        let parent = try makeDirectories(path.parent, mode: mode, created: created)
        do {
            try parent.makeDirectory(path.leaf, mode: mode)
            created(path, parent)
        } catch {
            // Somebody else made it meanwhile.
            if error != .fileExists { throw error }
        }
        return try parent.open(path.leaf, O_RDONLY | O_DIRECTORY)
    }
}

/// Keeps the most recently used directories below a root open, for work that goes through many files in few
/// directories. Not shared between threads; a directory stays open until the cache goes or `forget` is called.
package struct DirectoryCache {
    package let base: ConfinedDirectory
    private let limit: Int
    private var open: [RelativePath: (directory: Descriptor, used: Int)] = [:]
    private var clock = 0

    package init(_ base: ConfinedDirectory, limit: Int = 32) {
        self.base = base
        self.limit = limit
    }

    /// The directory at `path`, opened if it is not yet.
    package mutating func directory(_ path: RelativePath) throws(Errno) -> Descriptor {
        clock += 1
        if let entry = open[path] {
            open[path]?.used = clock
            return entry.directory
        }
        let directory = try base.openDirectory(path)
        keep(directory, at: path)
        return directory
    }

    /// The directory at `path`; what is missing of it is made, see `ConfinedDirectory.makeDirectories`.
    package mutating func makingDirectory(
        _ path: RelativePath, mode: mode_t = 0o700, created: (RelativePath, Descriptor) -> Void
    ) throws(Errno) -> Descriptor {
        clock += 1
        if let entry = open[path] {
            open[path]?.used = clock
            return entry.directory
        }
        let directory = try base.makeDirectories(path, mode: mode, created: created)
        keep(directory, at: path)
        return directory
    }

    /// Drops what is known at and below `path`, because it was moved away.
    package mutating func forget(_ path: RelativePath) {
        open = open.filter { !$0.key.isWithin(path) }
    }

    private mutating func keep(_ directory: Descriptor, at path: RelativePath) {
        if open.count >= limit, let oldest = open.min(by: { $0.value.used < $1.value.used })?.key {
            open.removeValue(forKey: oldest)
        }
        open[path] = (directory, clock)
    }
}
