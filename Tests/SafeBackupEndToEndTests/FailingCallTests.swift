import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    /// The Nth system call fails, once. In the long form for every N, else for a spread of them.
    @Suite("A system call fails", .needsFaults)
    struct FailingCalls {
        static let errors: [Errno] = [.noSpace, .ioError, .diskQuotaExceeded, .tooManyOpenFiles, .interrupted]

        /// Something to do for every run: rewritten, new, deleted, linked, renamed, swapped and rotated.
        private func change(_ bench: Bench, _ round: Int) throws {
            for number in 0..<3 { try bench.write("dir/\(number)", "round \(round), file \(number)\n") }
            try bench.write("new/\(round)/file", "new in round \(round)\n")
            try command(["ln", "-sfn", FilePath("target \(round)"), bench.at("link")])
            try bench.write("log.\(round)", "log of round \(round)\n")
            if round == 1 {
                for name in ["moving/1/a", "moving/1/b", "one", "other"] { try bench.write(name, "\(name)\n") }
                return
            }
            try command(["rm", "-r", bench.at("new/\(round - 1)")])
            for (from, to) in [
                ("moving/\(round - 1)", "moving/\(round)"), ("one", "between"), ("other", "one"), ("between", "other"),
                ("log.\(round)", "between"), ("log.\(round - 1)", "log.\(round)"), ("between", "log.\(round - 1)"),
            ] { try command(["mv", "-T", bench.at(from), bench.at(to)]) }
        }

        /// How many calls a run makes that has this to do.
        private func callCount(_ bench: Bench) async throws -> Int {
            try change(bench, 1)
            try await bench.saveOnce()
            try change(bench, 2)
            let program = try await bench.once(fault: "report=1")
            try #require(program.ending == .exit(0), "\(program.errorTail)")
            let report = try #require(program.errorText.split(separator: "\n").last { $0.hasPrefix("faults: ") })
            return try #require(Int(report.split(separator: " ")[1]))
        }

        @Test("No crash, no false promise, and a later run repairs it", .timeLimit(.minutes(60)), arguments: errors)
        func once(error: Errno) async throws {
            let bench = try Bench()
            let count = try await callCount(bench)
            try #require(count > 50, "only \(count) calls pass the seam")
            // Coprime to most periods in the sequence of calls, so that the spread meets different ones.
            let step = Conditions.isLong ? 1 : max(1, count / 7)
            for (round, nth) in stride(from: 1 + Int(error.rawValue) % step, through: count, by: step).enumerated() {
                try change(bench, round + 3)
                let older = try Tree(bench.backup)
                let newer = try Tree(bench.source)
                let program = try await bench.once(fault: "nth=\(nth),errno=\(error.rawValue),report=1")
                let ending = try #require(program.ending)
                let what = Comment(
                    rawValue: "call \(nth) of \(count) failed with \(error): \(ending)\n\(program.errorTail)")
                #expect([.exit(0), .exit(1), .exit(3), .exit(4)].contains(ending), what)
                if ending == .exit(0) { #expect(try bench.differences() == [], what) }
                // The report is one line; a failure must say more.
                let said = program.errorText.split(separator: "\n").filter { !$0.hasPrefix("faults: ") }
                if ending != .exit(0) { #expect(!said.isEmpty, what) }
                for (path, entry) in try Tree(bench.backup).entries where entry.kind == .file {
                    let isWhole = [older, newer].contains { $0.entries[path]?.digest == entry.digest }
                    #expect(isWhole, "\(path) is torn; \(what)")
                }
                try bench.expectCatalogueIsTrue()
                try await bench.saveOnce()
                try bench.expectSaved()
            }
        }

        @Test("Every read and write moves a byte less than asked")
        func short() async throws {
            let bench = try Bench()
            try bench.write(bench.at("large"), [UInt8](repeating: 0x61, count: 1 << 20))
            try change(bench, 1)
            let program = try await bench.once(fault: "short=1")
            #expect(program.ending == .exit(0), "\(program.errorTail)")
            try bench.expectSaved()
        }
    }
}
