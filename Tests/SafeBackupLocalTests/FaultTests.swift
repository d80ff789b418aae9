import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage
import Testing

/// Every system call of a group fails in turn, and the process ends before every one of them.
@Suite("Failing calls and ends of the process")
struct FaultTests {
    static let errors: [Errno] = [
        .noSpace, .ioError, .diskQuotaExceeded, .tooManyOpenFiles, .noMemory, .readOnlyFileSystem,
    ]

    @Test(
        "Ended before any call, a group leaves nothing torn; recovery and one more try repair all",
        arguments: [(1, true, true), (2, false, true), (3, false, false)])
    func endAtEachCall(first: Int, hasLink: Bool, hasHardLinks: Bool) throws {
        // The short form ends each call in one of the three ways, the long form in all.
        var call = isLong ? 1 : first
        while true {
            var scenario = try Scenario(hasLink: hasLink, hasHardLinks: hasHardLinks)
            let bench = scenario.bench
            let group = try bench.lease(scenario.paths, &scenario.ledger)
            let sources = try bench.sources()
            // From this call on nothing has an effect any more, as after SIGKILL.
            let plan = FaultPlan(nth: call, error: .ioError, isForever: true)
            _ = plan.run { bench.destination.storeNow(group, from: sources) }
            let comment = "(ended at call \(call))"
            try scenario.expectNoneTorn(bench.destinationPath, comment)
            for recovered in try bench.destination.recoverNow(group) {
                scenario.ledger.enter(recovered, at: bench.now)
            }
            #expect(try bench.staged() == [], "\(comment)")
            scenario.ledger.expectTruth(bench.destinationPath, comment)
            try scenario.expectRepair(comment, on: bench)
            if plan.counts.fired == 0 { break }
            call += isLong ? 1 : 3
        }
        #expect(call > 150)
    }

    @Test(
        "Any one call failing fails at most its jobs, promises nothing false, and harms no older copy",
        arguments: errors)
    func failEachCall(error: Errno) throws {
        // The short form gives each call one of the errors, the long form all.
        let step = isLong ? 1 : Self.errors.count
        var call = isLong ? 1 : 1 + (Self.errors.firstIndex(of: error) ?? 0)
        while true {
            var scenario = try Scenario(hasLink: call.isMultiple(of: 2))
            let bench = scenario.bench
            let group = try bench.lease(scenario.paths, &scenario.ledger)
            let sources = try bench.sources()
            let plan = FaultPlan(nth: call, error: error)
            let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
            let comment = "(\(error) at call \(call))"
            try scenario.expectNoneTorn(bench.destinationPath, comment)
            bench.enter(group, outcomes, &scenario.ledger)
            #expect(try bench.staged() == [], "\(comment)")
            scenario.ledger.expectTruth(bench.destinationPath, comment)
            for failed in outcomes.compactMap(\.error) {
                // A full disk is no reason to give a path up, nor is anything else here.
                #expect(failed.disposition != .permanent || failed.code == .nameTooLong, "\(failed) \(comment)")
            }
            try scenario.expectRepair(comment, on: bench)
            if plan.counts.fired == 0 { break }
            call += step
        }
        #expect(call > 150)
    }

    @Test("Recovery that fails at any call can be asked again")
    func recoveryFails() throws {
        // In the middle of the renames, where most is under way.
        let counter = FaultPlan(call: "rename")
        let whole = try Scenario(hasLink: false)
        var ledger = whole.ledger
        let all = try whole.bench.lease(whole.paths, &ledger)
        let sources = try whole.bench.sources()
        _ = counter.run { whole.bench.destination.storeNow(all, from: sources) }
        var call = 1
        while true {
            var scenario = try Scenario(hasLink: false)
            let bench = scenario.bench
            let group = try bench.lease(scenario.paths, &scenario.ledger)
            let sources = try bench.sources()
            _ = FaultPlan(call: "rename", nth: counter.counts.calls / 2, error: .ioError, isForever: true).run {
                bench.destination.storeNow(group, from: sources)
            }
            let plan = FaultPlan(nth: call, error: .ioError, isForever: true)
            var recovered: [RecoveredLease] = []
            do {
                recovered = try plan.run { try bench.destination.recoverNow(group) }
            } catch {
                recovered = try bench.destination.recoverNow(group)
            }
            for one in recovered { scenario.ledger.enter(one, at: bench.now) }
            scenario.ledger.expectTruth(bench.destinationPath, "(recovery failed at call \(call))")
            try scenario.expectRepair("(recovery failed at call \(call))", on: bench)
            if plan.counts.fired == 0 { break }
            call += 1
        }
        #expect(call > 30)
    }

    @Test("Short reads and writes, and interrupted calls, change nothing")
    func shortAndInterrupted() throws {
        for plan in [FaultPlan(isShort: true), FaultPlan(nth: 1, error: .interrupted)] {
            var scenario = try Scenario(hasLink: true)
            let bench = scenario.bench
            let group = try bench.lease(scenario.paths, &scenario.ledger)
            let sources = try bench.sources()
            let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
            #expect(outcomes.allSatisfy { $0.error == nil })
            bench.enter(group, outcomes, &scenario.ledger)
            scenario.ledger.expectTruth(bench.destinationPath)
            try scenario.expectRepair("", on: bench)
        }
    }

    @Test(
        "A failed flush promises nothing that needed it, and leaves no stage",
        arguments: [("syncfs", 1, true), ("fsync", 1, true), ("fsync", 12, false)])
    func failedFlush(call: String, nth: Int, isFirst: Bool) throws {
        var scenario = try Scenario(hasLink: call == "syncfs")
        let bench = scenario.bench
        let group = try bench.lease(scenario.paths, &scenario.ledger)
        let sources = try bench.sources()
        let plan = FaultPlan(call: call, nth: nth, error: .ioError, isForever: true)
        let outcomes = plan.run { bench.destination.storeNow(group, from: sources) }
        for (lease, outcome) in zip(group, outcomes) {
            switch lease.job.path.description {
            // Nothing is there to flush.
            case "becomes-file/below": #expect(outcome == .gone)
            // Nothing was renamed: durable with the first flush.
            case "touched", "mode", "adopted": #expect((outcome.error == nil) == !isFirst, "\(lease.job.path)")
            default: #expect(outcome.error?.code == .destinationFailed, "\(lease.job.path)")
            }
        }
        #expect(try bench.staged() == [])
        bench.enter(group, outcomes, &scenario.ledger)
        scenario.ledger.expectTruth(bench.destinationPath)
        try scenario.expectRepair("", on: bench)
    }
}
