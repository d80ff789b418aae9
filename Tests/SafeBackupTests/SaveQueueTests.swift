import SafeBackupCore
import Testing

@testable import SafeBackup

@Suite("The queue of a session")
struct SaveQueueTests {
    private func key(_ name: String) throws -> RelativePath { try RelativePath(name) }

    @Test("A key is in one group at a time, and its saves keep their order, also over a wait for room")
    func keys() throws {
        var queue = SaveQueue<Int>()
        for (number, name) in ["a", "b", "a", "c", "a"].enumerated() { queue.add(try key(name), number) }
        let first = queue.next(limit: 10)
        #expect(first.map(\.request) == [0, 1, 3])
        #expect(queue.next(limit: 10).isEmpty)
        queue.park(first[0])
        queue.finish(first[1])
        // The first save of it waits for room: the others do not overtake.
        #expect(queue.next(limit: 10).isEmpty)
        queue.unpark()
        let second = queue.next(limit: 1)
        #expect(second.map(\.request) == [0] && second[0].waits == 1)
        #expect(queue.next(limit: 10).isEmpty)
        queue.finish(second[0])
        let third = queue.next(limit: 10)
        #expect(third.map(\.request) == [2])
        queue.finish(third[0])
        #expect(queue.next(limit: 10).map(\.request) == [4])
    }

    @Test("A ticket is done when its save and all before it are")
    func tickets() throws {
        var queue = SaveQueue<Int>()
        for number in 0..<3 { queue.add(try key("\(number)"), number) }
        let group = queue.next(limit: 2)
        #expect(group.count == 2 && queue.count == 3 && queue.lastTicket == 3)
        queue.finish(group[1])
        #expect(!queue.isDone(through: 2))
        queue.finish(group[0])
        #expect(queue.isDone(through: 2) && !queue.isDone(through: 3))
        queue.finish(queue.next(limit: 2)[0])
        #expect(queue.isDone(through: .max) && queue.count == 0)
    }
}
