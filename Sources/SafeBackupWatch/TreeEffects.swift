import SafeBackupCore

/// What `WatchDigest` asks of the file system and the kernel. A test answers from memory.
protocol TreeEffects {
    /// Opens a directory, watches it, and lists it after that, so that what comes to be in it is either listed or
    /// reported. `each` gets the entries, in parts. Without `watching` it is only listed.
    mutating func enter(
        _ path: RelativePath, interest: DirectoryListing.Interest, watching: Bool, each: ([ListedEntry]) -> Void
    ) -> Entrance

    /// Ends a watch.
    mutating func removeWatch(_ watch: WatchDescriptor)

    /// Looks at an entry, never through a link.
    mutating func look(at path: RelativePath) -> Sight
}

/// What came of entering a directory.
enum Entrance: Sendable, Hashable {
    /// No such directory, or none any more: an event has told, or will tell, what became of it.
    case gone
    /// It is not saved.
    case skipped(SkipReason)
    /// It cannot be opened.
    case closed(WatchReport.Obstacle)
    /// `watch` is `nil` if there is an obstacle, or if none was asked for; `isWhole`: it was listed to the end.
    case entered(WatchDescriptor?, WatchReport.Obstacle?, isWhole: Bool)
}

/// What one look at an entry told.
enum Sight: Sendable, Hashable {
    case gone
    case present(FileStatus)
    case failed
}
