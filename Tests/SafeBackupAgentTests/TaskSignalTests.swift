import Testing

@testable import SafeBackupAgent

@Suite("Waking and stopping")
struct TaskSignalTests {
    @Test("A signal before the wait is kept, one only", .timeLimit(.minutes(10)))
    func kept() async {
        let wake = TaskSignal()
        wake.signal()
        wake.signal()
        await wake.wait()
        let began = ContinuousClock.now
        await wake.wait(atMost: .milliseconds(20))
        #expect(ContinuousClock.now - began >= .milliseconds(19))
    }

    @Test("A wait ends at the signal, long before its time is over", .timeLimit(.minutes(10)))
    func signalled() async {
        let wake = TaskSignal()
        for _ in 0..<200 {
            async let waited: Void = wake.wait(atMost: .seconds(3_600))
            wake.signal()
            await waited
        }
    }

    @Test("A cancelled wait ends", .timeLimit(.minutes(10)))
    func cancelled() async {
        let wake = TaskSignal()
        let task = Task { await wake.wait() }
        task.cancel()
        await task.value
    }

    @Test("Everybody hears of the stop once, also who asks late")
    func stop() async {
        let stop = StopSignal()
        let wake = TaskSignal()
        stop.onRequest { wake.signal() }
        #expect(!stop.isRequested)
        stop.request()
        stop.request()
        #expect(stop.isRequested)
        await wake.wait()
        let late = TaskSignal()
        stop.onRequest { late.signal() }
        await late.wait()
    }
}
