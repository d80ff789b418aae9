import SafeBackupCapacity
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

@testable import SafeBackupAgent

@Suite("What clean tells")
struct CleanReportTests {
    @Test("That more files have several names than are counted, as the scan found it")
    func uncountedLinks() throws {
        let directory = try TemporaryDirectory()
        try directory.write("content", to: "file")
        let limits = CleaningLimits(maxSize: ByteCount(0))
        var plan = try BackupCleaner(directory.path, CleaningConfiguration(limits)).plan()
        plan.scan.duration = .seconds(1)
        let before = CleanReport(plan: plan, of: [])
        #expect(before.scan?.hasUncountedLinks == false && !before.lines.contains { $0.contains("several names") })
        plan.scan.hasUncountedLinks = true
        let report = CleanReport(plan: plan, of: [])
        #expect(report.scan?.hasUncountedLinks == true)
        #expect(report.lines.contains { $0.hasPrefix("More files have several names than are counted") })
    }
}
