import SafeBackupCore
import SafeBackupState

extension DestinationRecord {
    /// For what is done with directories alone.
    /// - Throws: `invalidConfiguration` for a bucket.
    func refuseBucket(_ verb: String) throws(SafeBackupError) {
        if kind == "local" { return }
        throw SafeBackupError(
            .invalidConfiguration,
            "\(printable(location)) is a bucket, with which '\(verb)' can do nothing yet; nothing was changed there",
            disposition: .permanent)
    }
}
