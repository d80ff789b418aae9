import SafeBackupCore
import SafeBackupSystem
import SystemPackage

extension SafeBackupError {
    /// What it means that a directory of the source could not be opened or listed.
    init(listing path: RelativePath, _ error: Errno) {
        let name = path.isRoot ? "the source's root" : "the directory \(path)"
        switch error {
        case .permissionDenied, .notPermitted:
            self.init(
                .unreadable, "Cannot list \(name): \(error.explanation); let the agent's user read it",
                disposition: .permanent, systemError: error.rawValue)
        case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels, .staleNFSFileHandle:
            self.init(
                path.isRoot ? .rootMissing : .sourceGone, "Nothing to list at \(name): \(error.explanation)",
                disposition: .sourceGone, systemError: error.rawValue)
        case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory:
            self.init(
                .exhausted, "Cannot list \(name) now: \(error.explanation)", disposition: .transient,
                systemError: error.rawValue)
        default:
            self.init(
                .sourceFailed, "Listing \(name) failed: \(error.explanation); check the source's disk",
                disposition: .transient, systemError: error.rawValue)
        }
    }
}

extension Errno {
    /// The path does not lead to a directory any more, through no fault of the disk: its parent tells what became of it.
    var meansGone: Bool {
        self == .noSuchFileOrDirectory || self == .notDirectory || self == .tooManySymbolicLinkLevels
    }
}
