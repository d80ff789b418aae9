import SafeBackupCore
import Testing

@Suite struct RepeatLimitTests {
    let start = ContinuousClock.now

    @Test("The first few of a kind are shown, the rest is counted and told once, when the window is over")
    func counts() {
        var limit = RepeatLimit<String>(burst: 3, period: .seconds(600))
        var shown = 0
        for second in 0..<500 {
            let answer = limit.note("full", at: start + .seconds(second))
            if answer.isShown { shown += 1 }
            #expect(answer.ended.isEmpty)
        }
        #expect(shown == 3)
        #expect(limit.nextEnd == start + .seconds(600))
        #expect(limit.takeEnded(at: start + .milliseconds(599_999)).isEmpty)
        let ended = limit.takeEnded(at: start + .seconds(600))
        #expect(ended.map(\.kind) == ["full"] && ended.map(\.count) == [497])
        #expect(limit.takeEnded(at: start + .seconds(2_000)).isEmpty)
        #expect(limit.nextEnd == nil)
    }

    @Test("A failure that goes on is told by the line that follows, and its next window begins anew")
    func nextWindow() {
        var limit = RepeatLimit<String>(burst: 1, period: .seconds(10))
        let first = limit.note("full", at: start).isShown
        let second = limit.note("full", at: start + .seconds(1)).isShown
        let third = limit.note("full", at: start + .seconds(11))
        #expect(first && !second && third.isShown)
        #expect(third.ended.map(\.count) == [1] && third.ended.map(\.span) == [.seconds(11)])
    }

    @Test("One kind does not hide another, and what was shown whole is not told again")
    func kindsAreApart() {
        var limit = RepeatLimit<String>(burst: 1, period: .seconds(10))
        _ = limit.note("a", at: start)
        _ = limit.note("a", at: start)
        let other = limit.note("b", at: start)
        #expect(other.isShown)
        #expect(limit.takeAll(at: start + .seconds(1)).map(\.kind) == ["a"])
    }

    @Test("With more kinds than are remembered, the oldest gives way and its count is not lost")
    func isBounded() {
        var limit = RepeatLimit<Int>(burst: 1, period: .seconds(600), kindLimit: 2)
        for _ in 0..<4 { _ = limit.note(0, at: start) }
        _ = limit.note(1, at: start + .seconds(1))
        let third = limit.note(2, at: start + .seconds(2))
        #expect(third.isShown && third.ended.map(\.kind) == [0] && third.ended.map(\.count) == [3])
        let again = limit.note(1, at: start + .seconds(3))
        #expect(!again.isShown)
    }
}
