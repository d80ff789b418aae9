import SafeBackupCore
import SafeBackupSystem

/// A file's place in the order of removal: by its time, and among equal times by its inode, so that all names of one
/// inode have the same place.
struct AgeKey: Sendable, Hashable, Comparable {
    /// Nanoseconds since 1970.
    var time: Int64
    var inode: UInt64

    init(time: Int64, inode: UInt64) {
        self.time = time
        self.inode = inode
    }

    static func < (left: AgeKey, right: AgeKey) -> Bool {
        left.time != right.time ? left.time < right.time : left.inode < right.inode
    }
}

extension Int64 {
    /// A broken file system may tell any number of blocks; a sum of them must not end the program.
    func addingClamped(_ other: Int64) -> Int64 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? (other < 0 ? .min : .max) : sum
    }
}

/// Which entries may be removed, and in which order.
struct AgeRules: Sendable {
    let order: CleaningConfiguration.Order
    /// Inode numbers stay the files' own from one look to the next.
    let hasStableInodes: Bool

    /// Regular files, and links, which free nothing and go with what is as old. Never what something is mounted on.
    func isRemovable(_ status: FileStatus) -> Bool {
        (status.kind == .file || status.kind == .symlink) && !status.isMountRoot
    }

    func key(of entry: DirectoryBatch.Entry, in batch: DirectoryBatch, _ status: FileStatus) -> AgeKey {
        AgeKey(
            time: order.time(of: status), inode: hasStableInodes ? status.fingerprint.inode : batch.digest(of: entry))
    }

    /// What the file holds on the disk.
    func bytes(of status: FileStatus) -> Int64 { status.kind == .file ? max(0, status.allocated) : 0 }

    /// Names of the file's inode, as far as they matter.
    func links(of status: FileStatus) -> UInt32 { status.kind == .file && hasStableInodes ? status.linkCount : 1 }
}
