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

    /// A line that can never match, as git accepts it in a `.gitignore`.
    package struct Idle: Sendable, Hashable {
        package var pattern: ExcludePattern
        /// Goes on after "it".
        package var reason: String
    }

    private var rules: [Rule] = []
    /// Lines of files that match nothing; who wrote one believes that it works, and must be told.
    package private(set) var idle: [Idle] = []
    private var comparesPaths = false
    /// What the rules were made from, comments included; a verdict's index counts in it.
    package private(set) var patterns: [ExcludePattern] = []

    /// Rules that exclude nothing.
    package init() {}

    /// Throws `invalidConfiguration`, naming the pattern and its place, for an option that can never match, and for a NUL,
    /// which is the sign of a file that holds no patterns; a line of a file that can never match is `idle`.
    package init(_ patterns: [ExcludePattern]) throws(SafeBackupError) {
        self.patterns = patterns
        for (index, pattern) in patterns.enumerated() {
            switch try Self.parse(pattern, index: index) {
            case .rule(let rule):
                rules.append(rule)
                if !rule.isLeafOnly { comparesPaths = true }
            case .idle(let reason):
                guard case .file = pattern.origin else { throw Self.refused(pattern, reason) }
                idle.append(Idle(pattern: pattern, reason: reason))
            case .comment: continue
            }
        }
    }

    /// As options of a command line, see `init(_:)`.
    package init(patterns: [[UInt8]]) throws(SafeBackupError) {
        try self.init(patterns.enumerated().map { ExcludePattern(bytes: $1, line: $0 + 1) })
    }

    /// The UTF-8 bytes of each pattern, see `init(_:)`.
    package init(patterns: [String]) throws(SafeBackupError) {
        try self.init(patterns: patterns.map { Array($0.utf8) })
    }

    package var isEmpty: Bool { rules.isEmpty }

    private enum Line {
        case rule(Rule)
        case comment
        /// It can never match, because it does this.
        case idle(String)
    }

    private static func refused(_ written: ExcludePattern, _ reason: String) -> SafeBackupError {
        SafeBackupError(
            .invalidConfiguration,
            "The exclude pattern '\(printable(written.bytes))' (\(written.place)) \(reason); see gitignore(5)",
            disposition: .permanent)
    }

    private static func parse(_ written: ExcludePattern, index: Int) throws(SafeBackupError) -> Line {
        var pattern = written.bytes[...]
        if pattern.first == UInt8(ascii: "#") { return .comment }
        pattern = withoutTrailingSpaces(pattern)
        if pattern.isEmpty { return .comment }
        if pattern.contains(0) { throw refused(written, "holds a NUL byte") }
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
        if pattern.isEmpty { return .idle("names nothing") }
        if let fault = Wildcard.fault(in: pattern) { return .idle(fault) }
        rule.pattern = Array(pattern)
        rule.plainCount = rule.pattern.prefix { !Wildcard.isSpecial($0) }.count
        return .rule(rule)
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
        guard let rule = match(in: directory, leaf: leaf, isDirectory: isDirectory), !rule.includes else {
            return .included
        }
        return .excluded(by: rule.index)
    }

    /// Which rule decides about a path, and where.
    package struct Finding: Sendable, Hashable {
        package var pattern: ExcludePattern
        /// `false`: the pattern begins with `!`, and the path is included again.
        package var isExcluded: Bool
        /// What the rule matches: the path, or the outermost directory of it that is excluded.
        package var path: RelativePath
        /// A `!` pattern that matches the path itself and has no effect, because a directory of it is excluded.
        package var withoutEffect: ExcludePattern?
    }

    /// The rule behind `verdict(for:isDirectory:)`; `nil` if none matches.
    package func finding(for path: RelativePath, isDirectory: Bool) -> Finding? {
        if path.isRoot { return nil }
        let own = match(in: path.parent, leaf: path.leaf, isDirectory: isDirectory)
        for ancestor in path.ancestors {
            guard let rule = match(in: ancestor.parent, leaf: ancestor.leaf, isDirectory: true), !rule.includes else {
                continue
            }
            return Finding(
                pattern: patterns[rule.index], isExcluded: true, path: ancestor,
                withoutEffect: own.flatMap { $0.includes ? patterns[$0.index] : nil })
        }
        return own.map { Finding(pattern: patterns[$0.index], isExcluded: !$0.includes, path: path) }
    }

    /// The last rule that matches an entry of `directory`.
    private func match(in directory: RelativePath, leaf: [UInt8], isDirectory: Bool) -> Rule? {
        let path = comparesPaths ? directory.appending(leaf).bytes : []
        return rules.last { rule in
            if rule.isDirectoryOnly && !isDirectory { return false }
            return rule.isLeafOnly ? rule.matches(leaf, isPath: false) : rule.matches(path, isPath: true)
        }
    }
}
