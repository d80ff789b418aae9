import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Brings a stored copy's metadata as near to the source's as the destination allows. What it refuses is not an
/// error: the true values are in the catalogue.
struct MetadataWriter {
    let capabilities: Capabilities

    /// Sets owner, mode, extended attributes and last the mtime of an open file or directory. Whether anything had to
    /// be changed.
    ///
    /// - Parameters:
    ///   - current: what the entry has now.
    ///   - isNew: it was made by us a moment ago and has no extended attributes that must go.
    @discardableResult
    func apply(
        _ metadata: FileMetadata, mtime: FileTime, to entry: Descriptor, current: FileStatus, isNew: Bool
    ) throws(Errno) -> Bool {
        var hasChanged = false
        var isOwned = current.uid == metadata.uid && current.gid == metadata.gid
        var mode = current.mode
        if !isOwned {
            isOwned = try permitted { () throws(Errno) in
                try entry.setOwner(uid: metadata.uid, gid: metadata.gid)
            }
            // chown drops setuid and setgid. See: man 2 chown.
            if isOwned { (mode, hasChanged) = (mode & 0o1777, true) }
        }
        let wanted = Self.mode(metadata.mode, of: current.kind, isOwned: isOwned)
        if mode != wanted, try permitted({ () throws(Errno) in try entry.setMode(wanted) }) { hasChanged = true }
        if capabilities.extendedAttributes && (!isNew || !metadata.xattrs.isEmpty),
            try applyAttributes(metadata.xattrs, to: entry, isNew: isNew, isOwned: isOwned)
        {
            hasChanged = true
        }
        if !capabilities.isSame(current.fingerprint.mtime, mtime),
            try permitted({ () throws(Errno) in try entry.setModified(mtime) })
        {
            hasChanged = true
        }
        return hasChanged
    }

    /// The same for a symbolic link, which has no mode and is reached by its name.
    @discardableResult
    func apply(
        _ metadata: FileMetadata, mtime: FileTime, toLink leaf: [UInt8], in directory: Descriptor, current: FileStatus
    ) throws(Errno) -> Bool {
        var hasChanged = false
        if current.uid != metadata.uid || current.gid != metadata.gid,
            try permitted({ () throws(Errno) in
                try directory.setOwner(of: leaf, uid: metadata.uid, gid: metadata.gid)
            })
        {
            hasChanged = true
        }
        if !capabilities.isSame(current.fingerprint.mtime, mtime),
            try permitted({ () throws(Errno) in try directory.setModified(mtime, of: leaf) })
        {
            hasChanged = true
        }
        return hasChanged
    }

    /// The mode in the destination. The agent must never be locked out of its own backup: directories keep u+rwx, and
    /// a file that could not be given to its owner stays readable for us; setuid and setgid only go with the owner.
    static func mode(_ mode: UInt32, of kind: EntryKind, isOwned: Bool) -> UInt32 {
        let kept = isOwned ? mode & 0o7777 : mode & 0o1777 | 0o600
        return kind == .directory ? kept | 0o700 : kept
    }

    /// What a stage is made with, so that most need no chmod: nobody else reaches into staging.
    static func stageMode(_ mode: UInt32) -> UInt32 { mode & 0o777 | 0o600 }

    private func applyAttributes(
        _ wanted: [ExtendedAttribute], to entry: Descriptor, isNew: Bool, isOwned: Bool
    ) throws(Errno) -> Bool {
        var hasChanged = false
        let current = isNew ? [] : try entry.extendedAttributes()
        for attribute in current where !wanted.contains(where: { $0.name == attribute.name }) {
            if try fits({ () throws(Errno) in try entry.removeExtendedAttribute(attribute.name) }) { hasChanged = true }
        }
        for attribute in wanted where !current.contains(attribute) {
            // File capabilities give rights as setuid does.
            if attribute.name == Array("security.capability".utf8) && !isOwned { continue }
            if try fits({ () throws(Errno) in try entry.setExtendedAttribute(attribute) }) { hasChanged = true }
        }
        return hasChanged
    }

    /// `false` when the destination refuses this; every other failure is thrown.
    private func permitted(_ change: () throws(Errno) -> Void) throws(Errno) -> Bool {
        do {
            try change()
            return true
        } catch {
            let refusals: [Errno] = [.notPermitted, .permissionDenied, .notSupported, .noFunction, .invalidArgument]
            if refusals.contains(error) { return false }
            throw error
        }
    }

    /// The same for an extended attribute, for which file systems have little room: one block on ext4.
    private func fits(_ change: () throws(Errno) -> Void) throws(Errno) -> Bool {
        do {
            return try permitted(change)
        } catch {
            let refusals: [Errno] = [.noSpace, .diskQuotaExceeded, .argListTooLong, .outOfRange, .noData]
            if refusals.contains(error) { return false }
            throw error
        }
    }
}
