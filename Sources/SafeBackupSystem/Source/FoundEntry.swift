package import SafeBackupCore
import SystemPackage
import Glibc

/// What a source has at a job's path, as one look finds it.
package struct FoundEntry: Sendable {
    package let traits: SourceTraits
    package let path: RelativePath
    /// The directory that it lies in.
    package let parent: Descriptor
    package let status: FileStatus
    /// When the look was taken, by the wall clock.
    package let at: Timestamp

    /// `nil`: nothing is at the path.
    package init?(
        _ path: RelativePath, in tree: SourceTree, now: Timestamp
    ) throws(SafeBackupError) {
        guard let parent = try tree.directory(path.parent) else { return nil }
        do {
            status = try parent.status(of: path.leaf)
        } catch {
            if error == .noSuchFileOrDirectory || error == .notDirectory { return nil }
            throw ReadFailure.source(error, path)
        }
        (traits, self.path, self.parent, at) = (tree.traits, path, parent, now)
    }

    package var leaf: [UInt8] { path.leaf }

    /// Time stamps have a step: a change soon after another may leave them as they are.
    package var isRacy: Bool { isRacy(since: max(status.fingerprint.mtime, status.fingerprint.ctime)) }

    package func isRacy(since newest: FileTime) -> Bool {
        newest.nanoseconds > at.fileTime.nanoseconds.subtractingReportingOverflow(2_000_000_000).partialValue
    }

    /// Opens the file for reading.
    package func open() throws(SafeBackupError) -> Descriptor {
        do {
            return try parent.openForReading(leaf)
        } catch {
            switch error {
            // Gone, or replaced by something that opens differently, since the look a moment ago.
            case .noSuchFileOrDirectory, .notDirectory, .noSuchAddressOrDevice: throw ReadFailure.changedKind(path)
            default: throw ReadFailure.source(error, path)
            }
        }
    }

    /// What is kept of the file besides its content.
    package func metadata(_ file: Descriptor) throws(SafeBackupError) -> FileMetadata {
        do {
            return FileMetadata(
                mode: status.mode, uid: status.uid, gid: status.gid, xattrs: try file.extendedAttributes())
        } catch {
            throw ReadFailure.source(error, path)
        }
    }

    /// The target of a symbolic link, if it still is the one that was found. Throws `changedKind` otherwise.
    package func linkTarget() throws(SafeBackupError) -> (target: [UInt8], metadata: FileMetadata) {
        do throws(Errno) {
            let target = try parent.linkTarget(of: leaf)
            guard try parent.status(of: leaf).fingerprint == status.fingerprint else { throw Errno.invalidArgument }
            return (target, FileMetadata(mode: status.mode, uid: status.uid, gid: status.gid))
        } catch {
            // EINVAL: no longer a link. See: man 2 readlink.
            if error == .invalidArgument || error == .noSuchFileOrDirectory { throw ReadFailure.changedKind(path) }
            throw ReadFailure.source(error, path)
        }
    }

    /// What is kept of a directory, and the directory itself, where it may be opened.
    package func directory() throws(SafeBackupError) -> (metadata: FileMetadata, directory: Descriptor?) {
        var metadata = FileMetadata(mode: status.mode, uid: status.uid, gid: status.gid)
        do {
            let directory = try parent.open(leaf, O_RDONLY | O_DIRECTORY | O_NONBLOCK)
            metadata.xattrs = try directory.extendedAttributes()
            return (metadata, directory)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: throw ReadFailure.changedKind(path)
            // The scanner lists it as unreadable; the directory itself is saved by what the look told.
            case .permissionDenied, .notPermitted: return (metadata, nil)
            default: throw ReadFailure.source(error, path)
            }
        }
    }

    /// What is stored of it, as the catalogue gets it.
    package func entry(
        _ content: StoredEntry.Content, _ metadata: FileMetadata, linkTarget: [UInt8]? = nil, isFuzzy: Bool = false
    ) -> StoredEntry {
        StoredEntry(
            kind: status.kind, content: content, fingerprint: status.fingerprint, metadata: metadata,
            linkTarget: linkTarget, isFuzzy: isFuzzy, isRacy: status.kind != .directory && isRacy,
            birthTime: status.birthTime, hasOtherLinks: status.kind == .file && status.linkCount > 1)
    }
}

extension DueJob {
    /// Whether what the job was told of may have happened after the content was compared: a copy that was moved was not
    /// read again, although the fingerprint was taken then.
    package func isTold(of now: Fingerprint) -> Bool {
        guard let firstSeenAt else { return false }
        let (lag, _) = now.ctime.nanoseconds.addingReportingOverflow(60_000_000_000)
        return lag > firstSeenAt.fileTime.nanoseconds
    }
}
