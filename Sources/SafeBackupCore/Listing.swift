/// One entry as a directory listing found it.
package struct ListedEntry: Sendable, Hashable {
    /// What is at the name.
    package enum Finding: Sendable, Hashable {
        case status(FileStatus)
        case skipped(SkipReason, EntryKind?)
    }

    package var leaf: [UInt8]
    package var finding: Finding

    package init(leaf: [UInt8], finding: Finding) {
        self.leaf = leaf
        self.finding = finding
    }
}

/// Why an entry is listed but not saved.
package enum SkipReason: String, Sendable, Hashable, CaseIterable {
    case excluded
    case special
    case reservedName
    case otherFileSystem
    case unreadable
    case ownState
    case ownDestination
}

/// A part of one directory's listing.
package struct ListedDirectory: Sendable {
    package var path: RelativePath
    package var status: FileStatus?
    package var entries: [ListedEntry]
    /// The listing was read to its end without an error and this is all of it; only then does a missing entry mean
    /// that it is absent.
    package var isWhole: Bool
    package var failure: SafeBackupError?

    package init(
        path: RelativePath, status: FileStatus? = nil, entries: [ListedEntry], isWhole: Bool,
        failure: SafeBackupError? = nil
    ) {
        self.path = path
        self.status = status
        self.entries = entries
        self.isWhole = isWhole
        self.failure = failure
    }
}
