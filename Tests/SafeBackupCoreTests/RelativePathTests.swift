import Testing

@testable import SafeBackupCore

@Suite("A relative path")
struct RelativePathTests {
    @Test(
        "Paths that leave their root, or are not paths, are refused",
        arguments: [
            "/a", "..", "a/..", "../a", "a/../b", ".", "a/./b", "a//b", "a/", "/", "a\0b",
        ])
    func refused(text: String) {
        let error = #expect(throws: SafeBackupError.self) { try RelativePath(text) }
        #expect(error?.code == .invalidPath)
        #expect(error?.disposition == .permanent)
    }

    @Test(
        "Odd but true names are kept byte by byte",
        arguments: [
            Array("...".utf8), Array("..a".utf8), Array("a\nb".utf8), [0xFF, 0xFE], Array("a/\u{0301}e".utf8), [0x08],
            Array(repeating: UInt8(ascii: "x"), count: 255),
        ])
    func kept(bytes: [UInt8]) throws {
        #expect(try RelativePath(bytes).bytes == bytes)
    }

    @Test("NFC and NFD are two files")
    func normalisation() throws {
        #expect(try RelativePath("e\u{0301}") != RelativePath("\u{00E9}"))
    }

    @Test("Containment compares components, not prefixes")
    func containment() throws {
        let path = try RelativePath("a/bc/d")
        #expect(path.isWithin(.root))
        #expect(try path.isWithin(RelativePath("a/bc")))
        #expect(try path.isWithin(RelativePath("a/bc/d")))
        #expect(try !path.isWithin(RelativePath("a/b")))
        #expect(try !path.isWithin(RelativePath("a/bc/d/e")))
    }

    @Test("Parent, leaf, ancestors and joining agree")
    func parts() throws {
        let path = try RelativePath("a/b/c")
        #expect(path.parent.appending(path.leaf) == path)
        #expect(path.ancestors.map(\.description) == ["a", "a/b"])
        #expect(path.parent.parent.parent.isRoot)
        #expect(try RelativePath("x").appending(path).components.count == 4)
        #expect(RelativePath.root.appending(path) == path)
    }

    @Test("What is not printable is shown as bytes, so that a name cannot forge a line")
    func shown() throws {
        #expect(printable([0x61, 0x0A, 0x62, 0xFF]) == "a\\x0ab\\xff")
        #expect(printable(Array("a\u{202E}b".utf8)) == "a\\xe2\\x80\\xaeb")
        #expect(printable(Array("Zürich".utf8)) == "Zürich")
    }
}
