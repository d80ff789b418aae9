package import SafeBackupCore

/// Why a provider of keys gave none. Its texts name files, profiles and options, never a value of theirs.
package struct CredentialsFailure: Error, Sendable, Hashable {
    package enum Kind: String, Sendable {
        /// No provider is configured.
        case none
        /// A part of what belongs together is missing.
        case incomplete = "incomplete_credentials"
        case invalidConfiguration = "invalid_configuration"
        case profileNotFound = "profile_not_found"
        case sourceLoop = "source_profile_loop"
        case fileSyntax = "file_syntax"
        /// A provider was asked, and failed or answered nonsense.
        case retrieval = "retrieval_failed"
        case sts = "sts_error"
    }

    package var kind: Kind
    /// A sentence without a final period: what failed, and what to do.
    package var message: String
    /// Trying again may help although nothing was changed.
    package var mayGoBy: Bool

    package init(_ kind: Kind, _ message: String, mayGoBy: Bool = false) {
        self.kind = kind
        self.message = message
        self.mayGoBy = mayGoBy
    }

    /// For the rest of the program: holds the destination, or goes by.
    package var error: SafeBackupError {
        SafeBackupError(
            kind == .none ? .credentialsMissing : .credentialsFailed, message,
            disposition: mayGoBy ? .transient : .auth)
    }
}
