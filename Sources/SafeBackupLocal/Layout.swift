package import SafeBackupCore
import SafeBackupSystem

/// The names that a local destination uses for itself. Pure.
///
/// ```
/// ROOT/.safebackup/destination.json    the sentinel
/// ROOT/.safebackup/staging/            unfinished copies, short names
/// ROOT/.safebackup/versions/           kept older copies
/// ROOT/.safebackup/catalogue/          a.db and b.db, the catalogue copies
/// ```
package struct Layout: Sendable, Hashable {
    /// Everything of ours below the root.
    package static let area = RelativePath(unchecked: Array(".safebackup".utf8))
    package static let staging = area.appending("staging".utf8)
    package static let versions = area.appending("versions".utf8)
    package static let catalogue = area.appending("catalogue".utf8)
    /// Everything of ours in a directory whose copies the callers name.
    package static let keyedArea = RelativePath(unchecked: Array(".safebackup-session".utf8))
    static let stagingLeaf = Array("staging".utf8)
    static let versionsLeaf = Array("versions".utf8)
    static let catalogueLeaf = Array("catalogue".utf8)
    static let sentinelLeaf = Array("destination.json".utf8)

    /// The longest name that the file system takes, in bytes.
    package var nameLimit: Int
    /// `A` and `a` are one name here.
    package var foldsCase: Bool

    package init(nameLimit: Int = 255, foldsCase: Bool = false) {
        self.nameLimit = nameLimit
        self.foldsCase = foldsCase
    }

    /// Whether the first component is the name that we keep for ourselves.
    package func isReserved(_ path: RelativePath) -> Bool {
        let first = path.bytes.prefix { $0 != UInt8(ascii: "/") }
        return foldsCase ? Self.folded(first) == Self.area.bytes : first.elementsEqual(Self.area.bytes)
    }

    /// Whether any component is a name that we, or the cleaner, treat in a way of their own, in capitals or not: what
    /// lay below `.safebackup` would be taken for an agent's, and nothing below `.safebackup-session` is ever cleaned.
    package static func isReservedKey(_ key: RelativePath) -> Bool {
        key.components.contains { component in
            let folded = folded(component)
            return folded == area.bytes || folded == keyedArea.bytes
        }
    }

    /// The first component that this file system cannot hold.
    package func componentTooLong(in path: RelativePath) -> [UInt8]? {
        if path.bytes.count <= nameLimit { return nil }
        return path.components.first { $0.count > nameLimit }
    }

    /// ASCII letters in lower case; folding beyond ASCII is left to the file system itself, see `Planner`.
    static func folded(_ name: some Sequence<UInt8>) -> [UInt8] {
        name.map { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) ? $0 | 0x20 : $0 }
    }

    /// An unfinished copy's name: short, and unique because sequence and generation come from one persistent counter.
    package static func stageName(sequence: Int64, generation: Int64) -> String {
        "s" + String(sequence, radix: 36) + "-" + String(generation, radix: 36)
    }

    /// Stands in a version name for what was cut off.
    package static func mark(of name: [UInt8]) -> [UInt8] {
        Array("~".utf8) + Array(SHA256.digest(of: name).hex.utf8.prefix(16))
    }

    /// Whether `version` made this name of a copy whose own name is `leaf`.
    static func isVersion(_ name: [UInt8], of leaf: [UInt8]) -> Bool {
        guard let at = name.lastIndex(of: UInt8(ascii: "@")) else { return false }
        let stem = name[..<at]
        if stem.elementsEqual(leaf) { return true }
        let mark = mark(of: leaf)
        return stem.count >= mark.count && stem.suffix(mark.count).elementsEqual(mark)
            && leaf.starts(with: stem.dropLast(mark.count))
    }

    /// Where the copy at `location` goes when it is kept: `<name>@<time>-<id>` in the same directory below `versions/`.
    /// A name that becomes too long is cut and carries a part of its digest; the catalogue knows the whole.
    package func version(of location: RelativePath, at time: Timestamp, id: String) -> RelativePath {
        let suffix = Array("@\(time.compact)-\(id)".utf8)
        var name = location.leaf
        if name.count + suffix.count > nameLimit {
            let mark = Self.mark(of: name)
            var length = max(0, min(name.count, nameLimit - suffix.count - mark.count))
            // Not through the middle of a UTF-8 character.
            while length > 0 && length < name.count && name[length] & 0xC0 == 0x80 { length -= 1 }
            name = Array(name[..<length]) + mark
        }
        return Self.versions.appending(location.parent).appending(name + suffix)
    }
}
