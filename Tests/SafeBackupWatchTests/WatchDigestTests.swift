import SafeBackupCore
import Testing

@testable import SafeBackupWatch

/// A consumer as the agent is one: what it is told it looks at again, and a name ends only when nothing is there.
struct SimulatedCatalogue {
    var names: [RelativePath: Fingerprint] = [:]
    var reconciles = 0

    mutating func take(_ batch: WatchBatch, _ kernel: SimulatedKernel) {
        for change in batch.changes {
            if change.kind == .vanished && change.isDirectory {
                for path in names.keys where path.isWithin(change.path) { look(at: path, kernel) }
            }
            look(at: change.path, kernel)
        }
    }

    mutating func look(at path: RelativePath, _ kernel: SimulatedKernel) {
        if path.isRoot { return }
        names[path] = kernel.resolve(path).map { kernel.status($0).fingerprint }
    }

    /// Compares one directory's entries with what is known of them; what vanished takes along what was below it.
    mutating func compare(_ directory: RelativePath, _ kernel: SimulatedKernel) {
        let present = Set(kernel.resolve(directory)?.children.keys.map { directory.appending([$0]) } ?? [])
        for path in names.keys where !path.isRoot && path != directory && path.isWithin(directory) {
            let top = directory.appending(path.components[directory.components.count])
            // A file that is stored where a directory was ends what was below that.
            let isBelowFile = path != top && kernel.resolve(top)?.isDirectory == false
            if !present.contains(top) || isBelowFile { names[path] = nil }
        }
        for path in present { look(at: path, kernel) }
    }

    mutating func reconcile(_ kernel: SimulatedKernel) {
        reconciles += 1
        names = kernel.tree().mapValues { kernel.status($0).fingerprint }
    }
}

@Suite("The digest of events")
struct WatchDigestTests {
    private static let filter = TreeFilter(
        root: FileStatus(
            kind: .directory,
            fingerprint: Fingerprint(
                inode: 1, size: 0, mtime: FileTime(nanoseconds: 0), ctime: FileTime(nanoseconds: 0)),
            mode: 0o755, uid: 0, gid: 0, device: 1))

    /// A hundred storms take about a second; more of them behind the flag.
    private static func seeds(from first: UInt64) -> Range<UInt64> {
        first..<(first + (isLong ? 4_000 : 100))
    }

    /// Runs a storm; the digest and the consumer lag behind by chance. Afterwards everything is digested.
    private func storm(
        _ kernel: SimulatedKernel, steps: Int, changes limit: Int = 65_536
    ) -> (digest: WatchDigest, catalogue: SimulatedCatalogue) {
        var digest = WatchDigest(filter: Self.filter, limit: limit)
        var effects = SimulatedEffects(kernel: kernel)
        var catalogue = SimulatedCatalogue()
        for _ in 0..<20 { kernel.happen() }
        _ = digest.place(&effects)
        catalogue.reconcile(kernel)
        func consume() {
            let batch = digest.findings.drain()
            catalogue.take(batch, kernel)
            if batch.desynced.isEmpty { return }
            _ = digest.place(&effects)
            catalogue.reconcile(kernel)
        }
        for _ in 0..<steps {
            kernel.happen()
            if kernel.random.next() % 4 == 0 {
                for _ in 0..<(kernel.random.next() % 12) where kernel.queued > 0 {
                    digest.digest(kernel.readEvent(), &effects)
                }
                if kernel.random.next() % 2 == 0 { digest.endBatch(&effects) }
            }
            if kernel.random.next() % 16 == 0 { consume() }
        }
        kernel.restlessness = 0
        repeat {
            while kernel.queued > 0 { digest.digest(kernel.readEvent(), &effects) }
            digest.endBatch(&effects)
            consume()
        } while kernel.queued > 0
        // Halves of renames that were still waiting are given up a batch later.
        for _ in 0..<2 { digest.endBatch(&effects) }
        while kernel.queued > 0 { digest.digest(kernel.readEvent(), &effects) }
        return (digest, catalogue)
    }

    private func expectExact(
        _ kernel: SimulatedKernel, _ digest: WatchDigest, _ catalogue: SimulatedCatalogue, _ seed: UInt64
    ) {
        let tree = kernel.tree()
        #expect(Set(catalogue.names.keys) == Set(tree.keys), "every path, and no other; seed \(seed)")
        for (path, inode) in tree where !inode.isDirectory {
            #expect(
                catalogue.names[path]?.inode == inode.number && catalogue.names[path]?.size == inode.version,
                "the newest write to \(path) was told; seed \(seed)")
        }
        for (path, inode) in tree where inode.isDirectory {
            #expect(inode.watch.flatMap { digest.path(of: $0) } == path, "\(path) is watched; seed \(seed)")
        }
        let watched = kernel.allDirectories().filter { $0.watch != nil }.count
        #expect(watched == tree.values.filter(\.isDirectory).count + 1, "nothing else is watched; seed \(seed)")
        #expect(digest.directoryCount == watched && digest.watchCount == watched, "no node is left; seed \(seed)")
    }

    @Test("However late events are read, every path and every last write is told, and exactly the tree is watched")
    func lateEvents() {
        for seed in Self.seeds(from: 1) {
            let kernel = SimulatedKernel(seed: seed)
            let (digest, catalogue) = storm(kernel, steps: 150)
            expectExact(kernel, digest, catalogue, seed)
            #expect(catalogue.reconciles == 1)
        }
    }

    @Test("The same while the tree changes under the digest, between watch and listing")
    func restlessTree() {
        for seed in Self.seeds(from: 10_001) {
            let kernel = SimulatedKernel(seed: seed)
            kernel.restlessness = 3
            let (digest, catalogue) = storm(kernel, steps: 100)
            expectExact(kernel, digest, catalogue, seed)
            #expect(catalogue.reconciles == 1)
        }
    }

    @Test("The same while the kernel drops events, with a resync after each overflow")
    func overflows() {
        var overflows = 0
        // The last two need the look after a loss: what came there was dropped.
        for seed in Array(Self.seeds(from: 20_001)) + [21_735, 23_177] {
            let kernel = SimulatedKernel(seed: seed, queueLimit: 12 + Int(seed % 40))
            kernel.restlessness = 5
            let (digest, catalogue) = storm(kernel, steps: 150)
            expectExact(kernel, digest, catalogue, seed)
            overflows += kernel.overflows
        }
        #expect(overflows > 50, "events were dropped")
    }

    /// Looks at every directory that is not watched, as often as something new turns up.
    private func glance(
        _ digest: inout WatchDigest, _ catalogue: inout SimulatedCatalogue, _ kernel: SimulatedKernel,
        _ effects: inout SimulatedEffects
    ) {
        var number: Int32 = 0
        while let node = digest.tree.firstNode(from: number, onlyUncertain: true) {
            number = node.rawValue + 1
            let look = digest.glance(
                at: node, now: FileTime(nanoseconds: .max), inodesAreStable: true, watching: true, &effects)
            catalogue.take(digest.findings.drain(), kernel)
            guard let look, look.differs else { continue }
            catalogue.compare(look.path, kernel)
            var signature = ListingSignature(now: FileTime(nanoseconds: .max), inodesAreStable: true)
            for (leaf, child) in kernel.resolve(look.path)?.children ?? [:] {
                signature.add(ListedEntry(leaf: [leaf], finding: .status(kernel.status(child))))
            }
            digest.trustGlance(at: look.path, signature.value)
        }
    }

    @Test("The same with too few watches, also while their number changes: the rest is found by looking")
    func watchLimit() {
        for seed in Self.seeds(from: 40_001) {
            let kernel = SimulatedKernel(seed: seed)
            kernel.restlessness = 5
            kernel.watchLimit = Int(seed % 7)
            var digest = WatchDigest(filter: Self.filter)
            var effects = SimulatedEffects(kernel: kernel)
            var catalogue = SimulatedCatalogue()
            for _ in 0..<20 { kernel.happen() }
            _ = digest.place(&effects)
            catalogue.reconcile(kernel)
            for step in 0..<150 {
                kernel.happen()
                if step % 40 == 0 { kernel.watchLimit = Int(kernel.random.next() % 12) }
                if kernel.random.next() % 4 == 0 {
                    for _ in 0..<(kernel.random.next() % 12) where kernel.queued > 0 {
                        digest.digest(kernel.readEvent(), &effects)
                    }
                    if kernel.random.next() % 2 == 0 { digest.endBatch(&effects) }
                }
                if kernel.random.next() % 16 == 0 { catalogue.take(digest.findings.drain(), kernel) }
                if kernel.random.next() % 24 == 0 { glance(&digest, &catalogue, kernel, &effects) }
            }
            kernel.restlessness = 0
            // One pass finds what a former one has missed; a chain of directories takes some.
            for _ in 0..<6 {
                while kernel.queued > 0 { digest.digest(kernel.readEvent(), &effects) }
                digest.endBatch(&effects)
                catalogue.take(digest.findings.drain(), kernel)
                glance(&digest, &catalogue, kernel, &effects)
            }
            let tree = kernel.tree()
            #expect(Set(catalogue.names.keys) == Set(tree.keys), "every path, and no other; seed \(seed)")
            for (path, inode) in tree where !inode.isDirectory {
                #expect(
                    catalogue.names[path]?.inode == inode.number && catalogue.names[path]?.size == inode.version,
                    "the newest write to \(path) was seen; seed \(seed)")
            }
            for (path, inode) in tree where inode.isDirectory {
                #expect(inode.watch.map { digest.path(of: $0) == path } ?? true, "\(path); seed \(seed)")
            }
            #expect(
                digest.directoryCount == tree.values.filter(\.isDirectory).count + 1, "no node is left; seed \(seed)")
            // With watches enough for all, all are watched after the next pass.
            kernel.watchLimit = .max
            glance(&digest, &catalogue, kernel, &effects)
            #expect(digest.watchCount == digest.directoryCount, "seed \(seed)")
        }
    }

    @Test("The same when more changes wait than the set may hold")
    func fullSet() {
        for seed in Self.seeds(from: 30_001) {
            let kernel = SimulatedKernel(seed: seed)
            let (digest, catalogue) = storm(kernel, steps: 100, changes: 6)
            expectExact(kernel, digest, catalogue, seed)
        }
    }
}
