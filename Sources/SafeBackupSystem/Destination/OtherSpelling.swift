package import SafeBackupCore

/// An entry that a location folds onto, where the destination takes both names for one.
package struct OtherSpelling: Sendable, Hashable {
    /// The location's own, or that of a directory on the way to it.
    package var location: RelativePath
    /// All that lies below it goes with it: nothing else may be done at the same time.
    package var isDirectory: Bool

    package init(location: RelativePath, isDirectory: Bool) {
        self.location = location
        self.isDirectory = isDirectory
    }
}
