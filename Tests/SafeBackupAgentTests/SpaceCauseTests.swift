import SafeBackupCapacity
import SafeBackupCore
import SafeBackupState
import Testing

@testable import SafeBackupAgent

/// A disk of 100 GiB with a threshold of 10 GiB.
@Suite("Who filled the disk")
struct SpaceCauseTests {
    private func gibibytes(_ count: Int64) -> Int64 { count << 30 }

    private func cause(
        baseline: Int64, available: Int64, stored: Int64, grown: Int64 = 0
    ) -> SpaceCause {
        let record = CapacityRecord(
            checkedAt: Timestamp(microseconds: 0), total: .gibibytes(100), available: ByteCount(available),
            threshold: .gibibytes(10), target: .gibibytes(20), floor: .gibibytes(1), baseline: ByteCount(baseline),
            stored: stored)
        return SpaceCause(record, available: ByteCount(available), grown: grown)
    }

    @Test("Growth that explains the loss is the backup's own")
    func ours() {
        let all = cause(baseline: gibibytes(30), available: gibibytes(5), stored: gibibytes(25))
        #expect(!all.isTaken && all.lost == gibibytes(25) && all.ours == gibibytes(25))
        // What came since the last look counts too.
        #expect(
            !cause(baseline: gibibytes(30), available: gibibytes(5), stored: gibibytes(5), grown: gibibytes(15)).isTaken
        )
        // Half of it is enough.
        #expect(!cause(baseline: gibibytes(30), available: gibibytes(10), stored: gibibytes(10)).isTaken)
    }

    @Test("Growth that does not explain the loss of free space tells of somebody else")
    func others() {
        #expect(cause(baseline: gibibytes(30), available: gibibytes(5), stored: 0).isTaken)
        #expect(cause(baseline: gibibytes(30), available: gibibytes(10), stored: gibibytes(10) - 1).isTaken)
        // What we removed meanwhile is not ours any more.
        #expect(
            cause(baseline: gibibytes(30), available: gibibytes(5), stored: gibibytes(20), grown: -gibibytes(10))
                .isTaken)
        // More removed than stored, and all the same less is free.
        let shrunk = cause(baseline: gibibytes(30), available: gibibytes(5), stored: -gibibytes(3))
        #expect(shrunk.isTaken && shrunk.ours < 0)
    }

    @Test("Where there never was enough, somebody else had taken it before")
    func before() {
        #expect(cause(baseline: gibibytes(4), available: gibibytes(4), stored: 0).isTaken)
        #expect(!cause(baseline: gibibytes(9), available: gibibytes(4), stored: gibibytes(5)).isTaken)
    }

    @Test("A trifle, and room that came, are nobody's fault")
    func trifle() {
        let twentieth = gibibytes(10) / 20
        #expect(!cause(baseline: gibibytes(30), available: gibibytes(30) - twentieth, stored: 0).isTaken)
        #expect(cause(baseline: gibibytes(30), available: gibibytes(30) - twentieth - 1, stored: 0).isTaken)
        #expect(!cause(baseline: gibibytes(30), available: gibibytes(40), stored: 0).isTaken)
    }

    @Test("What clean asks and hears comes over as it was said")
    func words() throws {
        for limits in [
            CleaningLimits(minFree: ByteCount(0)), CleaningLimits(maxUsagePercent: 80.25),
            CleaningLimits(minFree: .gibibytes(20), maxUsagePercent: 99, maxSize: ByteCount(1)),
        ] {
            let request = CleanRequest(destination: DestinationID(rawValue: 7), limits: limits)
            let read = try CleanRequest(request.arguments)
            #expect(read == request)
        }
        let wrong = ["", "7 1 2", "x 1 2 3", "7 x - -", "7 - x -", "7 - - x", "7 - - -", "7 -1 - -", "7 1 - - -"]
        for text in wrong {
            let arguments = text.split(separator: " ").map { Array($0.utf8) }
            #expect(throws: SafeBackupError.self, "\(text)") { _ = try CleanRequest(arguments) }
        }
        var totals = CleanedTotals()
        (totals.copies, totals.bytes, totals.oldest) = (3, 4_096, Timestamp(microseconds: 5))
        for answer in [CleanAnswer(.reached), CleanAnswer(.short, totals, "why\nin two lines")] {
            #expect(CleanAnswer(answer.text) == answer)
        }
        #expect(CleanAnswer("Accepted") == nil)
    }
}
