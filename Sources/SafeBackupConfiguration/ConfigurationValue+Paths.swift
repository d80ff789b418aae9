package import SafeBackupCore

/// An absolute path: any bytes but NUL.
///
/// What a line cannot hold as it is (a line's end, blanks at the ends of the path) stands in double quotes with the
/// escapes of C. A path in a file always begins with a slash, so the quotes are never a part of it.
package struct ConfigurationPath: ConfigurationValue {
    package var bytes: [UInt8]

    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    package static var form: String { "absolute path" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> ConfigurationPath {
        let bytes = try Quoted.read(text)
        if bytes.starts(with: Array("s3://".utf8)) {
            throw ConfigurationFault("names a bucket, which this release cannot save to; give a local directory")
        }
        guard bytes.first == UInt8(ascii: "/") else {
            let hint = bytes.first == UInt8(ascii: "~") ? "; '~' is not replaced here" : ""
            throw ConfigurationFault("is not an absolute path; begin it with '/'\(hint)")
        }
        guard bytes.count < 4_096 else { throw ConfigurationFault("is longer than a path may be") }
        return ConfigurationPath(bytes)
    }

    package var written: [UInt8] { Quoted.written(bytes) }
}

/// A path below the destination's top, which a source's copies go under.
extension RelativePath: ConfigurationValue {
    package static var form: String { "relative path" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> RelativePath {
        let path: RelativePath
        do throws(SafeBackupError) {
            path = try RelativePath(try quoted(text))
        } catch {
            throw ConfigurationFault("is no path below a destination; write it as in photos or home/photos")
        }
        let first = (path.components.first ?? []).map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 }
        if first == Array(".safebackup".utf8) {
            throw ConfigurationFault("lies in .safebackup, which is safebackup's own; give another")
        }
        guard path.bytes.count < 1_024, path.components.allSatisfy({ $0.count <= 255 }) else {
            throw ConfigurationFault("is too long")
        }
        return path
    }

    private static func quoted(_ text: [UInt8]) throws(SafeBackupError) -> [UInt8] {
        do throws(ConfigurationFault) {
            return try Quoted.read(text)
        } catch {
            throw SafeBackupError(.invalidPath, error.message, disposition: .permanent)
        }
    }

    package var written: [UInt8] { Quoted.written(bytes) }
}

/// A pattern of gitignore(5).
package struct ConfigurationPattern: ConfigurationValue {
    package var bytes: [UInt8]

    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    package static var form: String { "pattern" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> ConfigurationPattern {
        if text.first == UInt8(ascii: "#") {
            throw ConfigurationFault("is a comment in the syntax of gitignore; write '\\#' for a name that begins so")
        }
        if !text.reversed().prefix(while: { $0 == UInt8(ascii: "\\") }).count.isMultiple(of: 2) {
            throw ConfigurationFault(
                "ends in a backslash; a pattern that ends in a blank must stand in a file of exclude-from")
        }
        return ConfigurationPattern(text)
    }

    package var written: [UInt8] { bytes }
}

/// The name of a section, as another section gives it.
package struct ConfigurationName: ConfigurationValue {
    package var text: String

    package static var form: String { "name" }

    package static func read(_ text: [UInt8]) throws(ConfigurationFault) -> ConfigurationName {
        guard let name = String(validating: text, as: UTF8.self), name == printable(text), name.utf8.count <= 64,
            !text.isEmpty, text.first.map(ConfigurationText.isBlank) == false,
            text.last.map(ConfigurationText.isBlank) == false,
            !text.contains(where: { $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\\") || $0 == UInt8(ascii: "]") })
        else {
            throw ConfigurationFault(
                "is no name; it has 1 to 64 printable bytes, no quotes, backslashes or ']', and no blanks at its ends")
        }
        return ConfigurationName(text: name)
    }

    package var written: [UInt8] { Array(text.utf8) }
}

/// Bytes in double quotes with escapes, as a C string.
enum Quoted {
    static func read(_ text: [UInt8]) throws(ConfigurationFault) -> [UInt8] {
        guard text.first == UInt8(ascii: "\"") else { return text }
        var bytes: [UInt8] = []
        var rest = text.dropFirst()
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\"") {
                guard rest.isEmpty else { throw ConfigurationFault("goes on behind its closing quote") }
                return bytes
            }
            guard byte == UInt8(ascii: "\\") else {
                bytes.append(byte)
                continue
            }
            switch rest.popFirst() {
            case UInt8(ascii: "n"): bytes.append(0x0A)
            case UInt8(ascii: "t"): bytes.append(0x09)
            case UInt8(ascii: "r"): bytes.append(0x0D)
            case UInt8(ascii: "\\"): bytes.append(UInt8(ascii: "\\"))
            case UInt8(ascii: "\""): bytes.append(UInt8(ascii: "\""))
            case UInt8(ascii: "x"):
                let digits = String(decoding: rest.prefix(2), as: UTF8.self)
                guard digits.utf8.count == 2, digits.utf8.allSatisfy({ $0 != UInt8(ascii: "+") }),
                    let value = UInt8(digits, radix: 16), value != 0
                else { throw ConfigurationFault(Self.unknownEscape) }
                bytes.append(value)
                rest = rest.dropFirst(2)
            default: throw ConfigurationFault(Self.unknownEscape)
            }
        }
        throw ConfigurationFault("has no closing quote")
    }

    private static let unknownEscape = #"has an unknown escape; in quotes there are \n, \t, \r, \\, \" and \xNN"#

    static func written(_ bytes: [UInt8]) -> [UInt8] {
        let isPlain =
            bytes.allSatisfy { $0 >= 0x20 && $0 != 0x7F } && bytes.first != UInt8(ascii: "\"")
            && bytes.last != UInt8(ascii: " ") && bytes.first != UInt8(ascii: " ")
            && bytes.last != UInt8(ascii: "\\")
        if isPlain { return bytes }
        var text = [UInt8(ascii: "\"")]
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "\\"), UInt8(ascii: "\""): text += [UInt8(ascii: "\\"), byte]
            case 0x20..<0x7F, 0x80...: text.append(byte)
            default: text += Array(("\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)).utf8)
            }
        }
        return text + [UInt8(ascii: "\"")]
    }
}
