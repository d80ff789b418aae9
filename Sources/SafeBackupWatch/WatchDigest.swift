import SafeBackupCore

/// Turns the kernel's events into changes and keeps the tree of watches. A pure state machine: what it needs from the
/// system it asks of `TreeEffects`.
///
/// Events tell what was, and the tree is read as it is; between the two anything may have happened. So no event about
/// a directory is believed alone: whenever one may have come, gone or moved, its path is entered again, and the watch
/// that the kernel then gives belongs to that path, whatever node had it before. Each step may be repeated.
struct WatchDigest {
    /// A directory that was moved away, with its watches, until it turns up again under another name.
    private struct Detached {
        var node: WatchTree.Node
        var path: RelativePath
        var batch: Int
    }

    private let filter: TreeFilter
    var tree = WatchTree()
    private var detached: [UInt32: Detached] = [:]
    /// Files that were moved away, by cookie: where each lay before the findings began.
    private var departed: [UInt32: (origin: RelativePath?, batch: Int)] = [:]
    /// Of a directory that is on its way to another name something was told, and nobody knows of which path.
    private var hasLostEvents = false
    /// Entries that were made or moved in, to be looked at when the batch ends; `true`: moved in.
    private var arrived: [(path: RelativePath, wasMoved: Bool)] = []
    private var batch = 0
    /// A directory was not listed to its end, though it may be watched.
    var hasDoubts = false
    /// What was found; the owner drains it.
    var findings: WatchFindings

    /// - Parameter limit: of paths in `findings`.
    init(filter: TreeFilter, limit: Int = 65_536) {
        self.filter = filter
        findings = WatchFindings(limit: limit)
    }

    var watchCount: Int { tree.watchCount }
    var unreadableCount: Int { tree.unreadableCount }
    /// With the root, and with those that cannot be watched.
    var directoryCount: Int { tree.count + 1 }

    /// Where events of a watch are told.
    func path(of watch: WatchDescriptor) -> RelativePath? { tree.node(of: watch).flatMap { tree.path(of: $0) } }

    // MARK: The whole tree

    /// Places the watches of the whole tree, or completes and corrects them; changes are not told, because the caller
    /// reconciles afterwards. `nil` if the root cannot be entered.
    mutating func place(_ effects: inout some TreeEffects) -> WatchReport? {
        for moved in detached.values { drop(moved.node, &effects) }
        detached = [:]
        departed = [:]
        var report = WatchReport()
        walk(from: .root, .directories, &effects) { report.count($0, $1) }
        return report.directories > 0 ? report : nil
    }

    // MARK: Events

    /// Takes one event, in the kernel's order.
    mutating func digest(_ event: InotifyEvent, _ effects: inout some TreeEffects) {
        if event.mask.contains(.overflow) {
            findings.desync(event.cookie == Self.ownOverflow ? .bufferFull : .overflow)
            return
        }
        // Of a watch that was removed: nothing that still concerns us.
        guard let node = tree.node(of: event.watch) else { return }
        tree.forgetGlance(of: node)
        if event.leaf.isEmpty {
            digestOwn(event, node, &effects)
        } else if event.mask.contains(.isDirectory) {
            digestDirectory(event, node, &effects)
        } else {
            digestEntry(event, node)
        }
    }

    /// To be called when all events read so far were digested.
    mutating func endBatch(_ effects: inout some TreeEffects) {
        for (path, wasMoved) in arrived { lookAtArrival(path, wasMoved, &effects) }
        arrived.removeAll(keepingCapacity: true)
        // The other half of a rename follows at once; where it has not come in a whole batch, there is none.
        for (cookie, moved) in detached where moved.batch < batch {
            detached.removeValue(forKey: cookie)
            drop(moved.node, &effects)
        }
        if !departed.isEmpty { departed = departed.filter { $0.value.batch == batch } }
        if detached.isEmpty { hasLostEvents = false }
        batch += 1
    }

    /// The cookie of an overflow that is ours, not the kernel's.
    static let ownOverflow: UInt32 = 1

    /// An event of a watched directory itself. Except for the root its parent's events tell the same.
    private mutating func digestOwn(_ event: InotifyEvent, _ node: WatchTree.Node, _ effects: inout some TreeEffects) {
        let isRoot = node == .root
        if event.mask.contains(.ignored) {
            tree.clearWatch(of: node)
            if isRoot { findings.rootChanged(.selfIgnored) }
        } else if event.mask.contains(.unmount) {
            if isRoot { findings.rootChanged(.unmounted) }
        } else if event.mask.contains(.deleteSelf) {
            if isRoot { findings.rootChanged(.deleted) }
        } else if event.mask.contains(.moveSelf) {
            if isRoot { findings.rootChanged(.moved) }
            // It comes after both halves of a rename: who is still detached now left the source.
            for (cookie, moved) in detached where moved.node == node {
                detached.removeValue(forKey: cookie)
                return drop(node, &effects)
            }
            // Nobody tells what became of it where its parent is not watched: the next look at that finds it.
            if let parent = tree.parent(of: node), tree.watch(of: parent) == nil { drop(node, &effects) }
        } else if event.mask.contains(.attrib) && isRoot {
            findings.changes.record(.root, .attributes, isDirectory: true)
        }
    }

    /// An event of a directory in a watched directory.
    private mutating func digestDirectory(
        _ event: InotifyEvent, _ parent: WatchTree.Node, _ effects: inout some TreeEffects
    ) {
        // In a directory that is on its way to another name: entering it there tells what it holds.
        guard let directory = tree.path(of: parent) else {
            hasLostEvents = true
            return
        }
        if let reason = filter.skipReason(in: directory, leaf: event.leaf, isDirectory: true) {
            if event.mask.contains(.movedTo), let moved = detached.removeValue(forKey: event.cookie) {
                drop(moved.node, &effects)
            }
            if reason != .excluded && !event.mask.isDisjoint(with: [.create, .movedTo]) {
                findings.skip(directory.appending(event.leaf), reason, .directory)
            }
            return
        }
        let known = tree.child(of: parent, event.leaf)
        var former: RelativePath?
        if !event.mask.isDisjoint(with: [.delete, .movedFrom]) {
            findings.changes.record(directory.appending(event.leaf), .vanished, isDirectory: true)
            if let known {
                if event.mask.contains(.movedFrom) {
                    tree.detach(known)
                    let moved = Detached(node: known, path: directory.appending(event.leaf), batch: batch)
                    if let former = detached.updateValue(moved, forKey: event.cookie) {
                        drop(former.node, &effects)
                    }
                } else {
                    drop(known, &effects)
                }
            }
        } else if event.mask.contains(.movedTo), let moved = detached.removeValue(forKey: event.cookie) {
            // What was at that name was replaced, or is the same and was entered before this event was read. Either
            // way events of what vanished in it go with its watches.
            if let known {
                drop(known, &effects)
                findings.changes.record(directory.appending(event.leaf), .vanished, isDirectory: true)
            }
            tree.attach(moved.node, to: parent, as: event.leaf)
            if !hasLostEvents { former = moved.path }
        } else if event.mask.contains(.attrib), let known, tree.watch(of: known) != nil {
            findings.changes.record(directory.appending(event.leaf), .attributes, isDirectory: true)
            return
        }
        // Also after a loss: another directory may have come to be there meanwhile.
        walk(from: tree.add(event.leaf, to: parent), .everything, formerly: former, &effects)
    }

    /// An event of anything else in a watched directory.
    private mutating func digestEntry(_ event: InotifyEvent, _ parent: WatchTree.Node) {
        guard let directory = tree.path(of: parent) else {
            hasLostEvents = true
            return
        }
        if let reason = filter.skipReason(in: directory, leaf: event.leaf, isDirectory: false) {
            if reason != .excluded && !event.mask.isDisjoint(with: [.create, .movedTo]) {
                findings.skip(directory.appending(event.leaf), reason, nil)
            }
            return
        }
        let path = directory.appending(event.leaf)
        if event.mask.contains(.closeWrite) {
            findings.changes.record(path, .closed, isDirectory: false)
        } else if event.mask.contains(.modify) {
            findings.changes.record(path, .modified, isDirectory: false)
        } else if !event.mask.isDisjoint(with: [.create, .movedTo]) {
            let wasMoved = event.mask.contains(.movedTo)
            arrived.append((path, wasMoved))
            findings.changes.arrive(
                path, from: wasMoved ? departed.removeValue(forKey: event.cookie).flatMap(\.origin) : nil)
        } else if !event.mask.isDisjoint(with: [.delete, .movedFrom]) {
            if event.mask.contains(.movedFrom) {
                departed[event.cookie] = (findings.changes.origin(of: path), batch)
            }
            findings.changes.record(path, .vanished, isDirectory: false)
        } else if event.mask.contains(.attrib) {
            findings.changes.record(path, .attributes, isDirectory: false)
        }
    }

    /// Tells what came to be at a path: a file that was created is most often still being written, a link or a second
    /// name of a file is complete at once, and a special file is only listed.
    private mutating func lookAtArrival(_ path: RelativePath, _ wasMoved: Bool, _ effects: inout some TreeEffects) {
        if !wasMoved, let known = findings.changes.kind(at: path), known == .closed || known == .modified { return }
        switch effects.look(at: path) {
        case .gone: break
        case .failed:
            findings.changes.record(path, wasMoved ? .closed : .modified, isDirectory: false, isArrival: wasMoved)
        case .present(let status) where status.kind == .directory: break
        case .present(let status):
            if let reason = filter.skipReason(of: status) {
                findings.skip(path, reason, status.kind)
                // It may have replaced something that is saved.
                if wasMoved { findings.changes.record(path, .vanished, isDirectory: false) }
            } else {
                let isComplete = wasMoved || status.kind == .symlink || status.linkCount > 1
                findings.changes.record(
                    path, isComplete ? .closed : .modified, isDirectory: false, isArrival: wasMoved)
            }
        }
    }

    // MARK: Directories

    /// A directory that waits to be entered.
    private struct Waiting {
        var node: WatchTree.Node
        /// A directory above it was told as vanished in the same walk.
        var isCovered: Bool
        /// Where it was just renamed from.
        var former: RelativePath?
    }

    /// Enters a directory and all below it: watch, then list, then enter what was listed. A directory that we knew
    /// and that a whole listing does not have is forgotten: what became of it is told where it is now.
    /// - Parameter former: where the directory was just renamed from.
    mutating func walk(
        from start: WatchTree.Node, _ interest: DirectoryListing.Interest, formerly former: RelativePath? = nil,
        _ effects: inout some TreeEffects, _ counted: (RelativePath, Entrance) -> Void = { _, _ in }
    ) {
        var pending = [Waiting(node: start, isCovered: false, former: former)]
        while let next = pending.popLast() {
            guard let path = tree.path(of: next.node) else { continue }
            tree.beginPass()
            let firstChild = pending.count
            // Of what was not watched before, nobody knows what happened to its files.
            let former = tree.watch(of: next.node) == nil ? nil : next.former
            let entrance = effects.enter(path, interest: interest, watching: true) { entries in
                for entry in entries {
                    guard let child = take(entry, in: path, next.node, interest, former) else { continue }
                    pending.append(
                        Waiting(
                            node: child, isCovered: next.isCovered, former: former.map { $0.appending(entry.leaf) }))
                }
            }
            counted(path, entrance)
            tree.forgetGlance(of: next.node)
            let isNew = settle(entrance, path, next.node, interest, &effects)
            if isNew && former != nil { findings.changes.origins.lose() }
            if interest == .directories || !isNew || next.isCovered { continue }
            // Until now nobody watched here. What the consumer knows below this path, be it from a directory of the
            // same name or from a look of its own, may have gone without a word.
            findings.changes.record(path, .vanished, isDirectory: true)
            findings.changes.record(path, .closed, isDirectory: true)
            for index in firstChild..<pending.count { pending[index].isCovered = true }
        }
    }

    /// Takes over one listed entry; a directory is to be entered.
    private mutating func take(
        _ entry: ListedEntry, in directory: RelativePath, _ node: WatchTree.Node,
        _ interest: DirectoryListing.Interest, _ former: RelativePath?
    ) -> WatchTree.Node? {
        switch entry.finding {
        case .status(let status) where status.kind == .directory:
            let child = tree.add(entry.leaf, to: node)
            tree.mark(child)
            return child
        case .status:
            if interest == .everything {
                let path = directory.appending(entry.leaf)
                let origin = former.flatMap { findings.changes.origin(of: $0.appending(entry.leaf)) }
                if former != nil { findings.changes.arrive(path, from: origin) }
                findings.changes.record(path, .found, isDirectory: false, isArrival: former != nil)
            }
        case .skipped(let reason, let kind):
            if interest == .everything && reason != .excluded {
                findings.skip(directory.appending(entry.leaf), reason, kind)
            }
        }
        return nil
    }

    /// Takes over what entering a directory came to. Returns whether it was not watched before.
    private mutating func settle(
        _ entrance: Entrance, _ path: RelativePath, _ node: WatchTree.Node, _ interest: DirectoryListing.Interest,
        _ effects: inout some TreeEffects
    ) -> Bool {
        var isNew = false
        switch entrance {
        case .gone:
            drop(node, &effects)
            return false
        case .skipped(let reason):
            drop(node, &effects)
            if interest == .everything && reason != .excluded { findings.skip(path, reason, .directory) }
            return false
        case .closed(let obstacle):
            endWatch(of: node, &effects)
            tree.setObstacle(obstacle, of: node)
            if obstacle == .unreadable { findings.skip(path, .unreadable, .directory) }
        case .entered(let watch, let obstacle, let isWhole):
            if let watch {
                isNew = watch != tree.watch(of: node)
                if let former = tree.setWatch(watch, of: node) { effects.removeWatch(former) }
            } else {
                // A watch that it has is of the directory that was here before.
                endWatch(of: node, &effects)
                tree.setObstacle(obstacle, of: node)
            }
            if isWhole {
                tree.removeUnmarkedChildren(of: node) { effects.removeWatch($0) }
            } else {
                tree.setObstacle(.failed, of: node)
                hasDoubts = true
            }
        }
        if interest == .everything { findings.changes.record(path, .closed, isDirectory: true) }
        return isNew
    }

    /// What is told by events from now on is nobody's.
    mutating func endWatch(of node: WatchTree.Node, _ effects: inout some TreeEffects) {
        guard let former = tree.watch(of: node) else { return }
        tree.clearWatch(of: node)
        effects.removeWatch(former)
    }

    /// Forgets a directory and all below it, and ends their watches.
    mutating func drop(_ node: WatchTree.Node, _ effects: inout some TreeEffects) {
        tree.remove(node) { effects.removeWatch($0) }
    }
}

extension WatchReport {
    fileprivate mutating func count(_ path: RelativePath, _ entrance: Entrance) {
        switch entrance {
        case .gone, .skipped: break
        case .closed(let obstacle):
            // The root must be there; below it, what cannot be opened is counted and listed.
            if path.isRoot { return }
            directories += 1
            add(path, obstacle)
        case .entered(let watch, let obstacle, _):
            directories += 1
            if watch != nil { watched += 1 }
            if let obstacle { add(path, obstacle) }
        }
    }
}
