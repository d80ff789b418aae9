/// Finds the inodes with several names of which some lie elsewhere: removing the names that were seen would free
/// nothing. Keeps only inodes that are not complete yet, and not more than a limit. Pure.
struct LinkCensus: Sendable {
    enum Sighting: Sendable, Hashable {
        /// The first of several names.
        case first
        /// One more, not the last.
        case another
        /// All names were seen.
        case complete
        /// Too many inodes have several names: this one is not counted, and counts as having a name elsewhere.
        case ignored
    }

    private struct Slot {
        /// 0: empty. No file has this number.
        var inode: UInt64 = 0
        var seen: UInt32 = 0
    }

    private let limit: Int
    private var slots: [Slot]
    /// Inodes some of whose names were not seen.
    private(set) var count = 0
    /// Inodes whose digest is over it are ignored: halved whenever the limit is reached.
    private var admitted = UInt64.max

    /// - Parameter limit: incomplete inodes at most; each takes 16 to 64 bytes.
    init(limit: Int = 1 << 17) {
        self.limit = max(1, limit)
        slots = Array(repeating: Slot(), count: 64)
    }

    /// Some inodes were ignored.
    var isPartial: Bool { admitted != .max }

    /// The names of these that were seen.
    var names: Int { slots.reduce(0) { $0 + Int($1.seen) } }

    /// Notes one name of a file with `links` names.
    mutating func see(_ inode: UInt64, links: UInt32) -> Sighting {
        if inode == 0 || digest(inode) > admitted { return .ignored }
        let index = place(of: inode)
        if slots[index].inode == inode {
            slots[index].seen &+= 1
            if slots[index].seen < links { return .another }
            remove(at: index)
            return .complete
        }
        slots[index] = Slot(inode: inode, seen: 1)
        count += 1
        if count > limit {
            admitted /= 2
            rebuild(slots.count)
            if digest(inode) > admitted { return .ignored }
        } else if count * 2 > slots.count {
            rebuild(slots.count * 2)
        }
        return .first
    }

    /// Whether all names of an inode were seen, of one that was told to `see`.
    func isComplete(_ inode: UInt64) -> Bool {
        inode != 0 && digest(inode) <= admitted && slots[place(of: inode)].inode != inode
    }

    /// Where the inode is, or the empty slot where it would go.
    private func place(of inode: UInt64) -> Int {
        var index = home(of: inode)
        while slots[index].inode != 0 && slots[index].inode != inode { index = (index + 1) & (slots.count - 1) }
        return index
    }

    private func home(of inode: UInt64) -> Int { Int(truncatingIfNeeded: digest(inode)) & (slots.count - 1) }

    /// Closes the gap: what follows moves up unless it would come before its home.
    private mutating func remove(at index: Int) {
        let mask = slots.count - 1
        var gap = index
        var next = (gap + 1) & mask
        while slots[next].inode != 0 {
            let home = home(of: slots[next].inode)
            if (next - home) & mask >= (next - gap) & mask {
                slots[gap] = slots[next]
                gap = next
            }
            next = (next + 1) & mask
        }
        slots[gap] = Slot()
        count -= 1
    }

    private mutating func rebuild(_ size: Int) {
        let old = slots
        slots = Array(repeating: Slot(), count: size)
        count = 0
        for slot in old where slot.inode != 0 && digest(slot.inode) <= admitted {
            slots[place(of: slot.inode)] = slot
            count += 1
        }
    }
}

/// A digest of an inode's number, spread over all bits. See: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
/// Generators" (the finaliser of SplitMix64).
func digest(_ inode: UInt64) -> UInt64 {
    var value = inode &+ 0x9E37_79B9_7F4A_7C15
    value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
    return value ^ (value >> 31)
}
