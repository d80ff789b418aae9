package import SafeBackupCore

/// What placing the watches of a source came to.
package struct WatchReport: Sendable, Hashable {
    package enum Obstacle: String, Sendable, Hashable, CaseIterable {
        /// `fs.inotify.max_user_watches` is reached.
        case watchLimit
        /// `fs.inotify.max_user_instances` is reached.
        case instanceLimit
        case unreadable
        /// Any other failure of the system.
        case failed
    }

    package struct Unwatched: Sendable, Hashable {
        package var path: RelativePath
        package var obstacle: Obstacle
    }

    /// Directories found that are saved.
    package var directories = 0
    /// Those of them that are watched. Changes in the others are found by looking only.
    package var watched = 0
    /// The first hundred that are not.
    package var unwatched: [Unwatched] = []

    package init() {}

    mutating func add(_ path: RelativePath, _ obstacle: Obstacle) {
        if unwatched.count < 100 { unwatched.append(Unwatched(path: path, obstacle: obstacle)) }
    }
}

/// Of which directories events tell what changes in them. The others are found by looking: see `Watcher.glance`.
package struct WatchCoverage: Sendable, Hashable {
    /// Directories to be watched, without those that may not be read.
    package var directories = 0
    package var watched = 0
    package var unreadable = 0
    /// The system gave us an inotify instance.
    package var hasInstance = false
    /// The kernel tells of an access of our own to the root; `false` where it does not, and so will tell nothing.
    package var isAlive = true
    /// `fs.inotify.max_user_watches` was reached in the last look.
    package var isLimited = false
    /// There are directories for `Watcher.glance`.
    package var needsLook = false

    package init() {}

    package var unwatched: Int { max(0, directories - watched) }
}

/// Why what the watcher told may be incomplete: the source is desynced until a reconcile.
package enum DesyncReason: Sendable, Hashable {
    /// The kernel's queue was full, and it dropped events.
    case overflow
    /// Our own buffer or set was full.
    case bufferFull
    /// So much changed directly in this directory that it is not told entry by entry. A `Scanner` of depth `.entries`
    /// that begins there would find it.
    case crowded(RelativePath)
}

/// What became of the source's root.
package enum RootEvent: String, Sendable, Hashable, CaseIterable {
    /// Removed; told when nobody has it open any more.
    case deleted
    case moved
    case unmounted
    /// The kernel ended the watch without saying why.
    case selfIgnored
    /// It cannot be opened, or another directory is at its path.
    case unreachable
}

/// Everything that was seen since the last batch, coalesced.
package struct WatchBatch: Sendable {
    /// Directories that vanished first, the rest in the order of first sight.
    package var changes: [Change] = []
    /// By paths in `changes`: where the file lay before this batch, if nothing but renames was told of it since.
    package var renames: [RelativePath: RelativePath] = [:]
    /// Each reason once. `crowded` asks for a look at that directory, the others for `resync` and then a reconcile.
    package var desynced: [DesyncReason] = []
    /// Nothing more will come: the source is held until its root is known again.
    package var rootEvent: RootEvent?
    /// Came to be, and is not saved. What a rule excludes is not told.
    package var notSaved: [(path: RelativePath, reason: SkipReason, kind: EntryKind?)] = []

    package init() {}

    package var isEmpty: Bool { changes.isEmpty && desynced.isEmpty && rootEvent == nil && notSaved.isEmpty }
}
