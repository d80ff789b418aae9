import CSafeBackupOpenSSL
package import SafeBackupCore

/// SHA-256 by libcrypto. One object is used again for many messages, because that costs a third of a new one.
/// Not shared between threads.
package final class SHA256 {
    private let context: OpaquePointer
    /// Fetched once: EVP_sha256() looks the implementation up at each init. See: man 7 ossl-guide-libcrypto-introduction.
    private nonisolated(unsafe) static let algorithm = EVP_MD_fetch(nil, "SHA2-256", nil)

    /// To be asked once, before any digest is needed: an OpenSSL configuration without its default provider has no
    /// SHA-256. Throws `invalidConfiguration`.
    package static func requireAvailable() throws(SafeBackupError) {
        if algorithm != nil { return }
        throw SafeBackupError(
            .invalidConfiguration,
            "OpenSSL gives no SHA-256; check its configuration (openssl.cnf, OPENSSL_CONF): the default or the fips "
                + "provider must be active", disposition: .permanent)
    }

    /// Only after `requireAvailable`. Without memory for its few hundred bytes the process ends, as it does when Swift has
    /// none for an object.
    package init() {
        guard let context = EVP_MD_CTX_new() else { preconditionFailure("no memory for the state of a digest") }
        precondition(Self.algorithm != nil, "a digest is begun only after SHA256.requireAvailable() has found SHA-256")
        self.context = context
        reset()
    }

    deinit { EVP_MD_CTX_free(context) }

    private func reset() {
        let result = EVP_DigestInit_ex2(context, Self.algorithm, nil)
        precondition(result == 1, "libcrypto begins every digest of an algorithm that it gave")
    }

    package func update(_ bytes: UnsafeRawBufferPointer) {
        if bytes.isEmpty { return }
        let result = EVP_DigestUpdate(context, bytes.baseAddress, bytes.count)
        precondition(result == 1, "libcrypto continues every digest that it began")
    }

    /// The digest of everything since the last one; the object is ready for the next message.
    package func finish() -> Digest {
        var bytes = [UInt8](repeating: 0, count: 32)
        var length: UInt32 = 0
        let result = EVP_DigestFinal_ex(context, &bytes, &length)
        guard result == 1, length == 32, let digest = Digest(bytes: bytes) else {
            preconditionFailure("libcrypto ends every SHA-256 that it began, with 32 bytes, not \(length)")
        }
        reset()
        return digest
    }

    /// The digest of `bytes` alone.
    package static func digest(of bytes: [UInt8]) -> Digest {
        let hash = SHA256()
        bytes.withUnsafeBytes { hash.update($0) }
        return hash.finish()
    }
}
