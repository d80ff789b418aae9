package import SafeBackupCore
import SafeBackupSystem

/// The objects below one prefix of a bucket: which key a location has, and back. Pure.
///
/// ```
/// PREFIX/<location>                                  the copies; PREFIX/<directory>/ stands for an empty directory
/// PREFIX/.safebackup/destination.json                the sentinel
/// PREFIX/.safebackup/versions/<location>@<time>-<id> kept older copies
/// PREFIX/.safebackup/catalogue/                      a.db and b.db, the catalogue copies
/// ```
///
/// Keys are UTF-8. A byte that is not, in a path, is written as rclone writes it, so that rclone reads it back: U+201B
/// and two hexadecimal digits in capitals; a literal U+201B is doubled. So no two locations have one key.
package struct KeySpace: Sendable, Hashable {
    package static let area = RelativePath(unchecked: Array(".safebackup".utf8))
    package static let versions = area.appending("versions".utf8)
    package static let catalogue = area.appending("catalogue".utf8)
    package static let sentinel = area.appending("destination.json".utf8)

    /// Of every store that speaks S3.
    package static let keyLimit = 1_024

    /// Empty, or ends with a slash.
    package let prefix: [UInt8]

    /// - Parameter prefix: UTF-8; slashes at both ends do not count.
    package init(prefix: [UInt8]) {
        var prefix = prefix[...]
        let slash = UInt8(ascii: "/")
        while prefix.first == slash { prefix = prefix.dropFirst() }
        while prefix.last == slash { prefix = prefix.dropLast() }
        self.prefix = prefix.isEmpty ? [] : Array(prefix) + [slash]
    }

    /// Whether the first component is the name that we keep for ourselves.
    package static func isReserved(_ path: RelativePath) -> Bool { path.isWithin(area) }

    /// The key of a location. Throws `nameTooLong` where it has more than 1,024 bytes.
    /// - Parameter isDirectory: the object stands for a directory.
    package func key(_ location: RelativePath, isDirectory: Bool = false) throws(SafeBackupError) -> ObjectKey {
        let bytes = prefix + Self.mapped(location.bytes) + (isDirectory ? [UInt8(ascii: "/")] : [])
        if bytes.count > Self.keyLimit {
            throw SafeBackupError(
                .nameTooLong,
                "\(location) is not saved: its key in the bucket would have \(bytes.count) bytes, and S3 takes "
                    + "\(Self.keyLimit); shorten the path, or exclude it",
                disposition: .permanent)
        }
        return ObjectKey(unchecked: bytes)
    }

    /// The location of a key below the prefix; `nil`: it is outside, or no path.
    package func location(of key: ObjectKey) -> (location: RelativePath, isDirectory: Bool)? {
        guard key.bytes.starts(with: prefix) else { return nil }
        var rest = key.bytes.dropFirst(prefix.count)
        let isDirectory = rest.last == UInt8(ascii: "/")
        if isDirectory { rest = rest.dropLast() }
        let path = RelativePath(unchecked: Self.unmapped(Array(rest)))
        return path.isRoot || !path.staysBelow ? nil : (path, isDirectory)
    }

    /// Where the copy at a location goes when it is kept. One whose key becomes too long has a digest instead of its
    /// path; the catalogue knows the whole.
    package func version(of location: RelativePath, at time: Timestamp, id: String) -> RelativePath {
        let suffix = Array("@\(time.compact)-\(id)".utf8)
        let version = Self.versions.appending(location.parent).appending(location.leaf + suffix)
        if prefix.count + Self.mapped(version.bytes).count <= Self.keyLimit { return version }
        let digest = SHA256.digest(of: location.bytes).hex
        return Self.versions.appending(Array("~\(digest)".utf8) + suffix)
    }

    // MARK: - Bytes that are not UTF-8

    /// U+201B.
    private static let quote: [UInt8] = [0xE2, 0x80, 0x9B]

    /// Whether the key differs from the path.
    package static func isMapped(_ path: [UInt8]) -> Bool { mapped(path) != path }

    static func mapped(_ path: [UInt8]) -> [UInt8] {
        if path.allSatisfy({ $0 < 0x80 }) { return path }
        var result: [UInt8] = []
        var rest = path[...]
        var decoder = Unicode.UTF8.ForwardParser()
        var iterator = path.makeIterator()
        while true {
            switch decoder.parseScalar(from: &iterator) {
            case .valid(let encoded):
                let scalar = rest.prefix(encoded.count)
                result += scalar
                if scalar.elementsEqual(quote) { result += quote }
                rest = rest.dropFirst(encoded.count)
            case .error(let length):
                for byte in rest.prefix(length) { result += quote + hexadecimal([byte]).uppercased().utf8 }
                rest = rest.dropFirst(length)
            case .emptyInput: return result
            }
        }
    }

    static func unmapped(_ key: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        var index = 0
        while index < key.count {
            guard key[index...].starts(with: quote) else {
                result.append(key[index])
                index += 1
                continue
            }
            let next = key[(index + quote.count)...]
            if next.starts(with: quote) {
                result += quote
                index += 2 * quote.count
            } else if next.count >= 2,
                let byte = UInt8(String(decoding: next.prefix(2), as: UTF8.self), radix: 16), byte >= 0x80
            {
                result.append(byte)
                index += quote.count + 2
            } else {
                // Somebody else's.
                result += quote
                index += quote.count
            }
        }
        return result
    }
}
