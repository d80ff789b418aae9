import Testing

@testable import SafeBackupAgent

@Suite struct BusyWaitTests {
    @Test("Jobs that wait for a group of an hour are put off a few times, then every two seconds")
    func grows() {
        var wait = BusyWait()
        var now = ContinuousClock.now
        let end = now + .seconds(3_600)
        var count = 0
        while now < end {
            now += wait.next(now: now) + .milliseconds(3)
            count += 1
        }
        #expect((1_790...1_810).contains(count))
    }

    @Test("When something came free, or long after the last wait, it begins anew")
    func beginsAnew() {
        var wait = BusyWait()
        let now = ContinuousClock.now
        #expect(wait.next(now: now) == .milliseconds(50))
        #expect(wait.next(now: now + .milliseconds(60)) == .milliseconds(100))
        wait.reset()
        #expect(wait.next(now: now + .milliseconds(170)) == .milliseconds(50))
        #expect(wait.next(now: now + .seconds(60)) == .milliseconds(50))
    }
}
