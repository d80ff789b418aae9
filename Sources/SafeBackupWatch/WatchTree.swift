import SafeBackupCore

/// The directories of a source that are watched or should be, each known by its parent and its name, so that renaming
/// one with everything below it is a single step. About 60 bytes a directory; a path is built when it is needed.
struct WatchTree: Sendable {
    /// A directory. Numbers are used again after a removal.
    struct Node: RawRepresentable, Hashable, Sendable {
        let rawValue: Int32
        init(rawValue: Int32) { self.rawValue = rawValue }

        static let root = Node(rawValue: 0)
    }

    private struct Record {
        /// `none`: the root, detached, or free.
        var parent = WatchTree.none
        var firstChild = WatchTree.none
        var next = WatchTree.none
        var previous = WatchTree.none
        /// The next in the same bucket of the index; of a free record, the next free one.
        var chain = WatchTree.none
        var watch = WatchTree.none
        /// Where the name is in `names`.
        var nameStart: UInt32 = 0
        var nameLength: UInt16 = 0
        var isLive = false
        var obstacle: WatchReport.Obstacle?
        /// The last pass that came here.
        var pass: UInt32 = 0
        /// What the last look at its entries came to; see `ListingSignature`.
        var glance = ListingSignature.unknown
        /// What `glance` stands for was compared with what is known, and was the same.
        var isTrusted = false
    }

    private static let none: Int32 = -1

    private var records = [Record(isLive: true)]
    private var firstFree = WatchTree.none
    private var names: [UInt8] = []
    /// Bytes of `names` that no record uses.
    private var waste = 0
    /// Heads of chains by the hash of (parent, name); a power of two.
    private var buckets = [Int32](repeating: WatchTree.none, count: 64)
    private var watches: [WatchDescriptor: Node] = [:]
    /// Without the root.
    private(set) var count = 0
    /// Those with the obstacle `unreadable`.
    private(set) var unreadableCount = 0
    private var pass: UInt32 = 0

    // MARK: Looking

    func node(of watch: WatchDescriptor) -> Node? { watches[watch] }

    func watch(of node: Node) -> WatchDescriptor? {
        let number = records[Int(node.rawValue)].watch
        return number == Self.none ? nil : WatchDescriptor(rawValue: number)
    }

    var watchCount: Int { watches.count }

    /// `nil`: the root, or detached.
    func parent(of node: Node) -> Node? {
        let number = records[Int(node.rawValue)].parent
        return number == Self.none ? nil : Node(rawValue: number)
    }

    func obstacle(of node: Node) -> WatchReport.Obstacle? { records[Int(node.rawValue)].obstacle }

    /// The first node from this number on whose changes no event can be trusted to tell, or simply the first; `nil`
    /// after the last. Numbers that are given later may be missed: the next time finds them.
    func firstNode(from number: Int32, onlyUncertain: Bool) -> Node? {
        var index = Int(number)
        while index < records.count {
            let record = records[index]
            let isUncertain = record.watch == Self.none || record.obstacle != nil
            if record.isLive && (isUncertain || !onlyUncertain) { return Node(rawValue: Int32(index)) }
            index += 1
        }
        return nil
    }

    func child(of parent: Node, _ leaf: [UInt8]) -> Node? {
        var index = buckets[bucket(parent.rawValue, leaf)]
        while index != Self.none {
            let record = records[Int(index)]
            if record.parent == parent.rawValue, hasName(record, leaf) { return Node(rawValue: index) }
            index = record.chain
        }
        return nil
    }

    /// `nil` if the node, or a directory that it lies in, is detached.
    func path(of node: Node) -> RelativePath? {
        var length = 0
        var index = node.rawValue
        while index != 0 {
            let record = records[Int(index)]
            if record.parent == Self.none { return nil }
            length += Int(record.nameLength) + 1
            index = record.parent
        }
        if length == 0 { return .root }
        let bytes = [UInt8](unsafeUninitializedCapacity: length - 1) { buffer, count in
            count = length - 1
            var end = count
            var index = node.rawValue
            while index != 0 {
                let record = records[Int(index)]
                let start = end - Int(record.nameLength)
                for offset in 0..<Int(record.nameLength) {
                    buffer[start + offset] = names[Int(record.nameStart) + offset]
                }
                if start > 0 { buffer[start - 1] = UInt8(ascii: "/") }
                end = start - 1
                index = record.parent
            }
        }
        return RelativePath(unchecked: bytes)
    }

    // MARK: Changing

    /// The child of that name, made if there is none.
    mutating func add(_ leaf: [UInt8], to parent: Node) -> Node {
        if let known = child(of: parent, leaf) { return known }
        let index: Int32
        if firstFree == Self.none {
            index = Int32(records.count)
            records.append(Record())
        } else {
            index = firstFree
            firstFree = records[Int(index)].chain
            records[Int(index)] = Record()
        }
        records[Int(index)].isLive = true
        count += 1
        setName(index, leaf)
        link(index, to: parent.rawValue)
        if count > buckets.count { growIndex() }
        return Node(rawValue: index)
    }

    /// Gives the node this watch. The watch's former node, if there is one, has none any more: the kernel knows a
    /// directory once, so that the newest look is right. Returns the node's former watch, if it was another.
    mutating func setWatch(_ watch: WatchDescriptor, of node: Node) -> WatchDescriptor? {
        setObstacle(nil, of: node)
        let former = records[Int(node.rawValue)].watch
        if former == watch.rawValue { return nil }
        if let other = watches[watch] { records[Int(other.rawValue)].watch = Self.none }
        if former != Self.none { watches.removeValue(forKey: WatchDescriptor(rawValue: former)) }
        records[Int(node.rawValue)].watch = watch.rawValue
        watches[watch] = node
        return former == Self.none ? nil : WatchDescriptor(rawValue: former)
    }

    /// The kernel, or we, removed the node's watch.
    mutating func clearWatch(of node: Node) {
        let former = records[Int(node.rawValue)].watch
        if former == Self.none { return }
        watches.removeValue(forKey: WatchDescriptor(rawValue: former))
        records[Int(node.rawValue)].watch = Self.none
    }

    /// Ends all watches: the instance that they belonged to is gone.
    mutating func clearWatches() {
        watches.removeAll()
        for index in records.indices {
            records[index].watch = Self.none
            records[index].glance = ListingSignature.unknown
        }
    }

    /// Notes why the node cannot be watched, or not be listed to its end.
    mutating func setObstacle(_ obstacle: WatchReport.Obstacle?, of node: Node) {
        let former = records[Int(node.rawValue)].obstacle
        if former == obstacle { return }
        if former == .unreadable { unreadableCount -= 1 }
        if obstacle == .unreadable { unreadableCount += 1 }
        records[Int(node.rawValue)].obstacle = obstacle
    }

    /// Notes what a look at the node's entries came to. Returns whether it is what is known already.
    mutating func noteGlance(_ glance: UInt64, of node: Node) -> Bool {
        let record = records[Int(node.rawValue)]
        let isKnown = record.isTrusted && record.glance == glance && glance != ListingSignature.unknown
        records[Int(node.rawValue)].glance = glance
        records[Int(node.rawValue)].isTrusted = isKnown
        return isKnown
    }

    /// What the last look came to is known now, unless something was told of the node since.
    mutating func trustGlance(_ glance: UInt64, of node: Node) {
        if records[Int(node.rawValue)].glance == glance { records[Int(node.rawValue)].isTrusted = true }
    }

    /// Something is told of the node's entries in another way: what they were at the last look is no longer what is known.
    mutating func forgetGlance(of node: Node) { records[Int(node.rawValue)].glance = ListingSignature.unknown }

    /// Takes the node, with all below it, out of its parent; it has no path until it is attached again.
    mutating func detach(_ node: Node) {
        unlink(node.rawValue)
    }

    /// Puts a detached node under a parent that has no child of this name.
    mutating func attach(_ node: Node, to parent: Node, as leaf: [UInt8]) {
        setName(node.rawValue, leaf)
        link(node.rawValue, to: parent.rawValue)
    }

    /// Removes the node and all below it; `body` gets their watches, which are then the caller's to remove.
    mutating func remove(_ node: Node, _ body: (WatchDescriptor) -> Void) {
        if node == .root { return }
        unlink(node.rawValue)
        var pending = [node.rawValue]
        while let index = pending.popLast() {
            var child = records[Int(index)].firstChild
            while child != Self.none {
                pending.append(child)
                child = records[Int(child)].next
            }
            let record = records[Int(index)]
            // A child of a removed node is in the index still.
            if record.parent != Self.none { removeFromIndex(index) }
            if record.watch != Self.none {
                let watch = WatchDescriptor(rawValue: record.watch)
                watches.removeValue(forKey: watch)
                body(watch)
            }
            if record.obstacle == .unreadable { unreadableCount -= 1 }
            waste += Int(record.nameLength)
            records[Int(index)] = Record(chain: firstFree)
            firstFree = index
            count -= 1
        }
        if waste > 65_536 && waste > names.count / 2 { compactNames() }
    }

    // MARK: Passes

    /// Begins a pass: no node is marked.
    mutating func beginPass() { pass &+= 1 }

    mutating func mark(_ node: Node) { records[Int(node.rawValue)].pass = pass }

    /// Removes the children that are not marked, with all below them, see `remove`.
    mutating func removeUnmarkedChildren(of node: Node, _ body: (WatchDescriptor) -> Void) {
        var child = records[Int(node.rawValue)].firstChild
        while child != Self.none {
            let next = records[Int(child)].next
            if records[Int(child)].pass != pass { remove(Node(rawValue: child), body) }
            child = next
        }
    }

    // MARK: Links, names, index

    private mutating func link(_ index: Int32, to parent: Int32) {
        let sibling = records[Int(parent)].firstChild
        records[Int(index)].parent = parent
        records[Int(index)].previous = Self.none
        records[Int(index)].next = sibling
        if sibling != Self.none { records[Int(sibling)].previous = index }
        records[Int(parent)].firstChild = index
        let head = bucket(of: index)
        records[Int(index)].chain = buckets[head]
        buckets[head] = index
    }

    private mutating func unlink(_ index: Int32) {
        let record = records[Int(index)]
        if record.parent == Self.none { return }
        removeFromIndex(index)
        if record.previous != Self.none {
            records[Int(record.previous)].next = record.next
        } else {
            records[Int(record.parent)].firstChild = record.next
        }
        if record.next != Self.none { records[Int(record.next)].previous = record.previous }
        records[Int(index)].parent = Self.none
        records[Int(index)].next = Self.none
        records[Int(index)].previous = Self.none
    }

    private mutating func removeFromIndex(_ index: Int32) {
        let head = bucket(of: index)
        var here = buckets[head]
        if here == index {
            buckets[head] = records[Int(index)].chain
            return
        }
        while here != Self.none {
            let next = records[Int(here)].chain
            if next == index {
                records[Int(here)].chain = records[Int(index)].chain
                return
            }
            here = next
        }
    }

    private func bucket(_ parent: Int32, _ leaf: some Sequence<UInt8>) -> Int {
        // Seeded per process: names are chosen by others.
        var hasher = Hasher()
        hasher.combine(parent)
        for byte in leaf { hasher.combine(byte) }
        return hasher.finalize() & (buckets.count - 1)
    }

    private func bucket(of index: Int32) -> Int {
        let record = records[Int(index)]
        return bucket(record.parent, name(record))
    }

    private func name(_ record: Record) -> ArraySlice<UInt8> {
        names[Int(record.nameStart)..<(Int(record.nameStart) + Int(record.nameLength))]
    }

    private func hasName(_ record: Record, _ leaf: [UInt8]) -> Bool {
        Int(record.nameLength) == leaf.count && name(record).elementsEqual(leaf)
    }

    private mutating func setName(_ index: Int32, _ leaf: [UInt8]) {
        waste += Int(records[Int(index)].nameLength)
        records[Int(index)].nameStart = UInt32(names.count)
        records[Int(index)].nameLength = UInt16(leaf.count)
        names += leaf
    }

    private mutating func growIndex() {
        buckets = [Int32](repeating: Self.none, count: buckets.count * 2)
        for index in records.indices where records[index].parent != Self.none {
            let head = bucket(of: Int32(index))
            records[index].chain = buckets[head]
            buckets[head] = Int32(index)
        }
    }

    private mutating func compactNames() {
        var kept: [UInt8] = []
        kept.reserveCapacity(names.count - waste)
        for index in records.indices where records[index].isLive {
            let start = kept.count
            kept += name(records[index])
            records[index].nameStart = UInt32(start)
        }
        names = kept
        waste = 0
    }
}
