/// A file in the dialect of `~/.aws/config` and `~/.aws/credentials`.
///
/// Tolerant where the programs that read these files differ: a section that comes twice is one, the last value counts;
/// a byte order mark is skipped; a comment after white space ends a value; a line that is nothing is reported and skipped.
/// See: "Format of the shared config and credentials files", AWS SDKs and Tools Reference Guide.
package struct ProfileFile: Sendable {
    package enum Kind: Sendable { case config, credentials }

    package struct Section: Sendable, Hashable {
        /// By name in lower case.
        package var options: [String: String] = [:]
        /// The indented lines below an option without a value, by that option's name.
        package var nested: [String: [String: String]] = [:]
    }

    /// What a header names: `profile` (also for the credentials file), `services`, `sso-session`.
    package struct Name: Sendable, Hashable {
        package var type: String
        package var name: String

        package init(type: String, name: String) {
            self.type = type
            self.name = name
        }
    }

    package private(set) var sections: [Name: Section] = [:]
    /// Numbers of lines that could not be read, from 1.
    package private(set) var junk: [Int] = []

    package init() {}

    package init(_ content: [UInt8], _ kind: Kind) {
        var bytes = content[...]
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes = bytes.dropFirst(3) }
        var reading = Reading(kind: kind)
        // `[profile default]` is taken instead of `[default]`, not together with it.
        for (index, line) in bytes.split(separator: 0x0A, omittingEmptySubsequences: false).enumerated() {
            guard let text = String(validating: line, as: UTF8.self), reading.read(text[...]) else {
                junk.append(index + 1)
                continue
            }
        }
        sections = reading.sections
        for (name, section) in reading.plainDefault where sections[name] == nil { sections[name] = section }
    }

    package func profile(_ name: String) -> Section? { sections[Name(type: "profile", name: name)] }

    private struct Reading {
        let kind: Kind
        var sections: [Name: Section] = [:]
        var plainDefault: [Name: Section] = [:]
        private var current: Name?
        private var isPlainDefault = false
        private var option: String?
        /// How far the option's own line was indented.
        private var optionIndent = 0

        init(kind: Kind) { self.kind = kind }

        /// Whether the line could be read.
        mutating func read(_ raw: Substring) -> Bool {
            let indent = raw.prefix { $0 == " " || $0 == "\t" }.count
            let line = trimmed(raw)
            if line.isEmpty || line.first == "#" || line.first == ";" { return true }
            if line.first == "[" && indent == 0 { return header(line) }
            guard current != nil else { return false }
            if let option, indent > optionIndent { return indented(line, below: option) }
            guard let (name, value) = Self.pair(line) else { return false }
            option = name
            optionIndent = indent
            change { $0.options[name] = value }
            return true
        }

        private mutating func header(_ line: Substring) -> Bool {
            current = nil
            option = nil
            guard let close = line.lastIndex(of: "]"), Self.isRest(line[line.index(after: close)...]) else {
                return false
            }
            let inner = trimmed(line[line.index(after: line.startIndex)..<close])
            isPlainDefault = false
            if kind == .credentials {
                // All of it is the name.
                if inner.isEmpty { return false }
                current = Name(type: "profile", name: String(inner))
                change { _ in }
                return true
            }
            guard let words = ShellWords.split(String(inner)) else { return false }
            switch (kind, words.count) {
            case (.config, 1) where words[0] == "default":
                current = Name(type: "profile", name: "default")
                isPlainDefault = true
            case (.config, 2): current = Name(type: words[0], name: words[1])
            // A section without a type in the config file is nothing to us (`[plugins]`, `[preview]`), and no junk.
            case (.config, 1): return true
            default: return false
            }
            change { _ in }
            return true
        }

        /// After a header only a comment may stand.
        private static func isRest(_ text: Substring) -> Bool {
            let rest = trimmed(text)
            return rest.isEmpty || rest.first == "#" || rest.first == ";"
        }

        private mutating func indented(_ line: Substring, below option: String) -> Bool {
            var isRead = true
            change { section in
                if section.options[option]?.isEmpty == false {
                    section.options[option, default: ""] += "\n" + line
                } else if let (name, value) = Self.pair(line) {
                    section.nested[option, default: [:]][name] = value
                } else {
                    isRead = false
                }
            }
            return isRead
        }

        private mutating func change(_ body: (inout Section) -> Void) {
            guard let current else { return }
            if isPlainDefault {
                body(&plainDefault[current, default: Section()])
            } else {
                body(&sections[current, default: Section()])
            }
        }

        private static func pair(_ line: Substring) -> (String, String)? {
            guard let equals = line.firstIndex(of: "=") else { return nil }
            let name = trimmed(line[..<equals])
            if name.isEmpty { return nil }
            return (name.lowercased(), String(withoutComment(trimmed(line[line.index(after: equals)...]))))
        }

        private static func withoutComment(_ value: Substring) -> Substring {
            var previous: Character = " "
            for index in value.indices {
                if (value[index] == "#" || value[index] == ";") && (previous == " " || previous == "\t") {
                    return trimmed(value[..<index])
                }
                previous = value[index]
            }
            return value
        }
    }
}

/// Without spaces, tabs and line ends at both ends.
private func trimmed(_ text: Substring) -> Substring {
    let isSpace: (Character) -> Bool = { $0 == " " || $0 == "\t" || $0 == "\r" || $0 == "\r\n" }
    let start = text.firstIndex { !isSpace($0) } ?? text.endIndex
    guard let last = text.lastIndex(where: { !isSpace($0) }) else { return text[start..<start] }
    return text[start...last]
}
