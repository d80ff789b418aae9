package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What was read of a file, from its beginning on.
package struct ReadContent: Sendable, Hashable {
    package var digest: Digest
    /// Bytes that were read.
    package var size: Int64
    /// After the last of them was read.
    package var after: FileStatus
}

/// Reads one file from its beginning to its end into buffers, and hashes it on the way: one pass, so that the digest is
/// of the bytes that are sent. Blocks. Used by one thread at a time: each call is awaited before the next.
final class PartReader: @unchecked Sendable {
    private static let step = 1 << 20

    private let file: Descriptor
    private let path: RelativePath
    private let throttle: Throttle?
    private let isInterrupted: @Sendable () -> Bool
    private let whole = SHA256()
    private let part = SHA256()
    private var offset: Int64 = 0

    init(
        _ file: Descriptor, _ path: RelativePath, throttle: Throttle?, isInterrupted: @escaping @Sendable () -> Bool
    ) {
        self.file = file
        self.path = path
        self.throttle = throttle
        self.isInterrupted = isInterrupted
    }

    /// The next `limit` bytes, fewer at the end of the file. `digest`: of these bytes, where it is asked for.
    func next(_ limit: Int, hashesPart: Bool) throws(SafeBackupError) -> (buffer: PartBuffer, digest: Digest?) {
        let buffer = PartBuffer(capacity: limit)
        try buffer.fill { (memory) throws(SafeBackupError) in
            var filled = 0
            while filled < limit {
                let count = try read(
                    UnsafeMutableRawBufferPointer(rebasing: memory[filled..<min(limit, filled + Self.step)]))
                if count == 0 { break }
                let bytes = UnsafeRawBufferPointer(rebasing: memory[filled..<(filled + count)])
                whole.update(bytes)
                if hashesPart { part.update(bytes) }
                filled += count
                offset += Int64(count)
            }
            return filled
        }
        return (buffer, hashesPart ? part.finish() : nil)
    }

    private func read(_ memory: UnsafeMutableRawBufferPointer) throws(SafeBackupError) -> Int {
        if isInterrupted() { throw ReadFailure.interrupted(path) }
        Pulse.current?.mark()
        let count: Int
        do {
            count = try file.read(into: memory, at: offset)
        } catch {
            throw ReadFailure.source(error, path)
        }
        if throttle?.take(count, isInterrupted: isInterrupted) == false { throw ReadFailure.interrupted(path) }
        return count
    }

    /// Ends the reading.
    func finish() throws(SafeBackupError) -> ReadContent {
        do {
            return ReadContent(digest: whole.finish(), size: offset, after: try file.status())
        } catch {
            throw ReadFailure.source(error, path)
        }
    }

    /// The digest of the first `size` bytes of the file; nothing of it is kept in memory.
    func digest(size: Int64) throws(SafeBackupError) -> ReadContent {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.step, alignment: 4_096)
        defer { memory.deallocate() }
        while offset < size {
            let wanted = Int(min(Int64(Self.step), size - offset))
            let count = try read(UnsafeMutableRawBufferPointer(rebasing: memory[..<wanted]))
            if count == 0 { break }
            whole.update(UnsafeRawBufferPointer(rebasing: memory[..<count]))
            offset += Int64(count)
        }
        return try finish()
    }
}
