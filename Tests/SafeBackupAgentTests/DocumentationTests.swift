import Foundation
import SafeBackupAgent
import SafeBackupCore
import Testing

/// The articles in `Sources/SafeBackup/Documentation.docc` are held against the code.
@Suite("The documentation")
struct DocumentationTests {
    private static let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    private static let articles = top.appendingPathComponent("Sources/SafeBackup/Documentation.docc")

    private func text(_ url: URL) throws -> String { try String(contentsOf: url, encoding: .utf8) }

    private func article(_ name: String) throws -> [Substring] {
        try text(Self.articles.appendingPathComponent(name)).split(separator: "\n", omittingEmptySubsequences: false)
    }

    /// What stands between two strings, each time that both are in a line.
    private func between(_ left: String, _ right: String, in text: String) -> [String] {
        text.split(separator: "\n").flatMap { line in
            line.components(separatedBy: left).dropFirst().compactMap { rest in
                rest.range(of: right).map { String(rest[..<$0.lowerBound]) }
            }
        }
    }

    private func sources(below folder: String) throws -> [String] {
        let folder = Self.top.appendingPathComponent(folder)
        let names = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
        return try names.filter { $0.hasSuffix(".swift") }.map { try text(folder.appendingPathComponent($0)) }
    }

    @Test("Troubleshooting has one heading for each error code, event and reason, and none besides")
    func troubleshooting() throws {
        let lines = try article("Troubleshooting.md")
        let headings = lines.filter { $0.hasPrefix("### ") }.map { String($0.dropFirst(4)) }
        #expect(Set(headings).count == headings.count, "a heading is an anchor: there is one of each")
        let errors = try text(Self.top.appendingPathComponent("Sources/SafeBackupCore/SafeBackupError.swift"))
        let codes = between(" = Self(rawValue: \"", "\")", in: errors)
        #expect(codes.count > 30)
        // Of the journal, which has names besides those of the log.
        let journal = try sources(below: "Sources").flatMap { between(" event: \"", "\"", in: $0) }
        #expect(journal.contains("fuzzy"))
        let words = try verdicts() + gaps()
        #expect(words.contains("settling") && words.contains("neverWalked"))
        let known = Set(
            codes + journal + words + EventID.allCases.map(\.rawValue) + SkipReason.allCases.map(\.rawValue))
        let missing = known.subtracting(headings).sorted()
        #expect(missing.isEmpty, "say in Troubleshooting.md what these mean, and what to do")
        let unknown = Set(headings).subtracting(known).subtracting(["started", "stopped"]).sorted()
        #expect(unknown.isEmpty, "no error code, event or reason has these names any more")
        // Each is told in more than its name.
        for (index, line) in lines.enumerated() where line.hasPrefix("### ") {
            #expect(lines[index + 2].count > 20, "\(line) says nothing")
        }
    }

    /// What `why` and `exposure` say of a path.
    private func verdicts() throws -> [String] {
        let file = try text(Self.top.appendingPathComponent("Sources/SafeBackupAgent/PathVerdict.swift"))
        let start = try #require(file.range(of: "enum Code: String {"))
        let end = try #require(file.range(of: "\n    }", range: start.upperBound..<file.endIndex))
        return file[start.upperBound..<end.lowerBound].split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            return words.first == "case" ? String(words[1]) : nil
        }
    }

    /// Why the numbers of `exposure` may be too small.
    private func gaps() throws -> [String] {
        let file = try text(Self.top.appendingPathComponent("Sources/SafeBackupAgent/ExposureReport.swift"))
        let start = try #require(file.range(of: "/// `agentNotRunning`"))
        let end = try #require(file.range(of: "package var", range: start.upperBound..<file.endIndex))
        return file[start.lowerBound..<end.lowerBound].split(separator: "`").enumerated().compactMap { index, word in
            index % 2 == 1 ? String(word) : nil
        }
    }

    @Test("Architecture has one sentence for each target of Package.swift")
    func architecture() throws {
        let package = try text(Self.top.appendingPathComponent("Package.swift"))
        // A target's name comes directly behind its opening bracket; a product's has another one.
        let flat = package.split(whereSeparator: \.isWhitespace).joined(separator: " ")
        var targets: Set<String> = []
        for kind in [".target(", ".executableTarget(", ".testTarget(", ".systemLibrary(", ".plugin("] {
            for rest in flat.components(separatedBy: kind).dropFirst() {
                let name = rest.drop(while: { $0 == " " })
                guard name.hasPrefix("name: \""), let end = name.dropFirst(7).firstIndex(of: "\"") else { continue }
                targets.insert(String(name.dropFirst(7)[..<end]))
            }
        }
        #expect(targets.contains("SafeBackupCLI") && targets.contains("CFailingVFS"))
        for target in targets.sorted() {
            let rows = try article("Architecture.md").filter { $0.hasPrefix("| `\(target)` | ") }
            #expect(rows.count == 1, "\(target) has no sentence, or several, in Architecture.md")
        }
        let told = between("| `", "` | ", in: try article("Architecture.md").joined(separator: "\n"))
        #expect(Set(told).subtracting(targets).isEmpty, "Package.swift has these targets no more")
    }

    @Test("Articles refer to articles that there are, and the readme to files that there are")
    func references() throws {
        let names = try FileManager.default.contentsOfDirectory(atPath: Self.articles.path).filter {
            $0.hasSuffix(".md")
        }
        #expect(names.count >= 7)
        for name in names {
            for reference in between("<doc:", ">", in: try article(name).joined(separator: "\n")) {
                #expect(names.contains("\(reference).md"), "\(name) refers to \(reference)")
            }
        }
        let readme = try text(Self.top.appendingPathComponent("README.md"))
        for reference in between("](", ")", in: readme) where !reference.hasPrefix("http") && !reference.hasPrefix("#")
        {
            let path = Self.top.appendingPathComponent(String(reference.prefix { $0 != "#" })).path
            #expect(FileManager.default.fileExists(atPath: path), "the readme refers to \(reference)")
        }
    }
}
