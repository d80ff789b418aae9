/// Why an answer is not the XML that S3 servers send.
package struct XMLFailure: Error, Sendable, Hashable {
    package enum Reason: String, Sendable {
        case cut = "it ends too early"
        case notXML = "it is not XML"
        case tooLarge = "it is too large"
        case tooDeep = "its elements are nested too deeply"
        case doctype = "it has a document type, which S3 never sends"
        case entity = "it has an entity that XML does not define"
        case encoding = "it is not UTF-8"
        case mismatch = "its tags do not match"
    }

    package let reason: Reason
    /// Where, in bytes from the beginning.
    package let offset: Int
}

/// Reads the XML of S3's answers, and nothing more: no document types, no entities but the five and numeric ones, any
/// namespace, attributes skipped.
///
/// White space may come before the declaration, because S3 sends it to keep a connection alive. Control characters are
/// taken as they are, and line ends are not changed: a server that does not know `encoding-type=url` puts the bytes of a
/// key there, and the key is what counts. A cut document is always an error.
package struct XMLReader {
    package static let sizeLimit = 16 << 20
    package static let depthLimit = 32

    private let bytes: [UInt8]
    private var position = 0

    private init(_ bytes: [UInt8]) { self.bytes = bytes }

    /// The root element.
    package static func read(_ bytes: [UInt8]) throws(XMLFailure) -> XMLElement {
        if bytes.count > sizeLimit { throw XMLFailure(reason: .tooLarge, offset: sizeLimit) }
        // Checked once for all: what is cut out at ASCII characters is valid too.
        guard String(validating: bytes, as: UTF8.self) != nil else { throw XMLFailure(reason: .encoding, offset: 0) }
        var reader = XMLReader(bytes)
        return try reader.document()
    }

    private func failure(_ reason: XMLFailure.Reason) -> XMLFailure {
        XMLFailure(reason: position >= bytes.count ? .cut : reason, offset: min(position, bytes.count))
    }

    private mutating func document() throws(XMLFailure) -> XMLElement {
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { position = 3 }
        // An element that is open is in `open`, with its name as it was written.
        var open: [(tag: [UInt8], element: XMLElement)] = []
        var root: XMLElement?
        while true {
            if open.isEmpty {
                while position < bytes.count, isXMLSpace(bytes[position]) { position += 1 }
                if position == bytes.count, let root { return root }
            }
            guard position < bytes.count else { throw failure(.cut) }
            if bytes[position] != 0x3C {  // <
                if open.isEmpty { throw failure(.notXML) }
                let text = try characters()
                open[open.count - 1].element.text += text
                continue
            }
            if try skipDeclarationOrComment() { continue }
            if let data = try characterData() {
                if open.isEmpty { throw failure(.notXML) }
                open[open.count - 1].element.text += data
                continue
            }
            if position + 1 < bytes.count, bytes[position + 1] == 0x2F {  // </
                position += 2
                let tag = try name()
                skipSpace()
                try expect(0x3E)
                guard let last = open.popLast(), last.tag == tag else {
                    throw XMLFailure(reason: .mismatch, offset: position)
                }
                if open.isEmpty {
                    root = last.element
                } else {
                    open[open.count - 1].element.children.append(last.element)
                }
                continue
            }
            if root != nil { throw failure(.notXML) }
            position += 1
            let tag = try name()
            let isEmpty = try attributes()
            let local = tag.lastIndex(of: 0x3A).map { tag[($0 + 1)...] } ?? tag[...]
            let element = XMLElement(name: String(decoding: local, as: UTF8.self))
            if !isEmpty {
                if open.count == Self.depthLimit { throw XMLFailure(reason: .tooDeep, offset: position) }
                open.append((tag, element))
            } else if open.isEmpty {
                root = element
            } else {
                open[open.count - 1].element.children.append(element)
            }
        }
    }

    /// Character data up to the next `<`.
    private mutating func characters() throws(XMLFailure) -> [UInt8] {
        var text: [UInt8] = []
        while position < bytes.count {
            let byte = bytes[position]
            if byte == 0x3C { return text }
            if byte == 0 { throw failure(.notXML) }
            if byte == 0x26 {
                text += try entity()
            } else {
                text.append(byte)
                position += 1
            }
        }
        throw failure(.cut)
    }

    /// `&…;`
    private mutating func entity() throws(XMLFailure) -> [UInt8] {
        let start = position + 1
        var end = start
        // The longest is `&#x10FFFF;`, with leading zeros allowed.
        while end < bytes.count, end - start <= 16, bytes[end] != 0x3B, bytes[end] != 0x3C, !isXMLSpace(bytes[end]) {
            end += 1
        }
        guard end < bytes.count else {
            position = bytes.count
            throw failure(.cut)
        }
        guard bytes[end] == 0x3B else { throw failure(.entity) }
        let name = String(decoding: bytes[start..<end], as: UTF8.self)
        let result: [UInt8]
        switch name {
        case "amp": result = [0x26]
        case "lt": result = [0x3C]
        case "gt": result = [0x3E]
        case "quot": result = [0x22]
        case "apos": result = [0x27]
        default:
            guard name.hasPrefix("#"), let scalar = Self.scalar(name.dropFirst()) else { throw failure(.entity) }
            result = Array(String(Character(scalar)).utf8)
        }
        position = end + 1
        return result
    }

    private static func scalar(_ digits: Substring) -> Unicode.Scalar? {
        let isHexadecimal = digits.hasPrefix("x")
        let rest = isHexadecimal ? digits.dropFirst() : digits
        // `UInt32` alone would allow a sign.
        guard rest.utf8.allSatisfy({ isHexadecimal ? isHexadecimalDigit($0) : (0x30...0x39).contains($0) }),
            let value = UInt32(rest, radix: isHexadecimal ? 16 : 10), value != 0
        else { return nil }
        return Unicode.Scalar(value)
    }

    /// Skips `<?…?>` and `<!--…-->`.
    private mutating func skipDeclarationOrComment() throws(XMLFailure) -> Bool {
        if starts(with: "<?") {
            let start = position + 2
            try skip(past: "?>", from: start)
            let declaration = String(decoding: bytes[start..<(position - 2)], as: UTF8.self).lowercased()
            if declaration.hasPrefix("xml "), let range = declaration.firstRange(of: "encoding") {
                let rest = declaration[range.upperBound...]
                let isKnown = ["utf-8", "utf8", "us-ascii"].contains { rest.contains($0) }
                if !isKnown { throw XMLFailure(reason: .encoding, offset: start) }
            }
            return true
        }
        if starts(with: "<!--") {
            try skip(past: "-->", from: position + 4)
            return true
        }
        return false
    }

    /// `<![CDATA[…]]>`; any other `<!` is refused.
    private mutating func characterData() throws(XMLFailure) -> [UInt8]? {
        guard starts(with: "<!") else { return nil }
        guard starts(with: "<![CDATA[") else {
            if bytes.count - position < 9 {
                position = bytes.count
                throw failure(.cut)
            }
            throw failure(starts(with: "<!DOCTYPE") ? .doctype : .notXML)
        }
        let start = position + 9
        try skip(past: "]]>", from: start)
        return Array(bytes[start..<(position - 3)])
    }

    /// Skips attributes up to the tag's end; true if the element is empty (`/>`).
    private mutating func attributes() throws(XMLFailure) -> Bool {
        while true {
            let before = position
            skipSpace()
            guard position < bytes.count else { throw failure(.cut) }
            switch bytes[position] {
            case 0x3E:
                position += 1
                return false
            case 0x2F:
                position += 1
                try expect(0x3E)
                return true
            default:
                if position == before { throw failure(.notXML) }
                _ = try name()
                skipSpace()
                try expect(0x3D)
                skipSpace()
                guard position < bytes.count else { throw failure(.cut) }
                let quote = bytes[position]
                guard quote == 0x22 || quote == 0x27 else { throw failure(.notXML) }
                position += 1
                while position < bytes.count, bytes[position] != quote {
                    if bytes[position] == 0x3C { throw failure(.notXML) }
                    position += 1
                }
                try expect(quote)
            }
        }
    }

    private mutating func name() throws(XMLFailure) -> [UInt8] {
        let start = position
        while position < bytes.count, isName(bytes[position], first: position == start) { position += 1 }
        if position == start { throw failure(.notXML) }
        return Array(bytes[start..<position])
    }

    private func isName(_ byte: UInt8, first: Bool) -> Bool {
        switch byte {
        case 0x41...0x5A, 0x61...0x7A, 0x5F, 0x3A, 0x80...0xFF: true
        case 0x30...0x39, 0x2D, 0x2E: !first
        default: false
        }
    }

    private mutating func skipSpace() {
        while position < bytes.count, isXMLSpace(bytes[position]) { position += 1 }
    }

    private mutating func expect(_ byte: UInt8) throws(XMLFailure) {
        guard position < bytes.count, bytes[position] == byte else { throw failure(.notXML) }
        position += 1
    }

    private func starts(with text: StaticString) -> Bool {
        let count = text.utf8CodeUnitCount
        guard bytes.count - position >= count else { return false }
        for index in 0..<count where bytes[position + index] != text.utf8Start[index] { return false }
        return true
    }

    private mutating func skip(past end: StaticString, from start: Int) throws(XMLFailure) {
        position = start
        while position < bytes.count {
            if starts(with: end) {
                position += end.utf8CodeUnitCount
                return
            }
            position += 1
        }
        throw failure(.cut)
    }
}

private func isHexadecimalDigit(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x46, 0x61...0x66: true
    default: false
    }
}
