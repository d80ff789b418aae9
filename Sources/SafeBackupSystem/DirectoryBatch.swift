package import SafeBackupCore
package import SystemPackage

import CSafeBackupLinux
import Glibc

/// Some thousand names of one directory, read at once, for work on millions of entries: no copy is made of a name, and
/// the memory is used again for the next batch.
///
/// Belongs to one thread at a time; who hands it on keeps no use of it.
package final class DirectoryBatch: @unchecked Sendable {
    /// One name of the batch; of use only until the next `fill`.
    package struct Entry: Sendable {
        fileprivate var offset: Int
        /// As the directory has it, which on some file systems is not what a look at the entry tells.
        package var inode: UInt64
        /// `nil` where the file system does not tell it.
        package var kind: EntryKind?
    }

    /// In the order of inodes, so that looking at them spares most of the seeks of a disk that is not in memory yet.
    package var entries: [Entry] = []
    private let buffer: UnsafeMutableRawBufferPointer

    /// - Parameter capacity: bytes of directory records at most, a name and about 20 bytes each.
    package init(capacity: Int = 64 << 10) {
        buffer = .allocate(byteCount: capacity, alignment: 16)
    }

    deinit { buffer.deallocate() }

    /// Reads the next names of an open directory; `false` at its end. The corresponding C function is `getdents64`.
    package func fill(from directory: Descriptor) throws(Errno) -> Bool {
        entries.removeAll(keepingCapacity: true)
        let length = try systemCall("getdents") { sb_read_entries(directory.raw, buffer.baseAddress, buffer.count) }
        var offset = 0
        while offset < length {
            // struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name. See: man 2 getdents64.
            let inode = buffer.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            let record = Int(buffer.loadUnaligned(fromByteOffset: offset + 16, as: UInt16.self))
            let kind = EntryKind(directoryEntryType: buffer[offset + 18])
            let name = offset + 19
            offset += record
            let isDots =
                buffer[name] == 0x2E && (buffer[name + 1] == 0 || (buffer[name + 1] == 0x2E && buffer[name + 2] == 0))
            if !isDots { entries.append(Entry(offset: name, inode: inode, kind: kind)) }
        }
        entries.sort { $0.inode < $1.inode }
        return length > 0
    }

    /// The name's bytes.
    package func name(of entry: Entry) -> [UInt8] { Array(buffer[entry.offset...].prefix { $0 != 0 }) }

    /// A number that tells the name from most others. See: Fowler, Noll, Vo (FNV-1a).
    package func digest(of entry: Entry) -> UInt64 {
        buffer[entry.offset...].prefix { $0 != 0 }.reduce(0xCBF2_9CE4_8422_2325) {
            ($0 ^ UInt64($1)) &* 0x100_0000_01B3
        }
    }

    /// Whether the entry's name is `name`, in ASCII capitals or not.
    package func isNamed(_ entry: Entry, _ name: StaticString) -> Bool {
        withName(entry) { strcasecmp($0, name.utf8Start) == 0 }
    }

    /// Looks at an entry of `directory`, never through a link. The corresponding C function is `statx`.
    package func status(of entry: Entry, in directory: Descriptor) throws(Errno) -> FileStatus {
        var status = sb_status()
        try systemCall("statx") { withName(entry) { sb_status_at(directory.raw, $0, &status) } }
        return FileStatus(status)
    }

    /// Removes an entry of `directory` that is not a directory. The corresponding C function is `unlinkat`.
    package func remove(_ entry: Entry, in directory: Descriptor) throws(Errno) {
        try systemCall("unlink") { withName(entry) { unlinkat(directory.raw, $0, 0) } }
    }

    private func withName<R>(_ entry: Entry, _ body: (UnsafePointer<CChar>) -> R) -> R {
        // The kernel ends each name with a NUL.
        buffer[entry.offset...].withMemoryRebound(to: CChar.self) { name in
            guard let start = name.baseAddress else { preconditionFailure("a batch with an entry has a buffer") }
            return body(UnsafePointer(start))
        }
    }
}

extension Descriptor {
    /// Where reading this directory goes on; holds for another descriptor of the same directory too.
    /// The corresponding C function is `lseek`.
    package func directoryPosition() throws(Errno) -> Int64 {
        Int64(try systemCall("lseek") { lseek(raw, 0, SEEK_CUR) })
    }

    /// The corresponding C function is `lseek`.
    package func setDirectoryPosition(_ position: Int64) throws(Errno) {
        try systemCall("lseek") { lseek(raw, off_t(position), SEEK_SET) }
    }

    /// Whether the permissions of this directory let us remove its entries. The corresponding C function is `faccessat`.
    package func allowsRemoval() -> Bool { faccessat(raw, ".", W_OK | X_OK, AT_EACCESS) == 0 }

    /// The directory above this one, also of a mount. At the top of all it is this one.
    package func parentDirectory() throws(Errno) -> Descriptor {
        try open([0x2E, 0x2E], sb_o_path | O_DIRECTORY)
    }
}
