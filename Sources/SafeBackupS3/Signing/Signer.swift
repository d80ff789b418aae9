package import SafeBackupCore
import SafeBackupSystem

/// What stands for the body in the signature.
package enum PayloadHash: Sendable, Hashable {
    /// Of the whole body; the server compares it.
    case sha256(Digest)
    /// Nothing does: only over TLS, which protects it on its way.
    case unsigned

    /// Of a body without a byte.
    package static let empty = PayloadHash.sha256(SHA256.digest(of: []))

    /// As in `x-amz-content-sha256`.
    package var text: String {
        switch self {
        case .sha256(let digest): digest.hex
        case .unsigned: "UNSIGNED-PAYLOAD"
        }
    }
}

/// Signs requests with AWS Signature Version 4.
///
/// libcurl's own signer cannot be used for S3 in the release that systems have: it signs no body that is read from a
/// callback, and neither sorts nor encodes a query. A request is signed anew before each attempt, with the time and the
/// keys of that attempt. May be used by any number of tasks.
package final class Signer: Sendable {
    private struct KeyName: Hashable {
        var secret: String
        var day: String
        var region: String
        var service: String
    }

    /// A key is good for one day, one region and one service; making one takes four HMACs.
    private let keys = Locked<[KeyName: [UInt8]]>([:])
    private static let keyLimit = 16

    package init() {}

    /// Adds `x-amz-date`, for S3 `x-amz-content-sha256`, the session's token where there is one, and `authorization`;
    /// what an earlier signing added is replaced.
    ///
    /// - Parameter service: `s3`, also for other makers' servers, or `sts`.
    /// - Throws: `invalidConfiguration` for a header that would break the request apart, and for an unsigned body over
    ///   plain HTTP, where anybody on the way could change it.
    package func sign(
        _ request: inout HTTPRequest, credentials: S3Credentials, region: String, service: String = "s3",
        date: Timestamp, payload: PayloadHash
    ) throws(SafeBackupError) {
        if payload == .unsigned && request.origin.scheme == .http {
            throw Self.refusal("A body that is not signed is sent over HTTPS only; sign it, or use https://")
        }
        let time = Self.basic(date)
        request.headers.removeAll { Self.added.contains($0.name) }
        request.headers.append((name: "x-amz-date", value: time))
        if service == "s3" { request.headers.append((name: "x-amz-content-sha256", value: payload.text)) }
        if let token = credentials.sessionToken, !token.isEmpty {
            request.headers.append((name: "x-amz-security-token", value: token))
        }
        for header in request.headers { try Self.check(header) }
        let canonical = CanonicalRequest(request, path: service == "s3" ? .asSent : .normalised, payload: payload.text)
        let authorization = authorization(
            of: canonical, time: time, credentials: credentials, region: region, service: service)
        request.headers.append((name: "authorization", value: authorization))
    }

    private static let added: Set<String> = [
        "authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token",
    ]

    /// The value of the header `authorization`.
    package func authorization(
        of canonical: CanonicalRequest, time: String, credentials: S3Credentials, region: String, service: String
    ) -> String {
        let hash = SHA256()
        let day = String(time.prefix(8))
        let text = Self.stringToSign(canonical, time: time, region: region, service: service, hash)
        let name = KeyName(secret: credentials.secretKey, day: day, region: region, service: service)
        let signature = hash.code(of: text, key: key(name, hash))
        return "AWS4-HMAC-SHA256 Credential=\(credentials.accessKey)/\(day)/\(region)/\(service)/aws4_request, "
            + "SignedHeaders=\(canonical.signedHeaders), Signature=\(hexadecimal(signature))"
    }

    /// Algorithm, time, scope and the digest of the canonical request.
    package static func stringToSign(
        _ canonical: CanonicalRequest, time: String, region: String, service: String
    ) -> [UInt8] { stringToSign(canonical, time: time, region: region, service: service, SHA256()) }

    private static func stringToSign(
        _ canonical: CanonicalRequest, time: String, region: String, service: String, _ hash: SHA256
    ) -> [UInt8] {
        canonical.bytes.withUnsafeBytes { hash.update($0) }
        let digest = hash.finish().hex
        return Array("AWS4-HMAC-SHA256\n\(time)\n\(time.prefix(8))/\(region)/\(service)/aws4_request\n\(digest)".utf8)
    }

    private func key(_ name: KeyName, _ hash: SHA256) -> [UInt8] {
        if let key = keys.withLock({ $0[name] }) { return key }
        var key = Array("AWS4\(name.secret)".utf8)
        for part in [name.day, name.region, name.service, "aws4_request"] {
            key = hash.code(of: Array(part.utf8), key: key)
        }
        keys.withLock { keys in
            // Other days' and older keys are of no use any more.
            if keys.count >= Self.keyLimit { keys.removeAll(keepingCapacity: true) }
            keys[name] = key
        }
        return key
    }

    /// `20261123T034512Z`.
    package static func basic(_ date: Timestamp) -> String { date.compact.prefix(15) + "Z" }

    /// A line end in a value would end the header and begin another; libcurl sends what it is given.
    package static func check(_ header: (name: String, value: String)) throws(SafeBackupError) {
        let isName = !header.name.isEmpty && header.name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x3A }
        if !isName {
            throw refusal("\(String(reflecting: header.name)) is no name of a header; use letters, digits and -")
        }
        if header.value.utf8.contains(where: { $0 == 0x0D || $0 == 0x0A || $0 == 0 }) {
            throw refusal("The value of the header \(header.name) holds a line end or a NUL; remove it")
        }
    }

    private static func refusal(_ message: String) -> SafeBackupError {
        SafeBackupError(.invalidConfiguration, message, disposition: .permanent)
    }
}

extension SHA256 {
    private static let block = 64

    /// HMAC-SHA256. See: RFC 2104.
    package func code(of message: [UInt8], key: [UInt8]) -> [UInt8] {
        let short = key.count > Self.block ? Self.digest(of: key).bytes : key
        var inner = [UInt8](repeating: 0x36, count: Self.block)
        var outer = [UInt8](repeating: 0x5C, count: Self.block)
        for (index, byte) in short.enumerated() {
            inner[index] ^= byte
            outer[index] ^= byte
        }
        inner.withUnsafeBytes { update($0) }
        message.withUnsafeBytes { update($0) }
        let digest = finish()
        outer.withUnsafeBytes { update($0) }
        digest.bytes.withUnsafeBytes { update($0) }
        return finish().bytes
    }
}
