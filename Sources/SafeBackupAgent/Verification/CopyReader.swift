import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What a reading of a stored copy found wrong, and by which it can be told again that it is still so.
struct CopyFault: Sendable, Hashable {
    enum Kind: String, Sendable {
        /// Another digest than was recorded.
        case content
        /// Nothing is there, or what leads there is a link.
        case missing
        /// Another kind of entry is there.
        case kind
        /// The disk does not give it.
        case unreadable
    }

    var kind: Kind
    /// Of what is there; 0 where nothing is.
    var inode: UInt64 = 0
    var ctime = FileTime(nanoseconds: 0)

    /// Goes on after "the stored copy LOCATION".
    var explanation: String {
        switch kind {
        case .content: "has not the content that was saved"
        case .missing: "is not there any more"
        case .kind: "is no file any more, or another kind of entry"
        case .unreadable: "cannot be read from the disk"
        }
    }
}

/// Reads stored copies from the disk, not from the cache, and compares their digests. Not shared between threads; blocks.
final class CopyReader {
    enum Finding: Sendable, Hashable {
        case sound
        case faulty(CopyFault)
        /// Whether it is sound cannot be said: we may not read it; why.
        case forbidden(String)
    }

    /// How much is read before its pages are given back.
    private static let cacheStep: Int64 = 8 << 20

    private var directories: DirectoryCache
    private let content = StoredContent()

    /// - Parameter root: the destination's.
    init(_ root: ConfinedDirectory) {
        directories = DirectoryCache(root)
    }

    /// Throws what is the destination's failure and not the copy's.
    func read(_ copy: CopyRecord) throws(Errno) -> Finding {
        var status: FileStatus?
        do throws(Errno) {
            let parent = try directories.directory(copy.location.parent)
            let found = try parent.status(of: copy.location.leaf)
            status = found
            guard found.kind == copy.kind else { return .faulty(Self.fault(.kind, found)) }
            if copy.kind == .symlink {
                let digest = SHA256.digest(of: try parent.linkTarget(of: copy.location.leaf))
                return digest == copy.digest ? .sound : .faulty(Self.fault(.content, found))
            }
            if found.size != copy.size { return .faulty(Self.fault(.content, found)) }
            let file = try parent.openForReading(copy.location.leaf)
            let opened = try file.status()
            status = opened
            guard try digest(of: file, size: opened.size) == copy.digest else {
                // Somebody may write to it just now: what is told is what was read whole.
                let after = try file.status()
                return .faulty(Self.fault(.content, after))
            }
            return .sound
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels:
                // A directory that is kept open may have been moved away with all in it.
                directories.forget(.root)
                return .faulty(CopyFault(kind: .missing))
            case .permissionDenied, .notPermitted: return .forbidden(error.explanation)
            case .ioError:
                if let status { return .faulty(Self.fault(.unreadable, status)) }
                throw error
            default: throw error
            }
        }
    }

    /// Whether what a fault tells is still what is there.
    func isStill(_ fault: CopyFault, at location: RelativePath) throws(Errno) -> Bool {
        do throws(Errno) {
            let status = try directories.directory(location.parent).status(of: location.leaf)
            return fault.kind != .missing && status.fingerprint.inode == fault.inode
                && status.fingerprint.ctime == fault.ctime
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: return fault.kind == .missing
            default: throw error
            }
        }
    }

    private static func fault(_ kind: CopyFault.Kind, _ status: FileStatus) -> CopyFault {
        CopyFault(kind: kind, inode: status.fingerprint.inode, ctime: status.fingerprint.ctime)
    }

    private func digest(of file: Descriptor, size: Int64) throws(Errno) -> Digest {
        // What the agent has just written is in the cache, whatever the disk has.
        file.dropCache(0, 0)
        defer { file.dropCache(0, 0) }
        var dropped: Int64 = 0
        return try content.read(file, size: size) { (part, offset) throws(Errno) in
            let end = offset + Int64(part.count)
            if end - dropped < Self.cacheStep { return }
            file.dropCache(dropped, end - dropped)
            dropped = end
        }
    }
}
