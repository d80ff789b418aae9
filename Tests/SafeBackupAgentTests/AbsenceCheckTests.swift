import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupAgent

@Suite("What may end a name")
struct AbsenceCheckTests {
    private func isUnknown(_ verdict: AbsenceCheck.Verdict, _ code: SafeBackupError.Code) -> Bool {
        guard case .unknown(let error) = verdict else { return false }
        return error.code == code
    }

    @Test("Only what is not there is absent: also below a missing directory, a file, or a link")
    func absent() throws {
        let temporary = try TemporaryDirectory()
        let source = try temporary.make("source")
        _ = try temporary.make("source/dir")
        try temporary.write("x", to: "source/dir/file")
        try temporary.write("x", to: "outside")
        try FileManager.default.createSymbolicLink(
            atPath: source.appending("link").string, withDestinationPath: "..")
        let root = try SourceRoot(path: source, known: nil)
        let paths = try [
            "dir/file", "dir", "dir/no", "no", "no/thing/at/all", "dir/file/below", "link", "link/outside",
        ]
        .map { try RelativePath($0) }
        #expect(
            AbsenceCheck.verdicts(for: paths, below: root)
                == [.present, .present, .absent, .absent, .absent, .absent, .present, .absent])
    }

    @Test("A root that vanished or was replaced ends nothing")
    func root() throws {
        let temporary = try TemporaryDirectory()
        let source = try temporary.make("source")
        let root = try SourceRoot(path: source, known: nil)
        let path = try RelativePath("gone")
        try FileManager.default.moveItem(atPath: source.string, toPath: source.string + ".away")
        #expect(isUnknown(AbsenceCheck.verdicts(for: [path], below: root)[0], .rootMissing))
        _ = try temporary.make("source")
        #expect(isUnknown(AbsenceCheck.verdicts(for: [path], below: root)[0], .rootReplaced))
        let error = #expect(throws: SafeBackupError.self) { try SourceRoot(path: source, known: root.identity) }
        #expect(error?.code == .rootReplaced)
        try FileManager.default.removeItem(atPath: source.string)
        try FileManager.default.moveItem(atPath: source.string + ".away", toPath: source.string)
        #expect(AbsenceCheck.verdicts(for: [path], below: root) == [.absent])
    }

    #if SAFEBACKUP_FAULTS
        @Test("A listing or a look that fails ends nothing", arguments: ["getdents", "statx", "open"])
        func failing(call: String) throws {
            let temporary = try TemporaryDirectory()
            let source = try temporary.make("source")
            _ = try temporary.make("source/dir")
            let root = try SourceRoot(path: source, known: nil)
            let path = try RelativePath("dir/gone")
            var fired = 0
            for nth in 1...20 {
                let plan = FaultPlan(call: call, nth: nth, error: .ioError)
                let verdict = plan.run { AbsenceCheck.verdicts(for: [path], below: root)[0] }
                fired += plan.counts.fired
                if plan.counts.fired > 0 { #expect(verdict != .absent) } else { #expect(verdict == .absent) }
            }
            #expect(fired > 0)
        }
    #endif
}
