/// One element of an answer: its name without a namespace's prefix, what stands in it, and the elements within.
package struct XMLElement: Sendable, Hashable {
    package var name: String
    /// The character data directly within, entities resolved: valid UTF-8.
    package var text: [UInt8] = []
    package var children: [XMLElement] = []

    package init(name: String, text: [UInt8] = [], children: [XMLElement] = []) {
        self.name = name
        self.text = text
        self.children = children
    }

    package func first(_ name: String) -> XMLElement? { children.first { $0.name == name } }

    package func all(_ name: String) -> [XMLElement] { children.filter { $0.name == name } }

    /// The text of the first child of that name.
    package func bytes(_ name: String) -> [UInt8]? { first(name)?.text }

    /// The text of the first child of that name, without white space around it; `nil` if there is none or it is empty.
    package func string(_ name: String) -> String? {
        guard let bytes = first(name)?.text else { return nil }
        let trimmed = bytes.drop { isXMLSpace($0) }
        let count = trimmed.lastIndex { !isXMLSpace($0) }.map { $0 + 1 } ?? trimmed.startIndex
        if count == trimmed.startIndex { return nil }
        return String(decoding: trimmed[..<count], as: UTF8.self)
    }

    /// The child's text as a number of at most 18 digits.
    package func number(_ name: String) -> Int64? { string(name).flatMap { Int64($0) } }
}

/// Space, tab, line feed or carriage return.
func isXMLSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D }
