import Glibc
package import SystemPackage

/// Tells when something was mounted or unmounted below a directory, which inotify does not.
/// See: man 5 proc_pid_mountinfo.
package final class MountTable: Sendable {
    /// One mount. Its number is another after a remount by `umount` and `mount`.
    package struct Mount: Sendable, Hashable {
        package var number: Int64
        /// Absolute.
        package var point: [UInt8]
    }

    private let table: Descriptor

    package init() throws(Errno) {
        table = try Self.open()
    }

    private static func open() throws(Errno) -> Descriptor {
        try Descriptor.open("/proc/self/mountinfo", O_RDONLY)
    }

    /// Whether the table changed since the last question, or since it was opened. Does not wait.
    package func hasChanged() throws(Errno) -> Bool {
        var asked = pollfd(fd: table.raw, events: Int16(POLLPRI), revents: 0)
        try systemCall("poll") { poll(&asked, 1, 0) }
        return asked.revents & Int16(POLLPRI | POLLERR) != 0
    }

    /// What is mounted below `directory`, an absolute path without links, and at it.
    package static func mounts(below directory: FilePath) throws(Errno) -> Set<Mount> {
        let root = directory.withPlatformString { Array(UnsafeRawBufferPointer(start: $0, count: strlen($0))) }
        // A host of containers has some thousands of mounts, of some hundred bytes each.
        return mounts(in: try open().readAll(limit: 64 << 20), below: root)
    }

    static func mounts(in table: [UInt8], below root: [UInt8]) -> Set<Mount> {
        let prefix = root == [UInt8(ascii: "/")] ? root : root + [UInt8(ascii: "/")]
        var found: Set<Mount> = []
        for line in table.split(separator: UInt8(ascii: "\n")) {
            let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
            guard fields.count > 4, let number = Int64(String(decoding: fields[0], as: UTF8.self)) else { continue }
            let point = unescaped(fields[4])
            if point == root || point.starts(with: prefix) { found.insert(Mount(number: number, point: point)) }
        }
        return found
    }

    /// Space, tab, newline and backslash stand as three octal digits after a backslash.
    private static func unescaped(_ field: ArraySlice<UInt8>) -> [UInt8] {
        var bytes: [UInt8] = []
        var rest = field
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3, digits.allSatisfy({ (0x30...0x37).contains($0) }) {
                bytes.append(UInt8(truncatingIfNeeded: digits.reduce(0) { $0 << 3 | Int($1 & 7) }))
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return bytes
    }
}
