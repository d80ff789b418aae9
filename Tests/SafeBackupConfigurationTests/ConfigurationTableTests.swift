import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

@Suite("The table of keys")
struct ConfigurationTableTests {
    private func parse(_ text: String) throws -> Configuration {
        do {
            return try Configuration([(Array("example".utf8), Array(text.utf8))])
        } catch {
            throw error.error
        }
    }

    @Test("agent.conf.example is what the table gives; with SAFEBACKUP_REWRITE=1 this test writes it")
    func example() throws {
        let top = FilePath(#filePath).removingLastComponent().removingLastComponent().removingLastComponent()
        let file = top.appending("agent.conf.example")
        if let rewrites = getenv("SAFEBACKUP_REWRITE"), String(cString: rewrites) == "1" {
            let content = Array(ConfigurationKeys.example.utf8)
            let open = try Descriptor.open(file, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
            try content.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) throws -> Void in try open.write(bytes, at: 0)
            }
        }
        let there = try Descriptor.open(file, O_RDONLY).readAll(limit: 1 << 20)
        #expect(
            String(decoding: there, as: UTF8.self) == ConfigurationKeys.example,
            "run this test with SAFEBACKUP_REWRITE=1 and look at what has changed")
    }

    @Test("The example can be used as it is, and with every key in it that is a comment")
    func exampleIsUsable() throws {
        let plain = try parse(ConfigurationKeys.example)
        #expect(plain.sources.count == 1 && plain.destinations.count == 1)
        // Keys of which a destination has one or the other, or that go with another value than the example's.
        let alternatives = ["#secret-access-key-file = ", "#customer-key-file = "]
        let full = ConfigurationKeys.example.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            if alternatives.contains(where: { line.hasPrefix($0) }) { return String(line) }
            if line == "destination = disk" { return "destination = disk\ndestination = bucket" }
            if line == "#encryption = bucket" { return "encryption = aws:kms" }
            let isKey = ConfigurationKeys.all.contains { line.hasPrefix("#\($0.name) = ") }
            return isKey || line.hasPrefix("#[") ? String(line.dropFirst()) : String(line)
        }
        let whole = try parse(full.joined(separator: "\n"))
        // What the comments give as defaults are the defaults.
        #expect(whole.destinations.first?.settle == plain.destinations.first?.settle)
        #expect(whole.destinations.first?.idleTime == plain.destinations.first?.idleTime)
        #expect(whole.sources.first?.reconcileInterval == plain.sources.first?.reconcileInterval)
        #expect(whole.destinations.map { $0.s3 == nil } == [true, false])
        for entry in ConfigurationKeys.all {
            let isThere = full.contains { $0.drop { $0 == "#" }.hasPrefix("\(entry.name) = ") }
            #expect(isThere, "\(entry.name) is not in the example")
        }
    }

    @Test("What config show --effective prints says the same again, and names every key")
    func effective() throws {
        let read = try parse(
            """
            [source "a"]
            exclude-from = /x
            exclude = *.tmp
            path = /a
            destination = d
            destination = b
            prefix = p
            [destination "d"]
            path = /d
            idle-time = 90 s
            [destination "b"]
            type = s3
            url = s3://bucket/home
            """)
        let text = String(decoding: read.effective, as: UTF8.self)
        let again = try parse(text)
        #expect(again.sources.map(\.prefix) == read.sources.map(\.prefix))
        #expect(again.destinations.first?.idleTime == .seconds(90))
        #expect(again.sources.first?.excludes.count == 2)
        if case .file = again.sources.first?.excludes.first {} else { Issue.record("the order of the rules was lost") }
        // A default is no different from the same value written down.
        #expect(again.effective.count > 0)
        for entry in ConfigurationKeys.all { #expect(text.contains(entry.name), "\(entry.name) is not named") }
    }

    @Test("Each key is in its section once")
    func distinct() {
        let names = ConfigurationKeys.all.map { "\($0.section).\($0.name)" }
        #expect(Set(names).count == names.count)
    }
}

@Suite("The parser of agent.conf under nonsense")
struct ConfigurationFuzzTests {
    /// xorshift64*: the same bytes in each run.
    private struct Generator: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state ^= state >> 12
            state ^= state << 25
            state ^= state >> 27
            return state &* 2_685_821_657_736_338_717
        }
    }

    /// What is found of each text must have a place in it.
    private func check(_ text: [UInt8], _ seed: Int) {
        do {
            let read = try Configuration([(Array("fuzz".utf8), text)])
            let again = try Configuration([(Array("again".utf8), read.effective)])
            #expect(again.sources.map(\.path) == read.sources.map(\.path), "seed \(seed)")
            #expect(again.destinations.map(\.settle) == read.destinations.map(\.settle), "seed \(seed)")
        } catch {
            let lines = text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            #expect(!error.problems.isEmpty, "seed \(seed)")
            for problem in error.problems {
                let (line, column) = (problem.place.line, problem.place.column)
                let isInside = line >= 1 && line <= lines.count && column >= 1 && column <= lines[line - 1].count + 2
                #expect(isInside && problem.place.file == Array("fuzz".utf8), "seed \(seed): \(problem)")
                #expect(!problem.message.isEmpty && !problem.message.contains("\n"), "seed \(seed): \(problem)")
            }
        }
    }

    @Test("Bytes that are thrown together never crash it, and each error has a place", arguments: 1...20)
    func noise(seed: Int) {
        var generator = Generator(state: UInt64(seed) &* 0x9E37_79B9_7F4A_7C15)
        let alphabet = Array("[]\"\\=#; \t\r\n\n\nabcsdepthnour/.-019%GiBm\u{0}é".utf8) + [0xFF, 0xC3]
        for _ in 0..<100 {
            let length = Int.random(in: 0...200, using: &generator)
            let isWild = Bool.random(using: &generator)
            check(
                (0..<length).map { _ in
                    isWild
                        ? UInt8.random(in: 0...255, using: &generator)
                        : alphabet[Int.random(in: 0..<alphabet.count, using: &generator)]
                }, seed)
        }
    }

    @Test("A configuration with single bytes changed never crashes it, and each error has a place", arguments: 1...20)
    func mutation(seed: Int) {
        var generator = Generator(state: UInt64(seed) &* 0xD1B5_4A32_D192_ED03)
        let pieces: [[UInt8]] = [
            "[source \"s\"]\n", "[destination \"d\"]\n", "[agent]\n", "path = /a\n", "path = \"/a\\x41\"\n",
            "destination = d\n",
            "prefix = a/b\n", "idle-time = 5min 1.5s\n", "reconcile-interval =\n", "exclude = *.[ab]\\\n",
            "exclude-from=/x\\\\\n",
            "\\\n", "settle-limit = 99999999999999w\n", "# x\\\n", "state = /s\n",
        ].map { Array($0.utf8) }
        for _ in 0..<150 {
            var text = Array(
                "[source \"s\"]\npath=/a\ndestination=d\n[destination \"d\"]\npath=/b\nquiet-time = 1min 5s\n".utf8)
            for _ in 0..<Int.random(in: 0...6, using: &generator) {
                text += pieces[Int.random(in: 0..<pieces.count, using: &generator)]
            }
            for _ in 0..<Int.random(in: 0...4, using: &generator) {
                let index = Int.random(in: 0..<text.count, using: &generator)
                switch Int.random(in: 0...2, using: &generator) {
                case 0: text[index] = UInt8.random(in: 0...255, using: &generator)
                case 1: text.remove(at: index)
                default: text.insert(text[Int.random(in: 0..<text.count, using: &generator)], at: index)
                }
            }
            check(text, seed)
        }
    }
}
