import CSafeBackupLinux
package import SafeBackupCore
package import SystemPackage

package import Glibc

/// An open file descriptor, closed when the last reference goes. Every descriptor is close-on-exec.
package final class Descriptor: Sendable {
    package let raw: Int32

    /// Takes ownership of `raw`.
    package init(owning raw: Int32) { self.raw = raw }

    deinit { close(raw) }

    /// Opens a path of the machine, following links. The corresponding C function is `open`.
    package static func open(
        _ path: FilePath, _ flags: Int32, mode: mode_t = 0o600
    ) throws(Errno) -> Descriptor {
        Descriptor(
            owning: try systemCall("open") {
                path.withPlatformString { Glibc.open($0, flags | O_CLOEXEC, mode) }
            })
    }

    /// Opens an entry of this directory, never through a link. The corresponding C function is `openat`.
    package func open(_ leaf: [UInt8], _ flags: Int32, mode: mode_t = 0o600) throws(Errno) -> Descriptor {
        Descriptor(
            owning: try systemCall("open") {
                withCString(leaf) { openat(raw, $0, flags | O_NOFOLLOW | O_CLOEXEC, mode) }
            })
    }

    /// Looks at an entry of this directory, never through a link. The corresponding C function is `statx`.
    package func status(of leaf: [UInt8]) throws(Errno) -> FileStatus {
        var status = sb_status()
        try systemCall("statx") { withCString(leaf) { sb_status_at(raw, $0, &status) } }
        return FileStatus(status)
    }

    /// As `status(of:)`; `nil` if nothing has the name.
    package func statusIfThere(of leaf: [UInt8]) throws(Errno) -> FileStatus? {
        do {
            return try status(of: leaf)
        } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }

    /// Looks at a path of the machine without opening it, and never through a link at its end. The corresponding C
    /// function is `statx`.
    package static func status(of path: FilePath) throws(Errno) -> FileStatus {
        var status = sb_status()
        try systemCall("statx") { path.withPlatformString { sb_status_at(AT_FDCWD, $0, &status) } }
        return FileStatus(status)
    }

    /// Looks at the open file itself. The corresponding C function is `statx`.
    package func status() throws(Errno) -> FileStatus {
        var status = sb_status()
        try systemCall("statx") { sb_status_at(raw, "", &status) }
        return FileStatus(status)
    }

    /// Reads at the current position; fewer bytes than asked are possible, 0 is the end.
    package func read(into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
        let count = Faults.allowed(buffer.count, in: "read")
        return try systemCall("read") { Glibc.read(raw, buffer.baseAddress, count) }
    }

    /// Reads at `offset`; fewer bytes than asked are possible, 0 is the end. The corresponding C function is `pread`.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int64) throws(Errno) -> Int {
        let count = Faults.allowed(buffer.count, in: "read")
        return try systemCall("read") { pread(raw, buffer.baseAddress, count, off_t(offset)) }
    }

    /// Writes all of `buffer` at `offset`. The corresponding C function is `pwrite`.
    package func write(_ buffer: UnsafeRawBufferPointer, at offset: Int64) throws(Errno) {
        var done = 0
        while done < buffer.count {
            let count = Faults.allowed(buffer.count - done, in: "write")
            done += try systemCall("write") {
                pwrite(raw, buffer.baseAddress.map { $0 + done }, count, off_t(offset) + off_t(done))
            }
        }
    }

    /// The whole content from the current position on; for small files of ours.
    package func readAll(limit: Int = 16 << 20) throws(Errno) -> [UInt8] {
        var bytes: [UInt8] = []
        let size = 64 << 10
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            let count = try read(into: buffer)
            if count == 0 { return bytes }
            bytes.append(contentsOf: buffer[..<count])
            if bytes.count > limit { throw Errno.fileTooLarge }
        }
    }

    /// The corresponding C function is `ftruncate`.
    package func setSize(_ size: Int64) throws(Errno) {
        try systemCall("ftruncate") { ftruncate(raw, off_t(size)) }
    }

    /// The corresponding C function is `fsync`. After an error the written bytes may be lost: write again from the
    /// source, never sync again. See: "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    package func sync() throws(Errno) {
        try systemCall("fsync") { fsync(raw) }
    }

    /// Flushes the whole file system below this descriptor; reports write errors since it was opened (Linux 5.8).
    /// The corresponding C function is `syncfs`.
    package func syncFileSystem() throws(Errno) {
        try systemCall("syncfs") { sb_sync_filesystem(raw) }
    }

    /// Starts writeback of a range. Advice: errors appear at the flush. The corresponding C function is `sync_file_range`.
    package func startWriteback(_ offset: Int64, _ length: Int64) {
        _ = sb_start_writeback(raw, offset, length)
    }

    /// The next offset that holds content, or `nil` if only a hole follows. The corresponding C function is `lseek`.
    package func nextContent(from offset: Int64) throws(Errno) -> Int64? {
        do {
            return try systemCall("lseek") { sb_seek_content(raw, offset) }
        } catch {
            if error == .noSuchAddressOrDevice { return nil }
            throw error
        }
    }

    /// The next hole, or the end of the file. The corresponding C function is `lseek`.
    package func nextHole(from offset: Int64) throws(Errno) -> Int64 {
        try systemCall("lseek") { sb_seek_hole(raw, offset) }
    }

    /// The corresponding C function is `mkdirat`.
    package func makeDirectory(_ leaf: [UInt8], mode: mode_t = 0o700) throws(Errno) {
        try systemCall("mkdir") { withCString(leaf) { mkdirat(raw, $0, mode) } }
    }

    /// The corresponding C function is `unlinkat`.
    package func remove(_ leaf: [UInt8], isDirectory: Bool = false) throws(Errno) {
        try systemCall("unlink") { withCString(leaf) { unlinkat(raw, $0, isDirectory ? AT_REMOVEDIR : 0) } }
    }

    /// The corresponding C function is `linkat`; never follows a link.
    package func link(_ leaf: [UInt8], to directory: Descriptor, _ newLeaf: [UInt8]) throws(Errno) {
        try systemCall("link") {
            withCString(leaf) { old in withCString(newLeaf) { linkat(raw, old, directory.raw, $0, 0) } }
        }
    }

    /// Replaces what is at the new name. The corresponding C function is `renameat`.
    package func rename(_ leaf: [UInt8], to directory: Descriptor, _ newLeaf: [UInt8]) throws(Errno) {
        try systemCall("rename") {
            withCString(leaf) { old in withCString(newLeaf) { renameat(raw, old, directory.raw, $0) } }
        }
    }

    /// `EEXIST` if something is at the new name. The corresponding C function is `renameat2`.
    package func renameWithoutReplacing(
        _ leaf: [UInt8], to directory: Descriptor, _ newLeaf: [UInt8]
    ) throws(Errno) {
        try systemCall("rename") {
            withCString(leaf) { old in withCString(newLeaf) { sb_rename_noreplace(raw, old, directory.raw, $0) } }
        }
    }

    /// The corresponding C function is `symlinkat`.
    package func makeSymbolicLink(_ leaf: [UInt8], target: [UInt8]) throws(Errno) {
        try systemCall("symlink") { withCString(target) { text in withCString(leaf) { symlinkat(text, raw, $0) } } }
    }

    /// The corresponding C function is `readlinkat`.
    package func linkTarget(of leaf: [UInt8]) throws(Errno) -> [UInt8] {
        var capacity = 4_096
        while true {
            var target = [UInt8](repeating: 0, count: capacity)
            let length = try systemCall("readlink") {
                target.withUnsafeMutableBytes { buffer in
                    withCString(leaf) { leaf in
                        buffer.withMemoryRebound(to: CChar.self) { text in
                            text.baseAddress.map { readlinkat(raw, leaf, $0, text.count) } ?? -1
                        }
                    }
                }
            }
            if length < capacity { return Array(target[..<length]) }
            capacity *= 2
        }
    }

    /// The corresponding C function is `fchmod`.
    package func setMode(_ mode: UInt32) throws(Errno) {
        try systemCall("fchmod") { fchmod(raw, mode) }
    }

    /// The corresponding C function is `fchown`.
    package func setOwner(uid: UInt32, gid: UInt32) throws(Errno) {
        try systemCall("fchown") { fchown(raw, uid, gid) }
    }

    /// Never follows a link. The corresponding C function is `fchownat`.
    package func setOwner(of leaf: [UInt8], uid: UInt32, gid: UInt32) throws(Errno) {
        try systemCall("fchown") { withCString(leaf) { fchownat(raw, $0, uid, gid, AT_SYMLINK_NOFOLLOW) } }
    }

    /// Sets access and modification time of the open file. The corresponding C function is `futimens`.
    package func setModified(_ time: FileTime) throws(Errno) {
        let stamp = timespec(tv_sec: Int(time.seconds), tv_nsec: Int(time.remainder))
        try systemCall("utimens") {
            withUnsafePointer(to: (stamp, stamp)) { pair in
                pair.withMemoryRebound(to: timespec.self, capacity: 2) { futimens(raw, $0) }
            }
        }
    }

    /// Never follows a link. The corresponding C function is `utimensat`.
    package func setModified(_ time: FileTime, of leaf: [UInt8]) throws(Errno) {
        let stamp = timespec(tv_sec: Int(time.seconds), tv_nsec: Int(time.remainder))
        try systemCall("utimens") {
            withUnsafePointer(to: (stamp, stamp)) { pair in
                pair.withMemoryRebound(to: timespec.self, capacity: 2) { times in
                    withCString(leaf) { utimensat(raw, $0, times, AT_SYMLINK_NOFOLLOW) }
                }
            }
        }
    }

    /// All extended attributes, sorted by name; none where the file system has no such thing.
    /// The corresponding C functions are `flistxattr` and `fgetxattr`.
    package func extendedAttributes() throws(Errno) -> [ExtendedAttribute] {
        var capacity = 1_024
        var names: [UInt8] = []
        while true {
            names = [UInt8](repeating: 0, count: capacity)
            do {
                let length = try systemCall("listxattr") {
                    names.withUnsafeMutableBytes {
                        sb_list_xattrs(raw, $0.baseAddress?.assumingMemoryBound(to: CChar.self), capacity)
                    }
                }
                names.removeLast(capacity - length)
                break
            } catch {
                switch error {
                case .notSupported, .noFunction: return []
                case .outOfRange where capacity < 1 << 20: capacity *= 4
                default: throw error
                }
            }
        }
        if names.isEmpty { return [] }
        var attributes: [ExtendedAttribute] = []
        for name in names.split(separator: 0) {
            let name = Array(name)
            if let value = try extendedAttribute(name) {
                attributes.append(ExtendedAttribute(name: name, value: value))
            }
        }
        return attributes.sorted { $0.name.lexicographicallyPrecedes($1.name) }
    }

    /// `nil` if there is none of that name.
    private func extendedAttribute(_ name: [UInt8]) throws(Errno) -> [UInt8]? {
        // XATTR_SIZE_MAX is 64 KiB. See: man 7 xattr.
        var value = [UInt8](repeating: 0, count: 65_536)
        do {
            let length = try systemCall("getxattr") {
                value.withUnsafeMutableBytes { buffer in
                    withCString(name) { sb_get_xattr(raw, $0, buffer.baseAddress, buffer.count) }
                }
            }
            value.removeLast(value.count - length)
            return value
        } catch {
            // Gone between list and get, or a name that only a more privileged process may read.
            if error == .noData || error == .notSupported || error == .permissionDenied || error == .notPermitted {
                return nil
            }
            throw error
        }
    }

    /// The corresponding C function is `fsetxattr`.
    package func setExtendedAttribute(_ attribute: ExtendedAttribute) throws(Errno) {
        try systemCall("setxattr") {
            attribute.value.withUnsafeBytes { value in
                withCString(attribute.name) { sb_set_xattr(raw, $0, value.baseAddress, value.count) }
            }
        }
    }

    /// The corresponding C function is `fremovexattr`.
    package func removeExtendedAttribute(_ name: [UInt8]) throws(Errno) {
        try systemCall("setxattr") { withCString(name) { sb_remove_xattr(raw, $0) } }
    }

    /// Calls `body` with each entry's name and, where the file system tells it, its kind. Returns normally only after
    /// the end of the directory was read.
    package func forEachEntry(_ body: (_ name: [UInt8], _ kind: EntryKind?) -> Void) throws(Errno) {
        try systemCall("lseek") { lseek(raw, 0, SEEK_SET) }
        while try readEntries({ name, kind, _ in body(name, kind) }) {}
    }

    /// Reads some hundred entries of a directory from the current position on; `false` at its end.
    /// The corresponding C function is `getdents64`.
    package func readEntries(
        _ body: (_ name: [UInt8], _ kind: EntryKind?, _ inode: UInt64) -> Void
    ) throws(Errno) -> Bool {
        let capacity = 32 << 10
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 16)
        defer { buffer.deallocate() }
        let length = try systemCall("getdents") { sb_read_entries(raw, buffer.baseAddress, capacity) }
        var offset = 0
        while offset < length {
            // struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name. See: man 2 getdents64.
            let inode = buffer.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            let record = Int(buffer.loadUnaligned(fromByteOffset: offset + 16, as: UInt16.self))
            let type = buffer[offset + 18]
            let name = buffer[(offset + 19)..<(offset + record)].prefix { $0 != 0 }
            offset += record
            if name.elementsEqual([0x2E]) || name.elementsEqual([0x2E, 0x2E]) { continue }
            body(Array(name), EntryKind(directoryEntryType: type), inode)
        }
        return length > 0
    }
}

extension EntryKind {
    init?(directoryEntryType type: UInt8) {
        switch Int(type) {
        case 8: self = .file
        case 4: self = .directory
        case 10: self = .symlink
        case 1: self = .fifo
        case 12: self = .socket
        case 2, 6: self = .device
        default: return nil
        }
    }

    init(mode: UInt32) {
        switch mode & 0o170000 {
        case 0o100000: self = .file
        case 0o040000: self = .directory
        case 0o120000: self = .symlink
        case 0o010000: self = .fifo
        case 0o140000: self = .socket
        default: self = .device
        }
    }
}

extension FileStatus {
    init(_ status: sb_status) {
        self.init(
            kind: EntryKind(mode: status.mode),
            fingerprint: Fingerprint(
                inode: status.inode, size: Int64(clamping: status.size),
                mtime: FileTime(seconds: status.mtime_seconds, nanoseconds: Int64(status.mtime_nanoseconds)),
                ctime: FileTime(seconds: status.ctime_seconds, nanoseconds: Int64(status.ctime_nanoseconds))),
            mode: status.mode & 0o7777, uid: status.uid, gid: status.gid, linkCount: status.nlink,
            allocated: Int64(clamping: status.blocks) &* 512, device: status.device,
            birthTime: status.has_btime == 0
                ? nil : FileTime(seconds: status.btime_seconds, nanoseconds: Int64(status.btime_nanoseconds)),
            isMountRoot: status.is_mount_root != 0)
    }
}
