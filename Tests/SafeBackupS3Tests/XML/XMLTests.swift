import SafeBackupS3
import Testing

@Suite("XML of S3's answers")
struct XMLTests {
    private static func read(_ text: String) throws -> XMLElement { try XMLReader.read(Array(text.utf8)) }

    private static func reason(_ bytes: [UInt8]) -> XMLFailure.Reason? {
        do {
            _ = try XMLReader.read(bytes)
            return nil
        } catch { return error.reason }
    }

    static let listing = """
        \u{FEFF}<?xml version="1.0" encoding="UTF-8"?>
        <!-- of a server --><s3:ListBucketResult xmlns:s3='http://s3.amazonaws.com/doc/2006-03-01/' a = "x>y">
          <s3:Contents><Key>a &amp; &lt;b&gt; &#x1F600;&#13;&quot;&apos;</Key><Size>12</Size><Owner/></s3:Contents>
          <Contents ><Key><![CDATA[<&>]]>x</Key><Size> 7 </Size></Contents >
        </s3:ListBucketResult>

        """

    @Test("Names lose their prefix, entities are resolved, attributes, comments and white space do not matter")
    func listing() throws {
        let root = try Self.read("\n\n \(Self.listing)".replacingBOM)
        #expect(root.name == "ListBucketResult")
        let contents = root.all("Contents")
        #expect(contents.map { $0.bytes("Key") } == [Array("a & <b> 😀\r\"'".utf8), Array("<&>x".utf8)])
        #expect(contents.map { $0.number("Size") } == [12, 7])
        #expect(contents[0].first("Owner") == XMLElement(name: "Owner"))
    }

    @Test("A document that is cut at any byte is an error, never a shorter listing")
    func cut() throws {
        let bytes = Array(Self.listing.utf8)
        let end = bytes.lastIndex(of: UInt8(ascii: ">")) ?? 0
        #expect(Self.reason(bytes) == nil)
        for count in 0...end { #expect(Self.reason(Array(bytes[..<count])) != nil, "cut after \(count) bytes") }
    }

    @Test(
        "What S3 never sends is refused",
        arguments: [
            ("<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>", XMLFailure.Reason.doctype),
            ("<a>&nbsp;</a>", .entity), ("<a>&#0;</a>", .entity), ("<a>&#xD800;</a>", .entity),
            ("<a>&#-5;</a>", .entity),
            ("<a>&#x110000;</a>", .entity), ("<a>& b</a>", .entity),
            ("<a><b></a></b>", .mismatch), ("<a></b>", .mismatch), ("<x:a></a>", .mismatch),
            ("<a/><b/>", .notXML), ("<a></a>junk", .notXML), ("junk", .notXML), ("<a b=c></a>", .notXML),
            ("<a b=\"<\"></a>", .notXML), ("<1a></1a>", .notXML), ("", .cut), ("   ", .cut), ("<a", .cut),
            ("<a>", .cut),
            ("<?xml version=\"1.0\" encoding=\"UTF-16\"?><a/>", .encoding),
            (String(repeating: "<a>", count: 40), .tooDeep),
        ])
    func refused(_ text: String, _ reason: XMLFailure.Reason) {
        #expect(Self.reason(Array(text.utf8)) == reason)
    }

    @Test("Bytes that are not UTF-8, and more than 16 MiB, are refused")
    func bytes() {
        #expect(Self.reason(Array("<a>".utf8) + [0xFF] + Array("</a>".utf8)) == .encoding)
        #expect(Self.reason([UInt8](repeating: 0x20, count: XMLReader.sizeLimit + 1)) == .tooLarge)
    }

    @Test("Whatever bytes come, the reader ends with an element or an error")
    func fuzz() {
        var generator = Lehmer(seed: 20_261_123)
        let seed = Array(Self.listing.utf8)
        let alphabet = Array("<>&;/!?-[]='\" #xaC\0\u{e4}".utf8)
        var accepted = 0
        for _ in 0..<20_000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let index = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: bytes.remove(at: index)
                case 1: bytes[index] = alphabet.randomElement(using: &generator) ?? 0
                case 2: bytes.insert(alphabet.randomElement(using: &generator) ?? 0, at: index)
                default: bytes[index] = UInt8.random(in: 0...255, using: &generator)
                }
            }
            if Self.reason(bytes) == nil { accepted += 1 }
        }
        #expect(accepted > 0 && accepted < 20_000)
    }

    @Test("What is written is read as it was, and what XML cannot hold is not written")
    func writer() throws {
        let text = Array("a&b<c>\"d\"'e'\r\n\t\u{85}ä😀%".utf8)
        let escaped = try #require(XMLWriter.escape(text))
        var writer = XMLWriter(root: "Delete")
        writer.begin("Object")
        writer.element("Key", escaped: escaped)
        writer.element("ETag", "\"abc\"")
        let root = try XMLReader.read(writer.finish())
        #expect(root.first("Object")?.bytes("Key") == text)
        #expect(root.first("Object")?.string("ETag") == "\"abc\"")
        for refused: [UInt8] in [[0x01], [0x00], [0x1F], [0xEF, 0xBF, 0xBF], [0xFF], [0xC3]] {
            #expect(XMLWriter.escape(refused) == nil)
        }
    }
}

/// The same numbers on every run.
struct Lehmer: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

extension String {
    /// White space before the declaration, without the mark of byte order, which would stand within then.
    fileprivate var replacingBOM: String {
        String(String.UnicodeScalarView(unicodeScalars.filter { $0.value != 0xFEFF }))
    }
}
