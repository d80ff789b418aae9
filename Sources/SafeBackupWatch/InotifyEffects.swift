import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// The file system and the kernel, as `WatchDigest` asks for them, during one pass of the thread `sb.tree`.
/// The root is opened when it is needed first, and is let go with the pass.
struct InotifyEffects: TreeEffects {
    /// `nil`: the system gave none.
    private let inotify: Inotify?
    private let filter: TreeFilter
    private let open: @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    private var root: ConfinedDirectory?
    /// Why the root could not be opened, or is not the one we know.
    private(set) var rootFailure: SafeBackupError?
    /// The limit of watches was reached.
    private(set) var isExhausted = false

    init(
        inotify: Inotify?, filter: TreeFilter, open: @escaping @Sendable () throws(SafeBackupError) -> ConfinedDirectory
    ) {
        self.inotify = inotify
        self.filter = filter
        self.open = open
    }

    mutating func enter(
        _ path: RelativePath, interest: DirectoryListing.Interest, watching: Bool, each: ([ListedEntry]) -> Void
    ) -> Entrance {
        Pulse.current?.mark()
        let directory: Descriptor
        do throws(Errno) {
            guard let root = try knownRoot() else { return .gone }
            directory = try root.openDirectory(path)
            // Looked at only now, because something may have been mounted or moved there since its name was told.
            if !path.isRoot, let reason = filter.skipReason(of: try directory.status()) { return .skipped(reason) }
        } catch {
            if error.meansGone { return .gone }
            return .closed(Self.obstacle(error))
        }
        var watch: WatchDescriptor?
        var obstacle: WatchReport.Obstacle?
        if watching {
            do throws(Errno) {
                watch = try inotify?.addWatch(directory)
                if watch == nil { obstacle = .instanceLimit }
            } catch {
                obstacle = error == .noSpace ? .watchLimit : Self.obstacle(error)
                if error == .noSpace { isExhausted = true }
            }
        }
        let listing = DirectoryListing(directory, path: path, filter: filter, interest: interest)
        var (hasMore, isWhole) = (true, true)
        while hasMore && isWhole {
            var entries: [ListedEntry] = []
            do throws(Errno) {
                hasMore = try listing.read(into: &entries, limit: 4_096)
            } catch {
                if error.meansGone { return .gone }
                isWhole = false
            }
            if !entries.isEmpty { each(entries) }
        }
        return .entered(watch, obstacle, isWhole: isWhole)
    }

    mutating func removeWatch(_ watch: WatchDescriptor) { inotify?.removeWatch(watch) }

    mutating func look(at path: RelativePath) -> Sight {
        do throws(Errno) {
            guard let root = try knownRoot() else { return .gone }
            return .present(try root.status(of: path))
        } catch {
            return error.meansGone ? .gone : .failed
        }
    }

    /// `nil` if the root is not there, or is another directory than when the watches were placed.
    private mutating func knownRoot() throws(Errno) -> ConfinedDirectory? {
        if let root { return root }
        if rootFailure != nil { return nil }
        let opened: ConfinedDirectory
        do throws(SafeBackupError) {
            opened = try open()
        } catch {
            // No descriptors or no memory says nothing about the root.
            if error.code == .exhausted { throw .tooManyOpenFiles }
            rootFailure = error
            return nil
        }
        guard FileIdentity(try opened.root.status()) == filter.root else {
            rootFailure = SafeBackupError(
                .rootReplaced, "Another directory is where the source's root was; mount or restore the known one",
                disposition: .sourceGone)
            return nil
        }
        root = opened
        return opened
    }

    private static func obstacle(_ error: Errno) -> WatchReport.Obstacle {
        error == .permissionDenied || error == .notPermitted ? .unreadable : .failed
    }
}
