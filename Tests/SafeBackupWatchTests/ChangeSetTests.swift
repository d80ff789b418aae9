import SafeBackupCore
import Testing

@testable import SafeBackupWatch

@Suite("The set of changes")
struct ChangeSetTests {
    private static let kinds: [Change.Kind] = [.closed, .modified, .attributes, .vanished, .found]

    @Test(
        "Two changes of a path become one as the table says",
        arguments: zip(
            kinds,
            [
                [.closed, .modified, .closed, .vanished, .closed],
                [.closed, .modified, .modified, .vanished, .modified],
                [.closed, .modified, .attributes, .vanished, .found],
                [.closed, .modified, .closed, .vanished, .found],
                [.closed, .modified, .found, .vanished, .found],
            ] as [[Change.Kind]]))
    func merges(known: Change.Kind, results: [Change.Kind]) {
        for (new, expected) in zip(Self.kinds, results) {
            var set = ChangeSet()
            set.record(.at("f"), known, isDirectory: false)
            set.record(.at("f"), new, isDirectory: false)
            #expect(set.drain().changes == [Change(path: .at("f"), kind: expected, isDirectory: false)])
            #expect(set.isEmpty)
        }
    }

    @Test("A directory that vanished and came again is told as both, the loss first")
    func replacedDirectory() {
        var set = ChangeSet()
        set.record(.at("d/x"), .closed, isDirectory: false)
        set.record(.at("d"), .attributes, isDirectory: true)
        set.record(.at("d"), .vanished, isDirectory: true)
        set.record(.at("d"), .closed, isDirectory: true)
        set.record(.at("d/y"), .found, isDirectory: false)
        #expect(
            set.drain().changes == [
                Change(path: .at("d"), kind: .vanished, isDirectory: true),
                Change(path: .at("d/x"), kind: .closed, isDirectory: false),
                Change(path: .at("d"), kind: .closed, isDirectory: true),
                Change(path: .at("d/y"), kind: .found, isDirectory: false),
            ])
    }

    @Test("A directory replaced by a file is told as lost, with all below, and as the file")
    func directoryBecameFile() {
        var set = ChangeSet()
        set.record(.at("d"), .vanished, isDirectory: true)
        set.record(.at("d"), .closed, isDirectory: false)
        #expect(
            set.drain().changes == [
                Change(path: .at("d"), kind: .vanished, isDirectory: true),
                Change(path: .at("d"), kind: .closed, isDirectory: false),
            ])
    }

    @Test("A set merged into another tells of the same losses and the same presence as if it had been one")
    func mergedSets() {
        let paths = ["a", "b", "a/b", "a/c", "b/c"].map(RelativePath.at)
        for seed in 0..<500 as Range<UInt64> {
            var random = SplitMix(state: seed)
            var (whole, first, second) = (ChangeSet(limit: 12), ChangeSet(limit: 12), ChangeSet(limit: 12))
            for step in 0..<20 {
                let path = paths[Int(random.next() % 5)]
                let kind = Self.kinds[Int(random.next() % 5)]
                let isDirectory = random.next() % 2 == 0
                whole.record(path, kind, isDirectory: isDirectory)
                if step < 10 {
                    first.record(path, kind, isDirectory: isDirectory)
                } else {
                    second.record(path, kind, isDirectory: isDirectory)
                }
            }
            first.merge(second)
            let (expected, actual) = (whole.drain(), first.drain())
            #expect(meanings(expected.changes) == meanings(actual.changes), "seed \(seed)")
        }
    }

    /// Whether something is there: for how long to wait, a merged set may know less.
    private func meanings(_ changes: [Change]) -> Set<Change> {
        Set(
            changes.map {
                Change(path: $0.path, kind: $0.kind == .vanished ? .vanished : .closed, isDirectory: $0.isDirectory)
            })
    }

    @Test("A directory with too many changes is listed again instead, and the others are told as before")
    func crowdedDirectory() {
        var set = ChangeSet(limit: 100)
        for index in 0..<5 { set.record(.at("calm/\(index)"), .closed, isDirectory: false) }
        set.record(.at("crowd/lost"), .vanished, isDirectory: true)
        for index in 0..<5_000 {
            set.record(.at("crowd/\(index)"), .closed, isDirectory: false)
            #expect(set.count <= 100)
        }
        let (changes, crowded, _) = set.drain()
        #expect(crowded == [.at("crowd")])
        #expect(changes.count == 6)
        #expect(changes.first == Change(path: .at("crowd/lost"), kind: .vanished, isDirectory: true))
        #expect(!set.isOverfull)
    }

    @Test("Too many changes in too many directories are given up, and that is said")
    func overfull() {
        var set = ChangeSet(limit: 100)
        for index in 0...100 { set.record(.at("\(index)/f"), .closed, isDirectory: false) }
        #expect(set.isOverfull && !set.isEmpty)
        var other = ChangeSet(limit: 100)
        other.record(.at("f"), .closed, isDirectory: false)
        other.merge(set)
        #expect(other.isOverfull)
        #expect(other.drain().changes.isEmpty)
        other.record(.at("f"), .closed, isDirectory: false)
        #expect(other.drain().changes.count == 1)
    }

    @Test("A removed tree of any size needs one entry")
    func removedTree() {
        var set = ChangeSet(limit: 100)
        set.record(.at("t"), .vanished, isDirectory: true)
        for index in 0..<10_000 {
            set.record(.at("t/\(index)/f"), .vanished, isDirectory: false)
            set.record(.at("t/\(index)"), .vanished, isDirectory: true)
        }
        #expect(!set.isOverfull)
        #expect(set.drain().changes.first == Change(path: .at("t"), kind: .vanished, isDirectory: true))
    }

    @Test("A change settles after the short delay or the quiet time, and never waits longer than the limit")
    func settling() {
        let policy = SettlePolicy()
        let now = Timestamp(microseconds: 1_000_000_000)
        for kind in Self.kinds {
            let delay = policy.notBefore(for: kind, now: now) - now
            let expected: Duration =
                switch kind {
                case .modified: .seconds(2)
                // A renamed path's new place comes before its old one ends.
                case .vanished: .seconds(1)
                default: .milliseconds(100)
                }
            #expect(delay == expected)
        }
        let longAgo = now + .seconds(-59)
        #expect(policy.notBefore(for: .modified, now: now, firstSeen: longAgo) == now + .seconds(1))
        let tooLongAgo = now + .seconds(-600)
        #expect(policy.notBefore(for: .modified, now: now, firstSeen: tooLongAgo) < now)
        let clockWasSetBack = now + .seconds(600)
        #expect(policy.notBefore(for: .closed, now: now, firstSeen: clockWasSetBack) == now + .milliseconds(100))
    }

    @Test("A rename is told with its origin only if nothing but renames was told of the file")
    func origins() {
        var set = ChangeSet()
        func move(_ from: String, _ to: String, _ set: inout ChangeSet) {
            let origin = set.origin(of: .at(from))
            set.record(.at(from), .vanished, isDirectory: false)
            set.arrive(.at(to), from: origin)
        }
        move("a", "t", &set)
        move("b", "a", &set)
        move("t", "b", &set)
        set.record(.at("w"), .modified, isDirectory: false)
        move("w", "w2", &set)
        move("c", "c2", &set)
        set.record(.at("c2"), .attributes, isDirectory: false)
        move("c2", "c3", &set)
        set.arrive(.at("from outside"), from: nil)
        var later = ChangeSet()
        move("b", "d", &later)
        move("w2", "w3", &later)
        move("x", "y", &later)
        set.merge(later)
        let renames = set.drain().renames
        #expect(renames[.at("a")] == .at("b"))
        #expect(renames[.at("d")] == .at("a"), "through t and b")
        #expect(renames[.at("y")] == .at("x"))
        #expect(["w2", "w3", "c2", "c3", "from outside"].allSatisfy { renames[.at($0)] == nil })
        // What was given up may have been a write.
        var small = ChangeSet(limit: 16)
        for number in 0..<20 { small.record(.at("full/\(number)"), .modified, isDirectory: false) }
        move("full/3", "z", &small)
        #expect(small.drain().renames.isEmpty)
    }
}
