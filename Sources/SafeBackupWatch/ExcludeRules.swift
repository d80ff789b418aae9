package import SafeBackupCore

/// Which paths of a source are not saved, in the syntax and with the meaning of gitignore(5).
///
/// One pattern per element: `#` begins a comment, `!` includes again what an earlier pattern excluded, a slash at the
/// beginning or in the middle anchors the pattern at the source's root, a slash at the end makes it match directories
/// only; `*` and `?` do not match a slash, `**` does. The last match decides. What lies below an excluded directory
/// cannot be included again: the directory is never entered.
///
/// Pure, and on bytes: case matters, and nothing is normalised.
package struct ExcludeRules: Sendable, Hashable {
    /// What the rules say of a path.
    package enum Verdict: Sendable, Hashable {
        case included
        /// By the pattern of this index in the list that the rules were made from.
        case excluded(by: Int)
    }

    private struct Rule: Hashable {
        /// Without `!`, without the slashes at both ends.
        var pattern: [UInt8]
        /// The bytes before the first wildcard; they are compared before the pattern is.
        var plainCount: Int
        var index: Int
        var includes: Bool
        var isDirectoryOnly: Bool
        /// Compared with the last component alone.
        var isLeafOnly: Bool

        func matches(_ text: [UInt8], isPath: Bool) -> Bool {
            if plainCount == pattern.count { return pattern == text }
            // Compared apart, as git does it: after the plain beginning, `**` counts as being at a pattern's start.
            guard text.count >= plainCount, text[..<plainCount] == pattern[..<plainCount] else { return false }
            return Wildcard.matches(pattern[plainCount...], text[plainCount...], isPath: isPath)
        }
    }

    private var rules: [Rule] = []
    private var comparesPaths = false

    /// Rules that exclude nothing.
    package init() {}

    /// Throws `invalidConfiguration`, naming the pattern, for one that can never match: git ignores such a pattern
    /// silently, but who wrote it believes that it works.
    package init(patterns: [[UInt8]]) throws(SafeBackupError) {
        for (index, line) in patterns.enumerated() {
            guard let rule = try Self.parse(line, index: index) else { continue }
            rules.append(rule)
            if !rule.isLeafOnly { comparesPaths = true }
        }
    }

    /// The UTF-8 bytes of each pattern, see `init(patterns:)`.
    package init(patterns: [String]) throws(SafeBackupError) {
        try self.init(patterns: patterns.map { Array($0.utf8) })
    }

    package var isEmpty: Bool { rules.isEmpty }

    private static func parse(_ line: [UInt8], index: Int) throws(SafeBackupError) -> Rule? {
        var pattern = line[...]
        if pattern.first == UInt8(ascii: "#") { return nil }
        pattern = withoutTrailingSpaces(pattern)
        if pattern.isEmpty { return nil }
        func refused(_ reason: String) -> SafeBackupError {
            SafeBackupError(
                .invalidConfiguration, "The exclude pattern '\(printable(line))' \(reason); see gitignore(5)",
                disposition: .permanent)
        }
        if pattern.contains(0) { throw refused("holds a NUL byte") }
        var rule = Rule(
            pattern: [], plainCount: 0, index: index, includes: false, isDirectoryOnly: false, isLeafOnly: false)
        if pattern.first == UInt8(ascii: "!") {
            rule.includes = true
            pattern.removeFirst()
        }
        if pattern.last == UInt8(ascii: "/") {
            rule.isDirectoryOnly = true
            pattern.removeLast()
        }
        rule.isLeafOnly = !pattern.contains(UInt8(ascii: "/"))
        if pattern.first == UInt8(ascii: "/") { pattern.removeFirst() }
        if pattern.isEmpty { throw refused("names nothing") }
        if let fault = Wildcard.fault(in: pattern) { throw refused(fault) }
        rule.pattern = Array(pattern)
        rule.plainCount = rule.pattern.prefix { !Wildcard.isSpecial($0) }.count
        return rule
    }

    /// Spaces at the end do not count, unless a backslash stands before them.
    private static func withoutTrailingSpaces(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var end = line.startIndex
        var index = line.startIndex
        while index < line.endIndex {
            if line[index] == UInt8(ascii: "\\") {
                index += 1
                end = index + 1
            } else if line[index] != UInt8(ascii: " ") {
                end = index + 1
            }
            index += 1
        }
        return line[..<min(end, line.endIndex)]
    }

    /// What the rules say of a path, its directories included.
    package func verdict(for path: RelativePath, isDirectory: Bool) -> Verdict {
        if rules.isEmpty || path.isRoot { return .included }
        for ancestor in path.ancestors {
            let verdict = verdict(in: ancestor.parent, leaf: ancestor.leaf, isDirectory: true)
            if verdict != .included { return verdict }
        }
        return verdict(in: path.parent, leaf: path.leaf, isDirectory: isDirectory)
    }

    /// What the rules say of an entry of `directory`, which is known not to be excluded itself.
    package func verdict(in directory: RelativePath, leaf: [UInt8], isDirectory: Bool) -> Verdict {
        if rules.isEmpty { return .included }
        let path = comparesPaths ? directory.appending(leaf).bytes : []
        for rule in rules.reversed() {
            if rule.isDirectoryOnly && !isDirectory { continue }
            if rule.isLeafOnly ? rule.matches(leaf, isPath: false) : rule.matches(path, isPath: true) {
                return rule.includes ? .included : .excluded(by: rule.index)
            }
        }
        return .included
    }
}
