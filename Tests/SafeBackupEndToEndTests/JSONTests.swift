import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    /// What README promises to programs, whatever the state is in.
    @Suite("For programs")
    struct JSONAnswers {
        private enum Situation: CaseIterable {
            case inSync
            case notSaved
            case paused
            case destinationAway
            case sourceAway
        }

        @Test(
            "Each --json is one document with true times and nothing unknown, and its exit code that of the text",
            arguments: Situation.allCases)
        private func everyVerb(in situation: Situation) async throws {
            let bench = try Bench()
            let odd: [UInt8] = [0x6F, 0xFF, 0x0A, 0x22, 0x5C]
            try bench.write(bench.source.appending(bytes: odd), Array("odd\n".utf8))
            try bench.write("dir/deleted", "content\n")
            try await bench.saveOnce()
            try command(["rm", bench.at("dir/deleted")])
            try await bench.saveOnce()
            switch situation {
            case .inSync: break
            case .notSaved:
                try command(["mkdir", bench.at(".safebackup")])
                #expect(try await bench.once().ending == .exit(3))
            case .paused:
                #expect(try await bench.run(["pause", "--state", bench.state]).ending == .exit(0))
                try bench.write(bench.source.appending(bytes: odd), Array("changed\n".utf8))
                #expect(try await bench.once().ending == .exit(3))
            case .destinationAway:
                try command(["mv", bench.backup, bench.root.appending("away")])
                #expect(try await bench.once().ending == .exit(4))
            case .sourceAway:
                try command(["mv", bench.source, bench.root.appending("away")])
                try bench.makeDirectory(bench.source)
                #expect(try await bench.once().ending == .exit(4))
            }
            let path = FilePath(".").appending(bytes: odd)
            for verb: [FilePath] in [
                ["status"], ["exposure"], ["queue"], ["why", path], ["why", "."], ["why", "dir/deleted"],
                ["versions", path], ["versions", "dir"], ["versions", "nowhere"], ["check-ignore", path],
            ] {
                let text = try await bench.run(verb + ["--state", bench.state])
                let program = try await bench.run(verb + ["--json", "--state", bench.state])
                #expect(program.ending == text.ending, "\(verb): \(program.errorTail)")
                let document = try? JSONSerialization.jsonObject(with: Data(program.outputText.utf8))
                guard let document = document as? [String: Any] else {
                    Issue.record("\(verb): no JSON: \(program.outputText)\(program.errorTail)")
                    continue
                }
                let faults = Self.faults(of: document, at: "")
                #expect(faults.isEmpty, "\(verb): \(faults)")
            }
            let why = try await bench.run(["why", path, "--json", "--state", bench.state])
            #expect(why.outputText.contains(#""pathHex" : "6fff0a225c""#), "\(why.outputText)")
        }

        /// What README rules out: `null`, and a time that is not like `2026-11-23T03:45:12Z`.
        private static func faults(of value: Any, at key: String) -> [String] {
            switch value {
            case let object as [String: Any]: return object.flatMap { faults(of: $0.value, at: $0.key) }
            case let list as [Any]: return list.flatMap { faults(of: $0, at: key) }
            case is NSNull: return ["\(key) is null"]
            case let text as String:
                let isTime = key.hasSuffix("At") || ["since", "from", "to", "notBefore"].contains(key)
                let shape = String(text.map { $0.isASCII && $0.isNumber ? "0" : $0 })
                return isTime && shape != "0000-00-00T00:00:00Z" ? ["\(key) is \(text)"] : []
            default: return []
            }
        }
    }
}
