import SystemPackage
import Testing

@testable import SafeBackupSystem

@Suite("A value under a lock")
struct LockedTests {
    @Test("What four threads add at the same time is all there")
    func counts() async throws {
        let threads = try ThreadExecutor(name: "test", count: 4)
        defer { threads.stop() }
        final class Numbers: Sendable { let list = Locked<[Int]>([]) }
        let numbers = Numbers()
        await withTaskGroup(of: Void.self) { group in
            for first in 0..<4 {
                group.addTask {
                    await threads.run {
                        for step in 0..<2_000 { numbers.list.withLock { $0.append(first + 4 * step) } }
                    }
                }
            }
        }
        #expect(numbers.list.withLock { $0.sorted() } == Array(0..<8_000))
    }

    @Test("An error leaves the lock open, and what was changed before it stays")
    func throwing() {
        let number = Locked(1)
        #expect(throws: Errno.ioError) {
            try number.withLock { number throws(Errno) in
                number = 2
                throw Errno.ioError
            }
        }
        #expect(number.withLock { $0 } == 2)
    }

    @Test("The value ends with the lock")
    func ends() {
        final class Owned: Sendable {}
        weak var seen: Owned?
        do {
            let owned = Owned()
            seen = owned
            let lock = Locked<Owned?>(owned)
            #expect(lock.withLock { $0 === seen })
        }
        #expect(seen == nil)
    }
}
