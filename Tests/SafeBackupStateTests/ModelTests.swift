import Foundation
import SafeBackupCore
import SafeBackupSystem
import Testing

@testable import SafeBackupState

/// Long runs of random operations against a simple model of what must be true.
@Suite struct ModelTests {
    /// SplitMix64, so that a seed tells the whole run.
    struct Generator: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
    }

    private static let paths: [RelativePath] =
        ["a", "d", "d/x", "d/y", "d/s/z", "d0", "e/f"].map {
            RelativePath(unchecked: Array($0.utf8))
        } + [RelativePath(unchecked: [0x64, 0x2F, 0xFF]), RelativePath(unchecked: [0x64, 0x2F, 0xFF, 0x2F, 0x61])]

    @Test(
        "After any sequence of changes, leases, ends, failures, recoveries and restarts the state is sound, and no change is lost",
        arguments: UInt64(1)...6)
    func run(seed: UInt64) async throws {
        var random = Generator(state: seed)
        let fixture = try StateFixture()
        let scene = try await fixture.scene()
        let steps = ProcessInfo.processInfo.environment["SAFEBACKUP_LONG"] == "1" ? 3_000 : 150
        var leases: [LeasedJob] = []
        /// Paths with a change that no completed job has covered.
        var open: Set<RelativePath> = []
        /// The digest that was stored last at each path.
        var content: [RelativePath: Digest] = [:]
        var version = 0

        for step in 0..<steps {
            switch Int.random(in: 0..<12, using: &random) {
            case 0...2:
                let path = try #require(Self.paths.randomElement(using: &random))
                try await scene.enqueue([
                    QueuedChange(
                        path: path, action: .store,
                        notBefore: scene.clock.now + .seconds(Int.random(in: 0...3, using: &random)),
                        settleLimit: .seconds(5), size: Int64.random(in: 0...100, using: &random))
                ])
                open.insert(path)
                leases = try await scene.store.leases(scene.destination, limit: 100)
            case 3...4:
                try await scene.leaseDue()
                leases = try await scene.store.leases(scene.destination, limit: 100)
            case 5...7:
                guard let lease = leases.randomElement(using: &random) else { continue }
                version += 1
                var entry = file(
                    UInt8.random(in: 0...255, using: &random), size: Int64.random(in: 0...50, using: &random))
                if let occupant = lease.job.occupant, Bool.random(using: &random) {
                    let reasons: [VersionReason] = [.kept, .kept, .foreign, .lastGood, .inTheWay]
                    entry.displaced = [
                        Displacement(
                            from: lease.job.location,
                            to: try RelativePath(".safebackup/versions/v\(version)"),
                            reason: try #require(reasons.randomElement(using: &random)), kind: occupant.kind,
                            inode: occupant.inode ?? 1, size: occupant.size,
                            mtime: occupant.mtime ?? FileTime(nanoseconds: 0))
                    ]
                } else if lease.job.occupant != nil, lease.job.live?.kind == .file, Bool.random(using: &random) {
                    entry = entry.kept(UInt8.random(in: 0...100, using: &random))
                } else if Int.random(in: 0..<6, using: &random) == 0 {
                    entry = directory(mode: 0o700)
                }
                let requeueAt = Int.random(in: 0..<5, using: &random) == 0 ? scene.clock.now + .seconds(2) : nil
                entry.isFuzzy = requeueAt != nil
                let result = try await scene.store.complete(
                    scene.destination,
                    [Completion(job: lease.job, outcome: .stored(entry), requeueAt: requeueAt)], versionLimit: 2)
                if result.pending == 0 && result.finished == 1 { open.remove(lease.job.path) }
                if case .copied(let copy) = entry.content { content[lease.job.path] = copy.digest }
                if case .directory = entry.content { content[lease.job.path] = nil }
                if entry.kind != .directory {
                    // Below a file nothing can be; names that were live there may have ended.
                    for path in content.keys where path != lease.job.path && path.isWithin(lease.job.path) {
                        content[path] = nil
                    }
                }
                let ids = try await scene.store.beginRemoval(
                    scene.destination, result.excessVersions.map(\.id), reason: "versions"
                ).map(\.id)
                try await scene.store.finishRemoval(scene.destination, ids)
                leases = try await scene.store.leases(scene.destination, limit: 100)
            case 8:
                guard let lease = leases.randomElement(using: &random) else { continue }
                let result = try await scene.store.complete(
                    scene.destination,
                    [Completion(job: lease.job, outcome: .ended(namesUpTo: try await scene.store.newestSequence()))])
                if result.finished == 1 { open.remove(lease.job.path) }
                for path in content.keys where path.isWithin(lease.job.path) { content[path] = nil }
                leases = try await scene.store.leases(scene.destination, limit: 100)
            case 9:
                guard let lease = leases.randomElement(using: &random) else { continue }
                let error = SafeBackupError(
                    Bool.random(using: &random) ? .torn : .unreadable, "No", disposition: .transient)
                let verdict = BackoffPolicy().verdict(for: .transient, attempts: lease.job.attempts + 1, jitter: 0)
                try await scene.complete([lease], .failed(error, verdict))
                leases = try await scene.store.leases(scene.destination, limit: 100)
            case 10:
                scene.clock.advance(.seconds(Int.random(in: 1...400, using: &random)))
                if Bool.random(using: &random) { _ = try await scene.store.retry() }
            default:
                try await scene.store.reopen()
                let found = try await scene.store.leases(scene.destination, limit: 100)
                #expect(found == leases, "step \(step)")
                let isReplaced = Bool.random(using: &random)
                try await scene.store.recover(
                    scene.destination,
                    found.map { lease in
                        if isReplaced { content[lease.job.path] = digest(77) }
                        return RecoveredLease(
                            lease: lease,
                            finding: isReplaced ? .replaced(copy(77), kind: .file, linkTarget: nil) : .unchanged)
                    })
                leases = []
            }
            if step % 10 == 0 || step == steps - 1 { try fixture.audit() }
        }

        try fixture.audit()
        let queued = Set(try fixture.rows("SELECT hex(path) FROM job"))
        for path in open { #expect(queued.contains(hexadecimal(path.bytes).uppercased()), "\(path) is still queued") }
        let page = try StateReader(in: fixture.directory).names(
            scene.source, scene.destination, within: .root, .live, after: nil, limit: 1_000)
        for (path, digest) in content {
            let live = page.entries.first { $0.path == path }
            #expect(live?.copy?.digest == digest, "\(path)")
        }
        #expect(step(page), "no path is live twice")
        let kept = try fixture.rows(
            """
            SELECT max(n) FROM (SELECT count(DISTINCT c.id) AS n FROM name n JOIN copy c ON c.id = n.copy_id
                WHERE c.role = 'kept' GROUP BY n.parent, n.leaf)
            """)
        #expect(try #require(Int(kept[0] == "NULL" ? "0" : kept[0])) <= 5, "versions are bounded")
    }

    private func step(_ page: NamePage) -> Bool { Set(page.entries.map(\.path)).count == page.entries.count }
}
