import SafeBackupFakeS3
import Testing

@Suite("Digests of the fake S3 server")
struct DigestTests {
    @Test("Each checksum is the published one of 123456789")
    func checkValues() {
        let bytes = Array("123456789".utf8)
        #expect(Digests.checksum("crc32", bytes) == [0xcb, 0xf4, 0x39, 0x26])
        #expect(Digests.checksum("crc32c", bytes) == [0xe3, 0x06, 0x92, 0x83])
        #expect(Digests.checksum("crc64nvme", bytes) == [0xae, 0x8b, 0x14, 0x86, 0x0a, 0x79, 0x98, 0x88])
    }
}
