import Glibc
import SafeBackupCore
import SystemPackage
import Testing

@testable import SafeBackupSystem

@Suite("The journal")
struct JournalStreamTests {
    @Test("The journal is recognised by its device and inode, not by its announcement")
    func journal() throws {
        let temporary = try TemporaryDirectory()
        let file = try Descriptor.open(temporary.path.appending("log"), O_CREAT | O_WRONLY)
        var status = stat()
        try #require(fstat(file.raw, &status) == 0)
        #expect(JournalStream.matches("\(status.st_dev):\(status.st_ino)", descriptor: file.raw))
        #expect(!JournalStream.matches("\(status.st_dev):\(status.st_ino + 1)", descriptor: file.raw))
        #expect(!JournalStream.matches("", descriptor: file.raw))
        #expect(!JournalStream.matches("\(status.st_dev):\(status.st_ino)", descriptor: -1))
    }
}

@Suite("What the watchdog is fed by")
struct VitalsTests {
    private let start = ContinuousClock.now

    private func reading(_ id: UInt64, _ steps: UInt64) -> VitalsJudge.Reading {
        VitalsJudge.Reading(id: id, name: "loop \(id)", steps: steps)
    }

    @Test("The watchdog is fed only when every loop has moved since it was fed last")
    func everyLoopMoves() {
        var judge = VitalsJudge(patience: .seconds(10))
        func isFed(_ second: Int, _ steps: [UInt64]) -> Bool {
            judge.look(steps.enumerated().map { reading(UInt64($0.offset), $0.element) }, at: start + .seconds(second))
                .isMoving
        }
        #expect(isFed(0, [0, 0]))
        #expect(!isFed(1, [0, 0]))
        #expect(!isFed(2, [1, 0]))
        // Both have moved, though never between the same two looks.
        #expect(isFed(3, [1, 1]))
        #expect(!isFed(4, [5, 1]))
        // One that ended is not waited for, and one that begins has moved.
        #expect(isFed(5, [6]))
        #expect(!isFed(6, [6, 0]))
        #expect(isFed(7, [7, 0]))
        #expect(isFed(8, []))
    }

    @Test("A loop that stands still is asked first, and blamed when it did not answer")
    func askedThenBlamed() {
        var judge = VitalsJudge(patience: .seconds(10))
        func look(_ second: Int, _ steps: UInt64) -> VitalsVerdict {
            judge.look([reading(1, steps), reading(2, UInt64(second))], at: start + .seconds(second))
        }
        #expect(look(0, 0).toAsk.isEmpty)
        #expect(look(9, 0).toAsk.isEmpty)
        let asked = look(10, 0)
        #expect(asked.toAsk == [1] && asked.still.isEmpty && !asked.isMoving)
        let blamed = look(20, 0)
        #expect(blamed.still.map(\.name) == ["loop 1"] && blamed.still.map(\.time) == [.seconds(20)])
        let answered = look(21, 1)
        #expect(answered.isMoving && answered.still.isEmpty && answered.toAsk.isEmpty)
    }

    @Test("What belongs to the start must move too, and does not say that the start is over")
    func start() async throws {
        let isAlive = Locked(0)
        let vitals = Vitals(patience: .zero) { isAlive.withLock { $0 += 1 } }
        try await Vitals.$current.withValue(vitals) {
            await Vitals.unfailing("start", isAlive: false) {
                #expect(vitals.look(at: .now).isMoving)
                _ = vitals.look(at: .now)
                let verdict = vitals.look(at: .now)
                #expect(!verdict.isMoving && verdict.still.map(\.name) == ["start"])
                #expect(isAlive.withLock { $0 } == 0)
            }
            try await Vitals.loop("work") { () async throws(SafeBackupError) in
                #expect(isAlive.withLock { $0 } == 1)
            }
        }
    }

    @Test("An I/O thread works for the loop that sent the work, and a loop that waits is asked through its wait")
    func pulses() async throws {
        let isAlive = Locked(0)
        let vitals = Vitals(patience: .zero) { isAlive.withLock { $0 += 1 } }
        let io = try ThreadExecutor(name: "test.io", count: 2)
        defer { io.stop() }
        let asked = Locked(0)
        try await Vitals.$current.withValue(vitals) {
            try await Vitals.loop("outer", waker: { asked.withLock { $0 += 1 } }) { () async throws(SafeBackupError) in
                let outer = Pulse.current
                let before = outer?.count ?? 0
                let inside = await io.run { Pulse.current }
                #expect(outer != nil && inside === outer && (outer?.count ?? 0) > before)
                try await Vitals.loop("inner") { () async throws(SafeBackupError) in
                    #expect(Pulse.current !== outer)
                    let ended = Locked(0)
                    await Pulse.waiting(endingWith: { ended.withLock { $0 += 1 } }) {
                        // The first look meets the loops, the second finds that they stand still. Both ask.
                        _ = vitals.look(at: .now)
                        let verdict = vitals.look(at: .now)
                        #expect(!verdict.isMoving)
                    }
                    #expect(ended.withLock { $0 } >= 1)
                }
            }
        }
        #expect(asked.withLock { $0 } >= 1)
        #expect(isAlive.withLock { $0 } == 1)
        let after = vitals.look(at: .now)
        #expect(after.isMoving)
    }
}
