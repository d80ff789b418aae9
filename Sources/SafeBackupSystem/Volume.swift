import CSafeBackupLinux
import Glibc
package import SafeBackupCore
package import SystemPackage

/// Space on the file system below a descriptor. The corresponding C function is `fstatfs`.
package struct VolumeStatistics: Sendable, Hashable {
    package var total: ByteCount
    /// What a process without privileges may still take.
    package var available: ByteCount
    /// What nobody has taken, with what is reserved for root.
    package var free: ByteCount
    /// `nil` where any number of files fits as long as there is room, or where nobody can tell.
    package var inodes: InodeCount?
    package var isReadOnly: Bool
    /// The longest name, in bytes.
    package var nameLimit: Int
    package var type: VolumeType

    package init(_ descriptor: Descriptor) throws(Errno) {
        var volume = sb_volume()
        try systemCall("statfs") { sb_volume(descriptor.raw, &volume) }
        total = ByteCount(Int64(clamping: volume.total))
        available = ByteCount(Int64(clamping: volume.available))
        free = ByteCount(Int64(clamping: volume.free))
        isReadOnly = volume.read_only != 0
        nameLimit = Int(clamping: volume.name_limit)
        type = VolumeType(rawValue: volume.type)
        let count = InodeCount(
            total: Int64(clamping: volume.inodes), available: Int64(clamping: volume.inodes_free))
        // What a server or a program behind the file system tells may be made up: some always say that none is free.
        let isTold = [.fuse, .smb, .cifs, .smb2, .plan9, .ceph].contains(type)
        inodes = isTold || count.total <= 0 || count.available > count.total ? nil : count
    }
}

/// How many files and directories a file system can hold at all, and how many more. See: man 2 statfs.
package struct InodeCount: Sendable, Hashable {
    package var total: Int64
    package var available: Int64

    package init(total: Int64, available: Int64) { (self.total, self.available) = (total, available) }

    /// With fewer than this older copies are removed: a tenth of the disk's, but at most 10,000,
    package var threshold: Int64 { min(total / 10, 10_000) }
    /// until so many are free.
    package var target: Int64 { threshold * 2 }
    /// Saving leaves so many: a hundredth, but at most 1,000.
    package var floor: Int64 { min(total / 100, 1_000) }
}

/// A file system's magic number. See: man 2 statfs.
package struct VolumeType: RawRepresentable, Hashable, Sendable {
    package var rawValue: Int64
    package init(rawValue: Int64) { self.rawValue = rawValue }

    package static let ext = Self(rawValue: 0xEF53)
    package static let xfs = Self(rawValue: 0x5846_5342)
    package static let btrfs = Self(rawValue: 0x9123_683E)
    package static let tmpfs = Self(rawValue: 0x0102_1994)
    package static let f2fs = Self(rawValue: 0xF2F5_2010)
    package static let zfs = Self(rawValue: 0x2FC1_2FC1)
    package static let bcachefs = Self(rawValue: 0xCA45_1A4E)
    package static let exfat = Self(rawValue: 0x2011_BAB0)
    package static let fat = Self(rawValue: 0x4D44)
    package static let overlay = Self(rawValue: 0x794C_7630)
    package static let fuse = Self(rawValue: 0x6573_5546)
    package static let nfs = Self(rawValue: 0x6969)
    package static let smb = Self(rawValue: 0x517B)
    package static let cifs = Self(rawValue: 0xFF53_4D42)
    package static let smb2 = Self(rawValue: 0xFE53_4D42)

    package static let plan9 = Self(rawValue: 0x0102_1997)
    package static let ceph = Self(rawValue: 0x00C3_6400)
    package static let afs = Self(rawValue: 0x5346_414F)

    /// The usual name, or the number.
    package var name: String {
        switch self {
        case .ext: "ext"
        case .xfs: "xfs"
        case .btrfs: "btrfs"
        case .tmpfs: "tmpfs"
        case .f2fs: "f2fs"
        case .zfs: "zfs"
        case .bcachefs: "bcachefs"
        case .exfat: "exfat"
        case .fat: "vfat"
        case .overlay: "overlay"
        case .fuse: "fuse"
        case .nfs: "nfs"
        case .smb, .cifs, .smb2: "smb"
        case .plan9: "9p"
        case .ceph: "ceph"
        case .afs: "afs"
        default: "0x" + String(UInt32(truncatingIfNeeded: rawValue), radix: 16)
        }
    }

    /// `syncfs` writes everything and reports errors here; FUSE does not even forward it.
    package var honoursSyncFileSystem: Bool {
        [.ext, .xfs, .btrfs, .f2fs, .bcachefs, .tmpfs].contains(self)
    }

    /// Only this machine's kernel changes what is on it, and tells each change. Of a network or FUSE file system the
    /// kernel tells what is changed through it, and not what a server or another machine does; of one that is not
    /// listed here nothing is known.
    package var reportsEveryChange: Bool {
        if [.ext, .xfs, .btrfs, .tmpfs, .f2fs, .zfs, .bcachefs, .exfat, .fat, .overlay].contains(self) { return true }
        return Self.otherLocal.contains(rawValue)
    }

    /// ntfs, ntfs3, jfs, reiserfs, nilfs2, udf, isofs, squashfs, erofs, hfs, hfsplus, ubifs, ramfs, minix (3 kinds).
    /// See: linux/magic.h and each file system's own header.
    private static let otherLocal: Set<Int64> = [
        0x5346_544E, 0x7366_746E, 0x3153_464A, 0x5265_4973, 0x3434, 0x1501_3346, 0x9660, 0x7371_7368, 0xE0F5_E1E2,
        0x4244, 0x482B, 0x2405_1905, 0x8584_58F6, 0x137F, 0x2468, 0x4D5A,
    ]

    /// What a test declares a source's file system to be, by SAFEBACKUP_VOLUME_TYPE=NUMBER; `nil` in a release build.
    package static var declaredForTests: VolumeType? {
        #if SAFEBACKUP_FAULTS
            return getenv("SAFEBACKUP_VOLUME_TYPE").flatMap { Int64(String(cString: $0)) }.map(Self.init(rawValue:))
        #else
            return nil
        #endif
    }

    /// An inode number stays the file's own over a remount.
    package var hasStableInodes: Bool {
        ![.exfat, .fat, .fuse, .smb, .cifs, .smb2].contains(self)
    }

    /// A local file system that knows who has a file open for writing (see `Descriptor.hasWriter`).
    package var hasLeases: Bool {
        [.ext, .xfs, .btrfs, .f2fs, .bcachefs, .zfs, .tmpfs].contains(self)
    }

    /// `f_fsid` comes from the file system's own UUID, not from a device number.
    fileprivate var hasStableIdentifier: Bool { [.ext, .btrfs, .zfs, .f2fs].contains(self) }
}

/// Tells whether a root is the directory we know: file-system type, UUID (or `f_fsid` where it is stable), inode and
/// birth time. Never the device number, which changes over a reboot.
package struct RootIdentity: Sendable, Hashable {
    package var type: VolumeType
    /// Hexadecimal; `nil` where the file system tells none that lasts.
    package var volume: String?
    package var inode: UInt64
    package var birthTime: FileTime?

    package init(type: VolumeType, volume: String?, inode: UInt64, birthTime: FileTime?) {
        self.type = type
        self.volume = volume
        self.inode = inode
        self.birthTime = birthTime
    }

    package init(of directory: Descriptor) throws(Errno) {
        var volume = sb_volume()
        try systemCall("statfs") { sb_volume(directory.raw, &volume) }
        let status = try directory.status()
        type = VolumeType(rawValue: volume.type)
        inode = status.fingerprint.inode
        birthTime = status.birthTime
        var uuid = [UInt8](repeating: 0, count: 16)
        let length = uuid.withUnsafeMutableBufferPointer { buffer in
            buffer.baseAddress.map { sb_volume_uuid(directory.raw, $0) } ?? -1
        }
        if type.hasStableIdentifier {
            self.volume = "fsid:" + hexadecimal(withUnsafeBytes(of: volume.fsid.bigEndian, Array.init))
        } else if length > 0 {
            self.volume = "uuid:" + hexadecimal(uuid[..<Int(length)])
        } else {
            self.volume = nil
        }
    }

    /// Whether `other` is the same directory. What one of the two does not know is not compared.
    package func matches(_ other: RootIdentity) -> Bool {
        if type != other.type || (type.hasStableInodes && inode != other.inode) { return false }
        if let volume, let known = other.volume, volume != known { return false }
        if let birthTime, let known = other.birthTime, birthTime != known { return false }
        return true
    }
}
