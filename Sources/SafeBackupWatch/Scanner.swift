import Glibc
package import SafeBackupCore
package import SafeBackupSystem
import SystemPackage

/// Walks a source, depth first, and tells what is there, directory by directory. For an I/O thread: calls block.
///
/// Directories are entered through their parents' descriptors, never through a link and however long the path is.
/// Memory does not grow with the size of a directory's files; of subdirectories only the names wait.
package struct Scanner: Sendable {
    /// A directory whose subdirectories are being visited.
    private struct Frame {
        var path: RelativePath
        /// `nil` when it was closed because many are open; it is opened again by its path.
        var directory: Descriptor?
        /// Names that still wait, each followed by a NUL.
        var waiting: [UInt8]
        var cursor = 0

        mutating func nextLeaf() -> [UInt8]? {
            guard let end = waiting[cursor...].firstIndex(of: 0) else { return nil }
            defer { cursor = end + 1 }
            return Array(waiting[cursor..<end])
        }
    }

    /// A directory that is being listed.
    private struct Current {
        var path: RelativePath
        var status: FileStatus
        var directory: Descriptor
        var listing: DirectoryListing
        /// Names of directories to visit, each followed by a NUL.
        var subdirectories: [UInt8] = []
        /// A part that is not the last has been told.
        var isInParts = false
        var hasEnded = false
    }

    /// How far below its start the scanner goes.
    package enum Depth: Sendable {
        case tree
        /// The start's own entries only.
        case entries
    }

    /// Directories of the way down that stay open; a deeper one is opened by path when the walk returns to it.
    private static let openLimit = 32
    /// A directory with more entries comes in parts.
    private let partLimit: Int
    /// `nil` while everything is closed.
    private var root: ConfinedDirectory?
    private let filter: TreeFilter
    private let start: RelativePath
    private let depth: Depth
    private var frames: [Frame] = []
    private var current: Current?
    private var hasStarted = false

    /// - Parameters:
    ///   - start: where the walk begins. If it is not there, or not saved, the walk tells nothing.
    ///   - partLimit: entries of one directory in one `ListedDirectory`, at most about.
    package init(
        root: ConfinedDirectory, filter: TreeFilter, from start: RelativePath = .root, depth: Depth = .tree,
        partLimit: Int = 16_384
    ) {
        self.root = root
        self.filter = filter
        self.start = start
        self.depth = depth
        self.partLimit = partLimit
    }

    /// The next directories, until they hold `entryLimit` entries or a little more; `nil` after the last.
    ///
    /// A directory with more than `partLimit` entries comes in parts that are not whole; the last has no entries and
    /// no failure (`isLastPart`). One that cannot be listed to its end has a `failure`, and what it lacks then
    /// says nothing. One that went meanwhile is left out. Throws `rootMissing`, `unreadable`, `exhausted` or
    /// `sourceFailed` if the root itself cannot be listed: nothing that was told may then end a name.
    package mutating func next(entryLimit: Int = 4_096) throws(SafeBackupError) -> [ListedDirectory]? {
        var batch: [ListedDirectory] = []
        var count = 0
        while count < entryLimit {
            if current == nil, let failed = try enterNext() {
                batch.append(failed)
                count += 1
                continue
            }
            guard let listed = try listPart() else {
                if frames.isEmpty && current == nil { break }
                continue
            }
            // A directory counts as one entry, so that empty ones do not pile up.
            count += listed.entries.count + 1
            batch.append(listed)
        }
        return batch.isEmpty ? nil : batch
    }

    /// Closes everything, so that the file system can be unmounted, and says whether it could: not in the middle of a
    /// directory that comes in parts, because the place in it would be lost. Then `goOn` comes before the next `next`.
    package mutating func letGo() -> Bool {
        if current != nil { return false }
        root = nil
        for index in frames.indices { frames[index].directory = nil }
        return true
    }

    /// Goes on in the root that it began in, opened again and known to be the same.
    package mutating func goOn(in root: ConfinedDirectory) { self.root = root }

    private func openedRoot() -> ConfinedDirectory {
        guard let root else { preconditionFailure("a scanner that let go of its root goes on only in a root") }
        return root
    }

    /// Opens the next directory as `current`; a directory that cannot be opened is returned instead. With neither,
    /// it went, or the walk is over.
    private mutating func enterNext() throws(SafeBackupError) -> ListedDirectory? {
        if !hasStarted {
            hasStarted = true
            return try enterStart()
        }
        guard let top = frames.indices.last else { return nil }
        guard let leaf = frames[top].nextLeaf() else {
            frames.removeLast()
            return nil
        }
        let path = frames[top].path.appending(leaf)
        do throws(Errno) {
            let parent: Descriptor
            if let open = frames[top].directory {
                parent = open
            } else {
                parent = try openedRoot().openDirectory(frames[top].path)
                frames[top].directory = parent
            }
            try enter(try parent.open(leaf, O_RDONLY | O_DIRECTORY), path)
            return nil
        } catch {
            if error.meansGone { return nil }
            return ListedDirectory(
                path: path, status: nil, entries: [], isWhole: false, failure: SafeBackupError(listing: path, error))
        }
    }

    private mutating func enterStart() throws(SafeBackupError) -> ListedDirectory? {
        if filter.skipReason(ofNames: start, isDirectory: true) != nil { return nil }
        do throws(Errno) {
            try enter(try openedRoot().openDirectory(start), start)
            return nil
        } catch {
            let failure = SafeBackupError(listing: start, error)
            if start.isRoot { throw failure }
            if error.meansGone { return nil }
            return ListedDirectory(path: start, status: nil, entries: [], isWhole: false, failure: failure)
        }
    }

    private mutating func enter(_ directory: Descriptor, _ path: RelativePath) throws(Errno) {
        // Looked at again, because something may have been mounted or moved there since its name was listed.
        let status = try directory.status()
        if !path.isRoot && filter.skipReason(of: status) != nil { return }
        let listing = DirectoryListing(directory, path: path, filter: filter, interest: .everything)
        current = Current(path: path, status: status, directory: directory, listing: listing)
    }

    /// Reads a part of `current`; `nil` if there is none, or it went.
    private mutating func listPart() throws(SafeBackupError) -> ListedDirectory? {
        guard var directory = current else { return nil }
        current = nil
        var listed = ListedDirectory(path: directory.path, status: directory.status, entries: [], isWhole: false)
        do throws(Errno) {
            if !directory.hasEnded {
                directory.hasEnded = !(try directory.listing.read(into: &listed.entries, limit: partLimit))
            }
        } catch {
            let failure = SafeBackupError(listing: directory.path, error)
            if directory.path.isRoot { throw failure }
            if error.meansGone { return nil }
            listed.failure = failure
        }
        for entry in listed.entries {
            guard case .status(let status) = entry.finding, status.kind == .directory else { continue }
            directory.subdirectories += entry.leaf
            directory.subdirectories.append(0)
        }
        listed.isWhole = directory.hasEnded && !directory.isInParts
        if listed.isWhole || listed.isLastPart || listed.failure != nil {
            descend(into: directory)
        } else {
            directory.isInParts = true
            current = directory
        }
        return listed
    }

    private mutating func descend(into directory: Current) {
        if depth == .entries || directory.subdirectories.isEmpty { return }
        frames.append(
            Frame(path: directory.path, directory: directory.directory, waiting: directory.subdirectories))
        if frames.count > Self.openLimit { frames[frames.count - 1 - Self.openLimit].directory = nil }
    }
}

extension ListedDirectory {
    /// The end of a directory that came in parts: together, the parts since its first were the whole listing.
    package var isLastPart: Bool { !isWhole && failure == nil && entries.isEmpty }
}
