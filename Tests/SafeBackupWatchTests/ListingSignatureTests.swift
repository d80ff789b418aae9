import SafeBackupCore
import SafeBackupWatch
import Testing

@Suite("Telling two listings of a directory apart")
struct ListingSignatureTests {
    private static let old = FileTime(seconds: 1_000_000, nanoseconds: 0)
    private static let now = FileTime(seconds: 2_000_000, nanoseconds: 0)

    private static func entry(
        _ leaf: String = "f", kind: EntryKind = .file, _ change: (inout FileStatus) -> Void = { _ in }
    ) -> ListedEntry {
        var status = FileStatus(
            kind: kind, fingerprint: Fingerprint(inode: 7, size: 10, mtime: old, ctime: old), mode: 0o644, uid: 1,
            gid: 2)
        change(&status)
        return ListedEntry(leaf: Array(leaf.utf8), finding: .status(status))
    }

    private func signature(_ entries: [ListedEntry], inodesAreStable: Bool = true) -> UInt64 {
        var signature = ListingSignature(now: Self.now, inodesAreStable: inodesAreStable)
        for entry in entries { signature.add(entry) }
        return signature.value
    }

    @Test("The order of the entries does not count, each of their properties does")
    func properties() {
        let (a, b) = (Self.entry("a"), Self.entry("b"))
        let known = signature([a, b])
        #expect(known != ListingSignature.unknown && known != ListingSignature.closed)
        #expect(signature([b, a]) == known)
        let later = FileTime(seconds: 1_000_100, nanoseconds: 0)
        let others: [[ListedEntry]] = [
            [], [a], [a, b, b], [a, Self.entry("c")], [a, Self.entry("b", kind: .symlink)],
            [a, Self.entry("b") { $0.fingerprint.size = 11 }], [a, Self.entry("b") { $0.fingerprint.mtime = later }],
            [a, Self.entry("b") { $0.fingerprint.ctime = later }], [a, Self.entry("b") { $0.fingerprint.inode = 8 }],
            [a, Self.entry("b") { $0.mode = 0o600 }], [a, Self.entry("b") { $0.uid = 0 }],
            [a, ListedEntry(leaf: [98], finding: .skipped(.unreadable, .file))],
        ]
        #expect(Set(others.map { signature($0) }).count == others.count)
        #expect(!others.contains { signature($0) == known })
    }

    @Test("Inodes count only where they are stable, and a directory's times not at all")
    func leftOut() {
        let other = Self.entry { $0.fingerprint.inode = 8 }
        #expect(signature([Self.entry()], inodesAreStable: false) == signature([other], inodesAreStable: false))
        let grown = Self.entry(kind: .directory) {
            $0.fingerprint.mtime = Self.now
            $0.fingerprint.size = 4_096
        }
        #expect(signature([Self.entry(kind: .directory)]) == signature([grown]))
    }

    @Test(
        "A listing with an entry that has just changed is never taken as known, as another change may look the same",
        arguments: [-2_900, 0, 2_900])
    func racy(milliseconds: Int64) {
        let time = FileTime(nanoseconds: Self.now.nanoseconds + milliseconds * 1_000_000)
        #expect(signature([Self.entry { $0.fingerprint.ctime = time }]) == ListingSignature.unknown)
        #expect(signature([Self.entry { $0.fingerprint.mtime = time }]) == ListingSignature.unknown)
    }

    @Test("Times that no clock shows are no reason to look for ever")
    func oddTimes() {
        for time in [
            FileTime(nanoseconds: .min), FileTime(nanoseconds: .max), FileTime(seconds: 4_000_000, nanoseconds: 0),
        ] {
            #expect(signature([Self.entry { $0.fingerprint.mtime = time }]) != ListingSignature.unknown)
        }
    }
}
