import Glibc
package import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
package import SystemPackage

/// Stores a small file in a known destination as the agent would, where the agent does: writes, flushes, renames, reads it
/// back from the disk and removes it. Leaves nothing, except after a crash in `staging`, which each start empties.
package enum DestinationTrial {
    private static let size = 1 << 20
    private static let buffer = 64 << 10

    /// How long it took. Blocks.
    /// - Throws: `destinationForbidden`, `destinationReadOnly`, `destinationFull` or `destinationFailed`; `damaged` if other
    ///   bytes came back.
    package static func run(at path: FilePath) throws(SafeBackupError) -> Duration {
        var generator = SystemRandomNumberGenerator()
        let began = ContinuousClock.now
        // An agent that starts meanwhile empties staging.
        for attempt in 1...3 {
            do throws(Errno) {
                let staging = try ConfinedDirectory(opening: path).openDirectory(Layout.staging)
                let number = UInt32.random(in: 0 ... .max, using: &generator)
                guard try store(in: staging, name: "doctor-\(getpid())-\(number)", &generator) else {
                    throw Errno.ioError
                }
                return ContinuousClock.now - began
            } catch {
                if error == .noSuchFileOrDirectory && attempt < 3 { continue }
                throw failure(error, path)
            }
        }
        throw failure(.noSuchFileOrDirectory, path)
    }

    private static func store(
        in staging: Descriptor, name: String, _ generator: inout SystemRandomNumberGenerator
    ) throws(Errno) -> Bool {
        let (stage, final) = (Array("\(name).new".utf8), Array(name.utf8))
        var content: [UInt8] = []
        content.reserveCapacity(size)
        while content.count < size { withUnsafeBytes(of: generator.next()) { content += $0 } }
        do throws(Errno) {
            let file = try staging.open(stage, O_RDWR | O_CREAT | O_EXCL)
            try file.writeAll(content)
            try file.sync()
            try staging.rename(stage, to: staging, final)
            try staging.sync()
            file.dropCache(0, 0)
            let found = try staging.open(final, O_RDONLY | O_NONBLOCK).readAll(limit: size + 1)
            try staging.remove(final)
            try staging.sync()
            return found == content
        } catch {
            for leaf in [stage, final] {
                do throws(Errno) {
                    try staging.remove(leaf)
                } catch {
                    continue  // ignored because the first error is the one that matters
                }
            }
            throw error
        }
    }

    private static func failure(_ error: Errno, _ path: FilePath) -> SafeBackupError {
        let name = printable(path.bytes)
        let (code, message): (SafeBackupError.Code, String) =
            switch error {
            case .permissionDenied, .notPermitted:
                (.destinationForbidden, "This user may not write to \(name)")
            case .readOnlyFileSystem: (.destinationReadOnly, "\(name) is mounted read-only")
            case .noSpace, .diskQuotaExceeded: (.destinationFull, "\(name) has no room for a file of 1 MiB")
            default: (.destinationFailed, "A file cannot be stored in \(name) and read back: \(error.explanation)")
            }
        return SafeBackupError(code, message, disposition: .destinationUnavailable, systemError: error.rawValue)
    }
}
