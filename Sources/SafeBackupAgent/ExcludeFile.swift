import Glibc
package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A file of exclude patterns, a line each, as a `.gitignore` is.
package enum ExcludeFile {
    private static let limit = 1 << 20

    /// The lines with their numbers, comments and empty ones included, which are no rules.
    ///
    /// Throws `invalidConfiguration` when the file cannot be read, or is larger than 1 MiB.
    package static func patterns(_ path: [UInt8]) throws(SafeBackupError) -> [ExcludePattern] {
        func refused(_ reason: String) -> SafeBackupError {
            SafeBackupError(
                .invalidConfiguration, "The exclude file \(printable(path)) \(reason); check --exclude-from",
                disposition: .permanent)
        }
        if path.isEmpty { throw refused("has no name") }
        let content: [UInt8]
        var absolute = path
        do throws(Errno) {
            // Whoever reads the name later is in another directory.
            if let resolved = FilePath(bytes: path).withPlatformString({ realpath($0, nil) }) {
                defer { free(resolved) }
                absolute = FilePath(platformString: resolved).bytes
            }
            let file = try Descriptor.open(FilePath(bytes: path), O_RDONLY | O_NONBLOCK)
            guard try file.status().kind == .file else { throw Errno.isDirectory }
            content = try file.readAll(limit: limit + 1)
        } catch {
            throw refused(
                error == .isDirectory ? "is not a regular file" : "cannot be read: \(error.explanation)")
        }
        if content.count > limit { throw refused("has more than 1 MiB") }
        return lines(of: content).enumerated().map {
            ExcludePattern(bytes: $1, origin: .file(absolute), line: $0 + 1)
        }
    }

    /// As git reads them: a byte order mark at the beginning and a CR before the end of a line do not count.
    static func lines(of content: [UInt8]) -> [[UInt8]] {
        var rest = content[...]
        if rest.starts(with: [0xEF, 0xBB, 0xBF]) { rest = rest.dropFirst(3) }
        if rest.last == UInt8(ascii: "\n") { rest = rest.dropLast() }
        if rest.isEmpty { return [] }
        return rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map { line in
            Array(line.last == UInt8(ascii: "\r") ? line.dropLast() : line)
        }
    }
}
