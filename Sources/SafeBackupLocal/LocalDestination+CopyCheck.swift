package import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// A look whether stored copies are still what was stored: by name, kind, size and time; nothing is read.
extension LocalDestination {
    /// The indices of those that are not there, or are something else. Throws what holds the destination, and when a
    /// look fails: then nothing is known of any of them.
    package func differing(_ copies: [ExpectedCopy]) async throws(SafeBackupError) -> [Int] {
        try await io.run { () throws(SafeBackupError) in try self.differingNow(copies) }
    }

    package func differingNow(_ copies: [ExpectedCopy]) throws(SafeBackupError) -> [Int] {
        let root = try attachedRoot()
        try root.check()
        var directories = DirectoryCache(root.base)
        var differing: [Int] = []
        for (index, copy) in copies.enumerated() {
            do throws(Errno) {
                let status = try directories.directory(copy.location.parent).status(of: copy.location.leaf)
                if !Self.isSame(status, copy, root.capabilities) { differing.append(index) }
            } catch {
                switch error {
                case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: differing.append(index)
                default: throw Failure.destination(error, "look at", copy.location)
                }
            }
        }
        return differing
    }

    static func isSame(_ status: FileStatus, _ copy: ExpectedCopy, _ capabilities: Capabilities) -> Bool {
        if status.kind != copy.kind { return false }
        if copy.kind == .directory { return true }
        if status.size != copy.size { return false }
        return copy.mtimes.isEmpty
            || copy.mtimes.contains { capabilities.isSame($0, status.fingerprint.mtime) }
    }
}
