import Foundation
import Logging
import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupAgent

@Suite struct LogTests {
    private struct Handler: LogHandler {
        let sink: LogSink
        var logLevel = Logger.Level.debug
        var metadata: Logger.Metadata = [:]

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) { sink.log(event, handler: metadata) }
    }

    private final class Lines: Sendable {
        private let all = Locked<[String]>([])
        func add(_ line: String) { all.withLock { $0.append(line) } }
        var value: [String] { all.withLock { $0 } }
    }

    private let time = WallClock { Timestamp(microseconds: 1_795_405_512_000_000) }

    private func logger(
        _ format: LogFormat, isJournal: Bool = false, isLimited: Bool = true, period: Duration = .seconds(600)
    ) -> (Logger, LogSink, Lines) {
        let lines = Lines()
        let sink = LogSink(format: format, isJournal: isJournal, isLimited: isLimited, period: period, clock: time) {
            lines.add($0)
        }
        return (Logger(label: "test") { _ in Handler(sink: sink) }, sink, lines)
    }

    @Test("A line for people has time, level, sentence and quoted values, and no event")
    func text() {
        let (log, _, lines) = logger(.text)
        log.info(.watching, "The source is watched", metadata: ["b": "two words", "a": "1"])
        #expect(lines.value == ["2026-11-23T03:45:12Z info The source is watched a=1 b=\"two words\""])
    }

    @Test("The journal gets the level as a number and no time, in both forms")
    func journal() {
        let (log, _, lines) = logger(.text, isJournal: true)
        log.warning(.drift, "Found", metadata: ["drift": "2"])
        log.info(.watching, "Watched")
        #expect(lines.value == ["<4>Found drift=2", "<6>Watched"])
        let (json, _, objects) = logger(.json, isJournal: true)
        json.error(.held, "Held")
        #expect(
            objects.value == [
                #"<3>{"time":"2026-11-23T03:45:12Z","level":"error","event":"held","message":"Held"}"#
            ])
    }

    @Test("Whatever a value holds, a line stays one line, and its JSON reads back as what was meant")
    func oddValues() throws {
        let odd = "a\nb\"c\\d\u{2028}e\u{0}\u{1B}[31m\u{7F}ü\u{1F600}\r\t=<3>"
        let (json, _, lines) = logger(.json)
        json.error(.stuck, "\(odd)", metadata: ["error.code": "\(odd)", "message": "not the sentence"])
        let line = try #require(lines.value.first)
        #expect(line.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F && $0.value != 0x2028 })
        let object = try #require(
            JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: String])
        #expect(object["message"] == odd && object["error.code"] == odd && object["event"] == "stuck")
        let (text, _, plain) = logger(.text, isJournal: true)
        text.error(.stuck, "\(odd)", metadata: ["error": "\(odd)"])
        let shown = try #require(plain.value.first)
        #expect(shown.hasPrefix("<3>a\\n") || shown.hasPrefix("<3>a\\x0"), "\(shown)")
        #expect(shown.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F })
    }

    @Test("Ten thousand files that fail for one reason are five lines and a number; another destination is apart")
    func repeats() {
        let (plain, sink, lines) = logger(.text)
        var one = plain
        one[metadataKey: "destination.path"] = "/one"
        var other = plain
        other[metadataKey: "destination.path"] = "/other"
        for number in 0..<10_000 {
            one.warning(
                .willRetry, "A path will be tried again",
                metadata: ["path": "\(number)", "error.code": "destinationFull"])
        }
        other.warning(.willRetry, "A path will be tried again", metadata: ["error.code": "destinationFull"])
        for number in 0..<20 { one.info(.reconciled, "Compared", metadata: ["n": "\(number)"]) }
        #expect(lines.value.count == 5 + 1 + 20)
        sink.finish()
        #expect(lines.value.count == 27)
        #expect(
            lines.value.last?.contains("destination.path=/one error.code=destinationFull repeated=9995 seconds=")
                == true)
        sink.finish()
        #expect(lines.value.count == 27)
    }

    @Test("The count is told when the window is over, also when nothing else is logged")
    func countIsTold() async throws {
        let (log, _, lines) = logger(.json, period: .seconds(1))
        for _ in 0..<8 { log.error(.destinationFailed, "Failed", metadata: ["error.code": "destinationFailed"]) }
        // Many tests share few threads: a busy machine may take minutes until this one has its turn again.
        let deadline = ContinuousClock.now + .seconds(300)
        while lines.value.last?.contains("repeated") != true, ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(5))
        }
        let told = lines.value.filter { $0.contains("\"repeated\"") }
        #expect(told.count == 1 && told.first?.contains("\"event\":\"destinationFailed\"") == true)
    }

    @Test("Who asked for every step gets every step")
    func verboseIsWhole() {
        let (log, _, lines) = logger(.text, isLimited: false)
        for _ in 0..<50 { log.error(.stuck, "Stuck") }
        #expect(lines.value.count == 50)
    }

    @Test("Every line of the log in the sources names its event")
    func everyLineHasAnEvent() throws {
        let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("Sources")
        let files = try #require(FileManager.default.enumerator(atPath: sources.path))
        let call = try Regex(#"\b[lL]og(?:ger)?\.(?:trace|debug|info|notice|warning|error|critical|log)\(\s*([^\s])"#)
        var (lines, without) = (0, [String]())
        for case let name as String in files where name.hasSuffix(".swift") && !name.hasSuffix("EventID.swift") {
            let text = try String(contentsOf: sources.appendingPathComponent(name), encoding: .utf8)
            for match in text.matches(of: call) {
                lines += 1
                if match.output[1].substring == "." { continue }
                without.append("\(name): \(match.output[0].substring ?? "")")
            }
        }
        #expect(lines > 20)
        #expect(without.isEmpty, "begin such a call with an EventID, as in logger.error(.held, \"…\")")
    }
}
