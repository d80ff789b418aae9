/// What kind of thing a directory entry is.
package enum EntryKind: String, Sendable, Hashable, CaseIterable {
    case file
    case directory
    case symlink
    case fifo
    case socket
    case device

    /// FIFOs, sockets and devices are listed and never opened.
    package var isSpecial: Bool { self == .fifo || self == .socket || self == .device }
}

/// Tells whether a file changed between two looks. Taken before and after reading; if they differ, the read is torn.
package struct Fingerprint: Sendable, Hashable {
    package var inode: UInt64
    /// Bytes.
    package var size: Int64
    package var mtime: FileTime
    package var ctime: FileTime

    package init(inode: UInt64, size: Int64, mtime: FileTime, ctime: FileTime) {
        self.inode = inode
        self.size = size
        self.mtime = mtime
        self.ctime = ctime
    }
}

/// What is kept of an entry besides its content. Times of files are in its fingerprint.
package struct FileMetadata: Sendable, Hashable {
    /// Permission bits with setuid, setgid and sticky (07777).
    package var mode: UInt32
    package var uid: UInt32
    package var gid: UInt32
    package var xattrs: [ExtendedAttribute]

    package init(mode: UInt32, uid: UInt32, gid: UInt32, xattrs: [ExtendedAttribute] = []) {
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.xattrs = xattrs
    }
}

package struct ExtendedAttribute: Sendable, Hashable {
    /// With its name space, as `user.comment`.
    package var name: [UInt8]
    package var value: [UInt8]

    package init(name: [UInt8], value: [UInt8]) {
        self.name = name
        self.value = value
    }
}

/// What one look (statx, never through a link) tells of an entry.
package struct FileStatus: Sendable, Hashable {
    package var kind: EntryKind
    package var fingerprint: Fingerprint
    /// Permission bits with setuid, setgid and sticky (07777).
    package var mode: UInt32
    package var uid: UInt32
    package var gid: UInt32
    package var linkCount: UInt32
    /// Allocated bytes (`st_blocks` × 512).
    package var allocated: Int64
    package var device: UInt64
    /// Birth time, where the file system keeps one.
    package var birthTime: FileTime?
    package var isMountRoot: Bool

    package init(
        kind: EntryKind, fingerprint: Fingerprint, mode: UInt32, uid: UInt32, gid: UInt32, linkCount: UInt32 = 1,
        allocated: Int64 = 0, device: UInt64 = 0, birthTime: FileTime? = nil, isMountRoot: Bool = false
    ) {
        self.kind = kind
        self.fingerprint = fingerprint
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.linkCount = linkCount
        self.allocated = allocated
        self.device = device
        self.birthTime = birthTime
        self.isMountRoot = isMountRoot
    }

    package var size: Int64 { fingerprint.size }
}
