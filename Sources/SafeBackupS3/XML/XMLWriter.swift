/// Writes the bodies of requests.
package struct XMLWriter {
    private var bytes: [UInt8]
    private var open: [String] = []

    /// A document with this root, in S3's namespace.
    package init(root: String) {
        bytes = Array("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".utf8)
        bytes += Array("<\(root) xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".utf8)
        open = [root]
    }

    package mutating func begin(_ name: String) {
        bytes += Array("<\(name)>".utf8)
        open.append(name)
    }

    package mutating func end() {
        guard let name = open.popLast() else { return }
        bytes += Array("</\(name)>".utf8)
    }

    /// Writes an element of text.
    package mutating func element(_ name: String, _ text: String) {
        // A Swift string is UTF-8; what XML cannot hold of it never comes here (numbers, ETags, base64).
        element(name, escaped: Self.escape(Array(text.utf8)) ?? [])
    }

    /// Writes an element of what `escape` gave.
    package mutating func element(_ name: String, escaped: [UInt8]) {
        bytes += Array("<\(name)>".utf8)
        bytes += escaped
        bytes += Array("</\(name)>".utf8)
    }

    /// The document, with every element ended.
    package consuming func finish() -> [UInt8] {
        while !open.isEmpty { end() }
        return bytes
    }

    /// As text of an element; `nil` for what XML 1.0 cannot hold: most control characters, U+FFFE and U+FFFF, and bytes
    /// that are not UTF-8. Line ends are written as numbers, because a reader may change them otherwise.
    package static func escape(_ text: [UInt8]) -> [UInt8]? {
        guard let string = String(validating: text, as: UTF8.self) else { return nil }
        var result: [UInt8] = []
        result.reserveCapacity(text.count + 16)
        for scalar in string.unicodeScalars {
            switch scalar {
            case "&": result += Array("&amp;".utf8)
            case "<": result += Array("&lt;".utf8)
            case ">": result += Array("&gt;".utf8)
            case "\"": result += Array("&quot;".utf8)
            case "'": result += Array("&apos;".utf8)
            case "\t", "\n", "\r": result += Array("&#\(scalar.value);".utf8)
            case "\u{0}"..."\u{1F}", "\u{FFFE}", "\u{FFFF}": return nil
            default: result += Array(String(Character(scalar)).utf8)
            }
        }
        return result
    }
}
