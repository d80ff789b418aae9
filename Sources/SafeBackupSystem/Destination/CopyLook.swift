/// What a look finds where a stored copy should be.
package enum CopyLook: Sendable, Hashable {
    /// It is there, as it was stored, and gives back so many bytes when it goes.
    case same(frees: Int64)
    case missing
    /// Something else is there.
    case other
}
