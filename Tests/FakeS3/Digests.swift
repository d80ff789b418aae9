import CSafeBackupOpenSSL

/// Hashes, by libcrypto's one-shot calls and by tables of its own: nothing here is shared with the client that is tested,
/// so that an error of the client's is not repeated here.
package enum Digests {
    package static func sha256(_ bytes: [UInt8]) -> [UInt8] { digest(bytes, EVP_sha256()) }
    package static func sha1(_ bytes: [UInt8]) -> [UInt8] { digest(bytes, EVP_sha1()) }
    package static func md5(_ bytes: [UInt8]) -> [UInt8] { digest(bytes, EVP_md5()) }

    private static func digest(_ bytes: [UInt8], _ algorithm: OpaquePointer?) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 64)
        var count: UInt32 = 0
        let success = EVP_Digest(bytes, bytes.count, &result, &count, algorithm, nil)
        precondition(success == 1, "libcrypto has the digests that S3 knows")
        return Array(result[..<Int(count)])
    }

    /// HMAC-SHA-256. See: RFC 2104.
    package static func hmac(_ key: [UInt8], _ message: [UInt8]) -> [UInt8] {
        var block = key.count > 64 ? sha256(key) : key
        block += [UInt8](repeating: 0, count: 64 - block.count)
        let inner = sha256(block.map { $0 ^ 0x36 } + message)
        return sha256(block.map { $0 ^ 0x5c } + inner)
    }

    // MARK: Cyclic redundancy checks, all of them reflected

    private static let table32 = table(0xedb8_8320)
    private static let table32c = table(0x82f6_3b78)
    private static let table64 = table(0x9a6c_9329_ac4b_c9b5)

    private static func table(_ polynomial: UInt64) -> [UInt64] {
        (0..<256).map { index in
            var value = UInt64(index)
            for _ in 0..<8 { value = value & 1 == 1 ? polynomial ^ (value >> 1) : value >> 1 }
            return value
        }
    }

    private static func check(_ bytes: [UInt8], _ table: [UInt64], bits: Int) -> [UInt8] {
        let mask = UInt64.max >> UInt64(64 - bits)
        let value = bytes.withUnsafeBufferPointer { bytes in
            table.withUnsafeBufferPointer { table in
                var value = mask
                for byte in bytes { value = table[Int(truncatingIfNeeded: value & 0xff) ^ Int(byte)] ^ (value >> 8) }
                return value ^ mask
            }
        }
        return (0..<bits / 8).map { UInt8(truncatingIfNeeded: value >> UInt64(bits - 8 - 8 * $0)) }
    }

    /// The checksum of S3's name in lower case (`crc64nvme`), big-endian; `nil`: not one that is known here.
    package static func checksum(_ name: String, _ bytes: [UInt8]) -> [UInt8]? {
        switch name {
        case "crc32": check(bytes, table32, bits: 32)
        case "crc32c": check(bytes, table32c, bits: 32)
        case "crc64nvme": check(bytes, table64, bits: 64)
        case "sha1": sha1(bytes)
        case "sha256": sha256(bytes)
        default: nil
        }
    }

    package static let checksumNames = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"]

    // MARK: Spellings

    package static func hex(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    private static let base64Digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    package static func base64(_ bytes: [UInt8]) -> String {
        var text: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.count)]
            var value = group.reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            value <<= UInt32(8 * (3 - group.count))
            for index in 0..<4 {
                let isFilled = index <= group.count
                text.append(isFilled ? base64Digits[Int(value >> UInt32(18 - 6 * index)) & 63] : UInt8(ascii: "="))
            }
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// `nil`: not base64 in its one canonical spelling.
    package static func bytes(base64 text: String) -> [UInt8]? {
        var result: [UInt8] = []
        var value: UInt32 = 0
        var bits = 0
        for digit in text.utf8 where digit != UInt8(ascii: "=") {
            guard let number = base64Digits.firstIndex(of: digit) else { return nil }
            value = value << 6 | UInt32(number)
            bits += 6
            if bits >= 8 {
                bits -= 8
                result.append(UInt8(truncatingIfNeeded: value >> UInt32(bits)))
            }
        }
        return base64(result) == text ? result : nil
    }
}
