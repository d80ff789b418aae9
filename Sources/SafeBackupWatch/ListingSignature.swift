package import SafeBackupCore

/// Tells whether a directory's entries changed between two looks, in eight bytes. What counts is what a comparison with
/// the catalogue would see; the order of the entries does not.
package struct ListingSignature: Sendable {
    /// No look is known.
    package static let unknown: UInt64 = 0
    /// The directory could not be listed.
    package static let closed: UInt64 = 1

    private let now: FileTime
    private let inodesAreStable: Bool
    private var sum: UInt64 = 2
    /// An entry changed so recently that another change might leave the same times.
    private var isRacy = false

    /// - Parameters:
    ///   - now: when the listing began.
    ///   - inodesAreStable: the file system keeps a file's inode number.
    package init(now: FileTime, inodesAreStable: Bool) {
        self.now = now
        self.inodesAreStable = inodesAreStable
    }

    package mutating func add(_ entry: ListedEntry) {
        // Seeded per process, so that nobody can make two listings alike.
        var hasher = Hasher()
        hasher.combine(entry.leaf)
        switch entry.finding {
        case .skipped(let reason, _): hasher.combine(reason)
        case .status(let status):
            hasher.combine(status.kind)
            hasher.combine(status.mode)
            hasher.combine(status.uid)
            hasher.combine(status.gid)
            if inodesAreStable { hasher.combine(status.fingerprint.inode) }
            // A directory's size and times change with its entries, which have a signature of their own.
            if status.kind != .directory {
                hasher.combine(status.size)
                hasher.combine(status.fingerprint.mtime)
                hasher.combine(status.fingerprint.ctime)
                note(status.fingerprint.mtime)
                note(status.fingerprint.ctime)
            }
        }
        sum &+= UInt64(bitPattern: Int64(hasher.finalize()))
    }

    private mutating func note(_ time: FileTime) {
        // Some file systems count in steps of two seconds.
        let (distance, overflow) = now.nanoseconds.subtractingReportingOverflow(time.nanoseconds)
        if !overflow && distance.magnitude < 3_000_000_000 { isRacy = true }
    }

    /// `unknown` while an entry is too young to tell.
    package var value: UInt64 { isRacy ? Self.unknown : max(sum, 2) }
}
