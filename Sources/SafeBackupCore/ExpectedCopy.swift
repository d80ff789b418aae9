/// What the destination should have of a live name, as one look can tell.
package struct ExpectedCopy: Sendable, Hashable {
    package var source: SourceID
    /// At the source.
    package var path: RelativePath
    /// Below the destination's root.
    package var location: RelativePath
    /// Of the live name that says so.
    package var name: Int64
    package var kind: EntryKind
    /// Bytes; of a directory without meaning, as its times.
    package var size: Int64
    /// The copy's own, and the source's, which a save of equal content gave it; empty if nobody knows.
    package var mtimes: [FileTime]

    package init(
        source: SourceID, path: RelativePath, location: RelativePath, name: Int64, kind: EntryKind, size: Int64,
        mtimes: [FileTime]
    ) {
        self.source = source
        self.path = path
        self.location = location
        self.name = name
        self.kind = kind
        self.size = size
        self.mtimes = mtimes
    }
}
