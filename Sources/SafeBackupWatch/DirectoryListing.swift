import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Lists one open directory in parts of bounded size, each entry looked at and judged by the filter.
/// Nothing is opened, so that a FIFO or a device cannot do harm, and no link is followed.
struct DirectoryListing: Sendable {
    /// What the listing is for.
    enum Interest: Sendable {
        case everything
        /// Only directories that are saved; the rest is left out.
        case directories
    }

    private struct Name {
        var leaf: [UInt8]
        var kind: EntryKind?
        var inode: UInt64
    }

    private let directory: Descriptor
    private let path: RelativePath
    private let filter: TreeFilter
    private let interest: Interest

    /// `directory` is freshly opened: it is read from its position on.
    init(_ directory: Descriptor, path: RelativePath, filter: TreeFilter, interest: Interest) {
        self.directory = directory
        self.path = path
        self.filter = filter
        self.interest = interest
    }

    /// Appends about `limit` entries; `false` when the end of the directory was read. What was read before an error
    /// is appended too.
    func read(into entries: inout [ListedEntry], limit: Int) throws(Errno) -> Bool {
        var names: [Name] = []
        var hasMore = true
        var failure: Errno?
        while hasMore && failure == nil && names.count < limit {
            do throws(Errno) {
                hasMore = try directory.readEntries { leaf, kind, inode in
                    if interest == .directories, let kind, kind != .directory { return }
                    names.append(Name(leaf: leaf, kind: kind, inode: inode))
                }
            } catch {
                failure = error
            }
        }
        // On a disk that is not in memory yet, looking in the order of inodes spares most of the seeks.
        names.sort { $0.inode < $1.inode }
        entries.reserveCapacity(entries.count + names.count)
        for name in names {
            guard let finding = look(at: name) else { continue }
            entries.append(ListedEntry(leaf: name.leaf, finding: finding))
        }
        if let failure { throw failure }
        return hasMore
    }

    /// `nil` if there is nothing to tell: the entry went since its name was read, or is not of interest.
    private func look(at name: Name) -> ListedEntry.Finding? {
        if let kind = name.kind {
            let isDirectory = kind == .directory
            if let reason = filter.skipReason(in: path, leaf: name.leaf, isDirectory: isDirectory) {
                return .skipped(reason, kind)
            }
            if kind.isSpecial { return .skipped(.special, kind) }
        }
        do {
            let status = try directory.status(of: name.leaf)
            if interest == .directories && status.kind != .directory { return nil }
            if let reason = filter.skipReason(in: path, leaf: name.leaf, status: status) {
                return .skipped(reason, status.kind)
            }
            return .status(status)
        } catch {
            return error == .noSuchFileOrDirectory ? nil : .skipped(.unreadable, name.kind)
        }
    }
}
