import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A directory's content as a backup has to keep it.
struct Tree {
    struct Entry: Equatable {
        var kind: EntryKind
        var mode: UInt32
        /// Of files.
        var size: Int64
        /// Of files and links.
        var mtime: FileTime?
        /// Of a file's content or a link's target.
        var digest: Digest?
        /// Blocks of a file in bytes; not compared.
        var allocated: Int64

        static func == (left: Entry, right: Entry) -> Bool { left.difference(from: right) == nil }

        func difference(from other: Entry) -> String? {
            if kind != other.kind { return "is a \(other.kind), not a \(kind)" }
            if kind != .symlink && mode != other.mode {
                return "has mode \(String(other.mode, radix: 8)), not \(String(mode, radix: 8))"
            }
            if size != other.size { return "has \(other.size) bytes, not \(size)" }
            if digest != other.digest { return "has other content" }
            if kind == .file && mtime != other.mtime { return "has another mtime" }
            return nil
        }
    }

    private(set) var entries: [RelativePath: Entry] = [:]

    /// Reads everything below `root`, except `.safebackup` at its top. What vanishes meanwhile is left out.
    init(_ root: FilePath) throws {
        try add(try Descriptor.open(root, O_RDONLY | O_DIRECTORY), at: .root)
    }

    private mutating func add(_ directory: Descriptor, at path: RelativePath) throws {
        var names: [[UInt8]] = []
        try directory.forEachEntry { name, _ in names.append(name) }
        for name in names where !(path.isRoot && name == Array(".safebackup".utf8)) {
            let here = path.appending(name)
            do {
                try add(name, in: directory, at: here)
            } catch Errno.noSuchFileOrDirectory {
                entries[here] = nil
            }
        }
    }

    private mutating func add(_ name: [UInt8], in directory: Descriptor, at path: RelativePath) throws {
        let status = try directory.status(of: name)
        var entry = Entry(
            kind: status.kind, mode: status.mode, size: 0, mtime: nil, digest: nil, allocated: status.allocated)
        switch status.kind {
        case .file:
            entry.size = status.size
            entry.mtime = status.fingerprint.mtime
            entry.digest = try digest(of: try directory.open(name, O_RDONLY))
        case .symlink: entry.digest = SHA256.digest(of: try directory.linkTarget(of: name))
        case .directory: try add(try directory.open(name, O_RDONLY | O_DIRECTORY), at: path)
        case .fifo, .socket, .device: break
        }
        entries[path] = entry
    }

    /// What `other` lacks or has differently, one sentence a path; what it has beyond is told unless `allowing` it.
    func differences(
        in other: Tree, allowing isAllowed: (RelativePath) -> Bool = { _ in false }
    ) -> [String] {
        var found: [String] = []
        for (path, entry) in entries {
            guard let there = other.entries[path] else {
                found.append("\(short(path)) is missing")
                continue
            }
            if let difference = entry.difference(from: there) { found.append("\(short(path)) \(difference)") }
        }
        for path in other.entries.keys where entries[path] == nil && !isAllowed(path) {
            found.append("\(short(path)) is there but should not be")
        }
        return found.sorted()
    }

    /// Some of the tests' paths are thousands of bytes long.
    private func short(_ path: RelativePath) -> String {
        let text = path.description
        return text.count <= 100 ? text : "\(text.prefix(40))…\(text.suffix(40))"
    }
}

/// The digest of all that can be read from the descriptor.
func digest(of file: Descriptor) throws -> Digest {
    let hash = SHA256()
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
    defer { buffer.deallocate() }
    while true {
        let count = try file.read(into: buffer)
        if count == 0 { return hash.finish() }
        hash.update(UnsafeRawBufferPointer(buffer)[..<count].rebased)
    }
}

extension Slice where Base == UnsafeRawBufferPointer {
    var rebased: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: self) }
}
