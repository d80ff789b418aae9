import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import Testing

@Suite("Names, policies and the sentinel")
struct PureTests {
    private let time = Timestamp(microseconds: 1_795_405_512_123_456)

    @Test("A version has its copy's name, the time in UTC and an id, in the same directory below versions")
    func versionName() throws {
        let version = Layout().version(of: try RelativePath("docs/a.txt"), at: time, id: "7c")
        #expect(version.description == ".safebackup/versions/docs/a.txt@20261123T034512.123456Z-7c")
    }

    @Test("A version name that is too long is cut between characters and stays unique", arguments: [255, 143])
    func longVersionName(limit: Int) throws {
        let layout = Layout(nameLimit: limit)
        let first = try RelativePath(String(repeating: "ä", count: limit / 2))
        let second = try RelativePath(String(repeating: "ä", count: limit / 2 - 1) + "b")
        let names = [first, second].map { layout.version(of: $0, at: time, id: "7c").leaf }
        #expect(names[0] != names[1])
        for name in names {
            #expect(name.count <= limit && name.count > limit - 3)
            #expect(String(validating: name, as: UTF8.self) != nil)
        }
    }

    @Test("The reserved name is refused at the top only, and in any case where case is folded")
    func reserved() throws {
        #expect(Layout().isReserved(try RelativePath(".safebackup/x")))
        #expect(Layout().isReserved(try RelativePath(".safebackup")))
        #expect(!Layout().isReserved(try RelativePath(".safebackupx")))
        #expect(!Layout().isReserved(try RelativePath("a/.safebackup")))
        #expect(!Layout().isReserved(try RelativePath(".SafeBackup")))
        #expect(Layout(foldsCase: true).isReserved(try RelativePath(".SafeBackup/x")))
    }

    @Test("A file's writer is asked for only while the answer matters")
    func writerProbe() {
        let probe = WriterProbe(quiet: .seconds(2), limit: .seconds(60))
        let second = Int64(1_000_000_000)
        func asks(age: Int64, waited: Duration?) -> Bool {
            let mtime = FileTime(nanoseconds: time.fileTime.nanoseconds - age)
            return probe.asks(mtime: mtime, firstSeen: waited.map { time + (.zero - $0) }, now: time)
        }
        #expect(asks(age: 0, waited: .zero) && asks(age: 2 * second - 1, waited: .seconds(59)))
        #expect(!asks(age: 2 * second, waited: .zero), "quiet")
        #expect(!asks(age: 0, waited: .seconds(60)), "waited long enough")
        #expect(!asks(age: 0, waited: nil) && !asks(age: -second, waited: .zero))
        #expect(probe.retry(firstSeen: time, now: time) == time + .seconds(2))
        #expect(probe.retry(firstSeen: time, now: time + .seconds(59)) == time + .seconds(60))
        #expect(probe.retry(firstSeen: time, now: time + .seconds(90)) == time + .seconds(90))
    }

    @Test("A version is kept once in ten minutes, also after the clock was set back")
    func versionPolicy() {
        let policy = VersionPolicy()
        #expect(policy.keeps(newest: nil, now: time))
        #expect(!policy.keeps(newest: time, now: time + .seconds(599)))
        #expect(policy.keeps(newest: time, now: time + .seconds(600)))
        #expect(policy.keeps(newest: time + .seconds(86_400), now: time))
        #expect(!policy.keeps(newest: time + .seconds(5), now: time))
    }

    @Test("What grows the backup leaves the floor free; what shrinks it goes on, as long as it fits")
    func roomBudget() {
        var budget = RoomBudget(floor: .mebibytes(10), available: .mebibytes(49))
        #expect(!budget.isScarce)
        #expect(budget.admits(39 << 20, releasing: 0))
        #expect(!budget.admits(40 << 20, releasing: 0))
        #expect(budget.admits(40 << 20, releasing: 40 << 20))
        #expect(!budget.admits(50 << 20, releasing: 100 << 20))
        budget.take(40 << 20)
        #expect(budget.isScarce)
        #expect(!budget.admits(1 << 20, releasing: 0))
        #expect(budget.admits(1 << 20, releasing: 1 << 20))
        #expect(budget.isNearFloor(1))
        #expect(!RoomBudget(floor: .gibibytes(1), available: .gibibytes(9)).isNearFloor(1 << 20))
        // A hundredth of the inodes stays free; what takes another's place needs one for a moment.
        var few = RoomBudget(
            floor: .mebibytes(1), available: .gibibytes(9), inodes: InodeCount(total: 1_000, available: 11))
        #expect(few.isNearFloor(0) && !few.isScarce && few.admits(0, releasing: 0))
        few.take(0)
        #expect(few.isScarce && !few.admits(0, releasing: 0) && few.admits(1, releasing: 0, isNew: false))
        for _ in 0..<10 { few.take(0) }
        #expect(!few.admits(1, releasing: 0, isNew: false))
        #expect(RoomBudget(floor: .gibibytes(1), available: .gibibytes(9)).isNearFloor(600 << 20))
    }

    @Test("A sentinel comes back as it was written, also with a path that is not UTF-8")
    func sentinelRoundTrip() throws {
        let sentinel = Sentinel(
            id: Bench.id,
            sources: [
                SentinelSource(
                    id: "one", machine: "m", path: [0x2F, 0xFF, 0x0A],
                    identity: RootIdentity(
                        type: .ext, volume: "fsid:00ff", inode: .max, birthTime: FileTime(nanoseconds: -1)),
                    prefix: try RelativePath("a/b")),
                SentinelSource(id: "two", machine: "m", path: Array("/home".utf8), identity: nil, prefix: .root),
            ], capabilities: Capabilities(hardLinks: false, timeStep: 2_000_000_000, nameLimit: 143))
        #expect(try Sentinel(decoding: try sentinel.encoded()) == sentinel)
    }

    @Test(
        "What is no sentinel, or a newer one, is refused and not guessed at",
        arguments: [
            "", "{", "[]", "{\"layout\": 1}", "{\"layout\": 2, \"id\": \"x\"}", "\u{0}\u{0}\u{0}\u{0}",
            "{\"layout\": 1, \"id\": \"x\", \"sources\": [{\"id\": \"a\", \"machine\": \"b\", \"path\": \"/\", "
                + "\"prefix\": \"../x\"}], \"capabilities\": {}}",
        ])
    func badSentinel(text: String) throws {
        let error = #expect(throws: SafeBackupError.self) { try Sentinel(decoding: Array(text.utf8)) }
        #expect(error?.code == .sentinelForeign)
        if text.contains("2,") { #expect(error?.message.contains("newer release") == true) }
    }
}
