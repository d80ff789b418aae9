import SafeBackupCore
import Testing

@testable import SafeBackupAgent

@Suite("The wait for room")
struct RoomWaitTests {
    private let start = ContinuousClock.now

    @Test("A full destination is tried ever more rarely, up to once a minute, and all jobs of one try wait as long")
    func backsOff() {
        var wait = RoomWait()
        #expect(!wait.isWaiting(at: start))
        var (now, waits) = (start, [Duration]())
        for _ in 0..<9 {
            let first = wait.refused(at: now)
            // The others of the same group, and what comes newly meanwhile.
            #expect(wait.refused(at: now + .milliseconds(300)) == first - .milliseconds(300))
            #expect(wait.isWaiting(at: now + first))
            waits.append(first)
            now += first
        }
        #expect(waits == [1, 2, 4, 8, 16, 32, 60, 60, 60].map { .seconds($0) })
        #expect(!wait.isWaiting(at: now + .seconds(10)))
        // Much later the disk is full again.
        #expect(wait.refused(at: now + .seconds(3_600)) == .seconds(1))
    }

    @Test("Room that comes ends the wait at once; what comes and goes by little does not")
    func roomComes() {
        var wait = RoomWait()
        let early = wait.look(available: 1 << 40)
        #expect(!early, "nothing waits")
        _ = wait.refused(at: start)
        // The first is what was too little; the last are two mebibytes more than before.
        var seen: [Bool] = []
        for available: Int64 in [5 << 20, (5 << 20) + 4_096, 1 << 20, 3 << 20] {
            seen.append(wait.look(available: available))
        }
        #expect(seen == [false, false, false, true])
        #expect(!wait.isWaiting(at: start))
        var ofFiles = RoomWait()
        _ = ofFiles.refused(at: start)
        var more: [Bool] = []
        for inodes: Int64 in [3, 8, 18, 20] { more.append(ofFiles.look(available: 1 << 20, inodes: inodes)) }
        #expect(more == [false, false, false, true], "so many more files fit")
        // It was not enough: the next wait is short again.
        #expect(wait.refused(at: start + .milliseconds(1_200)) == .seconds(1))
    }
}
