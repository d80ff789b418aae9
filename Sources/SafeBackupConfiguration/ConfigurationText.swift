import SafeBackupCore

/// One file of a configuration by its form alone: sections, and the assignments in them. Pure, and on bytes.
///
/// The form is that of systemd.syntax(7): lines that begin with `#` or `;` are comments, a line that ends in a backslash
/// is continued by the next one that is no comment, blanks around a key and its value do not count.
/// See: man 7 systemd.syntax
package struct ConfigurationText: Sendable {
    /// `[word]` or `[word "name"]`, with what stands below it.
    package struct Section: Sendable, Hashable {
        package var word: [UInt8]
        package var name: [UInt8]?
        package var place: ConfigurationPlace
        package var assignments: [Assignment] = []
    }

    /// `key = value`.
    package struct Assignment: Sendable, Hashable {
        package var key: [UInt8]
        package var keyPlace: ConfigurationPlace
        /// Empty: what was assigned before does not count any more.
        package var value: [UInt8]
        package var valuePlace: ConfigurationPlace
    }

    package private(set) var sections: [Section] = []
    package private(set) var problems: [ConfigurationProblem] = []

    private let file: [UInt8]
    /// Below a heading that is wrong nothing is read: it would be told as wrong too.
    private var isSkipping = false

    package init(_ content: [UInt8], file: [UInt8]) {
        self.file = file
        var rest = content[...]
        if rest.starts(with: [0xEF, 0xBB, 0xBF]) { rest = rest.dropFirst(3) }
        var number = 0
        var open: LogicalLine?
        for line in rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            number += 1
            var line = line
            if line.last == UInt8(ascii: "\r") { line = line.dropLast() }
            let start = line.firstIndex { !Self.isBlank($0) }
            if let start, line[start] == UInt8(ascii: "#") || line[start] == UInt8(ascii: ";") { continue }
            let isContinued = Self.endsInBackslash(line)
            if isContinued { line = line.dropLast() }
            var logical = open ?? LogicalLine()
            logical.append(line, number: number)
            if isContinued {
                logical.bytes.append(UInt8(ascii: " "))
                open = logical
            } else {
                open = nil
                read(logical)
            }
        }
        if let open { read(open) }
    }

    /// A line with all that continues it.
    private struct LogicalLine {
        var bytes: [UInt8] = []
        /// Where each part begins in `bytes`, and the number of its line.
        var parts: [(start: Int, number: Int)] = []

        mutating func append(_ part: ArraySlice<UInt8>, number: Int) {
            parts.append((bytes.count, number))
            bytes.append(contentsOf: part)
        }

        func place(_ offset: Int, in file: [UInt8]) -> ConfigurationPlace {
            let part = parts.last { $0.start <= offset } ?? (0, 1)
            return ConfigurationPlace(file: file, line: part.number, column: offset - part.start + 1)
        }
    }

    /// A backslash that another one does not make plain.
    private static func endsInBackslash(_ line: ArraySlice<UInt8>) -> Bool {
        !line.reversed().prefix { $0 == UInt8(ascii: "\\") }.count.isMultiple(of: 2)
    }

    static func isBlank(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") || byte == UInt8(ascii: "\r")
    }

    private static func trimmed(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var bytes = bytes.drop(while: isBlank)
        while let last = bytes.last, isBlank(last) { bytes = bytes.dropLast() }
        return bytes
    }

    private mutating func read(_ line: LogicalLine) {
        let text = Self.trimmed(line.bytes[...])
        guard let first = text.first else { return }
        if let index = text.firstIndex(of: 0) {
            problems.append(
                ConfigurationProblem(line.place(index, in: file), "the line holds a NUL byte; this is no text file"))
            return
        }
        if first == UInt8(ascii: "[") {
            readHeading(text, line)
        } else {
            readAssignment(text, line)
        }
    }

    private mutating func readHeading(_ text: ArraySlice<UInt8>, _ line: LogicalLine) {
        let place = line.place(text.startIndex, in: file)
        isSkipping = true
        guard text.last == UInt8(ascii: "]"), text.count > 1 else {
            problems.append(ConfigurationProblem(place, "a heading ends in ']', as in [source \"photos\"]"))
            return
        }
        let inside = Self.trimmed(text.dropFirst().dropLast())
        let word = inside.prefix { !Self.isBlank($0) && $0 != UInt8(ascii: "\"") }
        let rest = Self.trimmed(inside[word.endIndex...])
        guard !word.isEmpty else {
            problems.append(ConfigurationProblem(place, "the heading is empty; write [agent] or [source \"photos\"]"))
            return
        }
        var name: [UInt8]?
        if !rest.isEmpty {
            guard rest.count >= 2, rest.first == UInt8(ascii: "\""), rest.last == UInt8(ascii: "\"") else {
                problems.append(
                    ConfigurationProblem(
                        line.place(rest.startIndex, in: file),
                        "the name stands in double quotes, as in [\(printable(word)) \"photos\"]"))
                return
            }
            name = Array(rest.dropFirst().dropLast())
        }
        isSkipping = false
        sections.append(Section(word: Array(word), name: name, place: place))
    }

    private mutating func readAssignment(_ text: ArraySlice<UInt8>, _ line: LogicalLine) {
        let place = line.place(text.startIndex, in: file)
        guard let equals = text.firstIndex(of: UInt8(ascii: "=")) else {
            problems.append(
                ConfigurationProblem(
                    place, "'\(shortened(text))' is neither a heading such as [agent] nor 'key = value'"))
            return
        }
        let key = Self.trimmed(text[..<equals])
        let value = Self.trimmed(text[(equals + 1)...])
        if isSkipping { return }
        guard !key.isEmpty else {
            problems.append(ConfigurationProblem(place, "there is no key before '='"))
            return
        }
        guard !sections.isEmpty else {
            problems.append(
                ConfigurationProblem(place, "'\(shortened(key))' stands above the first heading; put it below one"))
            return
        }
        // An empty value stands where it would begin.
        let valueStart = value.isEmpty ? equals : value.startIndex
        sections[sections.count - 1].assignments.append(
            Assignment(
                key: Array(key), keyPlace: place, value: Array(value), valuePlace: line.place(valueStart, in: file)))
    }
}

/// For a message: the beginning of what a person wrote.
func shortened(_ bytes: some Collection<UInt8>) -> String {
    bytes.count <= 60 ? printable(bytes) : printable(bytes.prefix(60)) + "…"
}
