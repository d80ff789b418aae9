import SafeBackupCore
package import SafeBackupState

/// What a run could not save, for a person.
package struct UnsavedReport: Sendable {
    static let limit = 1_000

    package let entries: [UnsavedEntry]

    init(_ entries: [UnsavedEntry]) { self.entries = entries }

    /// Nothing is missing. Special files are listed, but no backup of plain files could hold them; another file
    /// system is left out by its nature.
    var isComplete: Bool { entries.allSatisfy { !$0.isMissing } }

    /// A line for each.
    package var lines: [String] {
        entries.filter(\.isMissing).map { entry in
            let what =
                switch entry.state {
                case .stuck, .failing: "not saved"
                case .fuzzy: "saved while it changed (fuzzy)"
                case .notSaved: "not saved"
                }
            return "\(what): \(entry.path): \(entry.message ?? Self.explanation(entry.code)) (\(entry.code))"
        }
    }

    private static func explanation(_ code: String) -> String {
        switch SkipReason(rawValue: code) {
        case .reservedName: "the name is used by safebackup itself; rename it"
        case .unreadable: "it may not be read; run as a user who may"
        case .special: "it is a FIFO, a socket or a device"
        case .otherFileSystem: "it is on another file system"
        default:
            code == SafeBackupError.Code.torn.rawValue
                ? "it mixes several states; it is saved again" : "see 'safebackup status'"
        }
    }
}

extension UnsavedEntry {
    /// A file of the user's that is not, or not wholly, in the backup.
    fileprivate var isMissing: Bool {
        switch state {
        case .stuck, .failing, .fuzzy: true
        case .notSaved: code != SkipReason.special.rawValue && code != SkipReason.otherFileSystem.rawValue
        }
    }
}
