import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import Testing
import Glibc

/// A catalogue in memory, with the rules that the destination may expect of the real one.
struct Ledger: Sendable {
    struct Version: Sendable, Equatable {
        var reason: VersionReason
        var digest: Digest?
        var kind: EntryKind
    }

    private(set) var names: [String: NameRecord] = [:]
    /// Of tombstones.
    private var ended: [String: NameRecord] = [:]
    private(set) var copies: [Int64: CopyRecord] = [:]
    private(set) var versions: [RelativePath: Version] = [:]
    var attempts: [String: Int] = [:]
    var hashFirst: Set<String> = []
    private var newestVersion: [String: Timestamp] = [:]
    private var betrayed: Set<Int64> = []
    /// Copies between two locations, by the number of their job.
    private var onTheWay: [Int64: CopyRecord] = [:]
    private var counter: Int64 = 1_000

    mutating func next() -> Int64 {
        counter += 1
        return counter
    }

    private func copy(at location: RelativePath) -> CopyRecord? { copies.values.first { $0.location == location } }

    /// `from`: the path that the file had, as far as names and copies know it.
    mutating func due(
        _ path: String, _ action: JobAction = .store, from: String? = nil, isProven: Bool = true
    ) throws -> DueJob {
        let relative = try RelativePath(path)
        var origin: MoveOrigin?
        if let from, let name = names[from] ?? ended[from], let copy = name.copy.flatMap({ copies[$0] }) {
            origin = MoveOrigin(path: try RelativePath(from), name: name, copy: copy, isProven: isProven)
        }
        return DueJob(
            source: Bench.source, path: relative, location: relative, sequence: next(), generation: next(),
            action: action, attempts: attempts[path] ?? 0, hashFirst: hashFirst.contains(path), live: names[path],
            occupant: copy(at: relative), newestVersionAt: newestVersion[path], origin: origin)
    }

    /// A moved copy leaves its place, before anything is entered at it.
    mutating func takeUp(_ lease: LeasedJob) {
        guard let origin = lease.job.origin, copies[origin.copy.id]?.location == origin.copy.location else { return }
        onTheWay[lease.job.sequence] = copies.removeValue(forKey: origin.copy.id)
        let path = String(decoding: origin.path.bytes, as: UTF8.self)
        if names[path]?.copy == origin.copy.id { names[path] = nil }
        ended[path] = nil
    }

    private mutating func putDown(_ lease: LeasedJob) -> Int64? {
        if let there = copy(at: lease.job.location)?.id { copies[there] = nil }
        guard var copy = onTheWay.removeValue(forKey: lease.job.sequence) ?? lease.job.origin?.copy else { return nil }
        copy.location = lease.job.location
        copies[copy.id] = copy
        return copy.id
    }

    private func key(_ lease: LeasedJob) -> String { String(decoding: lease.job.path.bytes, as: UTF8.self) }

    private mutating func displace(_ displacement: Displacement, at now: Timestamp) {
        var version = Version(reason: displacement.reason, digest: nil, kind: displacement.kind)
        if displacement.kind == .directory {
            let below = copies.values.filter { $0.location.isWithin(displacement.from) }
            for copy in below {
                let rest = copy.location.bytes.dropFirst(displacement.from.bytes.count)
                let location = RelativePath(unchecked: displacement.to.bytes + rest)
                if names.values.contains(where: { $0.copy == copy.id }) {
                    copies[copy.id]?.location = location
                    continue
                }
                copies[copy.id] = nil
                if betrayed.contains(copy.id) { continue }
                versions[location] = Version(reason: displacement.reason, digest: copy.digest, kind: copy.kind)
            }
        } else if let copy = copy(at: displacement.from) {
            // Whatever was there goes, but only our own is known by its digest.
            copies[copy.id] = nil
            let isOurs =
                displacement.reason != .foreign && copy.kind == displacement.kind && copy.size == displacement.size
                && copy.mtime == displacement.mtime && copy.inode ?? displacement.inode == displacement.inode
            if isOurs || displacement.reason == .kept || displacement.reason == .lastGood {
                version.digest = copy.digest
            }
        }
        versions[displacement.to] = version
        if displacement.reason == .kept {
            newestVersion[String(decoding: displacement.from.bytes, as: UTF8.self)] = now
        }
    }

    /// Somebody took the copy of this path away behind our back. The catalogue does not know.
    mutating func betray(_ path: String) throws {
        if let id = copy(at: try RelativePath(path))?.id { betrayed.insert(id) }
    }

    /// Enters what a job left; a failed one counts as an attempt.
    mutating func complete(_ lease: LeasedJob, _ outcome: JobOutcome, at now: Timestamp) {
        let path = key(lease)
        switch outcome {
        case .gone:
            ended[path] = names[path]
            names[path] = nil
        case .failed: attempts[path, default: 0] += 1
        case .stored(let entry):
            attempts[path] = 0
            hashFirst.remove(path)
            for displacement in entry.displaced { displace(displacement, at: now) }
            var id = entry.content == .moved ? putDown(lease) : copy(at: lease.job.location)?.id
            if case .copied(let stored) = entry.content {
                if let id { copies[id] = nil }
                let new = next()
                copies[new] = CopyRecord(
                    id: new, location: lease.job.location, kind: entry.kind, digest: stored.digest, size: stored.size,
                    storedAt: now, inode: stored.inode, mtime: stored.mtime, isFuzzy: entry.isFuzzy)
                id = new
            }
            names[path] = NameRecord(
                id: next(), copy: entry.kind == .directory ? nil : id, kind: entry.kind, fingerprint: entry.fingerprint,
                metadata: entry.metadata, linkTarget: entry.linkTarget, isFuzzy: entry.isFuzzy, isRacy: entry.isRacy)
        }
    }

    /// What a recovery found of a group: moves first, as what lies where a moved copy was is another one's.
    mutating func enter(_ recovered: [RecoveredLease], at now: Timestamp) {
        for one in recovered where one.finding == .moved { takeUp(one.lease) }
        for one in recovered where one.lease.job.origin != nil { enter(one, at: now) }
        for one in recovered where one.lease.job.origin == nil { enter(one, at: now) }
    }

    mutating func enter(_ recovered: RecoveredLease, at now: Timestamp) {
        let path = key(recovered.lease)
        for displacement in recovered.displaced { displace(displacement, at: now) }
        if recovered.finding == .moved, let origin = recovered.lease.job.origin {
            let id = putDown(recovered.lease)
            names[path] = origin.name
            names[path]?.copy = id
            names[path]?.fingerprint.inode = 0
            hashFirst.insert(path)
        }
        if recovered.finding == .cleared, let id = copy(at: recovered.lease.job.location)?.id { copies[id] = nil }
        if case .replaced(let stored, let kind, let target) = recovered.finding {
            if let id = copy(at: recovered.lease.job.location)?.id { copies[id] = nil }
            let new = next()
            copies[new] = CopyRecord(
                id: new, location: recovered.lease.job.location, kind: kind, digest: stored.digest, size: stored.size,
                storedAt: now, inode: nil, mtime: stored.mtime)
            names[path] = NameRecord(
                id: next(), copy: new, kind: kind,
                fingerprint: Fingerprint(
                    inode: 0, size: stored.size, mtime: stored.mtime ?? FileTime(nanoseconds: 0),
                    ctime: FileTime(nanoseconds: 0)),
                metadata: names[path]?.metadata ?? FileMetadata(mode: 0o644, uid: 0, gid: 0), linkTarget: target)
            hashFirst.insert(path)
        }
    }

    /// What each copy and version promises is on the disk, whole.
    func expectTruth(
        _ destination: String, _ comment: String = "", sourceLocation: SourceLocation = #_sourceLocation
    ) {
        func check(_ location: RelativePath, _ kind: EntryKind, _ digest: Digest?) {
            let path = destination + "/" + String(decoding: location.bytes, as: UTF8.self)
            guard status(of: path) != nil else {
                Issue.record("\(location) is promised and not there \(comment)", sourceLocation: sourceLocation)
                return
            }
            guard let digest else { return }
            let found = kind == .symlink ? linkTarget(of: path).map { Array($0.utf8) } : bytes(of: path)
            #expect(
                found.map { SHA256.digest(of: $0) } == digest, "\(location) differs from its digest \(comment)",
                sourceLocation: sourceLocation)
        }
        for copy in copies.values where !betrayed.contains(copy.id) { check(copy.location, copy.kind, copy.digest) }
        for (location, version) in versions { check(location, version.kind, version.digest) }
    }
}

extension Bench {
    /// Plans and leases; a job that may not be leased is an issue.
    func lease(_ paths: [String], _ ledger: inout Ledger, _ action: JobAction = .store) throws -> [LeasedJob] {
        var jobs: [DueJob] = []
        for path in paths { jobs.append(try ledger.due(path, action)) }
        return try zip(jobs, destination.planNow(jobs)).map { LeasedJob(job: $0, plan: try $1.get()) }
    }

    /// One whole round for these paths, entered in the ledger.
    @discardableResult
    func save(_ paths: String..., ledger: inout Ledger) throws -> [JobOutcome] {
        let group = try lease(paths, &ledger)
        let outcomes = destination.storeNow(group, from: try sources())
        enter(group, outcomes, &ledger)
        ledger.expectTruth(destinationPath)
        return outcomes
    }

    /// What the agent does with a group's outcomes: leases of failed jobs are recovered first.
    func enter(_ group: [LeasedJob], _ outcomes: [JobOutcome], _ ledger: inout Ledger) {
        var failed: [LeasedJob] = []
        for (lease, outcome) in zip(group, outcomes) {
            if outcome.entry?.content == .moved { ledger.takeUp(lease) }
            if outcome.error != nil { failed.append(lease) }
        }
        for (lease, outcome) in zip(group, outcomes) where outcome.error == nil {
            ledger.complete(lease, outcome, at: now)
        }
        do throws(SafeBackupError) {
            if !failed.isEmpty { ledger.enter(try destination.recoverNow(failed), at: now) }
        } catch {
            Issue.record("recovery failed: \(error)")
        }
        for (lease, outcome) in zip(group, outcomes) where outcome.error != nil {
            ledger.complete(lease, outcome, at: now)
        }
    }
}

extension JobOutcome {
    var entry: StoredEntry? { if case .stored(let entry) = self { entry } else { nil } }
    var error: SafeBackupError? { if case .failed(let error) = self { error } else { nil } }
    var copied: StoredCopy? { if case .copied(let copy) = entry?.content { copy } else { nil } }
    var isKept: Bool { entry?.content == .kept }
}
