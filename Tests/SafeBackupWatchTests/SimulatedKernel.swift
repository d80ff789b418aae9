import SafeBackupCore

@testable import SafeBackupWatch

/// A file system in memory with an inotify queue as the kernel has it: events are queued when something happens and
/// read any time later, so that whoever digests them sees a tree that has gone on since.
final class SimulatedKernel {
    final class Inode {
        let number: UInt64
        let isDirectory: Bool
        var children: [UInt8: Inode] = [:]
        /// Raised by each write.
        var version: Int64 = 0
        var watch: WatchDescriptor?

        init(number: UInt64, isDirectory: Bool) {
            self.number = number
            self.isDirectory = isDirectory
        }
    }

    let root = Inode(number: 1, isDirectory: true)
    /// A directory that nobody watches.
    let outside = Inode(number: 2, isDirectory: true)
    private var nextInode: UInt64 = 3
    private var nextWatch: Int32 = 1
    private var nextCookie: UInt32 = 100
    private var queue: [InotifyEvent] = []
    private let queueLimit: Int
    /// Of watches; may change at any time.
    var watchLimit = Int.max
    private var watchCount = 0
    var random: SplitMix
    /// How often something happens between two steps of who reads the tree.
    var restlessness = 0
    private(set) var overflows = 0

    init(seed: UInt64, queueLimit: Int = .max) {
        random = SplitMix(state: seed)
        self.queueLimit = queueLimit
    }

    // MARK: The queue

    var queued: Int { queue.count }

    func readEvent() -> InotifyEvent { queue.removeFirst() }

    private func send(_ directory: Inode, _ mask: InotifyEvent.Mask, _ leaf: [UInt8] = [], cookie: UInt32 = 0) {
        guard let watch = directory.watch else { return }
        push(InotifyEvent(watch: watch, mask: mask, cookie: cookie, leaf: leaf))
    }

    private func push(_ event: InotifyEvent) {
        if queue.count < queueLimit {
            queue.append(event)
        } else if !queue.contains(where: { $0.mask.contains(.overflow) }) {
            // The kernel queues it once, beyond the limit, until it is read.
            overflows += 1
            queue.append(InotifyEvent(watch: WatchDescriptor(rawValue: -1), mask: .overflow))
        }
    }

    /// `nil` past the limit.
    func addWatch(_ inode: Inode) -> WatchDescriptor? {
        if let watch = inode.watch { return watch }
        if watchCount >= watchLimit { return nil }
        watchCount += 1
        let watch = WatchDescriptor(rawValue: nextWatch)
        nextWatch += 1
        inode.watch = watch
        return watch
    }

    func removeWatch(_ watch: WatchDescriptor) {
        for inode in allDirectories() where inode.watch == watch {
            inode.watch = nil
            watchCount -= 1
            push(InotifyEvent(watch: watch, mask: .ignored))
        }
    }

    // MARK: The tree

    func resolve(_ path: RelativePath) -> Inode? {
        var inode = root
        for component in path.components {
            guard let child = component.first.flatMap({ inode.children[$0] }) else { return nil }
            inode = child
        }
        return inode
    }

    func status(_ inode: Inode) -> FileStatus {
        FileStatus(
            kind: inode.isDirectory ? .directory : .file,
            fingerprint: Fingerprint(
                inode: inode.number, size: inode.version, mtime: FileTime(nanoseconds: inode.version),
                ctime: FileTime(nanoseconds: inode.version)),
            mode: 0o644, uid: 0, gid: 0, device: 1)
    }

    /// Everything below the root.
    func tree() -> [RelativePath: Inode] {
        var result: [RelativePath: Inode] = [:]
        var pending: [(RelativePath, Inode)] = [(.root, root)]
        while let (path, inode) = pending.popLast() {
            for (leaf, child) in inode.children {
                let path = path.appending([leaf])
                result[path] = child
                if child.isDirectory { pending.append((path, child)) }
            }
        }
        return result
    }

    /// Also those outside.
    func allDirectories() -> [Inode] { liveDirectories() + liveDirectories(from: outside) }

    /// Always in the same order.
    private func liveDirectories(from start: Inode? = nil) -> [Inode] {
        var result = [start ?? root]
        var next = 0
        while next < result.count {
            for (_, child) in result[next].children.sorted(by: { $0.key < $1.key }) where child.isDirectory {
                result.append(child)
            }
            next += 1
        }
        return result
    }

    // MARK: What happens

    /// One step of somebody who works in the tree: few names, so that they meet.
    func happen() {
        let directories = liveDirectories()
        let directory = directories[Int(random.next() % UInt64(directories.count))]
        let leaf = UInt8(ascii: "a") + UInt8(random.next() % 4)
        switch random.next() % 10 {
        case 0, 1:
            if directories.count < 16 { makeDirectory(directory, leaf) }
        case 2, 3, 4: write(directory, leaf)
        case 5: remove(directory, leaf)
        case 6, 7, 8:
            let target = directories[Int(random.next() % UInt64(directories.count))]
            move(directory, leaf, target, UInt8(ascii: "a") + UInt8(random.next() % 4))
        default:
            if random.next() % 2 == 0 {
                move(directory, leaf, outside, leaf)
            } else if let back = outside.children.keys.sorted().first {
                move(outside, back, directory, leaf)
            }
        }
    }

    /// Lets things happen while somebody reads the tree.
    func pass() {
        guard restlessness > 0, random.next() % UInt64(restlessness) == 0 else { return }
        happen()
    }

    func makeDirectory(_ directory: Inode, _ leaf: UInt8) {
        if directory.children[leaf] != nil { return }
        directory.children[leaf] = Inode(number: nextInode, isDirectory: true)
        nextInode += 1
        send(directory, [.create, .isDirectory], [leaf])
    }

    func write(_ directory: Inode, _ leaf: UInt8) {
        if let known = directory.children[leaf] {
            if known.isDirectory { return }
            known.version += 1
        } else {
            directory.children[leaf] = Inode(number: nextInode, isDirectory: false)
            nextInode += 1
            send(directory, .create, [leaf])
        }
        send(directory, .modify, [leaf])
        send(directory, .closeWrite, [leaf])
    }

    /// As `rm -rf`.
    func remove(_ directory: Inode, _ leaf: UInt8) {
        guard let inode = directory.children[leaf] else { return }
        for child in inode.children.keys.sorted() { remove(inode, child) }
        directory.children.removeValue(forKey: leaf)
        let mask: InotifyEvent.Mask = inode.isDirectory ? [.delete, .isDirectory] : .delete
        // The directory's own end comes when the last who has it open lets it go.
        let isLate = random.next() % 2 == 0
        if isLate { send(directory, mask, [leaf]) }
        end(inode)
        if !isLate { send(directory, mask, [leaf]) }
    }

    private func end(_ inode: Inode) {
        guard let watch = inode.watch else { return }
        send(inode, .deleteSelf)
        inode.watch = nil
        watchCount -= 1
        push(InotifyEvent(watch: watch, mask: .ignored))
    }

    func move(_ from: Inode, _ leaf: UInt8, _ to: Inode, _ newLeaf: UInt8) {
        guard let inode = from.children[leaf], !holds(inode, to) else { return }
        let replaced = to.children[newLeaf]
        if replaced === inode { return }
        if let replaced, replaced.isDirectory != inode.isDirectory || !replaced.children.isEmpty { return }
        from.children.removeValue(forKey: leaf)
        to.children[newLeaf] = inode
        nextCookie += 1
        let kind: InotifyEvent.Mask = inode.isDirectory ? .isDirectory : []
        send(from, kind.union(.movedFrom), [leaf], cookie: nextCookie)
        send(to, kind.union(.movedTo), [newLeaf], cookie: nextCookie)
        if let replaced { end(replaced) }
        if inode.isDirectory { send(inode, .moveSelf) }
    }

    private func holds(_ inode: Inode, _ other: Inode) -> Bool {
        inode === other || inode.children.values.contains { holds($0, other) }
    }
}

/// Answers a digest from the simulation, while things go on happening.
struct SimulatedEffects: TreeEffects {
    let kernel: SimulatedKernel

    mutating func enter(
        _ path: RelativePath, interest: DirectoryListing.Interest, watching: Bool, each: ([ListedEntry]) -> Void
    ) -> Entrance {
        kernel.pass()
        guard let inode = kernel.resolve(path), inode.isDirectory else { return .gone }
        kernel.pass()
        // Gone while it is open: the kernel refuses nothing, but there is nothing in it.
        if !kernel.allDirectories().contains(where: { $0 === inode }) { return .gone }
        let watch = watching ? kernel.addWatch(inode) : nil
        kernel.pass()
        var names = inode.children.keys.sorted()
        while !names.isEmpty {
            let part = names.prefix(2)
            names.removeFirst(part.count)
            var entries: [ListedEntry] = []
            for leaf in part {
                guard let child = inode.children[leaf] else { continue }
                if interest == .directories && !child.isDirectory { continue }
                entries.append(ListedEntry(leaf: [leaf], finding: .status(kernel.status(child))))
            }
            each(entries)
            kernel.pass()
        }
        return .entered(watch, watching && watch == nil ? .watchLimit : nil, isWhole: true)
    }

    mutating func removeWatch(_ watch: WatchDescriptor) { kernel.removeWatch(watch) }

    mutating func look(at path: RelativePath) -> Sight {
        kernel.pass()
        return kernel.resolve(path).map { .present(kernel.status($0)) } ?? .gone
    }
}
