import SafeBackupCore
import Testing

@testable import SafeBackupWatch

@Suite("The tree of watches")
struct WatchTreeTests {
    @Test("After any sequence of additions, moves and removals it is the tree that a plain model has")
    func agreesWithModel() {
        for seed in 0..<20 as Range<UInt64> {
            var random = SplitMix(state: seed)
            var tree = WatchTree()
            // Node by path, and watch by path: everything the slow way.
            var nodes: [RelativePath: WatchTree.Node] = [.root: .root]
            var watches: [RelativePath: WatchDescriptor] = [:]
            var nextWatch: Int32 = 1
            // The order of a dictionary is another in each run; that of paths is not.
            func path() -> RelativePath { nodes.keys.sorted()[Int(random.next() % UInt64(nodes.count))] }
            for _ in 0..<120 {
                let target = path()
                // Names of very different length, so that their store is compacted.
                let leaf = [UInt8](repeating: UInt8(97 + random.next() % 5), count: random.next() % 2 == 0 ? 1 : 255)
                switch random.next() % 5 {
                case 0, 1:
                    guard let parent = nodes[target] else { continue }
                    nodes[target.appending(leaf)] = tree.add(leaf, to: parent)
                case 2:
                    guard let node = nodes[target] else { continue }
                    let watch = WatchDescriptor(rawValue: nextWatch)
                    nextWatch += 1
                    #expect(tree.setWatch(watch, of: node) == watches[target])
                    watches[target] = watch
                case 3:
                    guard let node = nodes[target], !target.isRoot else { continue }
                    var removed: Set<WatchDescriptor> = []
                    tree.remove(node) { removed.insert($0) }
                    #expect(removed == Set(watches.filter { $0.key.isWithin(target) }.values))
                    nodes = nodes.filter { !$0.key.isWithin(target) }
                    watches = watches.filter { !$0.key.isWithin(target) }
                default:
                    let parentPath = path()
                    let newPath = parentPath.appending(leaf)
                    guard !target.isRoot, !parentPath.isWithin(target), nodes[newPath] == nil,
                        let node = nodes[target], let parent = nodes[parentPath]
                    else { continue }
                    tree.detach(node)
                    #expect(tree.path(of: node) == nil)
                    tree.attach(node, to: parent, as: leaf)
                    func moved(_ path: RelativePath) -> RelativePath {
                        guard path.isWithin(target) else { return path }
                        let rest = path.bytes.dropFirst(target.bytes.count + 1)
                        return rest.isEmpty ? newPath : newPath.appending(rest)
                    }
                    nodes = Dictionary(uniqueKeysWithValues: nodes.map { (moved($0.key), $0.value) })
                    watches = Dictionary(uniqueKeysWithValues: watches.map { (moved($0.key), $0.value) })
                }
            }
            #expect(tree.count == nodes.count - 1, "seed \(seed)")
            #expect(tree.watchCount == watches.count, "seed \(seed)")
            for (path, node) in nodes {
                #expect(tree.path(of: node) == path, "seed \(seed)")
                if !path.isRoot, let parent = nodes[path.parent] {
                    #expect(tree.child(of: parent, path.leaf) == node, "seed \(seed)")
                }
                #expect(tree.watch(of: node) == watches[path], "seed \(seed)")
                if let watch = watches[path] { #expect(tree.node(of: watch) == node, "seed \(seed)") }
            }
        }
    }

    @Test("A watch belongs to one directory: giving it to another takes it from the first")
    func takesOver() {
        var tree = WatchTree()
        let (first, second) = (tree.add([0x61], to: .root), tree.add([0x62], to: .root))
        let (one, two) = (WatchDescriptor(rawValue: 1), WatchDescriptor(rawValue: 2))
        #expect(tree.setWatch(one, of: first) == nil)
        #expect(tree.setWatch(two, of: second) == nil)
        #expect(tree.setWatch(one, of: second) == two)
        #expect(tree.watch(of: first) == nil)
        #expect(tree.node(of: one) == second && tree.node(of: two) == nil)
        tree.clearWatch(of: first)
        #expect(tree.node(of: one) == second)
    }

    @Test("Fifty thousand directories in one are added and removed in no more than a moment each")
    func isNotQuadratic() {
        var tree = WatchTree()
        let names = (0..<50_000).map { Array("directory-\($0)".utf8) }
        let began = monotonicSeconds()
        for name in names { _ = tree.add(name, to: .root) }
        for name in names.reversed() {
            if let node = tree.child(of: .root, name) { tree.remove(node) { _ in } }
        }
        #expect(tree.count == 0)
        #expect(monotonicSeconds() - began < 10)
    }

    @Test("Events are cut out of a buffer as the kernel packs them")
    func parsing() {
        func packed(_ watch: Int32, _ mask: UInt32, _ cookie: UInt32, _ name: [UInt8], padding: Int) -> [UInt8] {
            let fields = [UInt32(bitPattern: watch), mask, cookie, UInt32(name.count + padding)]
            return fields.flatMap { withUnsafeBytes(of: $0, Array.init) } + name + Array(repeating: 0, count: padding)
        }
        // Of odd length, so that the second event is not aligned.
        let first = packed(7, 0x100, 0, [0xFF, 0x0A], padding: 3)
        let second = packed(8, 0x4000_0040, 99, Array(repeating: 0x61, count: 255), padding: 1)
        let third = packed(9, 0x8000, 0, [], padding: 0)
        let cut = packed(10, 0x2, 0, Array("cut".utf8), padding: 5).dropLast(6)
        var events: [InotifyEvent] = []
        (first + second + third + InotifyEvent.header(mask: .overflow, cookie: 1) + cut).withUnsafeBytes { buffer in
            InotifyEvent.parse(buffer) { events.append($0) }
        }
        #expect(
            events == [
                InotifyEvent(watch: WatchDescriptor(rawValue: 7), mask: .create, leaf: [0xFF, 0x0A]),
                InotifyEvent(
                    watch: WatchDescriptor(rawValue: 8), mask: [.movedFrom, .isDirectory], cookie: 99,
                    leaf: Array(repeating: 0x61, count: 255)),
                InotifyEvent(watch: WatchDescriptor(rawValue: 9), mask: .ignored),
                InotifyEvent(watch: WatchDescriptor(rawValue: -1), mask: .overflow, cookie: 1),
            ])
    }
}
