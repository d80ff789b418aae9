import CSafeBackupOpenSSL
package import SafeBackupCore
import SafeBackupSystem

/// A way to tell whether the bytes that arrived are the bytes that were sent; the raw value is its name in settings and
/// in the header `x-amz-checksum-…`.
package enum ChecksumAlgorithm: String, Sendable, Hashable, CaseIterable {
    case crc32, crc32c, crc64nvme, md5, sha1, sha256

    /// The header that carries it; MD5 has one of its own, which is older than S3 and known to every server.
    package var header: String { self == .md5 ? "content-md5" : "x-amz-checksum-\(rawValue)" }

    /// As in `x-amz-checksum-algorithm` and in XML.
    package var name: String { rawValue.uppercased() }

    /// As a CRC, which can be combined from those of the parts.
    package var crc: CRC.Kind? {
        switch self {
        case .crc32: .crc32
        case .crc32c: .crc32c
        case .crc64nvme: .crc64nvme
        case .md5, .sha1, .sha256: nil
        }
    }

    /// The value of `bytes`; its header has it in Base64.
    /// - Throws: `invalidConfiguration` where OpenSSL does not offer the algorithm (MD5 with the FIPS provider).
    package func value(of bytes: UnsafeRawBufferPointer) throws(SafeBackupError) -> [UInt8] {
        switch self {
        case .crc32, .crc32c, .crc64nvme:
            guard let crc else { return [] }
            var check = CRC(crc)
            check.update(bytes)
            return check.bytes
        case .sha256:
            let hash = SHA256()
            hash.update(bytes)
            return hash.finish().bytes
        case .md5: return try OpenSSLDigest.md5.value(of: bytes)
        case .sha1: return try OpenSSLDigest.sha1.value(of: bytes)
        }
    }
}

/// A digest of libcrypto that only this module needs.
private struct OpenSSLDigest: @unchecked Sendable {
    static let md5 = OpenSSLDigest("MD5")
    static let sha1 = OpenSSLDigest("SHA1")

    let name: String
    // Fetched once and never changed; libcrypto's algorithms may be used by all threads.
    private let algorithm: OpaquePointer?

    private init(_ name: String) {
        self.name = name
        algorithm = EVP_MD_fetch(nil, name, nil)
    }

    func value(of bytes: UnsafeRawBufferPointer) throws(SafeBackupError) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 64)
        var length: UInt32 = 0
        guard let algorithm, EVP_Digest(bytes.baseAddress, bytes.count, &result, &length, algorithm, nil) == 1 else {
            throw SafeBackupError(
                .invalidConfiguration, "OpenSSL gives no \(name) (its FIPS provider has none); choose another checksum",
                disposition: .permanent)
        }
        return Array(result[..<Int(length)])
    }
}
