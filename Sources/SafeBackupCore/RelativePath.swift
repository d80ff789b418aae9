/// A path below a root: the bytes that the file system gave us, never repaired and never normalised
/// (NFC and NFD are two files). Components are not empty, `.` or `..` and hold no NUL, so that joining one
/// to a root can never leave it. The empty path is the root itself.
public struct RelativePath: Hashable, Sendable, Comparable {
    /// The components, joined by single slashes.
    public let bytes: [UInt8]

    /// The root that paths are relative to.
    public static let root = RelativePath(unchecked: [])

    /// Checks `bytes`; throws `invalidPath` for an absolute path, an empty, `.` or `..` component, or a NUL.
    public init(_ bytes: some Sequence<UInt8>) throws(SafeBackupError) {
        let bytes = Array(bytes)
        if let reason = Self.fault(in: bytes) {
            throw SafeBackupError(
                .invalidPath, "The path \(printable(bytes)) \(reason); give one that stays below its root",
                disposition: .permanent)
        }
        self.bytes = bytes
    }

    /// Checks the UTF-8 bytes of `string`, see `init(_:)`.
    public init(_ string: String) throws(SafeBackupError) {
        try self.init(Array(string.utf8))
    }

    /// For bytes that are known to be components, as those that a directory listing gives.
    package init(unchecked bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// Whether the bytes are such as `init(_:)` accepts: for a path that somebody else wrote down.
    package var staysBelow: Bool { Self.fault(in: bytes) == nil }

    private static func fault(in bytes: [UInt8]) -> String? {
        if bytes.isEmpty { return nil }
        var length = 0
        var dots = 0
        for index in 0...bytes.count {
            let byte = index < bytes.count ? bytes[index] : UInt8(ascii: "/")
            if byte == 0 { return "holds a NUL byte" }
            if byte == UInt8(ascii: "/") {
                if length == 0 { return index == 0 ? "is absolute" : "has an empty component" }
                if dots == length && length <= 2 { return "has a component '.' or '..'" }
                (length, dots) = (0, 0)
            } else {
                length += 1
                if byte == UInt8(ascii: ".") { dots += 1 }
            }
        }
        return nil
    }

    /// Whether this is the root itself.
    public var isRoot: Bool { bytes.isEmpty }

    /// The last component; empty for the root.
    public var leaf: [UInt8] {
        guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")) else { return bytes }
        return Array(bytes[(slash + 1)...])
    }

    /// The path without its last component; the root's parent is the root.
    public var parent: RelativePath {
        guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")) else { return .root }
        return RelativePath(unchecked: Array(bytes[..<slash]))
    }

    /// The components, first to last.
    public var components: [[UInt8]] {
        bytes.split(separator: UInt8(ascii: "/")).map(Array.init)
    }

    /// This path and one component more. The caller vouches for `leaf`.
    package func appending(_ leaf: some Sequence<UInt8>) -> RelativePath {
        if bytes.isEmpty { return RelativePath(unchecked: Array(leaf)) }
        var joined = bytes
        joined.append(UInt8(ascii: "/"))
        joined.append(contentsOf: leaf)
        return RelativePath(unchecked: joined)
    }

    /// This path followed by all components of `other`.
    package func appending(_ other: RelativePath) -> RelativePath {
        other.isRoot ? self : appending(other.bytes)
    }

    /// Whether this path lies below `ancestor`, or is it; compared by whole components.
    public func isWithin(_ ancestor: RelativePath) -> Bool {
        if ancestor.bytes.isEmpty { return true }
        guard bytes.starts(with: ancestor.bytes) else { return false }
        return bytes.count == ancestor.bytes.count || bytes[ancestor.bytes.count] == UInt8(ascii: "/")
    }

    /// The proper ancestors, outermost first, without the root.
    package var ancestors: [RelativePath] {
        var result: [RelativePath] = []
        for (index, byte) in bytes.enumerated() where byte == UInt8(ascii: "/") {
            result.append(RelativePath(unchecked: Array(bytes[..<index])))
        }
        return result
    }

    /// Byte order, as SQLite's BINARY collation has it.
    public static func < (left: RelativePath, right: RelativePath) -> Bool {
        left.bytes.lexicographicallyPrecedes(right.bytes)
    }
}

extension RelativePath: CustomStringConvertible {
    /// For people: valid UTF-8 as it is, every other byte and every control character as `\xNN`; `.` for the root.
    public var description: String { bytes.isEmpty ? "." : printable(bytes) }
}

/// Bytes as text for people: what is not printable UTF-8 becomes `\xNN`, so that a name cannot forge a log line.
package func printable(_ bytes: some Collection<UInt8>) -> String {
    func isPlain(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value >= 0x20 && !(0x7F...0x9F).contains(scalar.value) && scalar.value != 0xFFFD
            && !(0x202A...0x202E).contains(scalar.value) && !(0x2066...0x2069).contains(scalar.value)
    }
    let text = String(decoding: bytes, as: UTF8.self)
    if text.unicodeScalars.allSatisfy(isPlain) { return text }
    var result = ""
    var decoder = UTF8.ForwardParser()
    var iterator = bytes.makeIterator()
    var rest = Array(bytes)[...]
    while true {
        switch decoder.parseScalar(from: &iterator) {
        case .valid(let encoded):
            let scalar = UTF8.decode(encoded)
            if isPlain(scalar) {
                result.unicodeScalars.append(scalar)
            } else {
                result += escaped(rest.prefix(encoded.count))
            }
            rest = rest.dropFirst(encoded.count)
        case .error(let length):
            result += escaped(rest.prefix(length))
            rest = rest.dropFirst(length)
        case .emptyInput:
            return result
        }
    }
}

private func escaped(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { "\\x" + ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
