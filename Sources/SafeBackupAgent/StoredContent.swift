import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Reads stored files from their beginning to their end and hashes them. Holes are known to be zeros and are not read.
/// Holds the buffer of one thread's work; not shared between threads. Blocks.
final class StoredContent {
    private static let bufferSize = 256 << 10
    private static let zeros = [UInt8](repeating: 0, count: 64 << 10)

    private let hash = SHA256()
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bufferSize, alignment: 4_096)

    deinit { buffer.deallocate() }

    /// The digest of the first `size` bytes, fewer if the file ends before. `body` gets each part that is read, with its
    /// place. After an error the next file's digest is of that file alone.
    func read(
        _ file: Descriptor, size: Int64, _ body: (UnsafeRawBufferPointer, Int64) throws(Errno) -> Void
    ) throws(Errno) -> Digest {
        do throws(Errno) {
            try readContent(of: file, size: size, body)
        } catch {
            _ = hash.finish()
            throw error
        }
        return hash.finish()
    }

    private func readContent(
        of file: Descriptor, size: Int64, _ body: (UnsafeRawBufferPointer, Int64) throws(Errno) -> Void
    ) throws(Errno) {
        var offset: Int64 = 0
        while offset < size {
            let start = min(try file.nextContent(from: offset) ?? size, size)
            hashZeros(start - offset)
            offset = start
            if offset == size { return }
            let end = min(try file.nextHole(from: offset), size)
            while offset < end {
                let want = Int(min(Int64(buffer.count), end - offset))
                let count = try file.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<want]), at: offset)
                if count == 0 { return }
                let part = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                hash.update(part)
                try body(part, offset)
                offset += Int64(count)
            }
        }
    }

    private func hashZeros(_ count: Int64) {
        var left = count
        Self.zeros.withUnsafeBytes { zeros in
            while left > 0 {
                let part = min(Int64(zeros.count), left)
                hash.update(UnsafeRawBufferPointer(rebasing: zeros[..<Int(part)]))
                left -= part
            }
        }
    }
}
