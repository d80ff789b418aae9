import Glibc
package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Reads a file whose one line is a secret.
package enum BucketSecret {
    private static let limit = 4_096

    /// - Parameters:
    ///   - name: an absolute path, or the name of a credential in systemd's `CREDENTIALS_DIRECTORY`.
    ///   - option: the key of the configuration that names it.
    ///   - kind: what the line is.
    /// - Throws: `invalidConfiguration` for one that cannot be read, that others may read too, or that is no key.
    package static func read(
        _ name: String, of option: String = "secret-access-key-file", kind: String = "a secret access key",
        environment: [String: String]
    ) throws(SafeBackupError) -> String {
        let path: FilePath
        let isGiven = !name.hasPrefix("/")
        if isGiven {
            guard let directory = environment["CREDENTIALS_DIRECTORY"], directory.hasPrefix("/"),
                !name.utf8.contains(0x2F)
            else {
                throw refusal(
                    "\(option) = \(name) is no absolute path, and systemd gives no credentials here; name the "
                        + "file by its whole path, or add LoadCredential=\(name):FILE to the service")
            }
            path = FilePath(directory).appending(name)
        } else {
            path = FilePath(name)
        }
        let (content, mode) = try content(of: path)
        // What systemd gives lies where nobody else can look.
        if !isGiven && mode & 0o077 != 0 {
            throw refusal(
                "others may read \(path) (mode \(String(mode & 0o777, radix: 8))), and the secret in it; chmod 600 \(path)"
            )
        }
        let line = content.split(separator: UInt8(ascii: "\n"), maxSplits: 1, omittingEmptySubsequences: false)
        var secret = Array(line.first ?? [])
        if secret.last == UInt8(ascii: "\r") { secret.removeLast() }
        guard !secret.isEmpty, secret.allSatisfy({ $0 > 0x20 && $0 < 0x7F }), line.count < 2 || line[1].isEmpty else {
            throw refusal("\(path) is to hold one line, \(kind), and nothing else")
        }
        return String(decoding: secret, as: UTF8.self)
    }

    private static func content(of path: FilePath) throws(SafeBackupError) -> (content: [UInt8], mode: UInt32) {
        do throws(Errno) {
            let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK)
            let status = try file.status()
            guard status.kind == .file else { throw Errno.invalidArgument }
            return (try file.readAll(limit: limit), status.mode)
        } catch {
            throw refusal("the secret in \(path) cannot be read: \(error.explanation)")
        }
    }

    private static func refusal(_ message: String) -> SafeBackupError {
        SafeBackupError(.invalidConfiguration, message, disposition: .permanent)
    }
}
