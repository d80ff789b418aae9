import SafeBackupCore

/// A look at one directory that no event can be trusted for.
struct Glance: Sendable, Hashable {
    var path: RelativePath
    /// Its entries may differ from what is known: to be compared one by one.
    var differs: Bool
    /// Entries that were looked at.
    var entries: Int
}

/// Directories that are not watched: because the system has no watches left, because they could not be entered, or
/// because of their file system. Each look tries to watch first, so that a watch that became free is taken, and nothing
/// falls between the last look and the first event.
extension WatchDigest {
    /// Looks at a directory. New directories in it are entered and told as those that an event tells; `nil` if it went,
    /// or is on its way to another name.
    /// - Parameter watching: try to watch it, or to renew its watch.
    mutating func glance(
        at node: WatchTree.Node, now: FileTime, inodesAreStable: Bool, watching: Bool,
        _ effects: inout some TreeEffects
    ) -> Glance? {
        guard let path = tree.path(of: node) else { return nil }
        var signature = ListingSignature(now: now, inodesAreStable: inodesAreStable)
        var fresh: [WatchTree.Node] = []
        var entryCount = 0
        tree.beginPass()
        let entrance = effects.enter(path, interest: .everything, watching: watching) { entries in
            entryCount += entries.count
            for entry in entries {
                signature.add(entry)
                guard case .status(let status) = entry.finding, status.kind == .directory else { continue }
                let known = tree.child(of: node, entry.leaf)
                let child = known ?? tree.add(entry.leaf, to: node)
                tree.mark(child)
                if known == nil { fresh.append(child) }
            }
        }
        var value = signature.value
        var isNew = false
        switch entrance {
        case .gone:
            drop(node, &effects)
            return nil
        case .skipped(let reason):
            drop(node, &effects)
            if reason != .excluded { findings.skip(path, reason, .directory) }
            return nil
        case .closed(let obstacle):
            endWatch(of: node, &effects)
            tree.setObstacle(obstacle, of: node)
            value = ListingSignature.closed
        case .entered(let watch, let obstacle, let isWhole):
            if let watch {
                isNew = watch != tree.watch(of: node)
                if let former = tree.setWatch(watch, of: node) { effects.removeWatch(former) }
            } else if let obstacle {
                endWatch(of: node, &effects)
                tree.setObstacle(obstacle, of: node)
            }
            if isWhole {
                tree.removeUnmarkedChildren(of: node) { effects.removeWatch($0) }
            } else {
                tree.setObstacle(.failed, of: node)
                hasDoubts = true
                value = ListingSignature.unknown
            }
        }
        let isKnown = tree.noteGlance(value, of: node)
        for child in fresh { walk(from: child, .everything, &effects) }
        return Glance(path: path, differs: isNew || !fresh.isEmpty || !isKnown, entries: entryCount)
    }

    /// What is known of a directory is what a listing with this signature shows: as long as looks come to the same, it
    /// does not differ.
    mutating func trustGlance(at path: RelativePath, _ signature: UInt64) {
        guard let node = node(at: path) else { return }
        tree.trustGlance(signature, of: node)
    }

    /// The directory could not be compared: it is looked at again, although it may be watched.
    mutating func doubt(_ path: RelativePath) {
        guard let node = node(at: path) else { return }
        tree.forgetGlance(of: node)
        if tree.obstacle(of: node) == nil { tree.setObstacle(.failed, of: node) }
        hasDoubts = true
    }

    private func node(at path: RelativePath) -> WatchTree.Node? {
        var node = WatchTree.Node.root
        for component in path.components {
            guard let child = tree.child(of: node, component) else { return nil }
            node = child
        }
        return node
    }
}
