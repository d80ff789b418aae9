import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Moves and hashes bytes: one pass of read → SHA-256 → write, so that the digest is of the bytes that were stored.
/// Holds the buffer of one thread's work; not shared between threads.
final class FileCopier {
    /// Which side failed.
    enum CopyError: Error {
        case reading(Errno)
        case writing(Errno)
        /// The agent stops.
        case interrupted
    }

    static let bufferSize = 128 << 10
    /// Writeback is started each time this much was written, so that the flush finds little left to do.
    private static let writebackStep: Int64 = 16 << 20

    private let buffer: UnsafeMutableRawBufferPointer
    private let hash = SHA256()
    private static let zeros = [UInt8](repeating: 0, count: 64 << 10)

    /// Asked before each buffer, so that a stop need not wait for a large file.
    private let isInterrupted: @Sendable () -> Bool

    init(isInterrupted: @escaping @Sendable () -> Bool = { false }) {
        self.isInterrupted = isInterrupted
        buffer = .allocate(byteCount: Self.bufferSize, alignment: 4_096)
    }

    deinit { buffer.deallocate() }

    /// Copies the first `size` bytes, fewer if the file ends before, and says how many there were. Holes stay holes
    /// when `isSparse`. `file` is new and empty.
    func copy(
        from source: Descriptor, size: Int64, isSparse: Bool, to file: Descriptor
    ) throws(CopyError) -> (digest: Digest, size: Int64) {
        var offset: Int64 = 0
        var started: Int64 = 0
        var contentEnd: Int64 = isSparse ? 0 : size
        while offset < size {
            if offset == contentEnd {
                let content = min(try nextContent(in: source, from: offset) ?? size, size)
                hashZeros(content - offset)
                offset = content
                if offset == size { break }
                contentEnd = min(try nextHole(in: source, from: offset), size)
            }
            if isInterrupted() { throw abandon(.interrupted) }
            let wanted = Int(min(Int64(buffer.count), contentEnd - offset))
            let count = try read(source, wanted, at: offset)
            if count == 0 { break }
            let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
            hash.update(bytes)
            do { try file.write(bytes, at: offset) } catch { throw abandon(.writing(error)) }
            offset += Int64(count)
            if offset - started >= Self.writebackStep {
                file.startWriteback(started, offset - started)
                started = offset
            }
        }
        if isSparse {
            do { try file.setSize(offset) } catch { throw abandon(.writing(error)) }
        }
        return (hash.finish(), offset)
    }

    /// The digest of the first `size` bytes, fewer if the file ends before.
    func digest(of file: Descriptor, size: Int64) throws(Errno) -> (digest: Digest, size: Int64) {
        var offset: Int64 = 0
        while offset < size {
            let wanted = Int(min(Int64(buffer.count), size - offset))
            let count: Int
            do {
                count = try file.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted]), at: offset)
            } catch {
                _ = hash.finish()
                throw error
            }
            if count == 0 { break }
            hash.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            offset += Int64(count)
        }
        return (hash.finish(), offset)
    }

    /// The digest of a symbolic link: of its target.
    func digest(of target: [UInt8]) -> Digest {
        target.withUnsafeBytes { hash.update($0) }
        return hash.finish()
    }

    private func read(_ source: Descriptor, _ count: Int, at offset: Int64) throws(CopyError) -> Int {
        do {
            return try source.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]), at: offset)
        } catch {
            throw abandon(.reading(error))
        }
    }

    private func nextContent(in source: Descriptor, from offset: Int64) throws(CopyError) -> Int64? {
        do { return try source.nextContent(from: offset) } catch { throw abandon(.reading(error)) }
    }

    private func nextHole(in source: Descriptor, from offset: Int64) throws(CopyError) -> Int64 {
        do {
            return try source.nextHole(from: offset)
        } catch {
            // The file was cut off since the last look: there is nothing at `offset`; reading finds its end.
            if error == .noSuchAddressOrDevice { return .max }
            throw abandon(.reading(error))
        }
    }

    private func hashZeros(_ count: Int64) {
        Self.zeros.withUnsafeBytes { zeros in
            var left = count
            while left > 0 {
                let part = Int(min(left, Int64(zeros.count)))
                hash.update(UnsafeRawBufferPointer(rebasing: zeros[..<part]))
                left -= Int64(part)
            }
        }
    }

    /// Makes the hash ready for the next file.
    private func abandon(_ error: CopyError) -> CopyError {
        _ = hash.finish()
        return error
    }
}
