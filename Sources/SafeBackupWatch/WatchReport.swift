package import SafeBackupCore

/// What placing the watches of a source came to.
package struct WatchReport: Sendable, Hashable {
    package enum Obstacle: String, Sendable, Hashable, CaseIterable {
        /// `fs.inotify.max_user_watches` is reached.
        case watchLimit
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

/// Why what the watcher told may be incomplete: the source is desynced until a reconcile.
package enum DesyncReason: Sendable, Hashable {
    /// The kernel's queue was full, and it dropped events.
    case overflow
    /// Our own buffer or set was full.
    case bufferFull
    /// So much changed directly in this directory that it is not told entry by entry. A `Scanner` of depth `.entries`
    /// that begins there would find it.
    case crowded(RelativePath)
    /// The directory is not watched: `fs.inotify.max_user_watches` is reached.
    case watchLimit(RelativePath)
    /// The directory cannot be watched or listed.
    case unreadable(RelativePath)
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
    /// Each reason once. Not empty: call `resync`, then reconcile.
    package var desynced: [DesyncReason] = []
    /// Nothing more will come: the source is held until its root is known again.
    package var rootEvent: RootEvent?
    /// Came to be, and is not saved. What a rule excludes is not told.
    package var notSaved: [(path: RelativePath, reason: SkipReason, kind: EntryKind?)] = []

    package init() {}

    package var isEmpty: Bool { changes.isEmpty && desynced.isEmpty && rootEvent == nil && notSaved.isEmpty }
}
