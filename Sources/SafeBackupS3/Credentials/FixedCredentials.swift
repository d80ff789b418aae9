package import SafeBackupCore

/// Keys that do not change while the program runs.
package struct FixedCredentials: CredentialsSource {
    private let keys: S3Credentials

    package init(_ keys: S3Credentials) { self.keys = keys }

    package func credentials(after refused: S3Credentials?) async throws(SafeBackupError) -> S3Credentials { keys }
}
