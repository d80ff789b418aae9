import SafeBackupCore

/// Codes of failures that a destination in a bucket acts on.
enum S3Code {
    static let uploadLost = SafeBackupError.Code(rawValue: "uploadLost")
    static let accessDenied = SafeBackupError.Code(rawValue: "accessDenied")
    static let objectExists = SafeBackupError.Code(rawValue: "objectExists")
    static let notSupported = SafeBackupError.Code(rawValue: "notSupported")
}

extension SafeBackupError {
    /// The keys may not do this, or the server cannot.
    var isRefusal: Bool { code == S3Code.accessDenied || code == S3Code.notSupported }

    /// It concerns every object of the bucket.
    var isOfBucket: Bool {
        [.auth, .destinationUnavailable, .destinationFull].contains(disposition) || code == .interrupted
    }
}
