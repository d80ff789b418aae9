import Testing

@testable import SafeBackupAgent

@Suite("A walk that is wanted")
struct ReconcileCallTests {
    @Test("A walk that is under way is slowed down no more, until the call is taken", .timeLimit(.minutes(10)))
    func pace() async {
        for _ in 0..<100 {
            let call = ReconcileCall()
            let walk = Task {
                // Each part of the walk.
                for _ in 0..<3 { await call.pause(.seconds(3_600)) }
            }
            call.signal()
            await walk.value
            #expect(call.take(), "the walk itself does not make up for what was lost")
            #expect(!call.take())
        }
    }

    @Test("A call that was made during a walk ends the wait for the next one, and a walk that nobody waits for is slow")
    func kept() async {
        let call = ReconcileCall()
        let began = ContinuousClock.now
        await call.pause(.milliseconds(20))
        #expect(ContinuousClock.now - began >= .milliseconds(19))
        call.signal()
        await call.wait(atMost: .seconds(3_600))
        #expect(call.take())
    }
}
