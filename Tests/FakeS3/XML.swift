/// As much of XML as S3's requests and answers need.
package enum XML {
    package static func escape(_ text: String) -> String {
        escape(Array(text.utf8))
    }

    /// Control characters as character references, as S3 writes them, although XML 1.0 has none: a client asks for
    /// `encoding-type=url`.
    package static func escape(_ bytes: [UInt8]) -> String {
        var result: [UInt8] = []
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "<"): result += Array("&lt;".utf8)
            case UInt8(ascii: ">"): result += Array("&gt;".utf8)
            case UInt8(ascii: "&"): result += Array("&amp;".utf8)
            case UInt8(ascii: "\""): result += Array("&quot;".utf8)
            case 0..<0x20: result += Array("&#x\(String(byte, radix: 16));".utf8)
            default: result.append(byte)
            }
        }
        return String(decoding: result, as: UTF8.self)
    }

    /// The contents of all elements of that name, in their order, not unescaped. No attributes, no nesting in itself.
    static func elements(_ name: String, in text: some StringProtocol) -> [Substring] {
        var found: [Substring] = []
        var rest = Substring(text)
        while let start = range(of: "<\(name)>", in: rest) {
            let inner = rest[start.upperBound...]
            guard let end = range(of: "</\(name)>", in: inner) else { return found }
            found.append(inner[..<end.lowerBound])
            rest = inner[end.upperBound...]
        }
        return found
    }

    private static func range(of pattern: String, in text: Substring) -> Range<Substring.Index>? {
        let wanted = Array(pattern.utf8)
        let bytes = text.utf8
        var start = bytes.startIndex
        while let first = bytes[start...].firstIndex(of: wanted[0]) {
            if bytes[first...].starts(with: wanted) {
                return first..<bytes.index(first, offsetBy: wanted.count)
            }
            start = bytes.index(after: first)
        }
        return nil
    }

    /// `nil`: an entity that is none.
    static func unescape(_ text: Substring) -> [UInt8]? {
        var result: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "&") else {
                result.append(byte)
                continue
            }
            guard let end = rest.firstIndex(of: UInt8(ascii: ";")) else { return nil }
            let name = String(rest[..<end]) ?? ""
            rest = rest[rest.index(after: end)...]
            switch name {
            case "lt": result.append(UInt8(ascii: "<"))
            case "gt": result.append(UInt8(ascii: ">"))
            case "amp": result.append(UInt8(ascii: "&"))
            case "quot": result.append(UInt8(ascii: "\""))
            case "apos": result.append(UInt8(ascii: "'"))
            default:
                let number =
                    name.hasPrefix("#x") ? UInt32(name.dropFirst(2), radix: 16) : UInt32(name.dropFirst())
                guard name.hasPrefix("#"), let number, let scalar = Unicode.Scalar(number) else { return nil }
                result += Array(String(Character(scalar)).utf8)
            }
        }
        return result
    }
}
