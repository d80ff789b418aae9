package import SafeBackupCore

/// Keys that sign requests, used together as one value for a whole attempt. Never printed.
package struct S3Credentials: Sendable, Hashable {
    package var accessKey: String
    package var secretKey: String
    package var sessionToken: String?
    /// After this they are refused; `nil`: they do not expire.
    package var expiration: Timestamp?
    /// Where they come from, for messages: `env`, `shared-credentials-file`, `config-file`, `assume-role`,
    /// `assume-role-with-web-identity`, `custom-process`, `container-role`, `iam-role`, `configuration`.
    package var provider: String

    package init(
        accessKey: String, secretKey: String, sessionToken: String? = nil, expiration: Timestamp? = nil,
        provider: String
    ) {
        self.accessKey = accessKey
        self.secretKey = secretKey
        self.sessionToken = sessionToken
        self.expiration = expiration
        self.provider = provider
    }
}

extension S3Credentials: CustomStringConvertible, CustomDebugStringConvertible {
    /// The provider and the last four characters of the access key.
    package var description: String { "\(provider) …\(accessKey.suffix(4))" }
    package var debugDescription: String { description }
}

/// Gives the keys for the next attempt.
package protocol CredentialsSource: Sendable {
    /// Valid now; refreshed ahead of their expiry by one task at a time.
    ///
    /// - Parameter refused: what the server just refused as expired or unknown; others are given if there are any.
    /// - Throws: disposition `auth` with every source that was tried and why it gave none, or `transient`.
    func credentials(after refused: S3Credentials?) async throws(SafeBackupError) -> S3Credentials
}
