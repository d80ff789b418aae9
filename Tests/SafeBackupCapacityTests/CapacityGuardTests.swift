import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupCapacity

@Suite("The capacity guard")
struct CapacityGuardTests {
    private func usage(free: Int64, of total: Int64 = 1_000) -> DiskUsage {
        DiskUsage(total: ByteCount(total), used: ByteCount(total - free), available: ByteCount(free))
    }

    private func makeGuard(interval: Int64 = 100) throws -> CapacityGuard {
        CapacityGuard(
            try CapacityLimits(
                disk: ByteCount(1_000), checkInterval: ByteCount(interval), threshold: ByteCount(100),
                target: ByteCount(200), floor: ByteCount(10)))
    }

    @Test("While a person's cleaning is under way no other begins, and the next look decides anew")
    func asked() throws {
        var capacity = try makeGuard()
        #expect(capacity.checked(usage(free: 500)) == .enough)
        capacity.cleaningWasAsked()
        #expect(capacity.checked(usage(free: 50)) == .cleaning)
        capacity.cleaned(usage(free: 60), shortfall: capacity.shortfall)
        #expect(capacity.shortfall == nil)
        capacity.mayHaveChanged()
        #expect(capacity.isCheckDue)
        #expect(capacity.checked(usage(free: 60)) == .clean(CleaningLimits(minFree: ByteCount(200))))
    }

    @Test("It checks at the start and then once an interval, not at each save after the first crossing")
    func interval() throws {
        var capacity = try makeGuard()
        var checks = 0
        for _ in 0..<100 {
            if capacity.isCheckDue {
                #expect(capacity.checked(usage(free: 500)) == .enough)
                checks += 1
            }
            capacity.stored(ByteCount(10))
        }
        // At the start, and after each ten saves; the hundredth makes one due that nobody has asked for yet.
        #expect(checks == 10)
        #expect(capacity.isCheckDue)
    }

    @Test(
        "Where few more files fit a cleaning begins too, towards a number of files, and small copies make a check due")
    func inodes() throws {
        var capacity = try makeGuard()
        var usage = usage(free: 500)
        usage.inodes = InodeCount(total: 1_000, available: 400)
        #expect(capacity.checked(usage) == .enough)
        for _ in 0..<24 { capacity.stored(ByteCount(0)) }
        #expect(!capacity.isCheckDue)
        capacity.stored(ByteCount(0))
        #expect(capacity.isCheckDue, "a quarter of the hundred that are to stay free")
        usage.inodes?.available = 99
        var towards = CleaningLimits()
        towards.minFreeInodes = 200
        #expect(capacity.checked(usage) == .clean(towards))
        let need = try #require(towards.need(usage: usage, size: nil))
        #expect(need.limit == .minInodes && need.inodes == 101)
        usage.inodes?.available = 200
        #expect(towards.need(usage: usage, size: nil) == nil)
        // Elsewhere nothing is asked.
        #expect(towards.need(usage: self.usage(free: 500), size: nil) == nil)
    }

    @Test("The count goes on over a restart, which checks anyway")
    func restart() throws {
        var capacity = CapacityGuard(try makeGuard().limits, accumulated: ByteCount(95))
        #expect(capacity.isCheckDue)
        #expect(capacity.checked(usage(free: 500)) == .enough)
        capacity.stored(ByteCount(10))
        #expect(!capacity.isCheckDue)
    }

    @Test("Below the threshold one cleaning begins, towards the target; saving goes on until the floor")
    func cleaning() throws {
        var capacity = try makeGuard()
        #expect(capacity.checked(usage(free: 100)) == .enough)
        #expect(capacity.checked(usage(free: 99)) == .clean(CleaningLimits(minFree: ByteCount(200))))
        #expect(capacity.admit(growth: ByteCount(50)) == .go)
        capacity.stored(ByteCount(50))
        // 49 are free: what does not fit needs a look first, and then waits for the cleaning; the rest goes on.
        #expect(capacity.admit(growth: ByteCount(40)) == .check)
        #expect(capacity.checked(usage(free: 49)) == .cleaning)
        guard case .wait(let error) = capacity.admit(growth: ByteCount(40)) else {
            Issue.record("a job under the floor was let through")
            return
        }
        #expect(error.disposition == .destinationFull)
        #expect(capacity.admit(growth: ByteCount(39)) == .go)
        #expect(capacity.admit(growth: ByteCount(0)) == .go)
        capacity.cleaned(usage(free: 205))
        #expect(capacity.admit(growth: ByteCount(40)) == .go)
        #expect(!capacity.isCheckDue)
    }

    @Test("A file that would not fit is looked at once, starts a cleaning that makes room for it, and does not loop")
    func large() throws {
        var capacity = try makeGuard(interval: 10_000)
        #expect(capacity.checked(usage(free: 300)) == .enough)
        capacity.stored(ByteCount(5))
        #expect(capacity.admit(growth: ByteCount(290)) == .check)
        #expect(
            capacity.checked(usage(free: 295), growth: ByteCount(290))
                == .clean(CleaningLimits(minFree: ByteCount(390))))
        let full = SafeBackupError(.cannotFreeEnough, "everything is a last copy", disposition: .destinationFull)
        capacity.cleaned(usage(free: 296), shortfall: full)
        for _ in 0..<3 {
            guard case .wait(let error) = capacity.admit(growth: ByteCount(290)) else {
                Issue.record("it was checked again, although nothing changed")
                return
            }
            #expect(error.message.contains("everything is a last copy"))
        }
        // Somebody made room.
        capacity.mayHaveChanged()
        #expect(capacity.admit(growth: ByteCount(290)) == .check)
        #expect(capacity.checked(usage(free: 900), growth: ByteCount(290)) == .enough)
        #expect(capacity.shortfall == nil)
        #expect(capacity.admit(growth: ByteCount(290)) == .go)
    }

    @Test("A size or a usage that is too large is cleaned too, and the free space is then not asked for more")
    func otherLimits() throws {
        var capacity = CapacityGuard(
            try CapacityLimits(
                disk: ByteCount(1_000), threshold: ByteCount(100), maxSize: ByteCount(300), maxUsagePercent: 80))
        let limits = CleaningLimits(maxUsagePercent: 80, maxSize: ByteCount(300))
        #expect(capacity.checked(usage(free: 500), size: ByteCount(300)) == .enough)
        #expect(capacity.checked(usage(free: 500), size: ByteCount(301)) == .clean(limits))
        capacity.cleaned(usage(free: 501))
        #expect(capacity.checked(usage(free: 199), size: ByteCount(300)) == .clean(limits))
    }

    @Test(
        "Defaults: a tenth of the disk but at most 10 GiB, twice that, a hundredth but at most 1 GiB",
        arguments: [
            (Int64(500), Int64(10), Int64(20), Int64(1)), (50, 5, 10, 0), (100, 10, 20, 1), (16_000, 10, 20, 1),
        ])
    func defaults(disk: Int64, threshold: Int64, target: Int64, floor: Int64) throws {
        let limits = try CapacityLimits(disk: .gibibytes(disk))
        #expect(limits.threshold == .gibibytes(threshold))
        #expect(limits.target == .gibibytes(target))
        #expect(limits.floor.bytes >> 30 == floor)
        #expect(limits.checkInterval == .gibibytes(1))
    }

    @Test("Values that cannot be together are refused by name and reason")
    func invalid() {
        func message(_ make: () throws(SafeBackupError) -> CapacityLimits) -> String {
            do throws(SafeBackupError) {
                _ = try make()
                return "accepted"
            } catch {
                return error.code == .invalidConfiguration ? error.message : "\(error.code)"
            }
        }
        let disk = ByteCount.gibibytes(100)
        #expect(
            message { () throws(SafeBackupError) in
                try CapacityLimits(disk: disk, threshold: .gibibytes(30), target: .gibibytes(20))
            }.contains("target of 20.0 GiB is below the threshold of 30.0 GiB"))
        #expect(
            message { () throws(SafeBackupError) in
                try CapacityLimits(disk: disk, threshold: .mebibytes(10), floor: .mebibytes(20))
            }.contains("below the floor of 20.0 MiB"))
        #expect(
            message { () throws(SafeBackupError) in
                try CapacityLimits(disk: disk, threshold: .gibibytes(80))
            }.contains("more than the whole disk"))
        #expect(
            message { () throws(SafeBackupError) in
                try CapacityLimits(disk: disk, checkInterval: ByteCount(0))
            }.contains("check interval"))
    }
}
