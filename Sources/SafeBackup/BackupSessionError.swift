public import SafeBackupCore
public import SystemPackage

/// What a session could not do. `description` is a sentence for people; the reasons carry a code for programs.
public enum BackupSessionError: Error, Sendable, Hashable {
    /// A session cannot be opened with this: `value` is the configuration's, as it is named there, and `reason` says why
    /// and what to give. Nothing was written but, perhaps, the empty directory.
    case invalidConfiguration(value: String, reason: SafeBackupError)
    /// A file was not saved. `key` is the key as text, with every byte that is no printable UTF-8 as `\xNN`.
    /// `reason.disposition` tells whether it is worth trying again.
    case backupFailed(file: FilePath, key: String, reason: SafeBackupError)
    /// So many saves failed since the last `waitForCompletion`, each of which has thrown its `backupFailed` too; `first`
    /// are the first hundred of them.
    case savesFailed(count: Int, first: [BackupSessionError])
    /// After this time so many saves, or a cleaning, still go on; they are not broken off.
    case cleaningTimeout(after: Duration, saves: Int, isCleaning: Bool)
    /// A cleaning did not free what was asked for, or could not tell how full the disk is. What was saved is saved.
    case cleaningFailed(reason: SafeBackupError)
    /// `close` was called before.
    case closed
}

extension BackupSessionError: CustomStringConvertible {
    /// What happened, and what to do.
    public var description: String {
        switch self {
        case .invalidConfiguration(let value, let reason): "\(value) cannot be used: \(reason.message)"
        case .backupFailed(let file, let key, let reason):
            "\(file.printable) was not saved as \(key): \(reason.message)"
        case .savesFailed(let count, let first):
            first.map(\.description).joined(separator: "\n")
                + (count > first.count ? "\n\(count - first.count) more were not saved" : "")
        case .cleaningTimeout(let time, let saves, let isCleaning):
            "After \(time) \(saves) saves\(isCleaning ? " and a cleaning" : "") still go on; wait longer, or close the "
                + "session, which waits for them"
        case .cleaningFailed(let reason): "The backup could not be cleaned: \(reason.message)"
        case .closed: "The session is closed; open another one"
        }
    }
}

extension FilePath {
    /// For people, as the keys are printed.
    var printable: String {
        withPlatformString { SafeBackupCore.printable(UnsafeRawBufferPointer(start: $0, count: length)) }
    }
}
