import SafeBackupCore
import SafeBackupState

/// The jobs that were put off because another group has a path in work that they need, by that path: so that they go on
/// when it ends, and not at some later time. Pure.
struct BusyJobs: Sendable {
    /// More jobs wait for their time alone.
    private static let limit = 10_000

    private var waiting: [MovingPath: [PostponedJob]] = [:]
    private var count = 0
    private var wait = BusyWait()
    /// Groups that have ended.
    private(set) var endings = 0

    /// How long to wait if no end is told; see `BusyWait`.
    mutating func nextWait(now: ContinuousClock.Instant) -> Duration { wait.next(now: now) }

    /// Notes what jobs wait for, as it was seen when so many groups had ended. Returns those that need not wait: a group
    /// has ended since, perhaps theirs.
    mutating func add(_ jobs: [(job: PostponedJob, path: MovingPath)], since endings: Int) -> [PostponedJob] {
        if endings != self.endings { return jobs.map(\.job) }
        for (job, path) in jobs where count < Self.limit {
            waiting[path, default: []].append(job)
            count += 1
        }
        return []
    }

    /// A group has ended. Returns the jobs that waited for a path that it stored, or moved away.
    mutating func end(_ group: [LeasedJob]) -> [PostponedJob] {
        endings += 1
        if waiting.isEmpty { return [] }
        var free: [PostponedJob] = []
        for job in group.map(\.job) {
            for path in [job.path] + (job.origin.map { [$0.path] } ?? []) {
                free += waiting.removeValue(forKey: MovingPath(source: job.source, path: path)) ?? []
            }
        }
        count -= free.count
        if !free.isEmpty { wait.reset() }
        return free
    }
}
