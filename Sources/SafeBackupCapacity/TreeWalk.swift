import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// What is done on a walk. Called by several threads at once.
protocol TreeVisitor: Sendable {
    /// Looks at entries of a directory that are not directories. Returns how many of them are there no more.
    func visit(_ batch: DirectoryBatch, in directory: WalkedDirectory, _ descriptor: Descriptor) -> Int
    /// A directory is entered; `false`: it is left out.
    func enter(_ directory: WalkedDirectory, _ descriptor: Descriptor) -> Bool
    /// Something is mounted at the path: it is left out.
    func skipped(_ path: RelativePath)
    /// A directory cannot be opened, or not be read to its end.
    func failed(_ path: RelativePath, _ error: Errno)
    /// All that was in a directory is gone. Returns whether the directory is gone too.
    func emptied(_ directory: WalkedDirectory, _ parent: Descriptor) -> Bool
    /// Nothing more is to be done: the walk ends.
    var isDone: Bool { get }
}

/// Walks the tree below a root, depth first, and lets a few threads look at what it finds. Blocks.
///
/// Each directory is opened through its parent's descriptor, never through a link and never on another file system.
/// Memory does not grow with the number of entries: directories are read in parts, and a part's directories are walked
/// before the next part is read.
struct TreeWalk {
    private struct Frame {
        let directory: WalkedDirectory
        /// Names of directories that still wait, each followed by a NUL.
        var waiting: [UInt8] = []
        var cursor = 0
        var hasEnded = false
        /// Where reading goes on, while it is closed.
        var position: Int64?

        mutating func nextLeaf() -> [UInt8]? {
            guard let end = waiting[cursor...].firstIndex(of: 0) else { return nil }
            defer { cursor = end + 1 }
            return Array(waiting[cursor..<end])
        }
    }

    /// The batches that are not in use.
    private final class Batches: Sendable {
        private let free: Locked<[DirectoryBatch]>
        private let count: Permits
        private let total: Int

        init(_ total: Int) {
            self.total = total
            free = Locked((0..<total).map { _ in DirectoryBatch() })
            count = Permits(total)
        }

        func take() -> DirectoryBatch {
            count.take()
            guard let batch = free.withLock({ $0.popLast() }) else {
                preconditionFailure("there are as many batches as there are permits")
            }
            return batch
        }

        func give(_ batch: DirectoryBatch) {
            free.withLock { $0.append(batch) }
            count.give()
        }

        /// Returns when all are given back.
        func waitForAll() { for _ in 0..<total { count.take() } }
    }

    /// Directories of the way down that stay open.
    private static let openLimit = 64

    private let root: CleanedRoot
    private let visitor: any TreeVisitor
    private let executor: ThreadExecutor?
    private let batches: Batches
    private var frames: [Frame] = []

    /// - Parameter executor: whose threads look at the entries; without one the caller's own does.
    init(_ root: CleanedRoot, _ visitor: any TreeVisitor, on executor: ThreadExecutor?) {
        self.root = root
        self.visitor = visitor
        self.executor = executor
        batches = Batches(executor.map { $0.count * 2 } ?? 1)
    }

    /// Returns when everything was looked at. Throws if the root cannot be read, and `destinationTaken` as soon as an
    /// agent's backup is found below the root.
    mutating func run() throws(SafeBackupError) {
        let open: WalkedDirectory
        do throws(Errno) {
            let descriptor = try root.confined.openDirectory(.root)
            open = WalkedDirectory(
                descriptor, status: try descriptor.status(), path: .root, parent: nil, root: root.confined)
            _ = visitor.enter(open, descriptor)
        } catch {
            throw root.failure("read", .root, error)
        }
        frames = [Frame(directory: open)]
        let problem: SafeBackupError?
        do throws(SafeBackupError) {
            while !frames.isEmpty && !visitor.isDone { try step() }
            problem = nil
        } catch {
            problem = error
        }
        while let frame = frames.popLast() {
            // What was not read of it is still there.
            frame.directory.note(removed: 0, kept: 1)
            Self.leave(frame.directory, visitor)
        }
        batches.waitForAll()
        if let problem { throw problem }
    }

    private mutating func step() throws(SafeBackupError) {
        let top = frames.count - 1
        if let leaf = frames[top].nextLeaf() {
            descend(leaf)
            return
        }
        let directory = frames[top].directory
        if frames[top].hasEnded {
            frames.removeLast()
            Self.leave(directory, visitor)
            return
        }
        let batch = batches.take()
        let finding = Result { () throws(Errno) in try readPart(into: batch) }
        switch finding {
        case .success(.part(let descriptor)):
            look(at: batch, in: directory, descriptor)
        case .success(.sentinel(let leaf)):
            batches.give(batch)
            throw root.refusal(directory.path.appending(leaf))
        case .failure(let error):
            batches.give(batch)
            directory.note(removed: 0, kept: 1)
            if directory.path.isRoot { throw root.failure("read", .root, error) }
            // Gone with all in it.
            if error != .noSuchFileOrDirectory { visitor.failed(directory.path, error) }
            frames[top].hasEnded = true
        }
    }

    private enum Part {
        case part(Descriptor)
        /// The directory of an agent's backup.
        case sentinel([UInt8])
    }

    /// Reads names of the directory on top. Those of directories wait in its frame, the others stay in the batch.
    private mutating func readPart(into batch: DirectoryBatch) throws(Errno) -> Part {
        let top = frames.count - 1
        let directory = frames[top].directory
        let descriptor = try directory.descriptor()
        if let position = frames[top].position {
            try descriptor.setDirectoryPosition(position)
            frames[top].position = nil
        }
        frames[top].hasEnded = !(try batch.fill(from: descriptor))
        frames[top].waiting.removeAll(keepingCapacity: true)
        frames[top].cursor = 0
        var sentinel: DirectoryBatch.Entry?
        batch.entries.removeAll { entry in
            var kind = entry.kind
            if kind == nil {
                do throws(Errno) {
                    kind = try batch.status(of: entry, in: descriptor).kind
                } catch {
                    // Left to the visitor, who will meet the same error.
                    kind = .file
                }
            }
            guard kind == .directory else { return false }
            if batch.isNamed(entry, ".safebackup") { sentinel = entry }
            if batch.isNamed(entry, ".safebackup-session") {
                // What a session has not finished is no backup yet, and has the age of what it is copied from.
                directory.note(removed: 0, kept: 1)
                return true
            }
            frames[top].waiting += batch.name(of: entry)
            frames[top].waiting.append(0)
            return true
        }
        if let sentinel { return .sentinel(batch.name(of: sentinel)) }
        return .part(descriptor)
    }

    private func look(at batch: DirectoryBatch, in directory: WalkedDirectory, _ descriptor: Descriptor) {
        guard !batch.entries.isEmpty else { return batches.give(batch) }
        directory.enter()
        let (visitor, batches) = (visitor, batches)
        let work: @Sendable () -> Void = {
            let removed = visitor.isDone ? 0 : visitor.visit(batch, in: directory, descriptor)
            directory.note(removed: removed, kept: batch.entries.count - removed)
            Self.leave(directory, visitor)
            // Last, as the end of the walk waits for this.
            batches.give(batch)
        }
        if let executor { executor.submit(work) } else { work() }
    }

    private mutating func descend(_ leaf: [UInt8]) {
        let parent = frames[frames.count - 1].directory
        let path = parent.path.appending(leaf)
        do throws(Errno) {
            let above = ConfinedDirectory(root: try parent.descriptor(), staysOnMount: true)
            let descriptor = try above.open(RelativePath(unchecked: leaf), O_RDONLY | O_DIRECTORY | O_NONBLOCK)
            let status = try descriptor.status()
            // A subvolume of btrfs is no mount and yet another file system.
            guard status.device == root.status.device, !status.isMountRoot else { throw .improperLink }
            let directory = WalkedDirectory(
                descriptor, status: status, path: path, parent: parent, root: root.confined)
            guard visitor.enter(directory, descriptor) else {
                parent.note(removed: 0, kept: 1)
                return
            }
            parent.enter()
            push(Frame(directory: directory))
        } catch {
            switch error {
            case .improperLink: visitor.skipped(path)
            // Gone, or something else is there now, since its name was read.
            case .noSuchFileOrDirectory, .notDirectory, .tooManySymbolicLinkLevels: break
            default: visitor.failed(path, error)
            }
            parent.note(removed: 0, kept: error == .noSuchFileOrDirectory ? 0 : 1)
        }
    }

    private mutating func push(_ frame: Frame) {
        frames.append(frame)
        let far = frames.count - 1 - Self.openLimit
        guard far >= 0 else { return }
        let directory = frames[far].directory
        do throws(Errno) {
            if !frames[far].hasEnded && frames[far].position == nil {
                frames[far].position = try directory.descriptor().directoryPosition()
            }
            directory.close()
        } catch {
            // It stays open, as there is no other way back to its place.
        }
    }

    /// Something in the directory is done. If it was the last, the directory is done too, and perhaps those above.
    private static func leave(_ directory: WalkedDirectory, _ visitor: any TreeVisitor) {
        var current = directory
        while let isEmptied = current.leave(), let parent = current.parent {
            var isRemoved = false
            if isEmptied {
                do throws(Errno) {
                    isRemoved = visitor.emptied(current, try parent.descriptor())
                } catch {
                    visitor.failed(current.path, error)
                }
            }
            parent.note(removed: isRemoved ? 1 : 0, kept: isRemoved ? 0 : 1)
            current = parent
        }
    }
}
