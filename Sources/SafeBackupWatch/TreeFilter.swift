package import SafeBackupCore

/// Decides which entries of a source are saved. The scanner and the watcher ask the same filter, so that they agree.
package struct TreeFilter: Sendable {
    /// A file or directory by what it is, not by what it is called; valid until the file system is mounted again.
    package struct Place: Sendable, Hashable {
        package var device: UInt64
        package var inode: UInt64

        package init(device: UInt64, inode: UInt64) {
            self.device = device
            self.inode = inode
        }

        package init(_ status: FileStatus) {
            self.init(device: status.device, inode: status.fingerprint.inode)
        }
    }

    /// The source's root itself.
    package let root: Place
    private let rules: ExcludeRules
    private let ownStates: Set<Place>
    private let ownDestinations: Set<Place>

    /// - Parameters:
    ///   - root: the status of the source's root, as it is mounted now.
    ///   - ownStates: state directories, which may lie inside the source.
    ///   - ownDestinations: roots of destinations, which may lie inside the source.
    package init(
        root: FileStatus, rules: ExcludeRules = ExcludeRules(), ownStates: Set<Place> = [],
        ownDestinations: Set<Place> = []
    ) {
        self.root = Place(root)
        self.rules = rules
        self.ownStates = ownStates
        self.ownDestinations = ownDestinations
    }

    /// What the name alone tells; `nil`: nothing against it. `directory` is known to be saved itself.
    package func skipReason(in directory: RelativePath, leaf: [UInt8], isDirectory: Bool) -> SkipReason? {
        // `.safebackup` at the top is where a destination keeps what is its own.
        if directory.isRoot && leaf == Self.reservedLeaf { return .reservedName }
        if rules.verdict(in: directory, leaf: leaf, isDirectory: isDirectory) != .included { return .excluded }
        return nil
    }

    /// What name and status tell; `nil`: the entry is saved. `directory` is known to be saved itself.
    package func skipReason(in directory: RelativePath, leaf: [UInt8], status: FileStatus) -> SkipReason? {
        skipReason(in: directory, leaf: leaf, isDirectory: status.kind == .directory) ?? skipReason(of: status)
    }

    /// What the status alone tells, of anything but the root; `nil`: nothing against it.
    package func skipReason(of status: FileStatus) -> SkipReason? {
        if status.kind.isSpecial { return .special }
        if status.kind == .directory {
            let place = Place(status)
            if ownStates.contains(place) { return .ownState }
            if ownDestinations.contains(place) { return .ownDestination }
        }
        // A bind mount of the same file system has the same device.
        if status.device != root.device || status.isMountRoot { return .otherFileSystem }
        return nil
    }

    /// What the names of the path and of its directories tell; `nil`: nothing against it.
    package func skipReason(ofNames path: RelativePath, isDirectory: Bool) -> SkipReason? {
        if path.components.first == Self.reservedLeaf { return .reservedName }
        return rules.verdict(for: path, isDirectory: isDirectory) == .included ? nil : .excluded
    }

    private static let reservedLeaf = Array(".safebackup".utf8)
}
