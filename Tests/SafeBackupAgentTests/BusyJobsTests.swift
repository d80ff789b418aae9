import SafeBackupCore
import SafeBackupState
import Testing

@testable import SafeBackupAgent

@Suite("Jobs that wait for another group")
struct BusyJobsTests {
    private let source = SourceID(rawValue: 1)

    private func lease(_ path: String, from origin: String? = nil) throws -> LeasedJob {
        var job = DueJob(
            source: source, path: try RelativePath(path), location: try RelativePath(path), sequence: 1, generation: 1,
            action: .store, attempts: 0, firstSeenAt: Timestamp(microseconds: 0), hashFirst: false)
        if let origin {
            let time = FileTime(nanoseconds: 1)
            job.origin = MoveOrigin(
                path: try RelativePath(origin),
                name: NameRecord(
                    id: 1, copy: 1, kind: .file, fingerprint: Fingerprint(inode: 1, size: 0, mtime: time, ctime: time),
                    metadata: FileMetadata(mode: 0o644, uid: 0, gid: 0), linkTarget: nil, isFuzzy: false, isRacy: false),
                copy: CopyRecord(
                    id: 1, location: try RelativePath(origin), kind: .file, digest: nil, size: 0,
                    storedAt: Timestamp(microseconds: 0), inode: 1, mtime: time, isFuzzy: false, isDamaged: false),
                isProven: true)
        }
        return LeasedJob(job: job, plan: LeasePlan(stageName: "s", final: .absent))
    }

    private func waiting(_ sequence: Int64, for path: String) throws -> (job: PostponedJob, path: MovingPath) {
        (
            PostponedJob(sequence: sequence, until: Timestamp(microseconds: 9)),
            MovingPath(source: source, path: try RelativePath(path))
        )
    }

    @Test("The end of a group frees who waits for what it stored or moved away, once, and nobody else")
    func frees() throws {
        var busy = BusyJobs()
        let jobs = [
            try waiting(1, for: "stored"), try waiting(2, for: "origin"), try waiting(3, for: "other"),
            try waiting(4, for: "origin"),
        ]
        #expect(busy.add(jobs, since: 0).isEmpty)
        #expect(try busy.end([lease("unrelated")]).isEmpty)
        let group = [try lease("stored"), try lease("target", from: "origin")]
        #expect(Set(busy.end(group).map(\.sequence)) == [1, 2, 4])
        #expect(busy.end(group).isEmpty)
        #expect(try busy.end([lease("other")]).map(\.sequence) == [3])
    }

    @Test("Who looked before a group ended does not wait for it")
    func late() throws {
        var busy = BusyJobs()
        let endings = busy.endings
        _ = try busy.end([lease("a")])
        #expect(try busy.add([waiting(1, for: "a")], since: endings).map(\.sequence) == [1])
        #expect(try busy.end([lease("a")]).isEmpty)
    }

    @Test("A backlog of waiting jobs does not grow in memory without end")
    func bounded() throws {
        var busy = BusyJobs()
        let job = try waiting(1, for: "a")
        for _ in 0..<20 { _ = busy.add(Array(repeating: job, count: 1_000), since: 0) }
        #expect(try busy.end([lease("a")]).count == 10_000)
    }
}
