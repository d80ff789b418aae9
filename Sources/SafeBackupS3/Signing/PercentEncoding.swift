/// RFC 3986's percent-encoding, strict as signatures want it: only letters, digits and `-._~` stay, all else is `%XX` of
/// the UTF-8 bytes, with capital digits. A space is `%20`, never `+`.
package enum PercentEncoding {
    private static let digits = Array("0123456789ABCDEF".utf8)

    /// Which bytes stay as they are.
    private static let stays: [Bool] = (0..<256).map { byte in
        switch UInt8(byte) {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: "~"):
            true
        default: false
        }
    }

    /// Appends the encoded bytes.
    /// - Parameter keepsSlash: for a path, whose slashes divide it.
    package static func append(
        _ bytes: some Sequence<UInt8>, keepsSlash: Bool = false, to text: inout [UInt8]
    ) {
        for byte in bytes {
            if stays[Int(byte)] || (keepsSlash && byte == UInt8(ascii: "/")) {
                text.append(byte)
            } else {
                text.append(UInt8(ascii: "%"))
                text.append(digits[Int(byte >> 4)])
                text.append(digits[Int(byte & 15)])
            }
        }
    }

    /// The encoded bytes.
    package static func encode(_ bytes: some Sequence<UInt8>, keepsSlash: Bool = false) -> String {
        var text: [UInt8] = []
        append(bytes, keepsSlash: keepsSlash, to: &text)
        return String(decoding: text, as: UTF8.self)
    }

    /// The encoded text.
    package static func encode(_ text: String, keepsSlash: Bool = false) -> String {
        encode(text.utf8, keepsSlash: keepsSlash)
    }

    /// The bytes behind an encoded text; `nil` if a `%` is not followed by two hexadecimal digits.
    /// - Parameter plusIsSpace: as in the names of a listing with `encoding-type=url`, and in forms.
    package static func decode(_ text: some Sequence<UInt8>, plusIsSpace: Bool = false) -> [UInt8]? {
        var bytes: [UInt8] = []
        var iterator = text.makeIterator()
        while let byte = iterator.next() {
            if byte == UInt8(ascii: "%") {
                guard let high = iterator.next().flatMap(digit), let low = iterator.next().flatMap(digit) else {
                    return nil
                }
                bytes.append(high << 4 | low)
            } else {
                bytes.append(plusIsSpace && byte == UInt8(ascii: "+") ? UInt8(ascii: " ") : byte)
            }
        }
        return bytes
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

extension HTTPRequest {
    /// Path and query as they stand in the request line: what the signature covers is this, byte by byte.
    package var target: String {
        if query.isEmpty { return path }
        var text = Array(path.utf8)
        text.append(UInt8(ascii: "?"))
        for (index, item) in query.enumerated() {
            if index > 0 { text.append(UInt8(ascii: "&")) }
            PercentEncoding.append(item.name.utf8, to: &text)
            if let value = item.value {
                text.append(UInt8(ascii: "="))
                PercentEncoding.append(value.utf8, to: &text)
            }
        }
        return String(decoding: text, as: UTF8.self)
    }
}
