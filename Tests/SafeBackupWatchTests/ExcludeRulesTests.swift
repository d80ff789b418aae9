import SafeBackupCore
import SafeBackupSystem
import SafeBackupWatch
import Testing

@Suite("Exclude rules")
struct ExcludeRulesTests {
    /// Every entry exists in a real work tree; a trailing slash makes a directory.
    static let tree = [
        "a", "a.o", "b.o", ".o", "foo", "foo.txt", "Foo", "foo bar", "foo ", "#comment", "!bang", "back\\slash",
        "br[ack", "star*", "x-y", "x]y", "é", "é.txt", "tab\there", "dir/", "dir/a", "dir/a.o", "dir/foo", "dir/b/",
        "dir/b/foo", "dir/b/a.o", "dir/b/c/", "dir/b/c/foo", "dir/b/c/x.log", "build/", "build/keep", "build/out/",
        "build/out/keep", "src/", "src/build", "src/foo/", "src/foo/bar/", "src/foo/bar/baz", "src/foo/baz",
        "foox/", "foox/y/", "foox/y/bar", "foobar/", "foobar/bar", "logs/", "logs/1.log", "logs/12.log", "logs/a.log",
        "logs/A.log", "logs/_.log", "logs/-.log", "logs/].log", "logs/^.log", "logs/!.log", "logs/z/", "logs/z/1.log",
    ]

    static let rules: [[String]] = [
        ["*.o"], ["/*.o"], ["*.o", "!a.o"], ["!a.o", "*.o"], ["foo"], ["/foo"], ["foo/"], ["dir"], ["dir/"], ["/dir/"],
        ["dir/*"], ["dir/**"], ["dir/*", "!dir/b"], ["dir/", "!dir/foo"], ["dir/*", "!dir/b/", "dir/b/*", "!dir/b/c"],
        ["**/foo"], ["**/b/foo"], ["**/b/**"], ["dir/**/foo"], ["dir/**/**/foo"], ["**/foo/"], ["a/**"], ["**"],
        ["*"], ["/*", "!/dir"], ["*/foo"], ["*/*/foo"], ["foo*"], ["foo?"], ["f?o"], ["???"], ["foo**"],
        ["foo**/bar"], ["src/foo**baz"], ["src/**baz"], ["**foo"], ["src/**/baz"], ["src/**/bar/"], ["?"],
        ["# comment", "", "   ", "a"], ["\\#comment"], ["\\!bang"], ["!bang"], ["foo\\ "], ["foo "], ["foo   "],
        ["foo bar"], ["back\\\\slash"], ["br\\[ack"], ["br[[]ack"], ["star\\*"], ["x[-]y"], ["x[]]y"], ["x[a-]y"],
        ["logs/[0-9].log"], ["logs/[!0-9].log"], ["logs/[^0-9].log"], ["logs/[a-z].log"], ["logs/[A-Za-z_].log"],
        ["logs/[[:digit:]].log"], ["logs/[[:alpha:]].log"], ["logs/[![:alnum:]].log"],
        ["logs/[[:upper:][:digit:]].log"],
        ["logs/[]].log"], ["logs/[]-_].log"], ["logs/[\\]-_].log"], ["logs/[!]].log"], ["logs/[^a].log"],
        ["logs/[a^].log"], ["logs/[!!].log"], ["logs/[z-a].log"], ["logs/[[:punct:]].log"], ["logs/[[a].log"],
        ["logs/[[:a].log"], ["logs/[0-9][0-9].log"], ["logs/*.log", "!logs/1*"], ["**/*.log"], ["*.log"],
        ["*.log", "!logs/"], ["logs/", "!logs/1.log"], ["/logs/**", "!/logs/**/1.log"], ["logs/**", "!logs/**/"],
        ["build", "!build/keep"], ["build/*", "!build/out"], ["**/build"], ["/build/"], ["src/build/"], ["é*"], ["??"],
        ["tab\t*"], ["[f]oo"], ["[F]oo"], ["*o*o*"], ["*a*b*c*d*"], ["f*o*t"], ["dir/b/c"], ["/dir/b/"], ["b/c"],
        ["dir//b"], ["dir\\/b"], ["\\a"], ["\\d\\i\\r/"], ["**/**/foo"], ["***/foo"], ["dir/***"], ["dir/b**/foo"],
        ["dir/*b/foo"], ["dir/**b/foo"], ["/**/foo"], ["/**"], ["/*/"], ["*/"], ["**/"], ["dir/**/"], ["foo/**"],
        ["src/foo/**/baz"], ["src/*/baz"], ["src/?oo/baz"], ["src/[f]oo/baz"], ["src[/]foo"], ["src?foo"],
    ]

    private func paths() -> [(path: RelativePath, isDirectory: Bool)] {
        Self.tree.map { text in
            (RelativePath.at(text.hasSuffix("/") ? String(text.dropLast()) : text), text.hasSuffix("/"))
        }
    }

    @Test("Every pattern excludes exactly what git ignores, by the same rule")
    func agreesWithGit() throws {
        let sandbox = try Sandbox()
        _ = try sandbox.shell("git init -q . 2>/dev/null")
        for (path, isDirectory) in paths() {
            if isDirectory { try sandbox.mkdir(path) } else { try sandbox.write(path) }
        }
        let questions = paths().map(\.path.bytes).joined(separator: [0])
        try sandbox.write(".git/questions", "")
        try sandbox.root.open(.at(".git/questions"), 2).writeAll(Array(questions) + [0])
        var excluded = 0
        for patterns in Self.rules {
            try sandbox.write(".git/info/exclude", patterns.joined(separator: "\n") + "\n")
            // -z: four fields a path: source, line, pattern, path; the first three are empty where no rule matches.
            let output = try sandbox.shell("git check-ignore --no-index -v -n -z --stdin < .git/questions")
            let fields = output.split(separator: 0, omittingEmptySubsequences: false).map(Array.init)
            try #require(fields.count == paths().count * 4 + 1, "git answered for every path, of \(patterns)")
            let rules = try ExcludeRules(patterns: patterns)
            for (index, (path, isDirectory)) in paths().enumerated() {
                let line = Int(String(decoding: fields[index * 4 + 1], as: UTF8.self))
                var expected = ExcludeRules.Verdict.included
                if let line, fields[index * 4 + 2].first != UInt8(ascii: "!") { expected = .excluded(by: line - 1) }
                let verdict = rules.verdict(for: path, isDirectory: isDirectory)
                #expect(verdict == expected, "\(path) under \(patterns)")
                if verdict != .included { excluded += 1 }
            }
        }
        #expect(excluded > Self.rules.count)
    }

    @Test("A random pattern excludes exactly what git ignores")
    func agreesWithGitAtRandom() throws {
        let sandbox = try Sandbox()
        _ = try sandbox.shell("git init -q . 2>/dev/null")
        let names = ["a", "b", "ab", "ba/", "ba/a", "ba/ab", "ba/a-b/", "ba/a-b/a", "ba/a-b/ab", "a]b", "a-b", "a!b"]
        for name in names {
            if name.hasSuffix("/") { try sandbox.mkdir(String(name.dropLast())) } else { try sandbox.write(name) }
        }
        let paths = names.map { $0.hasSuffix("/") ? String($0.dropLast()) : $0 }
        try sandbox.write(".git/questions", paths.joined(separator: "\n") + "\n")
        var random = SplitMix(state: 7)
        let pieces = [
            "a", "b", "*", "**", "?", "/", "[ab]", "[!a]", "[a-b]", "[]-]", "-", "\\a", "!", "[[:alpha:]]", "/**/",
        ]
        for _ in 0..<150 {
            let count = Int(random.next() % 4) + 1
            let pattern = (0..<count).map { _ in pieces[Int(random.next() % UInt64(pieces.count))] }.joined()
            guard let rules = try? ExcludeRules(patterns: [pattern]) else { continue }  // it names nothing
            try sandbox.write(".git/info/exclude", pattern + "\n")
            let output = try sandbox.shell("git check-ignore --no-index -v --stdin < .git/questions")
            var ignored: Set<String> = []
            for line in String(decoding: output, as: UTF8.self).split(separator: "\n") {
                let halves = line.split(separator: "\t", maxSplits: 1)
                if halves.count == 2, !halves[0].contains(":1:!") { ignored.insert(String(halves[1])) }
            }
            for (name, path) in zip(names, paths) {
                let verdict = rules.verdict(for: .at(path), isDirectory: name.hasSuffix("/"))
                #expect((verdict == .excluded(by: 0)) == ignored.contains(path), "\(path) under '\(pattern)'")
            }
        }
    }

    @Test(
        "A pattern that could never match is refused by name",
        arguments: ["foo[", "foo[a", "[[:nope:]]", "foo\\", "!", "/", "!/", "a\u{0}b", "[[:alpha:]"])
    func refuses(pattern: String) throws {
        let error = try #require(throws: SafeBackupError.self) { try ExcludeRules(patterns: ["ok", pattern]) }
        #expect(error.code == .invalidConfiguration)
        #expect(error.message.contains(printable(Array(pattern.utf8))))
    }

    @Test(
        "A line of a file that git accepts and that never matches is told and left aside; a NUL is refused there too",
        arguments: ["foo[", "foo[a", "[[:nope:]]", "foo\\", "!", "/", "!/", "[[:alpha:]"])
    func leavesAside(line: String) throws {
        func pattern(_ text: String, line: Int) -> ExcludePattern {
            ExcludePattern(bytes: Array(text.utf8), origin: .file(Array("/rules".utf8)), line: line)
        }
        let rules = try ExcludeRules([pattern("a", line: 1), pattern(line, line: 2), pattern("!b", line: 3)])
        #expect(rules.idle.map(\.pattern.place) == ["/rules:2"])
        #expect(rules.verdict(for: .at("a"), isDirectory: false) == .excluded(by: 0))
        for path in ["foo", "foo[", "foo[a", "foo\\", "!", "d", "d/e"] {
            #expect(rules.verdict(for: .at(path), isDirectory: true) == .included)
        }
        #expect(throws: SafeBackupError.self) { try ExcludeRules([pattern("a\u{0}b", line: 1)]) }
    }

    @Test("Names that are not UTF-8 or hold a newline are compared as bytes")
    func matchesBytes() throws {
        let rules = try ExcludeRules(patterns: [[0xFF, 0x2A], Array("new?line".utf8), Array("[\u{1}-\u{8}]".utf8)])
        let odd = RelativePath(unchecked: [0x64, 0x2F, 0xFF, 0xFE])
        #expect(rules.verdict(for: odd, isDirectory: false) == .excluded(by: 0))
        #expect(rules.verdict(for: .at("new\nline"), isDirectory: false) == .excluded(by: 1))
        #expect(rules.verdict(for: RelativePath(unchecked: [0x08]), isDirectory: false) == .excluded(by: 2))
        #expect(rules.verdict(for: RelativePath(unchecked: [0xFE, 0xFF]), isDirectory: false) == .included)
    }

    @Test("A pattern of many stars is answered at once, also where it does not match")
    func isNotExponential() throws {
        let pattern = String(repeating: "*a", count: 40) + "b"
        let rules = try ExcludeRules(patterns: [pattern, "x/" + String(repeating: "**/a", count: 20) + "/b"])
        let leaf = String(repeating: "a", count: 250)
        let began = monotonicSeconds()
        #expect(rules.verdict(for: .at(leaf), isDirectory: false) == .included)
        #expect(
            rules.verdict(for: .at("x/" + String(repeating: "a/", count: 60) + "a"), isDirectory: false) == .included)
        #expect(monotonicSeconds() - began < 5)
    }
}

/// A small generator with a seed, so that a failure can be repeated.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }
}
