import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Where another source may lie in a destination that perhaps holds some already. Several sources have a prefix each, none
/// of which lies in another; one at the top leaves no room for a second.
struct SharedPlace {
    private let destination: [UInt8]
    private let sharers: [Configuration.Source]
    /// By the destination's own account; none of one that cannot be looked at, which is told by others.
    private let listed: [SentinelSource]

    /// - Parameter sharers: those that the configuration saves there.
    init(_ destination: [UInt8], _ sharers: [Configuration.Source]) {
        self.destination = destination
        self.sharers = sharers
        listed = PairSetup.listedSources(at: FilePath(bytes: destination))
    }

    /// The prefix for a source: the one it has there, else the one that was asked for, else none, or its name beside others.
    /// Whether the one that was asked for nests is for the configuration's check to tell.
    /// - Throws: `invalidConfiguration` where one lies at the top.
    func prefix(
        for source: [UInt8], named name: String, asked: RelativePath?
    ) throws(SafeBackupError) -> RelativePath {
        let machine = try StateDirectory.machineIdentifier()
        if let own = listed.first(where: { $0.machine == machine && $0.path == source }) { return asked ?? own.prefix }
        if let first = sharers.first(where: \.prefix.isRoot) {
            let above = FilePath(bytes: destination).removingLastComponent()
            throw Preflight.refusal(
                "\(printable(destination)) holds [source \"\(first.name)\"] (\(printable(first.path))) at its top, beside which "
                    + "no other source can lie; give another directory, as \(printable(above.appending(name).bytes)); a "
                    + "destination for several is begun with a prefix for its first one: safebackup init SOURCE "
                    + "DESTINATION --prefix NAME")
        }
        if let asked { return asked }
        let taken = sharers.map(\.prefix) + listed.filter { $0.path != source || $0.machine != machine }.map(\.prefix)
        if taken.allSatisfy(\.isRoot) { return .root }
        var (prefix, number) = (name, 2)
        while taken.contains(where: { Self.nest($0, prefix) }) {
            prefix = "\(name)-\(number)"
            number += 1
        }
        return RelativePath(unchecked: Array(prefix.utf8))
    }

    /// Also where the file system takes upper and lower case for one.
    private static func nest(_ prefix: RelativePath, _ name: String) -> Bool {
        if prefix.isRoot { return false }
        let first = prefix.bytes.split(separator: UInt8(ascii: "/")).first ?? []
        return first.map(lowered) == name.utf8.map(lowered)
    }

    private static func lowered(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte | 0x20 : byte }
}
