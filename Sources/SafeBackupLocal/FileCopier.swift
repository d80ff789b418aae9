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

    /// From this size on a file is written past the page cache, in whole buffers. Measured with 4 × 512 MiB between two
    /// loop-mounted ext4: 0.3 s of system time instead of 1.2 to 2.1 s, whatever the buffer of the cached way; and the
    /// machine keeps what its users have in the cache.
    static let directSize: Int64 = 8 << 20
    private static let bufferSize = 1 << 20
    /// What is read and written at once through the page cache: more falls out of the processor's cache.
    private static let cachedStep = 128 << 10
    /// Writeback is started each time this much was written, so that the flush finds little left to do.
    private static let writebackStep: Int64 = 16 << 20
    private static let alignment = 4_096
    /// Zeros of a hole that are hashed between two looks whether the agent stops.
    private static let holeStep: Int64 = 16 << 20

    private let buffer: UnsafeMutableRawBufferPointer
    private let hash = SHA256()
    private static let zeros = [UInt8](repeating: 0, count: 64 << 10)

    /// Asked before each buffer, so that a stop need not wait for a large file.
    private let isInterrupted: @Sendable () -> Bool

    /// What all copiers of a destination may read in a second.
    private let throttle: Throttle?

    init(throttle: Throttle? = nil, isInterrupted: @escaping @Sendable () -> Bool = { false }) {
        self.throttle = throttle
        self.isInterrupted = isInterrupted
        buffer = .allocate(byteCount: Self.bufferSize, alignment: Self.alignment)
    }

    deinit { buffer.deallocate() }

    /// Copies the first `size` bytes, fewer if the file ends before, and says how many there were. Holes stay holes
    /// when `isSparse`. `file` is new and empty; `isDirect`: it was made for writing past the page cache.
    func copy(
        from source: Descriptor, size: Int64, isSparse: Bool, to file: Descriptor, isDirect: Bool
    ) throws(CopyError) -> (digest: Digest, size: Int64) {
        var isDirect = isDirect
        var offset: Int64 = 0
        var started: Int64 = 0
        var contentEnd: Int64 = isSparse ? 0 : size
        while offset < size {
            if offset == contentEnd {
                let content = min(try nextContent(in: source, from: offset) ?? size, size)
                try hashZeros(content - offset)
                offset = content
                if offset == size { break }
                contentEnd = min(try nextHole(in: source, from: offset), size)
            }
            if isInterrupted() { throw abandon(.interrupted) }
            Pulse.current?.mark()
            let step = Int64(isDirect ? Self.bufferSize : Self.cachedStep)
            let count = try read(source, Int(min(step, contentEnd - offset)), at: offset)
            if count == 0 { break }
            if throttle?.take(count, isInterrupted: isInterrupted) == false { throw abandon(.interrupted) }
            let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
            hash.update(bytes)
            do {
                // The end of a file, and what follows a short read, is not a whole number of blocks.
                if isDirect && (count % Self.alignment != 0 || offset % Int64(Self.alignment) != 0) {
                    try file.endDirect()
                    isDirect = false
                }
                isDirect = try write(bytes, to: file, at: offset, isDirect: isDirect)
            } catch {
                throw abandon(.writing(error))
            }
            offset += Int64(count)
            Faults.reach("copying")
            if !isDirect && offset - started >= Self.writebackStep {
                file.startWriteback(started, offset - started)
                started = offset
            }
        }
        if isSparse {
            do { try file.setSize(offset) } catch { throw abandon(.writing(error)) }
        }
        return (hash.finish(), offset)
    }

    /// Whether the next write may go past the page cache too.
    private func write(
        _ bytes: UnsafeRawBufferPointer, to file: Descriptor, at offset: Int64, isDirect: Bool
    ) throws(Errno) -> Bool {
        do {
            try file.write(bytes, at: offset)
            return isDirect
        } catch {
            // Some file systems take O_DIRECT at open and refuse it at the first write, or want larger blocks.
            guard isDirect, error == .invalidArgument else { throw error }
        }
        try file.endDirect()
        try file.write(bytes, at: offset)
        return false
    }

    /// The digest of the first `size` bytes, fewer if the file ends before. Throws `canceled` when the agent stops.
    func digest(of file: Descriptor, size: Int64) throws(Errno) -> (digest: Digest, size: Int64) {
        var offset: Int64 = 0
        while offset < size {
            let wanted = Int(min(Int64(buffer.count), size - offset))
            let count: Int
            do throws(Errno) {
                if isInterrupted() { throw Errno.canceled }
                Pulse.current?.mark()
                count = try file.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted]), at: offset)
                if throttle?.take(count, isInterrupted: isInterrupted) == false { throw Errno.canceled }
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

    /// A hole costs no reading, and is still hashed: one of terabytes must neither hold up a stop nor look like a standstill.
    private func hashZeros(_ count: Int64) throws(CopyError) {
        var left = count
        while left > 0 {
            if isInterrupted() { throw abandon(.interrupted) }
            Pulse.current?.mark()
            var step = min(left, Self.holeStep)
            left -= step
            Self.zeros.withUnsafeBytes { zeros in
                while step > 0 {
                    let part = Int(min(step, Int64(zeros.count)))
                    hash.update(UnsafeRawBufferPointer(rebasing: zeros[..<part]))
                    step -= Int64(part)
                }
            }
        }
    }

    /// Makes the hash ready for the next file.
    private func abandon(_ error: CopyError) -> CopyError {
        _ = hash.finish()
        return error
    }
}
