extension Int64 {
    /// A file's length as it counts in a sum of many: at most 16 TiB, which is the longest file of most file systems.
    ///
    /// A sparse file takes no room and may be as long as a number can be; the sum of two such ends a program that adds, and
    /// a database that does. In SQL it is `min(size, 17592186044416)`.
    package var countedSize: Int64 { Swift.min(Swift.max(self, 0), 1 << 44) }
}
