import SafeBackupCore
import SafeBackupS3
import SafeBackupSystem
import Testing

/// Any request may fail, be lost on its way, or be done without an answer; the process may die at any of them.
@Suite("Failing requests")
struct DestinationFaultTests {
    enum Trouble: String, CaseIterable {
        /// One request fails, and the agent goes on.
        case refused, unanswered
        /// From one request on nothing is heard any more, and then the agent starts anew.
        case diedBefore, diedAfter
    }

    /// First save, changes, a rename, a deletion, a swap of kinds: all that a destination does.
    private func scenario(_ bench: DestinationBench, _ step: Int) async throws {
        switch step {
        case 0:
            try bench.write("a", "first a")
            try bench.write("big", DestinationBench.noise(200_000))
            try bench.write("moving", "moves along")
            try bench.write("d/inner", "inside")
            try bench.link("link", "a")
            try bench.makeDirectory("empty")
            try await bench.queue(["a", "big", "moving", "d", "d/inner", "link", "empty"])
        default:
            try bench.write("a", "second a")
            try bench.write("big", DestinationBench.noise(200_001, 9))
            try bench.rename("moving", "moved")
            try bench.remove("link")
            try bench.link("link", "elsewhere")
            try bench.remove("empty")
            try bench.write("empty", "full now")
            try await bench.queue(["moving"], .delete)
            try await bench.queue(["a", "big", "moved", "link", "empty"])
        }
    }

    @Test(
        "Whichever request fails, nothing is promised that the bucket does not hold, and in the end all is saved",
        arguments: Trouble.allCases, [ObjectVersions.none, .copy])
    func everyRequest(_ trouble: Trouble, _ versions: ObjectVersions) async throws {
        for step in 0...1 {
            var number = 0
            while true {
                let bench = try await DestinationBench {
                    $0.versions = versions
                    $0.filesAtOnce = 1
                }
                for earlier in 0..<step {
                    try await scenario(bench, earlier)
                    try await bench.drain()
                }
                try await scenario(bench, step)
                bench.store.clearLog()
                switch trouble {
                case .refused: bench.store.fail(number, .before)
                case .unanswered: bench.store.fail(number, .after)
                case .diedBefore: bench.store.failAll(from: number, .before)
                case .diedAfter: bench.store.failAll(from: number, .after)
                }
                _ = try await bench.round()
                let wasReached = bench.store.requests.count > number
                let comment = "(\(trouble), versions \(versions), step \(step), request \(number))"
                try bench.expectTruthWhere(trouble, comment)
                if trouble == .diedBefore || trouble == .diedAfter { try await bench.restart() }
                try bench.expectTruthWhere(nil, comment)
                bench.store.heal()
                try await bench.drain()
                try bench.expectTruth(comment)
                let names = step == 0 ? ["a", "big", "moving", "d/inner"] : ["a", "big", "moved", "d/inner", "empty"]
                try bench.expectSaved(names, comment)
                // One whose beginning nobody was told of is found by its age.
                bench.store.ageUploads(by: .seconds(2 * 86_400))
                try await bench.destination.emptyStaging()
                #expect(bench.store.uploadCount == 0, "an upload was left behind \(comment)")
                if !wasReached { break }
                number += 1
            }
            #expect(number > 4)
        }
    }
}

extension DestinationBench {
    /// What the catalogue promises, leaving out what a lease may just have replaced: its end is not known yet.
    func expectTruthWhere(_ trouble: DestinationFaultTests.Trouble?, _ comment: String) throws {
        // While requests are lost the leases of the group are open; nothing else may have changed.
        if trouble == .diedBefore || trouble == .diedAfter { return }
        try expectTruth(comment)
    }
}
