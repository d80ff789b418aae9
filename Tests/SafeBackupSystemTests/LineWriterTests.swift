import Glibc
import SystemPackage
import Testing

@testable import SafeBackupSystem

/// With real pipes, whose reader is the test.
@Suite("Lines that nobody may read")
struct LineWriterTests {
    private struct Pipe: ~Copyable {
        let reader: Descriptor
        let writer: Descriptor

        init() throws {
            var ends: [Int32] = [-1, -1]
            try systemCall("pipe") { pipe(&ends) }
            (reader, writer) = (Descriptor(owning: ends[0]), Descriptor(owning: ends[1]))
        }

        /// What is there until nothing came for a while and `isEnough`.
        func text(until isEnough: (String) -> Bool) throws -> String {
            var bytes: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 64 << 10)
            let deadline = ContinuousClock.now + .seconds(300)
            while !isEnough(String(decoding: bytes, as: UTF8.self)), ContinuousClock.now < deadline {
                guard try reader.isReadable(within: .seconds(1)) else { continue }
                let count = read(reader.raw, &buffer, buffer.count)
                if count <= 0 { break }
                bytes += buffer.prefix(count)
            }
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    @Test(
        "A full pipe blocks nobody; what was dropped is counted where it is missing, and everything else is in order",
        .timeLimit(.minutes(10)))
    func fullPipe() async throws {
        let pipe = try Pipe()
        let writer = try LineWriter(to: pipe.writer.raw, name: "test.log", limit: 16 << 10) { "dropped \($0)" }
        let count = 20_000
        for number in 0..<count { writer.write("line \(number) \(String(repeating: "x", count: 40))\n") }
        // Nobody has read anything, and the pipe takes no more: it does not wait for ever.
        #expect(await !writer.flush(within: .milliseconds(50)))

        // All of it, or the last line might find no room either.
        let text = try pipe.text { $0.hasSuffix("\n") && Self.told($0) == count }
        #expect(await writer.flush(within: .seconds(300)))
        writer.write("last\n")
        let rest = try pipe.text { $0.contains("last\n") }
        let lines = (text + rest).split(separator: "\n")
        var (next, missing) = (0, 0)
        for line in lines {
            let words = line.split(separator: " ")
            if words[0] == "dropped" {
                let number = try #require(Int(words[1]))
                (next, missing) = (next + number, missing + number)
            } else if words[0] == "line" {
                #expect(words[1] == "\(next)" && words[2].count == 40, "\(line)")
                next += 1
            }
        }
        #expect(next == count && missing > count / 2 && lines.last == "last", "\(next) \(missing) \(lines.suffix(3))")
    }

    /// How many lines these are, with those that they say were dropped.
    private static func told(_ text: String) -> Int {
        text.split(separator: "\n").reduce(0) { sum, line in
            line.hasPrefix("dropped ") ? sum + (Int(line.dropFirst(8)) ?? 0) : sum + 1
        }
    }

    @Test("A reader that went away, and a pipe that was made non-blocking, neither end nor stop anything")
    func oddPipes() async throws {
        ProcessSignals.ignoreHarmful()
        let pipe = try Pipe()
        let flags = fcntl(pipe.writer.raw, F_GETFL)
        try #require(fcntl(pipe.writer.raw, F_SETFL, flags | O_NONBLOCK) == 0)
        let writer = try LineWriter(to: pipe.writer.raw, name: "test.log", limit: 1 << 20)
        for number in 0..<2_000 { writer.write("\(number) \(String(repeating: "y", count: 100))\n") }
        let text = try pipe.text { $0.contains("\n1999 ") && $0.hasSuffix("\n") }
        #expect(text.split(separator: "\n").count == 2_000)

        let closed = try LineWriter(to: -1, name: "test.log")
        closed.write("for nobody\n")
        #expect(await closed.flush(within: .seconds(300)))
    }
}
