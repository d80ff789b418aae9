package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// A file or directory by what it is, not by what it is called; valid while its file system stays mounted.
package struct FileIdentity: Sendable, Hashable {
    package var device: UInt64
    package var inode: UInt64

    package init(device: UInt64, inode: UInt64) {
        self.device = device
        self.inode = inode
    }

    package init(_ status: FileStatus) {
        self.init(device: status.device, inode: status.fingerprint.inode)
    }
}

/// Decides which entries of a source are saved. The scanner and the watcher ask the same filter, so that they agree.
package struct TreeFilter: Sendable {
    /// The source's root itself.
    package let root: FileIdentity
    private let rules: ExcludeRules
    private let own: [FileIdentity: SkipReason]

    /// - Parameter own: directories of ours that may lie inside the source: state directories and destinations.
    package init(root: FileStatus, rules: ExcludeRules = ExcludeRules(), own: [FileIdentity: SkipReason] = [:]) {
        self.root = FileIdentity(root)
        self.rules = rules
        self.own = own
    }

    /// As above, of the root as it is mounted now. Throws what a listing of the root would.
    package init(
        root: ConfinedDirectory, rules: ExcludeRules = ExcludeRules(), own: [FileIdentity: SkipReason] = [:]
    ) throws(SafeBackupError) {
        do throws(Errno) {
            self.init(root: try root.root.status(), rules: rules, own: own)
        } catch {
            throw SafeBackupError(listing: .root, error)
        }
    }

    /// What the name alone tells; `nil`: nothing against it. `directory` is known to be saved itself.
    package func skipReason(in directory: RelativePath, leaf: [UInt8], isDirectory: Bool) -> SkipReason? {
        // `.safebackup` at the top is where a destination keeps what is its own.
        if directory.isRoot && leaf == Self.reservedLeaf { return .reservedName }
        if rules.verdict(in: directory, leaf: leaf, isDirectory: isDirectory) != .included { return .excluded }
        return nil
    }

    /// What name and status tell; `nil`: the entry is saved. `directory` is known to be saved itself.
    package func skipReason(in directory: RelativePath, leaf: [UInt8], status: FileStatus) -> SkipReason? {
        skipReason(in: directory, leaf: leaf, isDirectory: status.kind == .directory) ?? skipReason(of: status)
    }

    /// What the status alone tells, of anything but the root; `nil`: nothing against it.
    package func skipReason(of status: FileStatus) -> SkipReason? {
        if status.kind.isSpecial { return .special }
        if status.kind == .directory, let reason = own[FileIdentity(status)] { return reason }
        // A bind mount of the same file system has the same device.
        if status.device != root.device || status.isMountRoot { return .otherFileSystem }
        return nil
    }

    /// What the names of the path and of its directories tell; `nil`: nothing against it.
    package func skipReason(ofNames path: RelativePath, isDirectory: Bool) -> SkipReason? {
        if path.components.first == Self.reservedLeaf { return .reservedName }
        return rules.verdict(for: path, isDirectory: isDirectory) == .included ? nil : .excluded
    }

    private static let reservedLeaf = Array(".safebackup".utf8)
}
