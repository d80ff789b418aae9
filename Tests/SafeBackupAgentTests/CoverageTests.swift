import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import Testing

@testable import SafeBackupAgent

@Suite("How a source is seen")
struct CoverageTests {
    private func assessment(
        directories: Int = 1_000, watched: Int = 1_000, type: VolumeType = .ext, interval: Duration? = .seconds(2),
        settings: [SystemSetting: Int] = [.watches: 8_192, .instances: 128],
        _ change: (inout WatchCoverage) -> Void = { _ in }
    ) -> CoverageAssessment {
        var coverage = WatchCoverage()
        coverage.directories = directories
        coverage.watched = watched
        coverage.hasInstance = true
        change(&coverage)
        return CoverageAssessment(coverage: coverage, type: type, interval: interval) { settings[$0] }
    }

    @Test("With all directories watched on a local file system nothing needs to be said")
    func events() {
        for type in [VolumeType.ext, .xfs, .btrfs, .tmpfs, .overlay] {
            let result = assessment(type: type).result
            #expect(result == SourceCoverage(extent: .events, directories: 1_000, watched: 1_000))
        }
    }

    @Test("Past the limit of watches it says how many are watched, how often the rest is looked at, and what to set")
    func watchLimit() throws {
        let result = assessment(directories: 10_001, watched: 100) { $0.isLimited = true }.result
        #expect(result.extent == .partly && result.directories == 10_001 && result.watched == 100)
        let message = try #require(result.message)
        #expect(message.hasPrefix("watched 100 of 10,001 directories, the rest is looked at every 2 s, because"))
        #expect(message.contains("sysctl fs.inotify.max_user_watches=524288;"))
        #expect(message.hasSuffix("'fs.inotify.max_user_watches = 524288' into /etc/sysctl.d/60-safebackup.conf"))
    }

    @Test("The number to set has room for what is missing, twice")
    func number() throws {
        let many = assessment(
            directories: 3_000_000, watched: 1_000_000, settings: [.watches: 1_000_000]
        ) { $0.isLimited = true }
        #expect(try #require(many.result.message).contains("max_user_watches=8388608;"))
    }

    @Test("In a container the smaller limit is named too")
    func namespace() throws {
        let inside = assessment(
            directories: 101, watched: 100, settings: [.watches: 8_192, .namespaceWatches: 100]
        ) { $0.isLimited = true }
        #expect(try #require(inside.result.message).hasSuffix("user.max_inotify_watches is only 100"))
        let outside = assessment(
            directories: 101, watched: 100, settings: [.watches: 8_192, .namespaceWatches: 8_192]
        ) { $0.isLimited = true }
        #expect(!(try #require(outside.result.message).contains("namespace")))
    }

    @Test("Without an inotify instance everything is looked at, and that limit is named")
    func instanceLimit() throws {
        let result = assessment(watched: 0, interval: .seconds(120)) { $0.hasInstance = false }.result
        #expect(result.extent == .polled)
        let message = try #require(result.message)
        #expect(message.contains("all 1,000 directories are looked at every 2 min"))
        #expect(message.contains("sysctl fs.inotify.max_user_instances=1024"))
    }

    @Test("On a file system that others change too, or that is not known, everything is looked at, watched or not")
    func types() throws {
        for type in [VolumeType.nfs, .smb, .cifs, .smb2, .fuse, .plan9, .ceph, .afs, VolumeType(rawValue: 0x1234)] {
            let assessment = assessment(type: type)
            #expect(assessment.looksEverywhere && assessment.result.extent == .polled)
            #expect(try #require(assessment.result.message).contains("(\(type.name))"))
        }
    }

    @Test("Where the kernel does not even tell an access of our own, everything is looked at")
    func dead() {
        let assessment = assessment { $0.isAlive = false }
        #expect(assessment.looksEverywhere && assessment.result.extent == .polled)
    }

    @Test(
        "The more a look costs, the rarer it is: 3 % of a core, a tenth for comparisons, a quarter of the time",
        arguments: [
            (LookCost(), 2), (LookCost(looking: .milliseconds(50), elapsed: .milliseconds(60)), 2),
            (LookCost(looking: .milliseconds(300), elapsed: .milliseconds(300)), 10),
            (LookCost(looking: .seconds(2), elapsed: .seconds(2)), 120),
            (LookCost(comparing: .milliseconds(400), elapsed: .milliseconds(400)), 5),
            (LookCost(looking: .milliseconds(10), elapsed: .seconds(12)), 60),
            (LookCost(looking: .seconds(3_600), elapsed: .seconds(3_600)), 3_600),
        ])
    func pace(cost: LookCost, seconds: Int) {
        var pace = LookPace()
        pace.noteEnd(cost)
        #expect(pace.interval == .seconds(seconds))
        pace.noteEnd(LookCost())
        #expect(pace.interval == .seconds(2))
    }
}
