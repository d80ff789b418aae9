import SafeBackupSystem
import Synchronization
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

@Suite("Looks with a limit of time")
struct TimedLooksTests {
    /// A file system that does not answer until it is let go.
    private final class Server: Sendable {
        private let ends: (reading: Int32, writing: Int32)
        let asked = Atomic(0)

        init() throws {
            var pair: [Int32] = [-1, -1]
            guard pipe(&pair) == 0 else { throw Errno(rawValue: errno) }
            ends = (pair[0], pair[1])
        }

        deinit {
            close(ends.reading)
            close(ends.writing)
        }

        func look() -> Int {
            asked.add(1, ordering: .relaxed)
            var byte: UInt8 = 0
            return Glibc.read(ends.reading, &byte, 1)
        }

        func answer() {
            var byte: UInt8 = 1
            _ = write(ends.writing, &byte, 1)
        }
    }

    @Test("A look that does not return is given up in time, keeps one thread, and is made again when it came back")
    func silence() throws {
        let looks = TimedLooks(limit: .milliseconds(200))
        let server = try Server()
        let began = ContinuousClock.now
        #expect(looks.answer(at: "/server") { server.look() } == nil)
        #expect(ContinuousClock.now - began >= .milliseconds(200))
        // Told without waiting again, and without another thread; also by another kind of look.
        let again = ContinuousClock.now
        for _ in 0..<1_000 { #expect(looks.answer(at: "/server") { server.look() } == nil) }
        #expect(!looks.answers("/server"))
        #expect(ContinuousClock.now - again < .seconds(30))
        #expect(server.asked.load(ordering: .relaxed) == 1)
        // Others are not concerned.
        #expect(looks.answers("/"))
        #expect(looks.answers("/is/not/there"))
        server.answer()
        var isBack = false
        let deadline = ContinuousClock.now + .seconds(30)
        while !isBack && ContinuousClock.now < deadline { isBack = looks.answers("/server") }
        #expect(isBack)
        #expect(looks.answer(at: "/server") { 7 } == 7)
    }

    @Test("Who asks while another look is under way gets an answer of its own")
    func together() async throws {
        let looks = TimedLooks(limit: .seconds(60))
        let answers = await withTaskGroup(of: Int?.self) { tasks in
            for number in 0..<8 { tasks.addTask { looks.answer(at: "/") { number } } }
            return await tasks.reduce(into: Set<Int?>()) { $0.insert($1) }
        }
        #expect(answers == Set((0..<8).map(Optional.some)))
    }
}
