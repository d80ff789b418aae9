import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import Testing

@Suite("Keys, metadata and parts")
struct KeySpaceTests {
    private let keys = KeySpace(prefix: Array("/a b/c/".utf8))

    @Test("A key is the prefix and the path, and rclone's spelling where the path is not UTF-8")
    func keysOfPaths() throws {
        func key(_ path: [UInt8]) throws -> String {
            String(decoding: try keys.key(RelativePath(path)).bytes, as: UTF8.self)
        }
        #expect(try key(Array("x/y z+&\n".utf8)) == "a b/c/x/y z+&\n")
        #expect(try key([0x61, 0xFF, 0x62]) == "a b/c/a\u{201B}FFb")
        #expect(try key(Array("q\u{201B}q".utf8)) == "a b/c/q\u{201B}\u{201B}q")
        // A surrogate is not UTF-8, whatever a lenient decoder makes of it.
        #expect(try key([0xED, 0xA0, 0x80]) == "a b/c/\u{201B}ED\u{201B}A0\u{201B}80")
        // NFC and NFD are two files.
        let (composed, decomposed) = (try RelativePath("\u{E9}"), try RelativePath("e\u{301}"))
        #expect(try keys.key(composed) != keys.key(decomposed))
    }

    @Test("No two paths have one key, and each key leads back to its path")
    func roundTrip() throws {
        var generator = SystemRandomNumberGenerator()
        let pieces: [[UInt8]] = [
            [0xE2, 0x80, 0x9B], [0xE2, 0x80], [0xFF], Array("FF".utf8), [0x80], Array("é".utf8), Array("a".utf8),
            [0xF0, 0x9F, 0x98, 0x80], [0xC0, 0xAF], Array("9B".utf8),
        ]
        var seen: [ObjectKey: [UInt8]] = [:]
        for _ in 0..<5_000 {
            let bytes = (0..<Int.random(in: 1...6, using: &generator)).flatMap { _ in
                pieces[Int.random(in: 0..<pieces.count, using: &generator)]
            }
            let key = try keys.key(RelativePath(unchecked: bytes))
            #expect(seen[key, default: bytes] == bytes)
            seen[key] = bytes
            #expect(keys.location(of: key)?.location.bytes == bytes)
            #expect(String(validating: key.bytes, as: UTF8.self) != nil)
        }
    }

    @Test("A key has at most 1,024 bytes, counted with the prefix and as it is spelled in the bucket")
    func tooLong() throws {
        let free = KeySpace.keyLimit - keys.prefix.count
        #expect(throws: Never.self) { try keys.key(RelativePath([UInt8](repeating: 0x61, count: free))) }
        #expect(throws: SafeBackupError.self) { try keys.key(RelativePath([UInt8](repeating: 0x61, count: free + 1))) }
        // Five bytes each in the bucket.
        #expect(throws: SafeBackupError.self) { try keys.key(RelativePath([UInt8](repeating: 0xFF, count: free / 4))) }
    }

    @Test("A version of the longest path has a key that the bucket takes")
    func longVersion() throws {
        let location = try RelativePath([UInt8](repeating: 0x61, count: KeySpace.keyLimit - keys.prefix.count))
        let version = keys.version(of: location, at: Timestamp(microseconds: 0), id: "1")
        #expect(throws: Never.self) { try keys.key(version) }
        #expect(version.isWithin(KeySpace.versions))
    }

    @Test(
        "What an object says of itself is read back",
        arguments: [-1_500_000_001, -1, 0, 1, 1_700_000_000_123_456_789, Int64.max, Int64.min + 1])
    func metadata(nanoseconds: Int64) throws {
        let xattr = ExtendedAttribute(name: Array("user.a&b=c".utf8), value: [0, 255, 37, 32, 32, 10])
        let copy = CopyMetadata(
            kind: .symlink, mtime: FileTime(nanoseconds: nanoseconds),
            metadata: FileMetadata(mode: 0o4755, uid: 1, gid: .max, xattrs: [xattr]),
            digest: SHA256.digest(of: [1]), lease: "s1-2", path: [0xFF, 0x20, 0x20])
        #expect(CopyMetadata(copy.encoded, modified: nil) == copy)
    }

    @Test("Metadata is printable ASCII without two spaces in a row, and never more than S3 takes")
    func metadataLimits() {
        let attributes = (0..<40).map {
            ExtendedAttribute(name: Array("user.\($0)".utf8), value: [UInt8](repeating: UInt8($0), count: 50))
        }
        let copy = CopyMetadata(
            kind: .file, mtime: FileTime(nanoseconds: 1),
            metadata: FileMetadata(mode: 0o644, uid: 0, gid: 0, xattrs: attributes), lease: "s1-2",
            path: [UInt8](repeating: 0xFF, count: 255))
        let fields = copy.encoded
        #expect(fields.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count } <= 2_048)
        #expect(fields["path"] != nil && fields["xattrs"] == nil)
        for value in fields.values {
            #expect(value.utf8.allSatisfy { (0x20...0x7E).contains($0) } && !value.contains("  "))
        }
    }

    @Test(
        "A file of any size that S3 takes is cut into at most 10,000 parts that cover it",
        arguments: [
            1, 8 << 20, 8 << 20 + 1, 10_000 * (8 << 20), 10_000 * (8 << 20) + 1, 5 << 40, 48 << 40, 10_000 * (5 << 30),
        ] as [Int64])
    func parts(size: Int64) throws {
        let plan = try #require(PartPlan(size: size))
        #expect(plan.count <= 10_000)
        #expect(plan.partSize >= 8 << 20 && plan.partSize <= 5 << 30 && plan.partSize % (1 << 20) == 0)
        let last = plan.range(of: plan.count)
        #expect(last.offset + last.count == size && last.count > 0)
        #expect(PartPlan(size: 10_000 * (5 << 30) + 1) == nil)
    }
}
