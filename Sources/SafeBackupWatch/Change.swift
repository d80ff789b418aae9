package import SafeBackupCore

/// One observed difference at a path. Not yet a promise, and only a hint of what is there now: whoever acts on it
/// looks at the source again.
package struct Change: Sendable, Hashable {
    package enum Kind: String, Sendable, Hashable, CaseIterable {
        /// Complete as far as we know: closed after writing, moved in, or made in one step (a link, a directory).
        case closed
        /// Written and not closed, or created by somebody who still has it open.
        case modified
        /// Mode, owner, times, extended attributes or link count.
        case attributes
        /// Deleted or moved away; of a directory: with everything that was below it.
        case vanished
        /// Found by listing a directory that is new.
        case found
    }

    package var path: RelativePath
    package var kind: Kind
    package var isDirectory: Bool

    package init(path: RelativePath, kind: Kind, isDirectory: Bool) {
        self.path = path
        self.kind = kind
        self.isDirectory = isDirectory
    }
}
